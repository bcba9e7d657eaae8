"""The engine on a GPU: data types, random states, and errors. Skipped without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from labelenc.config import ConfigError
from labelenc.engine import Process, TrainingError, load_file, setup_distributed
from labelenc.structures import Batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def process() -> Process:
    return setup_distributed("cuda")


def test_setup(process: Process) -> None:
    assert process.device == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match="wants GPU 99"):
        setup_distributed("cuda:99")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_resumed_run_continues(tiny: ModuleType, tmp_path: Path, process: Process, dtype: str) -> None:
    tiny.run(tmp_path / "through", 12, process=process, dtype=dtype)
    tiny.run(tmp_path / "stopped", 8, process=process, dtype=dtype)
    tiny.run(tmp_path / "stopped", 12, process=process, dtype=dtype)
    finals = [load_file(tmp_path / name / "model_final.pth") for name in ("through", "stopped")]
    assert torch.equal(*(final["random_states"][0]["cuda"] for final in finals))
    assert finals[0]["scaler"] == finals[1]["scaler"]
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("through", "stopped")
    ]
    # Sums on a GPU may be taken in another order.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3 if dtype == "float32" else 5e-2)


def test_loss_that_is_not_finite_stops(tiny: ModuleType, tmp_path: Path, process: Process) -> None:
    def losses(model, batch, k: int):
        values = tiny.model_losses(model, batch, k)
        return {**values, "loss_bad": values["loss_head"] * (float("nan") if k == 5 else 1)}

    with pytest.raises(TrainingError, match=r"(?s)iteration 6.*loss_bad.*\[50, 51\].*model_0000004\.pth"):
        tiny.run(tmp_path, 10, process=process, losses=losses)
    assert not (tmp_path / "model_final.pth").exists()


def test_training_does_the_updates_before_a_broken_batch(
    tiny: ModuleType, tmp_path: Path, process: Process
) -> None:
    def data() -> Iterator[Batch]:
        yield from tiny.loader(0, 5)
        raise ValueError("broken")

    done: list[int] = []

    def losses(model, batch: Batch, k: int):
        done.append(k)
        assert batch.images.tensors.is_cuda
        return tiny.model_losses(model, batch, k)

    with pytest.raises(ValueError, match="broken"):
        tiny.run(tmp_path, 8, process=process, data=data(), losses=losses)
    assert done == [0, 1, 2, 3, 4]
    assert (tmp_path / "model_0000004.pth").is_file()
