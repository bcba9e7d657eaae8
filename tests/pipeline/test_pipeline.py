"""The whole method on a tiny data set: what is trained, written, handed over and evaluated."""

import json

import pytest
import torch

from labelenc import pipeline
from labelenc.config import ConfigError
from labelenc.engine import CheckpointError
from labelenc.modeling.backbone.pretrained import WeightsError
from labelenc.supervision import HandoverError

FACTS = {"baseline": ("baseline", 8), "step1": ("step1", 11), "step2": ("step2", 8)}
FILES = {"config.yml", "run.json", "last_checkpoint", "log.txt", "metrics.jsonl", "model_final.pth"}


@pytest.fixture(scope="module")
def trained(tiny_root, tmp_path_factory):
    """Folders and final metrics of the three kinds of run."""
    from labelenc.config import load_config

    folder = tmp_path_factory.mktemp("runs")
    path = tiny_root / "config.yaml"
    results = {}
    for kind in ("baseline", "step1", "step2"):
        cfg = load_config(path, ["OUTPUT_DIR", str(folder / kind)])
        if kind == "step2":
            results[kind] = pipeline.train_step2(cfg, str(folder / "step1/label_encoding_function.pth"))
        else:
            results[kind] = (pipeline.train_baseline if kind == "baseline" else pipeline.train_step1)(cfg)
    return folder, results


@pytest.mark.parametrize("kind", ["baseline", "step1", "step2"])
def test_every_run_writes_its_files(trained, kind):
    folder, _ = trained
    names = {path.name for path in (folder / kind).iterdir()}
    assert names >= FILES
    assert {"model_0000003.pth", "model_0000006.pth"} <= names
    assert ("label_encoding_function.pth" in names) == (kind == "step1")
    assert json.loads((folder / kind / "inference/tiny_val/results.json").read_text())["num_images"] == 6
    assert (folder / kind / "inference/tiny_val_reconstruction").is_dir() == (kind == "step1")


def test_losses_follow_the_schedules(trained, losses_of):
    folder, _ = trained
    head = {"loss", "loss_retina_cls", "loss_retina_reg"}
    encodings = {"ae_loss_retina_cls", "ae_loss_retina_reg"}
    assert all(set(losses) == head for losses in losses_of(folder / "baseline").values())
    step1 = losses_of(folder / "step1")
    assert len(step1) == 8 + 3  # the warm-up comes on top
    for iteration, losses in step1.items():
        assert set(losses) == head | encodings | ({"loss_distance"} if iteration > 3 else set())
    for iteration, losses in losses_of(folder / "step2").items():
        assert set(losses) == head | ({"loss_auxiliary"} if iteration <= 6 else set())


@pytest.mark.parametrize("kind", ["baseline", "step1", "step2"])
def test_evaluation_of_the_checkpoint_repeats_the_numbers(trained, tiny_cfg, kind):
    folder, results = trained
    again = pipeline.evaluate(tiny_cfg("MODEL.WEIGHT", folder / kind / "model_final.pth"))
    assert again == {name: value for name, value in results[kind].items() if "_reconstruction" not in name}
    # Without MODEL.WEIGHT the run's own newest checkpoint is meant.
    cfg = tiny_cfg("OUTPUT_DIR", folder / kind)
    assert pipeline.evaluate(cfg) == again


@pytest.mark.parametrize("kind", ["baseline", "step1", "step2"])
def test_a_checkpoint_alone_is_enough_to_evaluate_it(trained, tmp_path, kind):
    folder, results = trained
    weight = folder / kind / "model_final.pth"
    again = pipeline.evaluate(None, ["MODEL.WEIGHT", str(weight), "OUTPUT_DIR", str(tmp_path)])
    assert {key: results[kind][key] for key in again} == again
    assert "eval/tiny_val/AP" in again


def test_runs_tell_what_they_are(trained):
    folder, _ = trained
    facts = {kind: json.loads((folder / kind / "run.json").read_text()) for kind in FACTS}
    assert {kind: (entry["kind"], entry["iterations"]) for kind, entry in facts.items()} == FACTS
    assert facts["step1"]["label_encoding"] is None
    assert facts["step2"]["label_encoding"] == str(folder / "step1/label_encoding_function.pth")
    assert len(facts["baseline"]["class_names"]) == len(facts["baseline"]["category_ids"]) == 10


