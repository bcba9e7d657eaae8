"""One update: losses, gradients over all micro-batches and processes, and a step if the losses are finite."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labelenc.engine.checkpoint import Checkpointer, TrainingState
from labelenc.engine.distributed import all_gather_objects, reduce_mean
from labelenc.engine.optim import GradientClip, clip_gradients
from labelenc.engine.settings import DTYPES, LoopSettings
from labelenc.engine.signals import StopRequest
from labelenc.structures import Batch

logger = logging.getLogger(__name__)

# More updates in a row without a finite loss mean that the weights are lost, not that an image is odd.
MAX_SKIPPED_IN_A_ROW = 10
_SKIPPED, _IN_A_ROW = "skipped_updates", "skipped_in_a_row"

Losses = Callable[[Batch, int], Mapping[str, Tensor]]
NoSync = Callable[[], contextlib.AbstractContextManager[None]]


class TrainingError(RuntimeError):
    """Training cannot go on."""


def update(
    state: TrainingState,
    losses: Losses,
    batches: Sequence[Batch],
    k: int,
    settings: LoopSettings,
    device: torch.device,
    checkpointer: Checkpointer,
    no_sync: NoSync,
    request: StopRequest,
) -> dict[str, float] | None:
    """Do update ``k`` of ``state`` with the mean of the losses of all micro-batches.

    Losses that are means over images thus give the gradient of the undivided batch. What else a loss is
    divided by, such as the number of positives, is counted per micro-batch.

    Args:
        losses: ``losses(batch, k)`` gives the scalar losses of a micro-batch, the same names for all.
        batches: the micro-batches of this process, on ``device``.
        checkpointer: knows the last checkpoint, for messages.
        no_sync: gradients of forward passes inside this context stay with the process.
        request: takes what the processes say about stopping.

    Returns:
        The losses averaged over micro-batches and processes, or None if the update was skipped because one
        was not finite: the schedule moved on, but weights, running statistics, optimizer and average did not.

    Raises:
        TrainingError: on every process, where a loss is not finite and none, or no more, may be skipped.
    """
    statistics = _running_statistics(state.model) if settings.on_nonfinite == "skip" else []
    found: list[Tensor] = []
    names: list[str] = []
    for batch in batches[:-1]:
        with no_sync():
            names, values = _forward(losses, batch, k, settings, device)
            _backward(state, values, len(batches))
        found.append(values.detach())
    names, values = _forward(losses, batches[-1], k, settings, device)
    found.append(values.detach())
    mean = torch.stack(found).mean(dim=0)
    own = dict(zip(names, mean.unbind(), strict=True))
    read_means = _start_reading(reduce_mean({**own, **request.vote(device)}))
    _backward(state, values, len(batches))
    # Read only now, so that a GPU is busy with the backward pass meanwhile; nothing is updated yet.
    means = read_means()
    request.count(means)
    if all(math.isfinite(value) for value in means.values()):
        _step(state, settings.clip)
        return means
    faults = _describe(names, found, batches, means, k)
    _skip_or_stop(state, settings, faults, checkpointer)
    for buffer, value in statistics:
        buffer.copy_(value)
    return None


def _forward(
    losses: Losses, batch: Batch, k: int, settings: LoopSettings, device: torch.device
) -> tuple[list[str], Tensor]:
    """Names and, in one float32 tensor, values of the losses of a micro-batch."""
    dtype = DTYPES[settings.dtype]
    with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        parts = losses(batch, k)
    return list(parts), torch.stack([value.float() for value in parts.values()])


def _backward(state: TrainingState, values: Tensor, steps: int) -> None:
    total = values.sum() / steps
    (total if state.scaler is None else state.scaler.scale(total)).backward()


def _start_reading(values: Mapping[str, Tensor]) -> Callable[[], dict[str, float]]:
    """Begin to copy scalars to the CPU without waiting; calling the result waits and gives them."""
    stacked = torch.stack(list(values.values()))
    if stacked.device.type != "cuda":
        return lambda: dict(zip(values, stacked.tolist(), strict=True))
    host = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
    host.copy_(stacked, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> dict[str, float]:
        copied.synchronize()
        return dict(zip(values, host.tolist(), strict=True))

    return read


def _step(state: TrainingState, clip: GradientClip | None) -> None:
    """Update weights and average. Where float16 gradients overflow, the scaler leaves the weights alone."""
    optimizer, scaler = state.optimizer, state.scaler
    if clip is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        clip_gradients((tensor for group in optimizer.param_groups for tensor in group["params"]), clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    state.scheduler.step()
    optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update(state.iteration)
    if state.extra.get(_IN_A_ROW):
        state.extra[_IN_A_ROW] = 0


def _running_statistics(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The buffers of batch norm, which a forward pass changes, each with a copy of its value."""
    return [
        (buffer, buffer.clone())
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for buffer in module.buffers(recurse=False)
    ]


def _describe(
    names: Sequence[str],
    found: Sequence[Tensor],
    batches: Sequence[Batch],
    means: Mapping[str, float],
    k: int,
) -> str:
    """Who had which losses; all processes come here, as all saw the same means."""
    own = [(batch.image_ids, values.tolist()) for batch, values in zip(batches, found, strict=True)]
    # NaN compares false with everything, so it is ranked by hand: NaN, then infinity, then size.
    largest = max(means, key=lambda name: (math.isnan(means[name]), abs(means[name])))
    lines = [
        f"process {rank}: images {ids}, "
        + ", ".join(f"{name} {value:.6g}" for name, value in zip(names, values, strict=True))
        for rank, micro_batches in enumerate(all_gather_objects(own))
        for ids, values in micro_batches
    ]
    return (
        f"the losses of iteration {k + 1} are not finite; the largest is {largest} = {means[largest]}.\n  "
        + "\n  ".join(lines)
    )


def _skip_or_stop(
    state: TrainingState, settings: LoopSettings, faults: str, checkpointer: Checkpointer
) -> None:
    total, in_a_row = state.extra.get(_SKIPPED, 0) + 1, state.extra.get(_IN_A_ROW, 0) + 1
    if settings.on_nonfinite == "stop" or in_a_row > MAX_SKIPPED_IN_A_ROW:
        before = f" So were the {in_a_row - 1} before it, which were skipped." if in_a_row > 1 else ""
        raise TrainingError(
            f"{faults}\nThis iteration did not update the weights.{before} Last checkpoint: "
            f"{checkpointer.last_path() or 'none was written yet'}. Look at these images' annotations; lower "
            "SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS or enable SOLVER.CLIP_GRADIENTS, then start again "
            "to resume."
        )
    state.extra[_SKIPPED], state.extra[_IN_A_ROW] = total, in_a_row
    logger.warning(
        "%s\nThis iteration is skipped; %d in all, %d in a row (more than %d stop the run).",
        faults,
        total,
        in_a_row,
        MAX_SKIPPED_IN_A_ROW,
    )
    state.optimizer.zero_grad(set_to_none=True)
    with warnings.catch_warnings():
        # The schedule goes on without the optimizer, which PyTorch takes for a mistake at the first update.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        state.scheduler.step()
