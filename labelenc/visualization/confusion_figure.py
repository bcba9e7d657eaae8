"""The confusion matrix as a heat map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from labelenc.visualization.curves import new_figure

# Rows, the background's among them, up to which numbers fit into the cells, and up to which cells are large.
_NUMBERS_UP_TO = 16
_LARGE_CELLS_UP_TO = 40
# With more rows the figure grows no further and only some names are written.
_NAMES_UP_TO = 160


def plot_confusion(
    counts: np.ndarray, class_names: Sequence[str], title: str = "Confusion of classes (% of a row)"
) -> Figure:
    """Each row divided by its sum: what became of the boxes of each class, and what false ones are called.

    Args:
        counts: integers (C + 1, C + 1), rows true classes, columns detected classes, background last. The
            background row is what false detections are called, its column is what was missed.
        class_names: C names.
    """
    size = len(counts)
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    shares[-1, -1] = np.nan
    cell = 0.45 if size <= _NUMBERS_UP_TO else 0.28 if size <= _LARGE_CELLS_UP_TO else 0.16
    inches = max(2.4 + cell * min(size, _NAMES_UP_TO), 4.2)
    figure = new_figure(inches + 0.8, inches)
    axis = figure.subplots()
    # A square root shows the rare confusions too.
    picture = axis.imshow(100 * shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    columns = [_short(name) for name in [*class_names, "missed"]]
    rows = [
        f"{_short(name)} ({n:,})" for name, n in zip([*class_names, "background"], total[:, 0], strict=True)
    ]
    named = slice(None, None, -(-size // _NAMES_UP_TO))
    # A letter is about 0.08 inches wide.
    wide = 0.08 * max(map(len, columns)) > 0.5 * inches / size
    axis.set_xticks(range(size)[named], columns[named], fontsize=9, rotation=90 if wide else 0)
    axis.set_yticks(range(size)[named], rows[named], fontsize=9)
    axis.set(xlabel="detected as", ylabel="truth (boxes)")
    axis.set_title(title, fontsize=11, loc="left")
    axis.tick_params(length=2)
    # Thin lines part the background from the classes.
    axis.axhline(size - 1.5, color="#555555", linewidth=0.8)
    axis.axvline(size - 1.5, color="#555555", linewidth=0.8)
    if size <= _NUMBERS_UP_TO:
        _write_numbers(axis, shares)
    bar = figure.colorbar(picture, ax=axis, ticks=[0, 1, 5, 20, 50, 100], shrink=0.6, aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    return figure


def _write_numbers(axis: Any, shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share == 0:
            continue
        text = "–" if np.isnan(share) else f"{100 * share:.0f}" if share >= 0.01 else "<1"
        axis.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=9,
            color="white" if share > 0.4 else "#333333",
        )


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
