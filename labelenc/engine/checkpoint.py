"""Checkpoint files: written whole or not at all, read without running code, resumed exactly.

A training checkpoint is one ``torch.save`` file with the keys ``model``, ``optimizer``, ``scheduler``,
``scaler`` (None without float16), ``iteration`` (updates done), ``kind``, ``random_states`` (one per
process), ``extra`` (plain values) and ``model_ema`` (None without SOLVER.EMA_DECAY): like ``model``, with the
averaged weights in place of the last ones. ``description`` says what the file is: configuration, classes and
version as plain values. ``last_checkpoint`` beside it holds the name of the newest one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from labelenc.engine.average import WeightAverage
from labelenc.engine.distributed import (
    all_gather_objects,
    get_rank,
    get_world_size,
    is_main,
    on_main,
)
from labelenc.engine.files import (
    DESCRIPTION,
    CheckpointError,
    check_file,
    load_file,
    peek_file,
    replace_file,
    save_atomic,
)
from labelenc.engine.optim import restore_optimizer
from labelenc.engine.random_state import random_state, set_random_state

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"
_KEYS = ("model", "optimizer", "scheduler", "scaler", "iteration", "kind", "random_states", "extra")


@dataclass
class TrainingState:
    """All that an update changes: what a checkpoint saves and a resumed run restores.

    ``iteration`` counts the updates done; ``extra`` holds plain values (numbers, strings, lists, dicts).
    ``model`` is the bare model, ``scaler`` None unless training in float16, ``average`` None unless the
    weights are averaged.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: GradScaler | None = None
    iteration: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    average: WeightAverage | None = None


