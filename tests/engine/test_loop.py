"""The loop: updates by hand, stops and resumes bit for bit, and the ways it refuses to go on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import ModuleType

import pytest
import torch

from labelenc.config import ConfigError
from labelenc.engine import Checkpointer, GradientClip, LoopSettings, TrainingError, load_file

CLOCKS = ("time", "data_time", "max_mem")


def rows(folder: Path) -> list[dict]:
    """The metrics, without what depends on the clock."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in lines]


def assert_same_run(first: Path, second: Path) -> None:
    """Final checkpoints equal bit for bit, random states included, and so do the metrics."""
    finals = [load_file(folder / "model_final.pth") for folder in (first, second)]
    assert finals[0].pop("kind") == finals[1].pop("kind")
    torch.testing.assert_close(*finals, rtol=0, atol=0)
    assert rows(first) == rows(second)


class Stop(Exception):
    """Stands for a kill at a chosen update."""


def run_until(tiny: ModuleType, folder: Path, at: int, **options) -> None:
    """A run of 12 updates that dies in update ``at``."""

    def losses(model, batch, k: int):
        if k == at:
            raise Stop
        return tiny.model_losses(model, batch, k)

    with pytest.raises(Stop):
        tiny.run(folder, 12, losses=losses, **options)


def test_first_update_by_hand(tiny: ModuleType, tmp_path: Path) -> None:
    reference = tiny.make_state().model
    before = {name: tensor.detach().clone() for name, tensor in reference.named_parameters()}
    torch.manual_seed(0)
    sum(reference(tiny.Batches()[0].images.tensors.float()).values()).backward()
    state, _ = tiny.run(tmp_path, 1)
    lr = 0.05 / 5
    for name, parameter in reference.named_parameters():
        expected = before[name] - lr * (parameter.grad + 1e-3 * before[name])
        torch.testing.assert_close(state.model.get_parameter(name).detach(), expected, msg=name)
    assert rows(tmp_path)[0]["lr"] == pytest.approx(lr)
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_clipping_limits_the_update(tiny: ModuleType, tmp_path: Path) -> None:
    start = tiny.make_state().model
    clipped, _ = tiny.run(tmp_path, 1, clip=GradientClip("value", 1e-6))
    for name, parameter in start.named_parameters():
        moved = (clipped.model.get_parameter(name) - parameter).detach()
        # Weight decay pulls by at most lr * 1e-3 * |w|; the gradient itself by at most lr * 1e-6.
        assert float((moved + 0.01 * 1e-3 * parameter.detach()).abs().max()) < 0.01 * 1e-6 + 1e-7


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_resuming_continues_bit_for_bit(tiny: ModuleType, tmp_path: Path, seed: int, dtype: str) -> None:
    at = int(torch.randint(1, 12, ()))
    tiny.run(tmp_path / "through", 12, dtype=dtype)
    run_until(tiny, tmp_path / "stopped", at, dtype=dtype)
    tiny.run(tmp_path / "stopped", 12, dtype=dtype)
    assert_same_run(tmp_path / "through", tmp_path / "stopped")
    names = {path.name for path in (tmp_path / "stopped").glob("*.pth")}
    assert names == {"model_0000004.pth", "model_0000008.pth", "model_0000012.pth", "model_final.pth"}
    losses = [row["loss"] for row in rows(tmp_path / "through")]
    assert losses[-1] < losses[0]


def test_killed_at_random_times_continues_bit_for_bit(
    tiny: ModuleType, start, tmp_path: Path, seed: int
) -> None:
    program = start("survive", tmp_path, seed)
    output, _ = program.communicate(timeout=100)
    assert program.returncode == 0, output
    assert int((tmp_path / "kills").read_text()) > 0
    assert_same_run(tmp_path / "through", tmp_path / "killed")


