"""The study from beginning to end, or what it would be."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from yacs.config import CfgNode

from labelenc.config import ConfigError
from labelenc.study.foreground import Foreground, Stopped, passing_signals_on
from labelenc.study.plan import COMPARISON, Study, StudyError, plan_study, shown
from labelenc.study.progress import is_finished, iterations_done, objections, seconds_per_iteration
from labelenc.study.timing import Rates, measure


def run_study(args: argparse.Namespace, cfg: CfgNode) -> int:
    """Plan a study from the arguments of ``tools/run_labelenc.py``, then show or train it.

    Returns:
        The exit status: 0, 1 after an error, that of a run that failed, or 128 + the number of the signal
        that stopped it.
    """
    try:
        study = _planned(args, cfg)
        return _show(study, args.no_timing) if args.dry_run else train_study(study, args.allow_changes)
    except (ConfigError, StudyError) as error:
        return _failed(str(error))


def train_study(study: Study, allow_changes: bool = False) -> int:
    """Train, or go on with, each run in order, then compare them; returns the exit status, see `run_study`.

    Args:
        allow_changes: go on, with a warning, where runs of an earlier start had another configuration.

    Raises:
        StudyError: a run was begun with another number of images per update, with which it can't go on.
    """
    against = objections(study.stages)
    if against and not allow_changes:
        return _failed("\nerror: ".join(against) + "\nOr go on all the same with --allow-changes.")
    for line in against:
        print(f"warning: {line}", file=sys.stderr)
    try:
        with passing_signals_on() as foreground:
            return _train(study, foreground)
    except Stopped as stop:
        print(f"{stop}; the same command goes on from there", file=sys.stderr)
        return 128 + stop.signum


def _show(study: Study, no_timing: bool) -> int:
    no_timing = no_timing or all(map(is_finished, study.stages))
    try:
        with passing_signals_on() as foreground:
            rates = {} if no_timing else measure(study, foreground)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signum
    print(plan_text(study, rates))
    for line in objections(study.stages):
        print(f"warning: {line}")
    return 0


def _planned(args: argparse.Namespace, cfg: CfgNode) -> Study:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise StudyError(
            "run_labelenc.py starts the processes of each run itself: use --nproc-per-node, not torchrun. On "
            "several machines, start the commands that --dry-run prints one after the other with torchrun"
        )
    return plan_study(
        args.config_file,
        args.opts,
        cfg,
        baseline=args.baseline,
        equal_budget=args.equal_budget,
        controls=args.controls,
        processes=args.nproc_per_node,
    )


def plan_text(study: Study, rates: dict[str, Rates]) -> str:
    """The runs as a table, with the time that each still takes where ``rates`` are known; their commands."""
    rows = [("run", "iterations", "images", "time left", "state", "folder")]
    total = 0.0
    for stage in study.stages:
        done, finished = iterations_done(stage), is_finished(stage)
        state = "finished" if finished else f"{done} iterations done" if done else "to do"
        left = "?"
        if finished or rates:
            seconds = 0.0 if finished else rates[stage.kind].remaining(stage, done)
            total += seconds
            left = duration(seconds) if seconds else "-"
        counts = (f"{stage.iterations:,}", f"{stage.images:,}")
        rows.append((stage.title, *counts, left, state, str(stage.folder)))
    lines = _columns(rows, right=(1, 2, 3))
    if rates:
        hours = f"{total / 3600:.2g} hours"
        lines += ["", f"about {duration(total)} ({hours}) without the comparison, by a short timing here"]
    commands = [shown(stage.command) for stage in study.stages] + [shown(study.comparison)]
    return "\n".join([*lines, "", "commands:", *(f"  {command}" for command in commands)])


def _columns(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _train(study: Study, foreground: Foreground) -> int:
    started, count = time.perf_counter(), len(study.stages) + 1
    for number, stage in enumerate(study.stages, 1):
        head = f"[{number}/{count}] {stage.title}"
        if is_finished(stage):
            print(f"{head}: finished, in {stage.folder}", flush=True)
            continue
        done = iterations_done(stage)
        pace = seconds_per_iteration(study.stages, stage.kind)
        estimate = "" if pace is None else f", about {duration(pace * (stage.iterations - done))}"
        span = f"iterations {done + 1:,} to {stage.iterations:,}" if done < stage.iterations else "evaluation"
        print(f"\n{head}: {span}{estimate}\n$ {shown(stage.command)}", flush=True)
        status = foreground.run(stage.command)
        if status:
            log = stage.folder / "log.txt"
            message = f"{stage.title} ended with status {status}; its messages are also in {log}"
            return _failed(f"{message}. Mend the cause, then start again to go on", status)
    print(f"\n[{count}/{count}] {COMPARISON}\n$ {shown(study.comparison)}", flush=True)
    status = foreground.run(study.comparison)
    if status:
        return _failed(f"the comparison ended with status {status}; the runs are finished", status)
    print(f"\nfinished after {duration(time.perf_counter() - started)}", flush=True)
    return 0


def _failed(message: str, status: int = 1) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def duration(seconds: float) -> str:
    """``40 s``, ``3.5 min`` or ``7.5 h``."""
    for unit, name in ((1, "s"), (60, "min")):
        if seconds < 100 * unit:
            return f"{seconds / unit:.{1 if unit > 1 and seconds < 10 * unit else 0}f} {name}"
    return f"{seconds / 3600:.1f} h"