class Checkpointer:
    """Writes and resumes the checkpoints of one run in one directory.

    Args:
        output_dir: made if missing.
        kind: "baseline", "step1" or "step2"; a directory belongs to one kind.
        description: goes into every file.
    """

    def __init__(
        self, output_dir: str | Path, kind: str, description: Mapping[str, Any] | None = None
    ) -> None:
        self.output_dir = Path(output_dir)
        self.kind = kind
        self.description = description

    def path(self, name: str) -> Path:
        """The file of the checkpoint ``name`` ("model_final", …)."""
        return self.output_dir / f"{name}.pth"

    def save(self, name: str, state: TrainingState, mark_last: bool = True) -> None:
        """Write ``<name>.pth``. All processes must call this; rank 0 writes, and random states of all go in.

        Args:
            mark_last: whether a resumed run starts from this file.

        Raises:
            CheckpointError: on every process, if the file cannot be written.
        """
        random_states = all_gather_objects(random_state())
        on_main(lambda: self._write(name, state, random_states, mark_last))

    def _write(self, name: str, state: TrainingState, random_states: list, mark_last: bool) -> None:
        content: dict[str, Any] = {
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scheduler": state.scheduler.state_dict(),
            "scaler": None if state.scaler is None else state.scaler.state_dict(),
            "iteration": state.iteration,
            "kind": self.kind,
            "random_states": random_states,
            "extra": state.extra,
            "model_ema": None,
            DESCRIPTION: None if self.description is None else dict(self.description),
        }
        if state.average is not None:
            content["model_ema"] = {**content["model"], **state.average.state_dict()}
        path = self.path(name)
        save_atomic(content, path)
        if mark_last:
            line = path.name.encode()
            replace_file(self.output_dir / LAST_CHECKPOINT, lambda stream: stream.write(line))
        logger.info("wrote %s", path)

    def last_path(self) -> Path | None:
        """The checkpoint that a resumed run starts from; None if there is none yet."""
        marker = self.output_dir / LAST_CHECKPOINT
        if not marker.is_file():
            return None
        # Older programs wrote the full path; the directory may have moved since.
        name = Path(marker.read_text(encoding="utf-8", errors="replace").strip("\0 \n")).name
        # An empty marker tells that there was a checkpoint, if not which.
        return self.output_dir / (name or LAST_CHECKPOINT)

    def load_latest(self, state: TrainingState) -> int | None:
        """Restore ``state`` in place and this process's random states from the newest checkpoint.

        Where that is missing or damaged, the next newest that is whole takes its place, with a warning.

        Returns:
            The number of updates done, or None if the directory holds no checkpoint to resume from.

        Raises:
            CheckpointError: no file is whole, or it is of another kind of run or of another model.
        """
        if is_main():
            for leftover in self.output_dir.glob("*.pth.tmp"):
                leftover.unlink()
        path = on_main(self._choose)
        if path is None:
            self._warn_of_orphans()
            return None
        content = load_file(path)
        self._check(content, path)
        try:
            self._restore(content, state)
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} does not fit this model or optimizer: {error}\nResume with the config that wrote "
                "it, or choose another OUTPUT_DIR to start anew."
            ) from error
        logger.warning("resuming from %s at iteration %d", path, state.iteration)
        self._restore_random_state(content)
        return state.iteration

    def _check(self, content: dict[str, Any], path: Path) -> None:
        missing = [key for key in _KEYS if key not in content]
        if missing:
            raise CheckpointError(
                f"{path} is no training checkpoint of this program (it lacks {', '.join(missing)}), so this "
                f"run cannot resume from it. To start from its weights, set MODEL.WEIGHT to it and choose "
                f"another OUTPUT_DIR, or remove {self.output_dir / LAST_CHECKPOINT}."
            )
        if content["kind"] != self.kind:
            raise CheckpointError(
                f"{self.output_dir} holds a run of kind {content['kind']!r} ({path.name}), but this is a run "
                f"of kind {self.kind!r}. Choose another OUTPUT_DIR."
            )

    def _restore(self, content: dict[str, Any], state: TrainingState) -> None:
        configured = [(group["initial_lr"], group["weight_decay"]) for group in state.optimizer.param_groups]
        state.model.load_state_dict(content["model"], strict=True)
        restore_optimizer(state.optimizer, content["optimizer"])
        state.scheduler.load_state_dict(content["scheduler"])
        saved = [(group["initial_lr"], group["weight_decay"]) for group in state.optimizer.param_groups]
        if saved != configured:
            logger.warning(
                "the checkpoint's (learning rate, weight decay) %s are kept; the config's %s are not used. "
                "Choose another OUTPUT_DIR and set MODEL.WEIGHT to the checkpoint to train on with new ones.",
                saved,
                configured,
            )
        if state.scaler is not None and content["scaler"] is not None:
            state.scaler.load_state_dict(content["scaler"])
        if state.average is not None:
            _restore_average(state.average, content.get("model_ema"))
        state.iteration = content["iteration"]
        state.extra = content["extra"]

    def _restore_random_state(self, content: dict[str, Any]) -> None:
        states = content["random_states"]
        mine = states[get_rank()] if len(states) == get_world_size() else None
        if mine is not None and (mine["cuda"] is not None) == torch.cuda.is_initialized():
            set_random_state(mine)
            return
        seed = zlib.crc32(states[0]["cpu"].numpy().tobytes()) + get_rank()
        logger.warning(
            "the checkpoint was written by %d process(es) on %s, this run differs: random numbers start "
            "afresh from seed %d, so it will not repeat an undisturbed run exactly",
            len(states),
            "CPU" if states[0]["cuda"] is None else "GPU",
            seed,
        )
        torch.manual_seed(seed)

    def _warn_of_orphans(self) -> None:
        others = self._checkpoints()
        if others:
            logger.warning(
                "%s holds %s but no file %s, so training starts from the beginning and will overwrite them",
                self.output_dir,
                ", ".join(others),
                LAST_CHECKPOINT,
            )

    def _checkpoints(self) -> list[str]:
        return sorted(path.name for path in self.output_dir.glob("model_*.pth"))

    def _choose(self) -> Path | None:
        """The checkpoint to resume from: the last one or, if that is damaged, the newest that is whole."""
        last = self.last_path()
        if last is None:
            return None
        found = _damage(last)
        if found is None:
            return last
        logger.warning("cannot resume from the last checkpoint: %s", found)
        for iteration, path in self._others(last):
            damage = _damage(path)
            if damage is None:
                logger.warning("falling back to %s, of iteration %d", path, iteration)
                return path
            logger.warning("cannot fall back: %s", damage)
        raise CheckpointError(
            f"cannot resume: {found} {self.output_dir} has no other checkpoint that is whole. Copy one "
            f"there, or remove {self.output_dir / LAST_CHECKPOINT} to start from the beginning."
        )

    def _others(self, last: Path) -> list[tuple[int, Path]]:
        """(iteration, file) of all training checkpoints of this kind except ``last``, newest first."""
        named = re.fullmatch(r"model_(\d+)\.pth", last.name)
        # Later ones are leftovers of an earlier run, which this one has not overwritten yet.
        limit = int(named[1]) if named else math.inf
        found = []
        for path in set(self.output_dir.glob("model_*.pth")) - {last}:
            with contextlib.suppress(CheckpointError):
                content = peek_file(path)
                if content.keys() >= set(_KEYS) and content["kind"] == self.kind:
                    found.append((content["iteration"], path))
        return sorted((entry for entry in found if entry[0] <= limit), reverse=True)


def _damage(path: Path) -> str | None:
    """What is wrong with the file of a checkpoint; None if it is whole."""
    try:
        check_file(path)
    except CheckpointError as error:
        return str(error)
    return None


def _restore_average(average: WeightAverage, saved: dict[str, Tensor] | None) -> None:
    if saved is not None:
        average.load_state_dict(saved)
        return
    logger.warning("the checkpoint holds no average of the weights; it starts from the weights themselves")
    average.restart()


def weight_to_evaluate(weight: str, output_dir: str | Path) -> str:
    """The file to evaluate: ``weight``, or where that is empty or a ``catalog://`` name (meant for training)
    the newest checkpoint of ``output_dir``. CheckpointError if there is neither."""
    if weight and not weight.startswith("catalog://"):
        return weight
    last = Checkpointer(output_dir, "baseline").last_path()
    if last is None:
        raise CheckpointError(
            f"nothing to evaluate: MODEL.WEIGHT is {weight!r} and {output_dir} holds no checkpoint; "
            "append MODEL.WEIGHT path/to/model_final.pth"
        )
    return str(last)
