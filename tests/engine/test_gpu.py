"""The engine on a GPU: data types, random states, fused optimizers, and errors. Skipped without one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from labelenc.config import ConfigError
from labelenc.config.defaults import default_config
from labelenc.engine import (
    Checkpointer,
    GradientClip,
    LoopSettings,
    Process,
    TrainingError,
    WeightAverage,
    build_optimizer,
    load_file,
    setup_distributed,
)
from labelenc.engine.optim import restore_optimizer
from labelenc.engine.signals import StopRequest
from labelenc.engine.update import update
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


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_skipped_update_changes_nothing(
    tiny: ModuleType, tmp_path: Path, process: Process, dtype: str
) -> None:
    def losses(model, batch, k: int):
        images = batch.images.tensors.float()
        return model(images * float("nan") if k == 3 else images)

    options = {"process": process, "dtype": dtype, "ema_decay": 0.9, "on_nonfinite": "skip"}
    tiny.run(tmp_path, 4, losses=losses, checkpoint_period=1, **options)
    before, after = (load_file(tmp_path / f"model_{n:07d}.pth") for n in (3, 4))
    for part in ("model", "model_ema", "scaler"):
        torch.testing.assert_close(before[part], after[part], rtol=0, atol=0)
    torch.testing.assert_close(before["optimizer"]["state"], after["optimizer"]["state"], rtol=0, atol=0)
    assert after["extra"]["skipped_updates"] == 1


def run_steps(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor) -> None:
    for x in inputs:
        model(x[None].to(next(model.parameters()).device)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_optimizer_goes_on_on_another_device(seed: int, process: Process, name: str) -> None:
    cfg = default_config()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR = name, 0.05
    stays = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 5, 1))
    optimizer = build_optimizer(cfg, stays)
    x = torch.randn(6, 3, 6, 6)
    run_steps(stays, optimizer, x[:2])
    travels, state = copy.deepcopy(stays), copy.deepcopy(optimizer.state_dict())
    run_steps(stays, optimizer, x[2:])
    for device, part in ((process.device, x[2:4]), (torch.device("cpu"), x[4:])):
        travels.to(device)
        other = build_optimizer(cfg, travels)
        assert other.param_groups[0]["fused"]
        restore_optimizer(other, state)
        run_steps(travels, other, part)
        # As a checkpoint, which is read to the CPU.
        state = {**other.state_dict(), "state": to_cpu(other.state_dict()["state"])}
    torch.testing.assert_close(travels.state_dict(), stays.state_dict(), rtol=1e-3, atol=1e-4)


def to_cpu(state: dict) -> dict:
    return {key: {name: value.cpu() for name, value in values.items()} for key, values in state.items()}


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    """Waiting for the GPU raises an error, except for what was copied behind an event."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def warm(tiny: ModuleType, tmp_path: Path, process: Process, request: pytest.FixtureRequest):
    """next_update() of a run in ``request.param`` that has done some updates."""
    state = tiny.make_state(dtype=request.param, device=process.device)
    cfg = default_config()
    state.optimizer = build_optimizer(cfg, state.model)
    state.scheduler = torch.optim.lr_scheduler.LambdaLR(state.optimizer, lambda _: 1.0)
    state.average = WeightAverage(state.model, 0.9)
    settings = LoopSettings(9, 9, dtype=request.param, clip=GradientClip("norm", 1.0), accumulation_steps=2)
    batches = [batch.to(process.device) for batch in tiny.loader(0, 2)]

    def losses(batch, k: int):
        return tiny.model_losses(state.model, batch, k)

    def next_update() -> dict[str, float] | None:
        found = update(
            state, losses, batches, state.iteration, settings, process.device,
            Checkpointer(tmp_path, "baseline"), nullcontext, StopRequest(),
        )  # fmt: skip
        state.iteration += 1
        return found

    for _ in range(3):
        next_update()
    torch.cuda.synchronize()
    return next_update


@pytest.mark.parametrize("warm", ["float32", "bfloat16", "float16"], indirect=True)
def test_an_update_does_not_wait_for_the_gpu(warm, no_synchronisation: None) -> None:
    for _ in range(2):
        assert warm() is not None
