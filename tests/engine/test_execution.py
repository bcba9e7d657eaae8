"""Layouts in memory: chosen by type, kept through checkpoints, and no part of the result."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labelenc import engine
from labelenc.engine import Checkpointer, TrainingState
from labelenc.engine.execution import eager

LAST = torch.channels_last


def make_state(dtype: str) -> TrainingState:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(72, 1)
    )
    engine.place(model, "cpu", dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return TrainingState(model, optimizer, scheduler)


def update(state: TrainingState, pixels: torch.Tensor) -> None:
    state.model(pixels).square().mean().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_half_types_have_channels_last_from_end_to_end(seed, dtype):
    state = make_state(dtype)
    half = dtype != "float32"
    assert state.model[0].weight.is_contiguous(memory_format=LAST) == half
    pixels = torch.randn(2, 3, 8, 8)
    for layers in (1, 2, 3):
        out = state.model[:layers](pixels)
        assert out.is_contiguous(memory_format=LAST) == half
        assert out.is_contiguous() != half


@pytest.mark.parametrize(("written", "read"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_run_resumes_in_the_other_layout(seed, tmp_path, written, read):
    """Weights and momentum are the same numbers, laid out as this run wants them."""
    state, batches = make_state(written), torch.randn(3, 2, 3, 8, 8)
    update(state, batches[0])
    Checkpointer(tmp_path, "baseline").save("model_0000001", state)
    resumed = make_state(read)
    Checkpointer(tmp_path, "baseline").load_latest(resumed)
    for mine, its in zip(resumed.model.parameters(), state.model.parameters(), strict=True):
        assert torch.equal(mine, its)
        momentum = resumed.optimizer.state[mine]["momentum_buffer"]
        assert torch.equal(momentum, state.optimizer.state[its]["momentum_buffer"])
        assert momentum.stride() == mine.stride()
    assert resumed.model[0].weight.is_contiguous(memory_format=LAST) == (read != "float32")
    for pixels in batches[1:]:
        update(state, pixels)
        update(resumed, pixels)
    torch.testing.assert_close(resumed.model.state_dict(), state.model.state_dict())


def test_resuming_in_the_same_layout_is_exact(seed, tmp_path):
    state, batches = make_state("bfloat16"), torch.randn(3, 2, 3, 8, 8)
    update(state, batches[0])
    Checkpointer(tmp_path, "baseline").save("model_0000001", state)
    resumed = make_state("bfloat16")
    Checkpointer(tmp_path, "baseline").load_latest(resumed)
    for pixels in batches[1:]:
        update(state, pixels)
        update(resumed, pixels)
    for mine, its in zip(resumed.model.parameters(), state.model.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_compiled_parts_run_as_they_are_inside_eager(seed):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    engine.compile_parts(model, ("0", "not there"), backend)
    x = torch.randn(3, 2)
    with eager():
        expected = model(x)
    assert calls == []
    assert torch.equal(model(x), expected)
    assert len(calls) == 1
    torch.compiler.reset()