def test_finished_run_says_so(tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny.run(tmp_path, 4)
    # As if killed after the last periodic checkpoint and before the final one.
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    before = rows(tmp_path)
    with caplog.at_level(logging.WARNING, "labelenc"):
        tiny.run(tmp_path, 4)
    assert any(
        "nothing to train" in text and "4 of 4" in text and "MAX_ITER" in text for text in caplog.messages
    )
    assert load_file(tmp_path / "model_final.pth")["iteration"] == 4
    assert rows(tmp_path) == before
    state, _ = tiny.run(tmp_path, 6)
    assert state.iteration == 6


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_loss_that_is_not_finite_stops(tiny: ModuleType, tmp_path: Path, value: float) -> None:
    weight = torch.zeros((), requires_grad=True)

    def losses(model, batch, k: int):
        return {
            "loss_cls": weight + 100,
            "loss_reg": weight + (value if k == 5 else 1),
            "loss_aux": weight + 3,
        }

    with pytest.raises(TrainingError) as caught:
        tiny.run(tmp_path, 10, losses=losses)
    for part in ("iteration 6", "loss_reg", "[50, 51]", "model_0000004.pth", "did not update the weights"):
        assert part in str(caught.value)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000004.pth"]
    assert len(rows(tmp_path)) == 5


def test_weights_that_are_not_finite_are_not_saved(tiny: ModuleType, tmp_path: Path) -> None:
    def losses(model, batch, k: int):
        weight = model.model.head.bias
        # The loss is 0, but the slope of the square root at 0 is infinite, and 0 * inf is not a number.
        return {"loss": (weight - weight.detach()).square().sum().sqrt() if k == 7 else weight.sum()}

    with pytest.raises(TrainingError, match=r"head\.bias.*iteration 8.*model_0000004\.pth"):
        tiny.run(tmp_path, 10, losses=losses)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000004.pth"]


def test_data_that_end_early_are_reported(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="ended before iteration 4 of 8"):
        tiny.run(tmp_path, 8, data=tiny.loader(0, 3))


def test_evaluation_disturbs_nothing_and_marks_the_best(tiny: ModuleType, tmp_path: Path) -> None:
    values = {2: 0.2, 4: 0.5, 6: 0.4, 8: 0.3, 10: 0.6, 12: 0.1}

    def evaluate(model, iteration: int) -> dict:
        model.eval()
        torch.rand(100)
        return {"eval/shapes/APs": 0.9, "eval/shapes/AP": values[iteration]}

    tiny.run(tmp_path / "plain", 12)
    _, metrics = tiny.run(tmp_path / "evaluated", 12, evaluate=evaluate, eval_period=2)
    folder = tmp_path / "resumed"
    run_until(tiny, folder, 9, evaluate=evaluate, eval_period=2)
    assert load_file(folder / "model_best.pth")["iteration"] == 4
    values[10] = 0.45
    tiny.run(folder, 12, evaluate=evaluate, eval_period=2)
    assert metrics == {"eval/shapes/APs": 0.9, "eval/shapes/AP": 0.1}
    assert load_file(tmp_path / "evaluated" / "model_best.pth")["iteration"] == 10
    assert load_file(folder / "model_best.pth")["iteration"] == 4, "the best value survived the resume"
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    plain, evaluated = (load_file(tmp_path / name / "model_final.pth") for name in ("plain", "evaluated"))
    for part in ("model", "optimizer", "random_states"):
        torch.testing.assert_close(plain[part], evaluated[part], rtol=0, atol=0)
    updates = [row for row in rows(folder) if "loss" in row]
    assert updates == rows(tmp_path / "plain")


def test_run_of_another_kind_is_not_resumed(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run(tmp_path, 4, kind="step1")
    with pytest.raises(RuntimeError, match="Choose another OUTPUT_DIR"):
        tiny.run(tmp_path, 4, kind="step2")
    assert Checkpointer(tmp_path, "step1").last_path() == tmp_path / "model_final.pth"


def test_unknown_dtype() -> None:
    with pytest.raises(ConfigError, match="DTYPE"):
        LoopSettings(10, 5, dtype="float8")
