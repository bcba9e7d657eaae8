"""What steps 1 and 2 draw while they train: true to the loss, complete, and without any trace in the run."""

from __future__ import annotations

import json
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from labelenc import data, engine, method_pictures, pipeline, testing
from labelenc.config import ConfigError
from labelenc.supervision import LabelEncStep1, LabelEncStep2

CLASSES = ("MODEL.NUM_CLASSES", 10)
FCOS = ("MODEL.RETINANET_ON", False, "MODEL.FCOS_ON", True, "MODEL.FCOS.FPN_STRIDES", "[8, 16, 32]")
TWO_STAGE = (
    *("MODEL.RETINANET_ON", False, "MODEL.RPN_ONLY", False, "MODEL.BACKBONE.CONV_BODY", "R-18-FPN"),
    *("MODEL.RPN.USE_FPN", True, "MODEL.RPN.ANCHOR_STRIDE", "(4, 8, 16, 32, 64)"),
    *("MODEL.RPN.ANCHOR_SIZES", "(8, 16, 32, 64, 128)", "MODEL.ROI_HEADS.USE_FPN", True),
    *("MODEL.ROI_BOX_HEAD.POOLER_SCALES", "(0.25, 0.125, 0.0625, 0.03125)"),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7, "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2),
    *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor"),
    *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FPNPredictor", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32),
)
DETECTORS = {"retinanet": (), "fcos": (*FCOS, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32), "two": TWO_STAGE}


def see(cfg, model):
    [batch] = data.read_examples(cfg, cfg.DATASETS.TEST, 1)[1]
    with engine.evaluating(model):
        return batch, method_pictures.view(cfg, model, batch)


def normalised(level: torch.Tensor) -> np.ndarray:
    values = level.detach().double().numpy()
    return (values - values.mean()) / np.sqrt(values.var() + 1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("step", [partial(LabelEncStep1, augment=False), LabelEncStep2])
def test_distances_are_those_of_the_loss(seed, tiny_cfg, detector, step) -> None:
    cfg = tiny_cfg(*CLASSES, *DETECTORS[detector])
    model = step(cfg).train()
    batch, view = see(cfg, model)
    images = testing.prepare(cfg, batch.images)
    losses = model(images, batch.targets)
    [loss] = [losses[name] for name in ("loss_distance", "loss_auxiliary") if name in losses]
    assert view.mean_distance == pytest.approx(loss.item(), rel=1e-4)
    features = model.backbone(images.tensors)
    encodings = model.label_encoding_function(batch.targets, images.tensors.shape[-2:])
    finest = 2 if detector == "two" else 3
    assert list(view.distances) == [f"P{finest + i}" for i in range(len(features))]
    assert list(view.levels) == ["P3", "P5"]
    for index, (feature, encoding) in enumerate(zip(features, encodings, strict=True)):
        difference = normalised(model.feature_adapt(feature)[0]) - normalised(encoding[0])
        name, squared = f"P{finest + index}", (difference**2).mean(axis=0)
        assert view.distances[name] == pytest.approx(squared.mean(), rel=1e-4)
        if name in view.levels:
            assert view.levels[name].distance.numpy() == pytest.approx(squared, rel=1e-3, abs=1e-5)


def test_the_models_modes_and_gradients_stay(tiny_cfg, tmp_path) -> None:
    cfg = tiny_cfg(*CLASSES, "TEST.METHOD_IMAGES", 1)
    model = LabelEncStep1(cfg).train()
    model.backbone.eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    modes = [module.training for module in model.modules()]
    with engine.MetricsWriter(tmp_path, 0, 1) as writer:
        method_pictures.painter(cfg, model, writer, test=True)(0)
    assert [module.training for module in model.modules()] == modes
    assert all((parameter.grad == 1).all() for parameter in model.parameters())


def test_overflowing_features_end_no_run(tiny_cfg, tmp_path) -> None:
    cfg = tiny_cfg(*CLASSES, "TEST.METHOD_IMAGES", 1)
    model = LabelEncStep2(cfg)
    for part in (model.feature_adapt, model.label_encoding_function):
        torch.nn.init.constant_(next(part.parameters()), torch.inf)
    with engine.MetricsWriter(tmp_path, 0, 1) as writer:
        method_pictures.painter(cfg, model, writer, test=True)(0)
    [summary] = (tmp_path / "run/method").glob("*/summary.json")
    assert set(json.loads(summary.read_text())["mean"].values()) == {None}


@pytest.fixture(scope="module")
def painted(tiny_root, tmp_path_factory):
    """The folders of step 1 and step 2, trained with pictures, averaged weights and evaluations."""
    from labelenc.config import load_config

    folder = tmp_path_factory.mktemp("painted")
    words = ["TEST.METHOD_IMAGES", "2", "TEST.EVAL_PERIOD", "4", "SOLVER.EMA_DECAY", "0.9", "OUTPUT_DIR"]
    step1, step2 = (
        load_config(tiny_root / "config.yaml", [*words, str(folder / name)]) for name in ("step1", "step2")
    )
    pipeline.train_step1(step1)
    pipeline.train_step2(step2, str(folder / "step1/label_encoding_function.pth"))
    return folder


@pytest.mark.parametrize(("run", "iterations"), [("step1", (0, 4, 8, 11)), ("step2", (0, 4, 8))])
def test_everything_that_is_listed_is_there(painted, run, iterations) -> None:
    folders = sorted((painted / run / "method").iterdir())
    assert [folder.name for folder in folders] == [f"iteration_{k:07d}" for k in iterations]
    order = None
    for folder, iteration in zip(folders, iterations, strict=True):
        entries = json.loads((folder / "pictures.json").read_text())
        files = [entry["file"] for entry in entries]
        assert {path.name for path in folder.iterdir()} == {*files, "pictures.json", "summary.json"}
        assert [(e["kind"], e["level"]) for e in entries] == [
            *(("labels", None), ("features", "P3"), ("features", "P5"))
        ] * 2
        assert order in (None, files)
        order = files
        assert all(cv2.imread(str(folder / file)).shape[1] == 1100 for file in files)
        assert all(("averaged weights" in entry["caption"]) == (iteration > 0) for entry in entries)
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["iteration"], summary["run"], summary["dataset"]) == (iteration, run, "tiny_val")
        ids = [str(image_id) for image_id in dict.fromkeys(entry["image_id"] for entry in entries)]
        assert list(summary["mean"]) == ids
        assert all(0 < value < 4.5 for value in summary["mean"].values())
        assert len(summary["distances"]) == 3 * 2


