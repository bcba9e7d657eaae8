"""The average of the weights: its recursion by hand, in checkpoints, in evaluations, as initial weights."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from labelenc.engine import TrainingState, WeightAverage, average_in_use, load_file
from labelenc.modeling.backbone.pretrained import load_weights


def test_average_by_hand(seed: int) -> None:
    model = nn.ModuleDict({"moving": nn.Linear(3, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    average = WeightAverage(model, decay=0.7)
    expected = model["moving"].weight.detach().double()
    # (1 + k) / (10 + k) passes 0.7 at k = 20.
    for k in range(30):
        with torch.no_grad():
            model["moving"].weight.copy_(torch.randn(2, 3))
        average.update(k)
        decay = (k + 1) / (k + 10) if k < 20 else 0.7
        expected = decay * expected + (1 - decay) * model["moving"].weight.detach().double()
        torch.testing.assert_close(average.state_dict()["moving.weight"], expected.float())
    assert set(average.state_dict()) == {"moving.weight", "moving.bias"}


def test_in_use_puts_everything_back(seed: int) -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, decay=0.5)
    with torch.no_grad():
        model.weight.add_(1)
    weights = model.weight.detach().clone()
    averaged = average.state_dict()["weight"].clone()
    pointer = model.weight.data_ptr()

    def look_and_fail() -> None:
        assert torch.equal(model.weight, averaged)
        raise KeyError

    with pytest.raises(KeyError), average_in_use(average):
        look_and_fail()
    assert torch.equal(model.weight, weights)
    assert torch.equal(average.state_dict()["weight"], averaged)
    assert model.weight.data_ptr() == pointer
    with average_in_use(None):
        assert torch.equal(model.weight, weights)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_resuming_continues_the_average_bit_for_bit(tiny: ModuleType, tmp_path: Path, dtype: str) -> None:
    tiny.run(tmp_path / "through", 9, ema_decay=0.9, dtype=dtype)
    for stop in (4, 9):
        tiny.run(tmp_path / "stopped", stop, ema_decay=0.9, dtype=dtype)
    plain, _ = tiny.run(tmp_path / "plain", 9, dtype=dtype)
    through, stopped = (tiny.final(tmp_path / name) for name in ("through", "stopped"))
    torch.testing.assert_close(through, stopped, rtol=0, atol=0)
    # The average disturbs nothing; buffers are the model's own.
    torch.testing.assert_close(through["model"], plain.model.state_dict(), rtol=0, atol=0)
    assert through["model_ema"].keys() == through["model"].keys()
    same = {
        name for name, value in through["model_ema"].items() if torch.equal(value, through["model"][name])
    }
    assert same == {name for name, _ in plain.model.named_buffers()}
    assert tiny.final(tmp_path / "plain")["model_ema"] is None


def test_evaluations_see_the_average(tiny: ModuleType, tmp_path: Path) -> None:
    seen = {}

    def evaluate(model: nn.Module, iteration: int) -> dict:
        seen[iteration] = {name: value.clone() for name, value in model.state_dict().items()}
        return {"AP": 0.1}

    tiny.run(tmp_path, 8, ema_decay=0.9, evaluate=evaluate, eval_period=4)
    for iteration, weights in seen.items():
        saved = load_file(tmp_path / f"model_{iteration:07d}.pth")
        torch.testing.assert_close(weights, saved["model_ema"], rtol=0, atol=0)
    best = load_file(tmp_path / "model_best.pth")
    torch.testing.assert_close(seen[4], best["model_ema"], rtol=0, atol=0)


def test_a_run_without_average_goes_on_with_one(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.run(tmp_path, 4)
    path = tmp_path / "model_final.pth"
    content = load_file(path)
    # As older versions wrote them.
    del content["model_ema"]
    torch.save(content, path)
    with caplog.at_level(logging.WARNING, "labelenc"):
        state, _ = tiny.run(tmp_path, 5, ema_decay=0.9)
    assert any("no average of the weights" in message for message in caplog.messages)
    before, after = content["model"]["head.weight"], state.model.head.weight.detach()
    # Update 4 (from 0) has the decay 5/14.
    expected = 5 / 14 * before + 9 / 14 * after
    torch.testing.assert_close(state.average.state_dict()["head.weight"], expected)


def test_the_average_is_what_a_checkpoint_gives_as_weights(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state: TrainingState = tiny.run(tmp_path, 5, ema_decay=0.9)[0]
    model = tiny.make_state(seed=8).model
    with caplog.at_level(logging.INFO, "labelenc"):
        load_weights(model, load_file(tmp_path / "model_final.pth"), "model_final.pth", complete=True)
    assert any("model_final.pth, model_ema" in message for message in caplog.messages)
    with average_in_use(state.average):
        torch.testing.assert_close(model.state_dict(), state.model.state_dict(), rtol=0, atol=0)
