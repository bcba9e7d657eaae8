"""The training loop, shared by baseline, step 1 and step 2."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from labelenc.config import ConfigError
from labelenc.engine.checkpoint import Checkpointer, TrainingState, preserved_random_state
from labelenc.engine.distributed import Process, all_gather_objects, broadcast_object, reduce_mean
from labelenc.engine.logging import MetricsWriter
from labelenc.engine.optim import GradientClip, clip_gradients
from labelenc.engine.signals import StopRequest, stop_requests
from labelenc.structures import Batch

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FINAL = "model_final"
BEST = "model_best"
_BEST_VALUE = "best_value"

Losses = Callable[[Batch, int], Mapping[str, Tensor]]
Evaluate = Callable[[int], Mapping[str, Any] | None]


class TrainingError(RuntimeError):
    """Training cannot go on."""


@dataclass(frozen=True)
class LoopSettings:
    """Plain settings of a run.

    ``max_iter`` updates in all; a checkpoint every ``checkpoint_period`` updates; an evaluation every
    ``eval_period`` updates and after the last (0: none); autocast to ``dtype``; the evaluation's first number
    named ``best_metric`` or ``…/<best_metric>`` decides about the best checkpoint.
    """

    max_iter: int
    checkpoint_period: int
    eval_period: int = 0
    dtype: str = "float32"
    clip: GradientClip | None = None
    best_metric: str = "AP"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"DTYPE is {self.dtype!r}; write one of {', '.join(DTYPES)}")


def make_scaler(dtype: str, device: torch.device) -> GradScaler | None:
    """The loss scaler that float16 needs lest small gradients vanish; None for the other types."""
    if dtype != "float16":
        return None
    # The scaler skips updates whose gradients overflow, usually the very first; the schedule goes on.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    return GradScaler(device.type)


def train(
    state: TrainingState,
    losses: Losses,
    loader: Iterable[Batch],
    settings: LoopSettings,
    *,
    process: Process,
    checkpointer: Checkpointer,
    writer: MetricsWriter,
    evaluate: Evaluate | None = None,
) -> Mapping[str, Any] | None:
    """Update ``state`` until ``settings.max_iter`` updates are done, starting at ``state.iteration``.

    Args:
        state: model on the device, optimizer, scheduler, scaler (see `make_scaler`).
        losses: ``losses(batch, k)`` gives the scalar losses of update k (from 0), to be summed; runs under
            autocast, with the batch on the device.
        loader: the batches from update ``state.iteration`` on, uint8 and on the CPU; one per update at least.
        process: this process.
        checkpointer: writes ``model_<updates>.pth``, ``model_final.pth`` and, when an evaluation improves,
            ``model_best.pth``.
        writer: receives losses and evaluations.
        evaluate: ``evaluate(updates done)``, called on all processes; rank 0's result counts. It may draw
            random numbers and put the model into eval mode; both are put back.

    Returns:
        The evaluation that followed the last update, or None if there was none.

    Raises:
        TrainingError: a loss or a weight is not finite, or the loader ends early; older checkpoints stay.
        Interrupted: on every process, after a checkpoint, if SIGINT or SIGTERM came to one of them.
    """
    if state.iteration >= settings.max_iter:
        _report_finished(state, settings, checkpointer)
        return None
    with stop_requests() as request:
        return _train(state, losses, loader, settings, process, checkpointer, writer, evaluate, request)


def _train(
    state: TrainingState,
    losses: Losses,
    loader: Iterable[Batch],
    settings: LoopSettings,
    process: Process,
    checkpointer: Checkpointer,
    writer: MetricsWriter,
    evaluate: Evaluate | None,
    request: StopRequest,
) -> Mapping[str, Any] | None:
    metrics = None
    state.model.train()
    # Iterators of data loaders draw a random number, which a resumed run would draw at another place.
    with preserved_random_state():
        batches = iter(loader)
    for k in range(state.iteration, settings.max_iter):
        started = time.perf_counter()
        batch = _next_batch(batches, k, settings.max_iter)
        data_time = time.perf_counter() - started
        lr = state.optimizer.param_groups[0]["lr"]
        values = _update(state, losses, batch, k, settings, process, checkpointer, request)
        state.iteration = done = k + 1
        writer.update(done, values, lr, time.perf_counter() - started, data_time)
        metrics = None
        if evaluate is not None and _is_evaluated(done, settings):
            if request.granted:
                # Whoever asked may not wait for the evaluation.
                _save(f"model_{done:07d}", state, checkpointer)
            metrics = _evaluate(state, evaluate, settings, checkpointer, writer)
        if request.granted or (settings.checkpoint_period and done % settings.checkpoint_period == 0):
            _save(f"model_{done:07d}", state, checkpointer)
        if request.granted:
            raise request.interruption(done, settings.max_iter, checkpointer.last_path())
    _save(FINAL, state, checkpointer)
    return metrics


def _is_evaluated(done: int, settings: LoopSettings) -> bool:
    period = settings.eval_period
    return period > 0 and (done % period == 0 or done == settings.max_iter)


def _report_finished(state: TrainingState, settings: LoopSettings, checkpointer: Checkpointer) -> None:
    logger.warning(
        "nothing to train: %s has done %d of %d iterations. Raise SOLVER.MAX_ITER to train on, or choose "
        "another OUTPUT_DIR to train anew.",
        checkpointer.output_dir,
        state.iteration,
        settings.max_iter,
    )
    # A run killed between its last two checkpoints lacks this one.
    missing = not checkpointer.path(FINAL).is_file()
    if broadcast_object(missing):
        _save(FINAL, state, checkpointer)


def _next_batch(batches: Iterator[Batch], k: int, max_iter: int) -> Batch:
    try:
        return next(batches)
    except StopIteration:
        raise TrainingError(
            f"the data ended before iteration {k + 1} of {max_iter}; the loader must give a batch for each."
        ) from None


def _update(
    state: TrainingState,
    losses: Losses,
    batch: Batch,
    k: int,
    settings: LoopSettings,
    process: Process,
    checkpointer: Checkpointer,
    request: StopRequest,
) -> dict[str, float]:
    device, dtype = process.device, DTYPES[settings.dtype]
    batch = batch.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        parts = dict(losses(batch, k))
    total = torch.stack([value.float() for value in parts.values()]).sum()
    read_means = _start_reading(reduce_mean({**parts, **request.vote(device)}))
    (total if state.scaler is None else state.scaler.scale(total)).backward()
    # Read only now, so that a GPU is busy with the backward pass meanwhile; nothing is updated yet.
    means = read_means()
    request.count(means)
    if not all(math.isfinite(value) for value in means.values()):
        _stop(parts, means, batch, k, checkpointer)
    _step(state, settings.clip)
    return means


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


def _stop(
    parts: Mapping[str, Tensor], means: Mapping[str, float], batch: Batch, k: int, checkpointer: Checkpointer
) -> None:
    """Raise the error about a loss that is not finite; all processes come here, as all saw the same means."""
    own = {name: float(value.detach()) for name, value in parts.items()}
    everyone = all_gather_objects((batch.image_ids, own))
    # NaN compares false with everything, so it is ranked by hand: NaN, then infinity, then size.
    largest = max(means, key=lambda name: (math.isnan(means[name]), abs(means[name])))
    guilty = [
        f"process {rank}: images {ids}, " + ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        for rank, (ids, values) in enumerate(everyone)
    ]
    last = checkpointer.last_path()
    raise TrainingError(
        f"the losses of iteration {k + 1} are not finite; the largest is {largest} = {means[largest]}.\n  "
        + "\n  ".join(guilty)
        + f"\nThis iteration did not update the weights. Last checkpoint: {last or 'none was written yet'}. "
        "Look at these images' annotations; lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS or enable "
        "SOLVER.CLIP_GRADIENTS, then start again to resume."
    )


def _evaluate(
    state: TrainingState,
    evaluate: Evaluate,
    settings: LoopSettings,
    checkpointer: Checkpointer,
    writer: MetricsWriter,
) -> Mapping[str, Any] | None:
    with preserved_random_state():
        metrics = broadcast_object(evaluate(state.iteration))
    state.model.train()
    if metrics is None:
        return None
    writer.evaluation(state.iteration, metrics)
    value = _find_metric(metrics, settings.best_metric)
    if value is not None and value > state.extra.get(_BEST_VALUE, -math.inf):
        state.extra[_BEST_VALUE] = value
        _save(BEST, state, checkpointer, mark_last=False)
        logger.info("best %s so far: %.4f at iteration %d", settings.best_metric, value, state.iteration)
    return metrics


def _find_metric(metrics: Mapping[str, Any], wanted: str) -> float | None:
    values = (value for name, value in metrics.items() if name.rpartition("/")[2] == wanted)
    return next((float(value) for value in values if value is not None), None)


def _save(name: str, state: TrainingState, checkpointer: Checkpointer, mark_last: bool = True) -> None:
    # A finite loss may still have had a gradient that is not.
    broken = _not_finite(state.model)
    if broken is not None:
        raise TrainingError(
            f"the weights {broken!r} are not finite after iteration {state.iteration}; {name}.pth was not "
            f"written. Last checkpoint: {checkpointer.last_path() or 'none was written yet'}. Lower "
            "SOLVER.BASE_LR or enable SOLVER.CLIP_GRADIENTS, then start again to resume."
        )
    checkpointer.save(name, state, mark_last)


def _not_finite(model: nn.Module) -> str | None:
    tensors = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
    if not tensors:
        return None
    finite = torch.stack([tensor.detach().isfinite().all() for _, tensor in tensors]).tolist()
    return next((name for (name, _), good in zip(tensors, finite, strict=True) if not good), None)
