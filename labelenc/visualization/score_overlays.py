"""Scores of several runs in the same axes: how far they can be trusted, and what thresholds give."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from labelenc.visualization.curves import new_figure, run_colours, tidy


def plot_calibrations(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], colours: Mapping[str, str] | None = None
) -> Figure:
    """The share of right detections over the score, a line for each run.

    Args:
        curves: run -> mean score and share of right detections of each bin, (B) fractions each; NaN in bins
            without detections.
    """
    figure = new_figure(6.0, 4.0)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 100], color="#777777", linewidth=1, linestyle="--", label="score = precision")
    palette = colours or run_colours(curves)
    for name, (score, right) in curves.items():
        known = ~np.isnan(right)
        axis.plot(score[known], 100 * right[known], color=palette[name], marker="o", markersize=4, label=name)
    tidy(axis, "Right detections by score (%)")
    axis.set(xlabel="score", xlim=(0, 1), ylim=(0, 102))
    axis.legend(fontsize=9, framealpha=0.8, edgecolor="none", loc="best")
    return figure


def plot_f1_scores(
    thresholds: np.ndarray, f1: Mapping[str, np.ndarray], colours: Mapping[str, str] | None = None
) -> Figure:
    """F1 of the detections with at least a score, (n) over (n) thresholds, a line for each run."""
    figure = new_figure(6.0, 4.0)
    axis = figure.subplots()
    palette = colours or run_colours(f1)
    for name, values in f1.items():
        axis.plot(thresholds, 100 * values, color=palette[name], linewidth=1.8, label=name)
    tidy(axis, "F1 over the score threshold (%)")
    axis.set(xlabel="score threshold", xlim=(0, 1), ylim=(0, 102))
    axis.legend(fontsize=9, framealpha=0.8, edgecolor="none", loc="best")
    return figure
