"""One update: micro-batches, losses that are not finite, and gradients that overflow in float16."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from labelenc.config import ConfigError
from labelenc.engine import GradientClip, LoopSettings, TrainingError, load_file
from labelenc.structures import Batch

NAN, INF = float("nan"), float("inf")


def spoilt(tiny: ModuleType, at: set[int], value: float = NAN):
    """Losses of a model that sees nothing but ``value`` in the updates ``at``."""

    def losses(model, batch: Batch, k: int) -> dict[str, Tensor]:
        images = batch.images.tensors.float()
        return model(torch.full_like(images, value) if k in at else images)

    return losses


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("clip", [None, GradientClip("norm", 1e-3)])
def test_micro_batches_equal_the_whole_batch(
    divided: ModuleType, tiny: ModuleType, tmp_path: Path, clip
) -> None:
    whole, *others = (divided.run(tmp_path / str(n), tiny.ALONE, n, clip=clip) for n in (1, 2, 8))
    for weights in others:
        torch.testing.assert_close(weights, whole)
    assert [[row["iteration"] for row in rows(tmp_path / str(n))] for n in (1, 2, 8)] == [[1, 2, 3, 4]] * 3
    losses = [[row["loss"] for row in rows(tmp_path / str(n))] for n in (1, 2, 8)]
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] == pytest.approx(losses[2])


def test_a_data_set_that_ends_within_an_update_is_reported(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="ended before iteration 4 of 8"):
        tiny.run(tmp_path, 8, data=tiny.loader(0, 7), accumulation_steps=2)


def test_resuming_counts_updates_not_micro_batches(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.run(tmp_path / "through", 6, accumulation_steps=2, data=tiny.loader(0, 12))
    for start, stop in ((0, 4), (4, 6)):
        tiny.run(tmp_path / "stopped", stop, accumulation_steps=2, data=tiny.loader(2 * start, 2 * stop))
    finals = [tiny.final(tmp_path / name) for name in ("through", "stopped")]
    torch.testing.assert_close(*finals, rtol=0, atol=0)


def test_a_bad_micro_batch_is_named(tiny: ModuleType, tmp_path: Path) -> None:
    def losses(model, batch: Batch, k: int) -> dict[str, Tensor]:
        bias = model.model.head.bias.sum()
        return {"loss_a": bias, "loss_b": bias * (INF if batch.image_ids == [50, 51] else 1)}

    with pytest.raises(TrainingError) as caught:
        tiny.run(tmp_path, 6, losses=losses, accumulation_steps=2, data=tiny.loader(0, 12))
    message = str(caught.value)
    assert "losses of iteration 3" in message
    (guilty,) = (line for line in message.splitlines() if "inf" in line and "images" in line)
    assert "images [50, 51]" in guilty
    assert "images [40, 41]" in message


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_skipped_update_changes_nothing_but_the_schedule(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float, dtype: str
) -> None:
    options = {"ema_decay": 0.9, "dtype": dtype, "on_nonfinite": "skip"}
    with caplog.at_level(logging.WARNING, "labelenc"):
        tiny.run(tmp_path / "skipped", 4, losses=spoilt(tiny, {3}, value), **options)
    tiny.run(tmp_path / "before", 3, **options)
    skipped, before = (tiny.final(tmp_path / name) for name in ("skipped", "before"))
    for part in ("model", "model_ema", "scaler"):
        torch.testing.assert_close(skipped[part], before[part], rtol=0, atol=0)
    torch.testing.assert_close(skipped["optimizer"]["state"], before["optimizer"]["state"], rtol=0, atol=0)
    assert (skipped["iteration"], skipped["scheduler"]["last_epoch"]) == (4, 4)
    assert skipped["extra"] == {"skipped_updates": 1, "skipped_in_a_row": 1}
    (message,) = caplog.messages
    for part in ("iteration 4 are not finite", "images [30, 31]", "loss_head nan", "skipped; 1 in all"):
        assert part in message
    assert rows(tmp_path / "skipped")[-1] == {"iteration": 4, "skipped": True}


@pytest.mark.parametrize("at", [{0}, {4, 5, 9}])
def test_resuming_across_skips_continues_bit_for_bit(tiny: ModuleType, tmp_path: Path, at: set[int]) -> None:
    options = {"losses": spoilt(tiny, at), "on_nonfinite": "skip", "checkpoint_period": 1}
    for stop in (5, 12):
        tiny.run(tmp_path / "stopped", stop, **options)
    tiny.run(tmp_path / "through", 12, **options)
    finals = [tiny.final(tmp_path / name) for name in ("through", "stopped")]
    torch.testing.assert_close(*finals, rtol=0, atol=0)
    assert finals[0]["extra"] == {"skipped_updates": len(at), "skipped_in_a_row": 0}
    assert [row["iteration"] for row in rows(tmp_path / "through")] == list(range(1, 13))


def test_too_many_skips_in_a_row_stop(tiny: ModuleType, tmp_path: Path) -> None:
    at = {0, 1, *range(3, 30)}
    with pytest.raises(TrainingError) as caught:
        tiny.run(tmp_path, 30, losses=spoilt(tiny, at), on_nonfinite="skip")
    for part in ("iteration 14", "the 10 before it", "model_0000012.pth", "[130, 131]", "SOLVER.BASE_LR"):
        assert part in str(caught.value)
    assert load_file(tmp_path / "model_0000012.pth")["extra"]["skipped_in_a_row"] == 9


def test_float16_recovers_from_gradients_that_overflow(tiny: ModuleType, tmp_path: Path) -> None:
    def losses(model, batch: Batch, k: int) -> dict[str, Tensor]:
        # The gradient at the head's output, a float16, is some 1e-2 times this factor and the scale of 65536.
        return {name: 1e3 * value for name, value in tiny.model_losses(model, batch, k).items()}

    start = tiny.make_state().model
    state, _ = tiny.run(tmp_path / "one", 1, losses=losses, dtype="float16", on_nonfinite="skip")
    assert state.scaler.get_scale() == 2**15
    for name, parameter in start.named_parameters():
        assert torch.equal(state.model.get_parameter(name), parameter), name
    state, _ = tiny.run(tmp_path / "more", 30, losses=losses, dtype="float16", clip=GradientClip("norm", 1.0))
    assert 1 <= state.scaler.get_scale() < 2**15
    assert all(parameter.isfinite().all() for parameter in state.model.parameters())
    assert state.extra == {}
    assert not torch.equal(state.model.head.weight, start.head.weight)
    logged = [row["loss"] for row in rows(tmp_path / "more")]
    assert len(logged) == 30
    assert sum(logged[-5:]) < sum(logged[:5])


def test_unknown_rule() -> None:
    with pytest.raises(ConfigError, match="ON_NONFINITE"):
        LoopSettings(10, 5, on_nonfinite="ignore")
