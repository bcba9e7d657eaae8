"""The training loop, shared by baseline, step 1 and step 2."""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler

from labelenc.engine.average import average_in_use
from labelenc.engine.checkpoint import Checkpointer, TrainingState
from labelenc.engine.distributed import Process, broadcast_object
from labelenc.engine.logging import MetricsWriter
from labelenc.engine.prefetch import prefetched
from labelenc.engine.random_state import preserved_random_state
from labelenc.engine.settings import LoopSettings
from labelenc.engine.signals import StopRequest, stop_requests
from labelenc.engine.update import Losses, NoSync, TrainingError, update
from labelenc.structures import Batch

logger = logging.getLogger(__name__)

FINAL = "model_final"
BEST = "model_best"
_BEST_VALUE = "best_value"

Evaluate = Callable[[int], Mapping[str, Any] | None]
Show = Callable[[int], None]


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
    show: Show | None = None,
    no_sync: NoSync = contextlib.nullcontext,
) -> Mapping[str, Any] | None:
    """Update ``state`` until ``settings.max_iter`` updates are done, starting at ``state.iteration``.

    Args:
        state: model on the device, optimizer, scheduler, scaler (see `make_scaler`).
        losses: ``losses(batch, k)`` gives the scalar losses of update k (from 0), to be summed; runs under
            autocast, with the batch on the device.
        loader: the micro-batches from update ``state.iteration`` on, uint8 and on the CPU;
            ``settings.accumulation_steps`` for every update.
        process: this process.
        checkpointer: writes ``model_<updates>.pth``, ``model_final.pth`` and, when an evaluation improves,
            ``model_best.pth``.
        writer: receives losses and evaluations.
        evaluate: ``evaluate(updates done)``, called on all processes; rank 0's result counts. It may draw
            random numbers and put the model into eval mode; both are put back. With ``state.average`` the
            model has the averaged weights meanwhile.
        show: ``show(updates done)``, called like ``evaluate``, before the first update, when an evaluation is
            due (even without ``evaluate``) and after the last update.
        no_sync: `ParallelModel.no_sync` where ``losses`` calls a parallel model; see `update`.

    Returns:
        The evaluation that followed the last update, or None if there was none.

    Raises:
        TrainingError: a loss (see `update`) or a weight is not finite, or the loader ends early; older
            checkpoints stay.
        Interrupted: on every process, after a checkpoint, if SIGINT or SIGTERM came to one of them.
    """
    if state.iteration >= settings.max_iter:
        _report_finished(state, settings, checkpointer)
        return None
    metrics = None
    state.model.train()
    with stop_requests() as request:
        if show is not None and state.iteration == 0:
            _show(state, show)
        # Iterators of data loaders draw a random number, which a resumed run would draw at another place.
        with preserved_random_state():
            stream = prefetched(iter(loader), process.device)
        for k in range(state.iteration, settings.max_iter):
            started = time.perf_counter()
            batches = [_next_batch(stream, k, settings.max_iter) for _ in range(settings.accumulation_steps)]
            data_time = time.perf_counter() - started
            lr = state.optimizer.param_groups[0]["lr"]
            means = update(
                state, losses, batches, k, settings, process.device, checkpointer, no_sync, request
            )
            state.iteration = done = k + 1
            if means is None:
                writer.skipped(done)
            else:
                writer.update(done, means, lr, time.perf_counter() - started, data_time)
            metrics = _evaluate_and_save(state, settings, checkpointer, writer, evaluate, show, request)
        _save(FINAL, state, checkpointer)
    return metrics


def _evaluate_and_save(
    state: TrainingState,
    settings: LoopSettings,
    checkpointer: Checkpointer,
    writer: MetricsWriter,
    evaluate: Evaluate | None,
    show: Show | None,
    request: StopRequest,
) -> Mapping[str, Any] | None:
    """What is due after an update; the evaluation, if there was one. Raises Interrupted on request."""
    done, metrics = state.iteration, None
    if evaluate is not None and _is_evaluated(done, settings):
        if request.granted:
            # Whoever asked may not wait for the evaluation.
            _save(f"model_{done:07d}", state, checkpointer)
        metrics = _evaluate(state, evaluate, settings, checkpointer, writer)
    if show is not None and (_is_evaluated(done, settings) or done == settings.max_iter):
        _show(state, show)
    if request.granted or (settings.checkpoint_period and done % settings.checkpoint_period == 0):
        _save(f"model_{done:07d}", state, checkpointer)
    if request.granted:
        raise request.interruption(done, settings.max_iter, checkpointer.last_path())
    return metrics


def _show(state: TrainingState, show: Show) -> None:
    with preserved_random_state(), average_in_use(state.average):
        show(state.iteration)
    state.model.train()


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


def _next_batch(stream: Iterator[Batch], k: int, max_iter: int) -> Batch:
    try:
        return next(stream)
    except StopIteration:
        raise TrainingError(
            f"the data ended before iteration {k + 1} of {max_iter}; the loader must give a batch for each."
        ) from None


def _evaluate(
    state: TrainingState,
    evaluate: Evaluate,
    settings: LoopSettings,
    checkpointer: Checkpointer,
    writer: MetricsWriter,
) -> Mapping[str, Any] | None:
    with preserved_random_state(), average_in_use(state.average):
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
