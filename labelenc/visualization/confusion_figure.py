"""The confusion matrix as a heat map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from labelenc.visualization.curves import new_figure

# Cells with numbers, and names at a comfortable size, up to these many classes and background.
_NUMBERS_UP_TO = 16
_LARGE_NAMES_UP_TO = 30


def plot_confusion(
    counts: np.ndarray, class_names: Sequence[str], title: str = "Confusion of classes (% of a row)"
) -> Figure:
    """Each row divided by its sum: what became of the boxes of each class, and what false ones are called.

    Args:
        counts: (C + 1, C + 1), rows true classes, columns detected classes, background last.
        class_names: C names.
    """
    size = len(counts)
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    shares[-1, -1] = np.nan
    inches = float(np.clip(2.6 + 0.42 * size, 4.2, 12.5))
    figure = new_figure(inches + 0.6, inches)
    axis = figure.subplots()
    picture = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    font = 9.0 if size <= _LARGE_NAMES_UP_TO else max(4.5, 9.0 * _LARGE_NAMES_UP_TO / size + 1.5)
    names = [_short(name) for name in class_names]
    axis.set_xticks(range(size), [*names, "missed"], fontsize=font, rotation=90 if size > 4 else 0)
    axis.set_yticks(range(size), [*names, "background"], fontsize=font)
    axis.set(xlabel="detected as", ylabel="truth")
    axis.set_title(title, fontsize=11, loc="left")
    axis.tick_params(length=2)
    # Thin lines part the background from the classes.
    axis.axhline(size - 1.5, color="#555555", linewidth=0.8)
    axis.axvline(size - 1.5, color="#555555", linewidth=0.8)
    if size <= _NUMBERS_UP_TO:
        _write_numbers(axis, shares)
    bar = figure.colorbar(picture, ax=axis, shrink=0.6, aspect=30)
    bar.outline.set_visible(False)
    return figure


def _write_numbers(axis: Any, shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if np.isnan(share):
            text = "–"
        elif share == 0:
            continue
        else:
            text = f"{100 * share:.0f}" if share >= 0.01 else "<1"
        colour = "white" if share > 0.6 else "#333333"
        axis.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