def test_tensorboard_has_the_pictures(painted) -> None:
    board = EventAccumulator(str(painted / "step2/tensorboard"), size_guidance={"images": 0})
    board.Reload()
    names = board.Tags()["images"]
    assert len(names) == 2
    for name in names:
        events = board.Images(name)
        assert [event.step for event in events] == [0, 4, 8]
        sheet = cv2.imdecode(np.frombuffer(events[-1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        image = name.removeprefix("method/")
        folder = painted / "step2/method/iteration_0000008"
        strips = [cv2.imread(str(folder / f"{image}_{part}.png")) for part in ("labels", "P3", "P5")]
        assert np.array_equal(sheet, np.concatenate(strips))


def test_the_frozen_encoders_colours_stay(painted) -> None:
    first, *_, last = sorted((painted / "step2/method").iterdir())
    entries = json.loads((first / "pictures.json").read_text())
    for entry in entries:
        if entry["kind"] == "features":
            before, after = (cv2.imread(str(folder / entry["file"])) for folder in (first, last))
            # Below the title lie the encodings, the features and the distance.
            assert np.array_equal(before[30:, :350], after[30:, :350])
            assert not np.array_equal(before[30:, 372:728], after[30:, 372:728])


@pytest.mark.parametrize("run", ["step1", "step2"])
def test_weights_are_those_of_a_run_without_pictures(painted, tiny_cfg, tmp_path, run) -> None:
    """Also of one that was stopped and resumed, at iteration 5."""
    words = ("TEST.EVAL_PERIOD", 4, "SOLVER.EMA_DECAY", 0.9)
    handed = str(painted / "step1/label_encoding_function.pth")

    def train(*more: object, out: str) -> dict:
        cfg = tiny_cfg(*words, *more, out=out)
        pipeline.train_step1(cfg) if run == "step1" else pipeline.train_step2(cfg, handed)
        return torch.load(tmp_path / out / "model_final.pth", weights_only=True)

    plain = train(out="plain")
    with_pictures = torch.load(painted / run / "model_final.pth", weights_only=True)
    for part in ("model", "model_ema", "optimizer", "scheduler", "random_states", "extra"):
        torch.testing.assert_close(with_pictures[part], plain[part], rtol=0, atol=0)
    train("SOLVER.MAX_ITER", 5, "TEST.METHOD_IMAGES", 2, out="stopped")
    resumed = train("TEST.METHOD_IMAGES", 2, out="stopped")
    for part in ("model", "model_ema", "random_states"):
        torch.testing.assert_close(resumed[part], plain[part], rtol=0, atol=0)


def test_half_types_without_a_test_set(tiny_cfg, tmp_path) -> None:
    # What a run left that got further but lost its checkpoints.
    (tmp_path / "run/method/iteration_0000900").mkdir(parents=True)
    cfg = tiny_cfg("TEST.METHOD_IMAGES", 3, "DTYPE", "bfloat16", "SOLVER.MAX_ITER", 2, "DATASETS.TEST", "()")
    pipeline.train_step1(cfg)
    folders = sorted((tmp_path / "run/method").iterdir())
    assert [folder.name for folder in folders] == ["iteration_0000000", "iteration_0000005"]
    summary = json.loads((folders[-1] / "summary.json").read_text())
    assert summary["dataset"] == "tiny_train"
    assert len(summary["mean"]) == 3


def test_nothing_is_drawn_where_there_is_nothing_to_see(tiny_cfg, tmp_path) -> None:
    short = ("SOLVER.MAX_ITER", 1)
    pipeline.train_baseline(tiny_cfg("TEST.METHOD_IMAGES", 2, *short, out="base"), skip_test=True)
    pipeline.train_step1(tiny_cfg(*short, out="off"), skip_test=True)
    assert not any((tmp_path / run / "method").exists() for run in ("base", "off"))
    with pytest.raises(ConfigError, match=r"TEST\.METHOD_IMAGES must not be negative"):
        tiny_cfg("TEST.METHOD_IMAGES", -1)
