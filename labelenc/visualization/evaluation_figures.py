"""Figures of one evaluation or of several runs: precision-recall, sizes, scores, errors, differences.

All take fractions and show percent. Colours are by run, from `run_colours`, unless given.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from labelenc.visualization.curves import RUN_COLOURS, new_figure, run_colours, tidy

Numbers = Sequence[float | None] | np.ndarray

_GREY = "#777777"
_UP, _DOWN = RUN_COLOURS[0], RUN_COLOURS[3]


def plot_precision_recall(
    curves: Mapping[str, np.ndarray],
    colours: Mapping[str, str] | None = None,
    title: str = "Precision over recall",
) -> Figure:
    """Precision over recall; the legend gives the mean of each curve, which is its AP.

    Args:
        curves: name (of a run, an IoU, a class) -> precision (n) at n recalls evenly from 0 to 1; a curve of
            NaN is named as "n/a" and not drawn.
    """
    figure = new_figure(6.0, 4.3)
    axis = figure.subplots()
    palette = colours or run_colours(curves)
    for name, precision in curves.items():
        known = not np.isnan(precision).any()
        label = f"{name}  {100 * precision.mean():.1f}" if known else f"{name}  n/a"
        recall = np.linspace(0, 100, len(precision))
        axis.plot(recall, 100 * precision, color=palette[name], linewidth=1.8, label=label)
    tidy(axis, title)
    axis.set(xlabel="recall (%)", ylabel="precision (%)", xlim=(0, 100), ylim=(0, 102))
    # Good curves leave the lower left free, weak ones the upper right.
    axis.legend(fontsize=9, loc="best", framealpha=0.8, edgecolor="none")
    return figure


def plot_ap_by_size(
    ap: Mapping[str, Numbers],
    boxes: Sequence[int] | np.ndarray | None = None,
    colours: Mapping[str, str] | None = None,
    sizes: Sequence[str] = ("small", "medium", "large"),
) -> Figure:
    """Bars of each run's AP of small, medium and large objects, with the numbers of boxes below.

    Args:
        ap: run -> AP of each size; None or NaN stands as "n/a".
    """
    labels = list(sizes)
    if boxes is not None:
        labels = [f"{size}\n{count:,} boxes" for size, count in zip(sizes, boxes, strict=True)]
    figure = new_figure(6.4, 3.4)
    axis = _grouped_bars(figure, range(len(labels)), ap, colours)
    axis.set_xticks(range(len(labels)), labels)
    tidy(axis, "AP by object size (%)", grid="y")
    return figure


def plot_errors(
    gain: Mapping[str, Mapping[str, float | None]], colours: Mapping[str, str] | None = None
) -> Figure:
    """Bars of the AP50 that each run would gain if one kind of error were mended.

    Args:
        gain: run -> kind of error -> gain; None stands as "n/a". "false_positive" and "false_negative", which
            sum up the others, stand apart on the right.
    """
    kinds = list(next(iter(gain.values()), {}))
    sums = [kind.startswith("false_") for kind in kinds]
    places = np.arange(len(kinds)) + 0.5 * np.cumsum(np.diff([False, *sums]) & np.array(sums, dtype=bool))
    figure = new_figure(8.6, 3.4)
    values = {run: [row[kind] for kind in kinds] for run, row in gain.items()}
    axis = _grouped_bars(figure, places, values, colours)
    axis.set_xticks(places, [kind.replace("_", "\n") for kind in kinds])
    tidy(axis, "AP50 to gain by mending one kind of error (points)", grid="y")
    return figure


def plot_differences(
    labels: Sequence[str], values: Numbers, lows: Numbers, highs: Numbers, title: str = "Difference (points)"
) -> Figure:
    """A dot with whiskers for each label, from top to bottom; coloured where the interval leaves out 0.

    Args:
        values, lows, highs: fractions, as long as ``labels``; None or NaN stands as "n/a".
    """
    table = 100 * np.array([values, lows, highs], dtype=np.float64)
    figure = new_figure(7.0, 0.9 + 0.24 * max(len(labels), 2))
    axis = figure.subplots()
    axis.axvline(0, color="#333333", linewidth=1)
    for row, (value, low, high) in enumerate(table.T):
        if np.isnan(value):
            axis.text(0, row, " n/a", va="center", color=_GREY, fontsize=9)
            continue
        colour = _UP if low > 0 else _DOWN if high < 0 else _GREY
        axis.plot([low, high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axis.plot([value], [row], color=colour, marker="o", markersize=5)
    axis.set_yticks(range(len(labels)), labels, fontsize=9)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    tidy(axis, title, grid="x")
    if np.isnan(table).all():
        axis.set_xlim(-1, 1)
    return figure


def plot_reliability(
    edges: np.ndarray,
    counts: np.ndarray,
    precision: np.ndarray,
    mean_score: np.ndarray,
    expected_error: float | None = None,
) -> Figure:
    """The share of right detections in each score bin over their mean score, and how many there are.

    Args:
        edges: (B + 1) limits of the bins; counts, precision, mean_score: (B), NaN in empty bins.
        expected_error: stands in the title.
    """
    figure = new_figure(6.0, 4.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    widths = np.diff(edges)
    upper.plot([0, 1], [0, 100], color=_GREY, linewidth=1, linestyle="--", label="score = precision")
    upper.bar(edges[:-1], 100 * precision, widths, align="edge", color=RUN_COLOURS[5], edgecolor="white")
    upper.plot(
        mean_score,
        100 * precision,
        color=_UP,
        marker="o",
        markersize=4,
        linestyle="none",
        label="mean score of bin",
    )
    error = "" if expected_error is None else f"; expected calibration error {100 * expected_error:.1f}"
    tidy(upper, f"Right detections by score (%){error}")
    upper.set_ylim(0, 102)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    # Weak detections outnumber the others a thousandfold.
    lower.bar(
        edges[:-1], counts, widths, align="edge", color="#aaaaaa", edgecolor="white", log=bool(counts.any())
    )
    tidy(lower, "Detections (logarithmic)", grid="y")
    lower.set(xlabel="score", xlim=(edges[0], edges[-1]))
    if counts.any():
        # Bars of one detection are seen, and equal ones are of equal height.
        lower.set_ylim(bottom=0.5)
    else:
        upper.text(0.7, 0.2, "no detections", ha="center", transform=upper.transAxes, color=_GREY)
        lower.set_yticks([])
    return figure


def plot_score_threshold(
    thresholds: np.ndarray,
    precision: np.ndarray,
    recall: np.ndarray,
    f1: np.ndarray,
    best: float | None = None,
) -> Figure:
    """Precision, recall and F1 of the detections with at least a score, all (n) over (n) thresholds.

    Args:
        best: a threshold to mark.
    """
    figure = new_figure(6.0, 3.6)
    axis = figure.subplots()
    for values, name, colour in zip(
        (precision, recall, f1), ("precision", "recall", "F1"), RUN_COLOURS, strict=False
    ):
        axis.plot(thresholds, 100 * values, color=colour, linewidth=1.8, label=name)
    if best is not None:
        axis.axvline(best, color="#333333", linewidth=1, linestyle="--", label=f"best F1 at {best:.2f}")
    tidy(axis, "Precision, recall and F1 over the score threshold (%)")
    axis.set(xlabel="score threshold", xlim=(thresholds[0], thresholds[-1]), ylim=(0, 102))
    axis.legend(fontsize=9, framealpha=0.8, edgecolor="none")
    return figure


def _grouped_bars(
    figure: Figure,
    places: Sequence[float] | np.ndarray,
    groups: Mapping[str, Numbers],
    colours: Mapping[str, str] | None,
) -> Any:
    """A figure's only axes, with a bar for each group at each place."""
    axis = figure.subplots()
    palette = colours or run_colours(groups)
    width = 0.8 / max(len(groups), 1)
    # Numbers are about 4 signs wide; where only tiny ones fit the bars have to do.
    inches = width * 0.9 * figure.get_figwidth() / (max(places, default=0) + 1)
    size = min(9.0, 26 * inches)
    for i, (name, values) in enumerate(groups.items()):
        heights = 100 * np.array(values, dtype=np.float64)
        middle = np.asarray(places) + (i - (len(groups) - 1) / 2) * width
        axis.bar(middle, np.nan_to_num(heights), 0.92 * width, color=palette[name], label=name)
        for x, height in zip(middle, heights, strict=True):
            absent = np.isnan(height)
            if absent or size >= 5.5:
                at = (x, 0 if absent else max(height, 0))
                text = "n/a" if absent else f"{height:.1f}" if height < 99.95 else "100"
                colour = _GREY if absent else "black"
                axis.annotate(
                    text, at, (0, 2), textcoords="offset points", ha="center", fontsize=size, color=colour
                )
    axis.margins(y=0.1)
    if not any(np.nan_to_num(np.array(values, dtype=np.float64)).any() for values in groups.values()):
        axis.set_ylim(0, 1)
    axis.axhline(0, color="#333333", linewidth=0.8)
    if len(groups) > 1:
        columns = _columns_that_fit(groups, figure.get_figwidth())
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return axis


def _columns_that_fit(names: Iterable[str], inches: float) -> int:
    """Of a legend in 9-point type; a sign is about 0.075 inches wide, a square with its gaps eight signs."""
    widths = [0.075 * (len(name) + 8) for name in names]
    return max(1, min(len(widths), 4, int(inches / max(widths))))
