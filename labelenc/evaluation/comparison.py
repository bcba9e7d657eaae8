"""The report that sets baseline, step 1 and step 2 side by side, and says how far the comparison carries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from labelenc.evaluation.report import Cell, Report
from labelenc.evaluation.summary import COCO_NUMBERS, CocoSummary, format_percent

Role = Literal["baseline", "baseline_long", "step1", "reconstruction", "step2", "head_start", "other"]
Picture = bytes | np.ndarray

# Our own reading of "near saturation", which is what step 1 is for.
_SATURATED_RECONSTRUCTION = 0.9


@dataclass(frozen=True)
class RunResult:
    """One row of the comparison.

    ``role`` tells what the run is: "baseline", "baseline_long" (a baseline with the iterations of both
    steps), "step1" (its auxiliary detector), "reconstruction" (step 1's head on encodings of the validation
    labels), "step2", "head_start" (step 2 with the auxiliary loss off) or "other". ``iterations`` counts the
    run's own training iterations; ``seconds`` is its training time, None where it was not measured;
    ``colour`` is a CSS colour, the one of the run's curves.
    """

    name: str
    role: Role
    summary: CocoSummary
    iterations: int
    seconds: float | None = None
    colour: str | None = None

    @property
    def ap(self) -> float | None:
        return self.summary.numbers["AP"]


def comparison_report(
    title: str,
    runs: Sequence[RunResult],
    *,
    introduction: Sequence[str] = (),
    curves: Sequence[tuple[Picture, str]] = (),
    detections: Sequence[tuple[Picture, str]] = (),
    detection_columns: int = 3,
    label_maps: Sequence[tuple[Picture, str]] = (),
) -> Report:
    """The report of a demo or a study, from plain results and finished pictures.

    Args:
        title: the headline.
        runs: in the order of the table.
        introduction: paragraphs on the data, the model and the settings; the first stands under the title.
        curves: (picture, caption), each over the width of the page.
        detections: (picture, caption) row by row, ``detection_columns`` a row, ground truth first.
        label_maps: likewise over the width of the page; label maps, encodings, features.

    Returns:
        A `Report`; sections without content are left out.
    """
    report = Report(title, introduction[0] if introduction else "")
    for paragraph in introduction[1:]:
        report.add_text(paragraph)
    report.add_heading("Average precision")
    _add_number_table(report, runs)
    notes = reading_notes(runs)
    if notes:
        report.add_heading("How to read these numbers").add_list(notes)
    if curves:
        report.add_heading("Curves")
        for picture, caption in curves:
            report.add_figure(picture, caption)
    if detections:
        report.add_heading("Ground truth and detections").add_images(detections, detection_columns)
    if label_maps:
        report.add_heading("Label maps, encodings and features")
        for picture, caption in label_maps:
            report.add_figure(picture, caption)
    if any(run.summary.per_class for run in runs):
        report.add_heading("AP of each class")
        _add_class_table(report, runs)
    return report


def reading_notes(runs: Sequence[RunResult]) -> list[str]:
    """What the numbers show and what they do not, in sentences that follow from ``runs``.

    The first run of each role counts. Nothing is said of a role that no run has. The sentences are worded for
    short trainings of small models, such as the demo, and not for a full training on COCO.
    """
    first: dict[str, RunResult] = {}
    for run in runs:
        if run.ap is not None:
            first.setdefault(run.role, run)
    notes = []
    baseline, step2 = first.get("baseline"), first.get("step2")
    if baseline and step2:
        notes.append(_gain_note(baseline, step2))
        notes.append(_head_start_note(baseline, first.get("step1"), step2, first.get("head_start")))
        notes.append(_long_baseline_note(step2, first.get("baseline_long")))
        notes.append(
            "The published gains of LabelEnc are over baselines trained until they are near convergence, "
            "where further iterations hardly help. A short run is not such a case: it shows that both steps "
            "work from end to end, and neither confirms nor refutes the published gains."
        )
    if "step1" in first:
        notes.append(
            f'The row "{first["step1"].name}" is the auxiliary detector of step 1: images go through it, '
            "and it shares its head with the label encodings."
        )
    if "reconstruction" in first:
        notes.append(_reconstruction_note(first["reconstruction"]))
    return notes


def _gain_note(baseline: RunResult, step2: RunResult) -> str:
    if baseline.iterations == step2.iterations:
        effort = f"With {step2.iterations:,} iterations each"
    else:
        effort = (
            f"With {step2.iterations:,} iterations for step 2 and {baseline.iterations:,} for the baseline"
        )
    return (
        f"{effort}, step 2 reaches an AP of {_percent(step2)} and the baseline {_percent(baseline)}: "
        f"step 2 is {_compared(step2, baseline)}."
    )


def _head_start_note(
    baseline: RunResult, step1: RunResult | None, step2: RunResult, head_start: RunResult | None
) -> str:
    trained = f" trained for {step1.iterations:,} iterations" if step1 else " trained"
    note = (
        f"The two do not start alike. Step 2 begins with the head and the FPN that step 1 has{trained}; "
        "the baseline's begin from scratch."
    )
    if head_start:
        return (
            f"{note} With the auxiliary loss switched off, so with that head start alone, step 2 reaches "
            f"{_percent(head_start)}: {_compared(head_start, baseline)}. The auxiliary loss changes this by "
            f"{_points(step2, head_start):+.1f} points."
        )
    if _points(step2, baseline) > 0:
        return (
            f"{note} At this size most of the gain, or all of it, can be that head start rather than the "
            "auxiliary loss; this run does not measure the two apart. On real photos (the BCCD studies in "
            "benchmarks/results) step 2 did better than the head start alone with FCOS, worse with RetinaNet."
        )
    return f"{note} Even so there is no gain in this run."


def _long_baseline_note(step2: RunResult, long: RunResult | None) -> str:
    if long is None:
        return (
            "Step 1 costs training time that the baseline was not given. A baseline trained for as many "
            "iterations as step 1 and step 2 together is not part of this run; in a trial at this size it "
            "was clearly better than step 2."
        )
    return (
        f"A baseline trained for {long.iterations:,} iterations, as many as step 1 and step 2 together, "
        f"reaches {_percent(long)}: {_compared(long, step2, 'step 2')}."
    )


def _reconstruction_note(run: RunResult) -> str:
    assert run.ap is not None
    if run.ap >= _SATURATED_RECONSTRUCTION:
        verdict = "The head reads nearly all labels back, which is what step 1 is for."
    else:
        verdict = (
            "Labels are read back only in part, so the encodings teach step 2 less than they could; a longer "
            "step 1 brings this number closer to 100."
        )
    return (
        f'The row "{run.name}" is no detector: it is the AP of step 1\'s head on the encodings of the '
        f"validation labels themselves, a check of the encodings. It is {_percent(run)} here. {verdict}"
    )


def _percent(run: RunResult) -> str:
    return format_percent(run.ap)


def _points(run: RunResult, other: RunResult) -> float:
    # The difference of the rounded figures, so that a reader who subtracts finds the same.
    return float(_percent(run)) - float(_percent(other))


def _compared(run: RunResult, other: RunResult, name: str = "the baseline") -> str:
    points = _points(run, other)
    if abs(points) < 0.05:
        return f"level with {name}"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {name}"


def _add_number_table(report: Report, runs: Sequence[RunResult]) -> None:
    timed = any(run.seconds is not None for run in runs)
    headers = ["run", "iterations", *(["time"] if timed else []), *COCO_NUMBERS]
    rows: list[list[Cell]] = []
    for run in runs:
        time: list[Cell] = ["" if run.seconds is None else _duration(run.seconds)] if timed else []
        rows.append([run.name, run.iterations, *time, *(run.summary.numbers[name] for name in COCO_NUMBERS)])
    offset = len(headers) - len(COCO_NUMBERS)
    best = set()
    for column in range(offset, len(headers)):
        detectors = {i: rows[i][column] for i, run in enumerate(runs) if run.role != "reconstruction"}
        best |= {(i, column) for i in _greatest(detectors)}
    report.add_table(
        headers,
        rows,
        "AP and AR as COCO defines them, in percent; s, m, l: small, medium and large objects. "
        "The best detector of each column is marked.",
        best,
        row_colours=[run.colour for run in runs],
    )


def _add_class_table(report: Report, runs: Sequence[RunResult]) -> None:
    shown = [run for run in runs if run.summary.per_class]
    by_class = [{row.category_id: row for row in run.summary.per_class} for run in shown]
    rows: list[list[Cell]] = []
    best = set()
    for i, row in enumerate(shown[0].summary.per_class):
        found = [table.get(row.category_id) for table in by_class]
        values = [None if entry is None else entry.ap for entry in found]
        rows.append([row.name, row.boxes, *values])
        detectors = {j: value for j, value in enumerate(values) if shown[j].role != "reconstruction"}
        best |= {(i, j + 2) for j in _greatest(detectors)}
    report.add_table(
        ["class", "boxes", *(run.name for run in shown)],
        rows,
        "AP in percent; boxes counts the ground truth. The best detector of each class is marked.",
        best,
        column_colours=[None, None, *(run.colour for run in shown)],
    )


def _greatest(values: Mapping[int, Cell]) -> list[int]:
    """The keys of the largest of at least two numbers, ties included as they are displayed."""
    numbers = {key: float(format_percent(value)) for key, value in values.items() if isinstance(value, float)}
    if len(numbers) < 2:
        return []
    top = max(numbers.values())
    return [key for key, value in numbers.items() if value == top and top > 0]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
