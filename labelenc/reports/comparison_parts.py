"""Parts of a page that only a comparison has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from labelenc.config import all_differences
from labelenc.evaluation import (
    COCO_NUMBERS,
    Analysis,
    Bootstrap,
    CocoSummary,
    Interval,
    format_percent,
    most_different,
)
from labelenc.reports.evaluated_set import image_captions
from labelenc.reports.notes import RunResult
from labelenc.reports.page import Cell, Marked, Page
from labelenc.reports.pictures import SetPictures, by_image
from labelenc.reports.run_folder import Run
from labelenc.reports.tables import ENOUGH_CAPTION, difference, duration, enough_objects
from labelenc.visualization import figure_png, plot_differences, run_colours

_INTERVALS = ("AP", "AP50", "AP75")
_DIFFERING_IMAGES = 8
_SHOWN_CLASSES = 20
# Resamples of fewer images are too much alike; those of one image are all the same.
_ENOUGH_IMAGES = 20
_FEW_IMAGES = "With so few images the intervals are too narrow: don't rely on them."
_INTERVALS_GUIDE = (
    "{confidence:.0f} % intervals over images, from {samples:,} resamples of the {images:,} images, the "
    "same for all runs: how far the numbers would move with as many other images of the same kind. They "
    "say nothing of other training seeds. If the interval of a difference leaves out 0, the difference is "
    "hardly due to the choice of test images; if it holds 0, more test images may decide."
)
_IMAGES_GUIDE = (
    "First the truth, then the runs, with detections above each run's own recommended threshold. Look for "
    "what the images of one side have in common: crowds, small objects, odd views, one class."
)


def comparison_table(dataset: str, results: Sequence[RunResult], bootstrap: Bootstrap | None) -> str:
    """The 12 numbers as text, in percent; then intervals and differences where there are any."""
    width = max(3, *(len(result.name) for result in results))
    lines = [
        f"{dataset}, {results[0].summary.num_images:,} images, in percent",
        f"{'run':<{width}}  " + "  ".join(f"{name:>5}" for name in COCO_NUMBERS),
    ]
    for result in results:
        numbers = (format_percent(result.summary.numbers[name]) for name in COCO_NUMBERS)
        lines.append(f"{result.name:<{width}}  " + "  ".join(f"{number:>5}" for number in numbers))
    if bootstrap is None:
        return "\n".join(lines)
    lines += [
        "",
        f"{100 * bootstrap.confidence:.0f} % intervals over images ({bootstrap.samples:,} resamples), "
        "not over training seeds",
        f"{'run':<{width}}  " + "  ".join(f"{name:<22}" for name in _INTERVALS).rstrip(),
    ]
    for name, run in bootstrap.runs.items():
        found = (_interval_cell(run.numbers[number]) for number in _INTERVALS)
        lines.append(f"{name:<{width}}  {_in_line(found)}")
    first, *others = bootstrap.runs
    lines.append(f"difference to {first}")
    for name in others:
        found = (_difference_cell(bootstrap, name, number) for number in _INTERVALS)
        lines.append(f"{name:<{width}}  {_in_line(found)}")
    if bootstrap.num_images < _ENOUGH_IMAGES:
        lines.append(_FEW_IMAGES)
    return "\n".join(lines)


def _in_line(cells: Iterable[Marked]) -> str:
    texts = (f"{cell.value} [{cell.note}]" if cell.note else "n/a" for cell in cells)
    return "  ".join(f"{text:<22}" for text in texts).rstrip()


def add_intervals(page: Page, bootstrap: Bootstrap) -> None:
    """AP, AP50 and AP75 with intervals, and the differences to the first run."""
    page.add_heading("How sure the differences are", 3)
    page.add_guide(
        _INTERVALS_GUIDE.format(
            confidence=100 * bootstrap.confidence, samples=bootstrap.samples, images=bootstrap.num_images
        )
    )
    if bootstrap.num_images < _ENOUGH_IMAGES:
        page.add_text(_FEW_IMAGES)
    first, *others = bootstrap.runs
    rows: list[list[Cell]] = []
    for name, run in bootstrap.runs.items():
        row: list[Cell] = [name, *(_interval_cell(run.numbers[number]) for number in _INTERVALS)]
        for number in _INTERVALS:
            row.append("" if run.differences is None else _difference_cell(bootstrap, name, number))
        rows.append(row)
    headers = ["run", *_INTERVALS, *(f"Δ {number}" for number in _INTERVALS)]
    colours = run_colours(bootstrap.runs)
    caption = f"In percent, intervals in small print; Δ: points more than {first}."
    page.add_table(headers, rows, caption, row_colours=[colours[name] for name in bootstrap.runs])
    found = [(bootstrap.runs[name].differences or {}).get("AP") for name in others]
    figure = plot_differences(others, *_bounds(found), title=f"AP, difference to {first} (points)")
    page.add_figure(figure_png(figure), "Differences of AP with their intervals.", "differences")


def add_class_intervals(page: Page, bootstrap: Bootstrap, summary: CocoSummary) -> None:
    """For each run the differences of AP to the first run, by class; ``summary`` knows their objects."""
    enough = {row.name for row in enough_objects(summary.per_class)}
    if len(enough) < 2:
        return
    first, *others = bootstrap.runs
    pictures = []
    for name in others:
        found = bootstrap.runs[name].class_differences or ()
        pairs = zip(bootstrap.class_names, found, strict=True)
        known = [(label, change) for label, change in pairs if change and label in enough]
        known = sorted(known, key=lambda entry: -abs(entry[1].value))[:_SHOWN_CLASSES]
        if known:
            labels, changes = zip(*known, strict=True)
            figure = plot_differences(labels, *_bounds(changes), f"{name}: AP by class, points to {first}")
            pictures.append(
                (figure_png(figure), f"{name} against {first}, with intervals over images; {ENOUGH_CAPTION}.")
            )
    page.add_images(pictures, name="class_differences")


def add_runs(page: Page, runs: Sequence[Run]) -> None:
    """What the runs are, and in which keys their configurations differ."""
    page.add_heading("The runs")
    rows: list[list[Cell]] = [
        [
            run.name,
            Marked(run.kind, tone="words"),
            run.iterations,
            run.images_seen,
            "" if run.seconds is None else duration(run.seconds),
            str(run.cfg.SEED),
            Marked(str(run.folder), tone="words"),
        ]
        for run in runs
    ]
    headers = ["run", "kind", "iterations", "images seen", "training time", "seed", "folder"]
    colours = run_colours(run.name for run in runs)
    page.add_table(headers, rows, row_colours=[colours[run.name] for run in runs])
    first, *others = runs
    changes = [all_differences(first.cfg, run.cfg) for run in others]
    keys = sorted({key for change in changes for key in change} - {"OUTPUT_DIR"})
    if not keys:
        page.add_text("Their configurations are the same.")
        return
    flat: list[list[Cell]] = []
    for key in keys:
        was = next(change[key][0] for change in changes if key in change)
        values = [was, *(change[key][1] if key in change else was for change in changes)]
        flat.append([key, *(Marked(_short(value), tone="words") for value in values)])
    with page.folded(f"Their configurations differ in {len(keys)} {'keys' if len(keys) > 1 else 'key'}"):
        page.add_table(["key", *(run.name for run in runs)], flat)


def add_differing_images(
    page: Page, runs: Sequence[Run], dataset: str, analyses: Mapping[str, Analysis]
) -> None:
    """The images on which the runs differ most, truth and runs beside one another."""
    qualities = [entry.images for entry in analyses.values()]
    if len(runs) == 2:
        gains, losses = most_different(qualities[0], qualities[1], _DIFFERING_IMAGES // 2)
        groups = {f"{runs[1].name} is better": gains, f"{runs[0].name} is better": losses}
    else:
        spread = np.ptp([quality.loss for quality in qualities], axis=0)
        order = np.argsort(-spread, kind="stable")[:_DIFFERING_IMAGES]
        groups = {"The runs differ most": [int(qualities[0].image_ids[i]) for i in order if spread[i] > 0]}
    pictures = SetPictures(runs[0].cfg, dataset)
    entries = {run.name: by_image(run.sets[dataset].detections) for run in runs}
    captions = {name: image_captions(entry) for name, entry in analyses.items()}
    thresholds = [quality.score_threshold for quality in qualities]
    page.add_heading("Images", 3).add_guide(_IMAGES_GUIDE)
    for title, chosen in groups.items():
        if chosen and len(groups) > 1:
            page.add_text(f"{title}:")
        for image_id in chosen:
            shown = {f"{name}: {captions[name][image_id]}": found for name, found in entries.items()}
            row = pictures.side_by_side(image_id, shown, thresholds, "truth")
            # Four in a row would be too small to read.
            page.add_images(row, len(row) if len(row) < 4 else 2 + len(row) % 2, f"image_{image_id}")


def _bounds(intervals: Sequence[Interval | None]) -> tuple[list[float], list[float], list[float]]:
    """Values, lower and upper ends; NaN for None."""
    nan = float("nan")
    return (
        [nan if found is None else found.value for found in intervals],
        [nan if found is None else found.low for found in intervals],
        [nan if found is None else found.high for found in intervals],
    )


def _interval_cell(found: Interval | None) -> Marked:
    if found is None:
        return Marked(None)
    return Marked(format_percent(found.value), f"{format_percent(found.low)} to {format_percent(found.high)}")


def _difference_cell(bootstrap: Bootstrap, name: str, number: str) -> Marked:
    """The difference of a run to the first, as the tables show it, and its interval."""
    first = next(iter(bootstrap.runs.values())).numbers[number]
    run = bootstrap.runs[name]
    own, found = run.numbers[number], (run.differences or {}).get(number)
    if found is None or own is None or first is None:
        return Marked(None)
    tone = "better" if found.low > 0 else "worse" if found.high < 0 else ""
    interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    return Marked(difference(own.value, first.value), interval, tone)


def _short(value: object, length: int = 80) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
