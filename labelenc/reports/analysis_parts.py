"""Parts of a page drawn from analyses: of one run, or of several in the same axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from labelenc.evaluation import CURVES, ERROR_KINDS, Analysis
from labelenc.reports.page import Cell, Marked, Page
from labelenc.visualization import (
    figure_png,
    plot_ap_by_size,
    plot_calibrations,
    plot_confusion,
    plot_errors,
    plot_f1_scores,
    plot_precision_recall,
    plot_reliability,
    plot_score_threshold,
    run_colours,
)

Analyses = Mapping[str, Analysis]

_MANY_CLASSES = 40

_CURVES_GUIDE = (
    "Each point is one score threshold: how many of the objects are found (recall) and how many of the "
    "detections are right (precision) above it. The further a curve reaches to the top right, the better. A "
    "curve that ends early means objects that are not found at any score; one that starts low means sure "
    "mistakes. Where the curve of IoU 0.75 lies far below that of IoU 0.50, boxes are loose."
)
_SIZES_GUIDE = (
    "AP of small (less than 32² pixels), medium (less than 96²) and large objects, in pixels of the image "
    "files. Few objects of a size make its AP unsure. If small ones are weak, raise the input size or use "
    "smaller anchors; if large ones are, look at objects cut by the border and at the largest anchors or "
    "ranges."
)
_CALIBRATION_GUIDE = (
    "First: do scores mean what they say? Of the detections with a score near 0.7, 70 % would be right on "
    "the diagonal. Below it the detector is too sure of itself, above it too modest; AP does not care, but "
    "a user who reads scores as probabilities does. Second: what a score threshold gives. The recommended "
    "one has the highest F1, the balance of precision and recall; move it right if false alarms cost more "
    "than misses."
)
_CONFUSION_GUIDE = (
    "Rows are true classes, columns what was detected at a score of at least {threshold:.2f}; each row is "
    "shown as shares. The diagonal is right. The last column counts missed objects, the last row detections "
    "of nothing. Two classes that are mixed up often need clearer labels or more examples of both."
)
_ERRORS_GUIDE = (
    "How much AP50 would gain if one kind of error were mended and all else stayed (TIDE). Start with the "
    "longest bar. The gains don't add up. False positives and false negatives sum up the kinds from the two "
    "sides."
)
# What each kind of error is, and what helps.
_ERRORS = {
    "class": "Right place, wrong class. More examples of the classes that are mixed up; check their labels.",
    "location": "Right class, box off (IoU 0.1 to 0.5). Longer training, larger input, tidier labels.",
    "both": "Wrong class and box off.",
    "duplicate": "A second box on an object that was found already. A lower NMS threshold.",
    "background": "A detection of nothing (IoU below 0.1). Check for objects that were not labelled.",
    "missed": "An object that no detection points at. Look at their sizes; a larger input, longer training.",
    "false_positive": "All detections that are not right, whatever the kind.",
    "false_negative": "All objects without a right detection.",
}


def add_precision_recall(page: Page, analyses: Analyses, prefix: str) -> None:
    """Of one run the curves of several IoU thresholds, of several runs each such curve in one figure."""
    page.add_heading("Precision and recall", 3).add_guide(_CURVES_GUIDE)
    if len(analyses) == 1:
        (only,) = analyses.values()
        curves = dict(zip(CURVES, only.precision_recall.precision, strict=True))
        figure = plot_precision_recall(curves)
        page.add_figure(figure_png(figure), "Mean over the classes.", f"{prefix}_precision_recall")
        return
    colours = run_colours(analyses)
    pictures = []
    for number, name in enumerate(CURVES):
        curves = {run: entry.precision_recall.precision[number] for run, entry in analyses.items()}
        figure = plot_precision_recall(curves, colours=colours, title=name)
        pictures.append((figure_png(figure), f"{name}, mean over the classes."))
    page.add_images(pictures, name=f"{prefix}_precision_recall")


def add_sizes(page: Page, analyses: Analyses, prefix: str) -> None:
    """AP by the size of objects, bars of all runs beside one another."""
    page.add_heading("Object sizes", 3).add_guide(_SIZES_GUIDE)
    first = next(iter(analyses.values()))
    sizes = {run: entry.sizes.ap for run, entry in analyses.items()}
    figure = plot_ap_by_size(sizes, boxes=first.sizes.boxes, colours=run_colours(analyses))
    page.add_figure(figure_png(figure), "AP by the size of the objects.", f"{prefix}_sizes")


def add_calibration(page: Page, analyses: Analyses, prefix: str) -> None:
    """Scores against the share of right detections, and the score threshold to use."""
    page.add_heading("Scores and thresholds", 3).add_guide(_CALIBRATION_GUIDE)
    figures = _single_scores(analyses) if len(analyses) == 1 else _compared_scores(analyses)
    pictures = [(figure_png(figure), caption) for figure, caption in figures]
    page.add_images(pictures, name=f"{prefix}_scores")
    rows: list[list[Cell]] = [_threshold_row(run, entry) for run, entry in analyses.items()]
    headers = [
        "set" if len(analyses) == 1 else "run",
        "threshold",
        "precision",
        "recall",
        "F1",
        "calibration error",
    ]
    caption = (
        "The recommended score threshold, and what it gives at IoU 0.5, in percent. Calibration error: the "
        "mean distance between score and share of right detections."
    )
    page.add_table(headers, rows, caption)
    if len(analyses) == 1:
        (only,) = analyses.values()
        _add_class_thresholds(page, only)


def _single_scores(analyses: Analyses) -> list[tuple[Figure, str]]:
    ((run, entry),) = analyses.items()
    found = entry.calibration
    reliability = plot_reliability(
        found.edges, found.counts, found.precision, found.mean_score, found.expected_error
    )
    best = found.best.threshold if found.best else None
    choice = plot_score_threshold(found.thresholds, found.precision_at, found.recall_at, found.f1_at, best)
    return [
        (reliability, f"{run}: scores and the share of right detections."),
        (choice, f"{run}: what a score threshold gives."),
    ]


def _compared_scores(analyses: Analyses) -> list[tuple[Figure, str]]:
    found = {run: entry.calibration for run, entry in analyses.items()}
    curves = {run: (entry.mean_score, entry.precision) for run, entry in found.items()}
    f1 = {run: entry.f1_at for run, entry in found.items()}
    thresholds = next(iter(found.values())).thresholds
    return [
        (plot_calibrations(curves), "Scores and the share of right detections."),
        (plot_f1_scores(thresholds, f1), "F1 of the detections above a score threshold."),
    ]


def _threshold_row(run: str, entry: Analysis) -> list[Cell]:
    best, error = entry.calibration.best, entry.calibration.expected_error
    if best is None:
        return [run, None, None, None, None, error]
    return [run, f"{best.threshold:.2f}", best.precision, best.recall, best.f1, error]


def _add_class_thresholds(page: Page, entry: Analysis) -> None:
    names = entry.class_names
    if len(names) < 2:
        return
    rows: list[list[Cell]] = [
        [name, f"{best.threshold:.2f}", best.precision, best.recall, best.f1]
        for name, best in zip(names, entry.calibration.best_per_class, strict=True)
        if best is not None
    ]
    with page.folded("The best threshold of each class"):
        caption = "Classes without a right detection are left out."
        columns = 2 if len(rows) > 20 else 1
        page.add_table(["class", "threshold", "precision", "recall", "F1"], rows, caption, columns=columns)


def add_confusion(page: Page, entry: Analysis, prefix: str) -> None:
    """The confusion matrix of one run, and the pairs of classes that are mixed up most."""
    confusion = entry.confusion
    page.add_heading("Confusion of classes", 3)
    page.add_guide(_CONFUSION_GUIDE.format(threshold=confusion.score_threshold))
    figure = plot_confusion(confusion.counts, entry.class_names)
    name = f"{prefix}_confusion"
    # On the page the names of so many classes are small.
    larger = f" {name}.png, beside this page, is larger." if len(entry.class_names) > _MANY_CLASSES else ""
    page.add_figure(figure_png(figure), f"Confusion matrix.{larger}", name)
    mixed = confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(mixed, 0)
    order = np.argsort(-mixed, axis=None, kind="stable")[:10]
    pairs = [
        (int(i), int(j))
        for i, j in zip(*np.unravel_index(order, mixed.shape), strict=True)
        if mixed[i, j] > 1
    ]
    rows: list[list[Cell]] = [
        [entry.class_names[i], Marked(entry.class_names[j], tone="words"), int(mixed[i, j])] for i, j in pairs
    ]
    if rows:
        page.add_table(["true class", "detected as", "times"], rows, "The classes mixed up most often.")


def add_errors(page: Page, analyses: Analyses, prefix: str) -> None:
    """What keeps AP50 down, by cause."""
    page.add_heading("Causes of errors", 3).add_guide(_ERRORS_GUIDE)
    gains = {run: entry.errors.gain for run, entry in analyses.items()}
    figure = plot_errors(gains, colours=run_colours(analyses))
    page.add_figure(figure_png(figure), "AP50 gained if one kind of error were mended.", f"{prefix}_errors")
    rows: list[list[Cell]] = []
    alone = len(analyses) == 1
    for kind, text in _ERRORS.items():
        row: list[Cell] = [kind.replace("_", " ")]
        for entry in analyses.values():
            gain = entry.errors.gain[kind]
            times = f"{entry.errors.counts[kind]:,} times" if kind in ERROR_KINDS else ""
            row.append(Marked(None if gain is None else f"{100 * gain:+.1f}", times))
        rows.append([*row, Marked(text, tone="words")] if alone else row)
    headers = ["AP50", "what it is, what helps"] if alone else list(analyses)
    page.add_table(["error", *headers], rows, "Points of AP50 gained, and how often.")
    if not alone:
        # Beside the columns of many runs there is no room.
        page.add_list([f"{kind.replace('_', ' ')}: {text}" for kind, text in _ERRORS.items()])