def test_step2_refuses_a_head_that_step1_ran_differently(tmp_path, tiny_cfg):
    """The switch changes what the numbers of FCOS's head mean, not their shapes."""
    words = ("MODEL.RETINANET_ON", False, "MODEL.FCOS_ON", True, "MODEL.FCOS.FPN_STRIDES", "[8, 16, 32]")
    words += (
        "MODEL.RESNETS.BACKBONE_OUT_CHANNELS",
        32,
        "MODEL.FCOS.NUM_CONVS",
        1,
        "SOLVER.MAX_ITER",
        1,
        "SOLVER.STEPS",
        "()",
    )
    pipeline.train_step1(tiny_cfg(*words, out="step1"), skip_test=True)
    handed = str(tmp_path / "step1/label_encoding_function.pth")
    pipeline.train_step2(tiny_cfg(*words, out="step2"), handed, skip_test=True)
    with pytest.raises(ConfigError, match=r"MODEL\.FCOS\.NORM_REG_TARGETS was False, is True"):
        pipeline.train_step2(
            tiny_cfg(*words, "MODEL.FCOS.NORM_REG_TARGETS", True, out="other"), handed, skip_test=True
        )


def test_step2_starts_from_step1(trained):
    folder, _ = trained
    handed = torch.load(folder / "step1/label_encoding_function.pth", weights_only=True)
    assert set(handed) == {"label_encoding_function", "rpn", "description"}
    step2 = torch.load(folder / "step2/model_0000003.pth", weights_only=True)["model"]
    for name, tensor in handed["label_encoding_function"].items():
        assert torch.equal(step2[f"label_encoding_function.{name}"], tensor)


def test_adapter_is_untouched_while_its_loss_is_off(trained):
    folder, _ = trained

    def adapter(run, iteration):
        state = torch.load(folder / run / f"model_{iteration}.pth", weights_only=True)["model"]
        return torch.cat([v.flatten() for k, v in state.items() if k.startswith("feature_adapt.")])

    assert torch.equal(adapter("step2", "0000006"), adapter("step2", "final"))
    assert not torch.equal(adapter("step2", "0000003"), adapter("step2", "0000006"))
    assert not torch.equal(adapter("step1", "0000003"), adapter("step1", "0000006"))


def test_finished_run_says_so_and_tests_again(trained, tiny_cfg, caplog):
    folder, results = trained
    assert pipeline.train_baseline(tiny_cfg("OUTPUT_DIR", folder / "baseline")) == results["baseline"]
    assert "nothing to train" in caplog.text
    assert "SOLVER.MAX_ITER" in caplog.text


def test_seed_decides_everything(tiny_cfg, losses_of, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        pipeline.train_baseline(tiny_cfg("SEED", seed, out=name), skip_test=True)
    a, b, c = (losses_of(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c


def test_drawn_seed_is_kept_for_the_run(tiny_cfg, losses_of, tmp_path):
    pipeline.train_baseline(tiny_cfg("SEED", -1, out="drawn"), skip_test=True)
    state = torch.load(tmp_path / "drawn/model_final.pth", weights_only=True)
    seed = state["extra"]["seed"]
    assert f"SEED: {seed}" in (tmp_path / "drawn/config.yml").read_text()
    pipeline.train_baseline(tiny_cfg("SEED", seed, out="given"), skip_test=True)
    assert losses_of(tmp_path / "drawn") == losses_of(tmp_path / "given")


def test_periodic_evaluation_keeps_the_best_and_disturbs_nothing(tiny_cfg, losses_of, tmp_path):
    pipeline.train_baseline(tiny_cfg(out="plain"), skip_test=True)
    pipeline.train_baseline(tiny_cfg("TEST.EVAL_PERIOD", 4, out="evaluated"))
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "evaluated")
    assert (tmp_path / "evaluated/model_best.pth").is_file()
    rows = [json.loads(line) for line in (tmp_path / "evaluated/metrics.jsonl").read_text().splitlines()]
    assert {row["iteration"] for row in rows if "eval/tiny_val/AP" in row} == {4, 8}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_trains(tiny_cfg, losses_of, tmp_path, dtype):
    cfg = tiny_cfg("DTYPE", dtype, "SOLVER.CLIP_GRADIENTS.ENABLED", True, out=dtype)
    pipeline.train_step1(cfg, skip_test=True)
    assert len(losses_of(tmp_path / dtype)) == 11


def test_wrong_files_are_refused(trained, tiny_cfg):
    folder, _ = trained
    with pytest.raises(HandoverError, match=r"label_encoding_function\.pth"):
        pipeline.train_step2(tiny_cfg(), str(folder / "baseline/model_final.pth"))
    with pytest.raises(CheckpointError, match="kind 'step1'"):
        pipeline.train_baseline(tiny_cfg("OUTPUT_DIR", folder / "step1"))
    with pytest.raises(WeightsError, match="lacks"):
        pipeline.evaluate(
            tiny_cfg("MODEL.WEIGHT", folder / "baseline/model_final.pth", "MODEL.RETINANET.NUM_CONVS", 2)
        )
    with pytest.raises(CheckpointError, match="nothing to evaluate"):
        pipeline.evaluate(tiny_cfg(out="empty"))
