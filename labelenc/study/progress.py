"""How far the runs of a study are, read from their folders without starting PyTorch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labelenc.config import ConfigError, changed_keys
from labelenc.study.plan import LABEL_ENCODING_FILE, Stage, StudyError

_FINAL = "model_final.pth"
_TAIL_BYTES = 1 << 16
# Free to change when one run resumes, but not between runs that are to be compared.
_HELD = ("SOLVER.MAX_ITER", "MODEL.WEIGHT", "TEST.BBOX_AUG", "TEST.DETECTIONS_PER_IMG")
# Kind of run -> what does not concern it. The class counts follow from the data.
_CLASSES = tuple(f"MODEL.{group}NUM_CLASSES" for group in ("", "RETINANET.", "FCOS.", "ROI_BOX_HEAD."))
_IGNORED = {
    "baseline": (*_CLASSES, "MODEL.LABELENC."),
    "step1": (*_CLASSES, "MODEL.LABELENC.AUXILIARY_LOSS_ITERS", "MODEL.LABELENC.START_FROM_STEP1"),
    "step2": (*_CLASSES, "MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS"),
}


def iterations_done(stage: Stage) -> int:
    """Updates up to the checkpoint that the run would resume from."""
    last = _last_checkpoint(stage.folder)
    named = re.fullmatch(r"model_(\d+)\.pth", last or "")
    if named or last is None:
        return int(named[1]) if named else 0
    return max((row["iteration"] for row in _last_rows(stage.folder)), default=0)


def is_finished(stage: Stage) -> bool:
    """Whether the run is trained, evaluated on every test set and, for step 1, has handed over its file.

    The final evaluation is the last thing that a run records, after the checkpoint that it belongs to, or
    before it (TEST.EVAL_PERIOD), and each file appears whole or not at all.
    """
    folder = stage.folder
    suffixes = ("", "_reconstruction") if stage.kind == "step1" else ("",)
    wanted = {f"eval/{name}{suffix}/AP" for name in stage.cfg.DATASETS.TEST for suffix in suffixes}
    files = [_FINAL, *([LABEL_ENCODING_FILE] if stage.kind == "step1" else [])]
    return (
        _last_checkpoint(folder) == _FINAL
        and all((folder / name).is_file() for name in files)
        and wanted <= final_evaluation(stage).keys()
    )


def final_evaluation(stage: Stage) -> dict[str, Any]:
    """``eval/<data set>/<number>`` after the last update; empty before."""
    rows = [row for row in _last_rows(stage.folder) if row["iteration"] == stage.iterations]
    return {name: value for row in rows for name, value in row.items() if name.startswith("eval/")}


def training_seconds(stage: Stage) -> tuple[float, int]:
    """The time of all updates of a run so far, and their number."""
    times = [row["time"] for row in read_rows(stage.folder) if "time" in row]
    return sum(times), len(times)


def seconds_per_iteration(stages: Sequence[Stage], kind: str) -> float | None:
    """The mean time of the updates that runs of a kind have done; None before the first."""
    measured = [training_seconds(stage) for stage in stages if stage.kind == kind]
    number = sum(updates for _, updates in measured)
    return sum(seconds for seconds, _ in measured) / number if number else None


def objections(stages: Sequence[Stage]) -> list[str]:
    """What would mix runs that don't belong together, one line each.

    Raises:
        StudyError: a run was begun with another number of images per update, with which it can't go on.
    """
    lines = []
    for stage in stages:
        changes = _changes(stage)
        if changes:
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            lines.append(
                f"{stage.folder} was trained with another configuration: {'; '.join(changes[:3])}{more}. "
                f"Choose another OUTPUT_DIR, or remove {_to_remove(stage, stages)} to train anew"
            )
    return [*lines, *_orphans(stages)]


def _orphans(stages: Sequence[Stage]) -> list[str]:
    """Step-2 runs that were begun from a step 1 that is there no more; not where that has changed."""
    if any(stage.kind == "step1" and (is_finished(stage) or _changes(stage)) for stage in stages):
        return []
    return [
        f"{stage.folder} was begun with another step 1, for {stage.folder.parent / 'step1'} is not finished. "
        f"Remove {stage.folder} to train it anew"
        for stage in stages
        if stage.kind == "step2" and _last_checkpoint(stage.folder)
    ]


def _changes(stage: Stage) -> list[str]:
    if _last_checkpoint(stage.folder) is None:
        return []
    ignored = _IGNORED[stage.kind]
    if stage.cfg.SEED < 0:
        ignored = (*ignored, "SEED ")
    try:
        changes = changed_keys(stage.folder / "config.yml", stage.cfg, held=_HELD)
    except ConfigError as error:
        raise StudyError(f"{stage.folder}: {error}") from None
    return [change for change in changes if not change.startswith(ignored)]


def _to_remove(stage: Stage, stages: Sequence[Stage]) -> str:
    """The run's folder and, for step 1, those of the runs that started from it."""
    later = stages if stage.kind == "step1" else ()
    begun = [each.folder for each in later if each.kind == "step2" and _last_checkpoint(each.folder)]
    return " and ".join(map(str, [stage.folder, *begun]))


def _last_checkpoint(folder: Path) -> str | None:
    """The name of the checkpoint that a resumed run starts from; None if there is none."""
    try:
        text = (folder / "last_checkpoint").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # As the engine reads it: older programs wrote the full path.
    return Path(text.strip("\0 \n")).name


def _last_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows at the end of ``metrics.jsonl``."""
    try:
        with (folder / "metrics.jsonl").open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - _TAIL_BYTES, 0))
            return _parsed(stream.read().splitlines())
    except OSError:
        return []


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's ``metrics.jsonl``; none before its first update."""
    try:
        return _parsed((folder / "metrics.jsonl").read_bytes().splitlines())
    except OSError:
        return []


def _parsed(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Rows of iterations; the first line of a tail, and one torn by a kill, may not be whole."""
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            rows.append(row)
    return rows
