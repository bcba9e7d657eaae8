"""What a data set is made of: classes, sizes and proportions as charts, images with boxes as a sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from labelenc.structures import BoxList
from labelenc.visualization.boxes import draw_boxes

# Longer lists of classes are folded: they would be higher than a screen.
CLASSES_IN_A_COLUMN = 20
_CAPTION_HEIGHT = 20
_GAP = 10


@dataclass(frozen=True, eq=False)
class Distribution:
    """One panel of `plot_distributions`.

    Attributes:
        title, axis: above the panel and below it.
        values: set name -> float (n,); each set is drawn as the share of its values in each bin.
        edges: (b + 1,) borders of the bins; values outside count in the first and the last one.
        logarithmic: draw the axis in powers of two.
        marks: positions of dashed lines and what they mean.
    """

    title: str
    axis: str
    values: Mapping[str, np.ndarray]
    edges: np.ndarray
    logarithmic: bool = False
    marks: Sequence[tuple[float, str]] = ()


def plot_distributions(panels: Sequence[Distribution], colours: Mapping[str, str]) -> Figure:
    """Histograms side by side in two columns; `colours` gives each set's."""
    rows = -(-len(panels) // 2)
    figure, axes = _figure(rows, 2, (9.8, 3.2 * rows))
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes, panels, strict=False):
        _draw_distribution(axis, panel, colours)
    return figure


def _draw_distribution(axis: Any, panel: Distribution, colours: Mapping[str, str]) -> None:
    for name, values in panel.values.items():
        if not len(values):
            continue
        counts, _ = np.histogram(np.clip(values, panel.edges[0], panel.edges[-1]), panel.edges)
        shares = 100 * counts / len(values)
        axis.stairs(shares, panel.edges, color=colours[name], linewidth=1.6, label=name)
        axis.stairs(shares, panel.edges, color=colours[name], alpha=0.15, fill=True)
    if panel.logarithmic:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axis.set_xlim(panel.edges[0], panel.edges[-1])
    axis.set_ylim(0, axis.get_ylim()[1] * (1.12 if panel.marks else 1.0))
    for place, text in panel.marks:
        axis.axvline(place, color="#777777", linestyle="--", linewidth=1)
        axis.annotate(
            text, (place, 0.985), xycoords=("data", "axes fraction"), xytext=(-3, 0), ha="right", fontsize=8,
            textcoords="offset points", va="top", color="#555555",
        )  # fmt: skip
    _finish(axis, panel.title, panel.axis, "share (%)")


def plot_image_sizes(sizes: Mapping[str, np.ndarray], colours: Mapping[str, str]) -> Figure:
    """Width against height of the images, one panel for each set; (M, 2) each. Dots grow with the number."""
    columns = min(max(len(sizes), 1), 3)
    rows = -(-len(sizes) // columns)
    figure, axes = _figure(max(rows, 1), columns, (9.8 if columns > 1 else 5.4, 3.6 * max(rows, 1)))
    longest = max((values.max() for values in sizes.values() if len(values)), default=1)
    for axis in axes[len(sizes) :]:
        axis.remove()
    for axis, (name, values) in zip(axes, sizes.items(), strict=False):
        pairs, counts = np.unique(values, axis=0, return_counts=True)
        area = 12 + 288 * counts / max(counts.max(initial=1), 1)
        axis.scatter(pairs[:, 0], pairs[:, 1], s=area, color=colours[name], alpha=0.4, linewidths=0)
        axis.plot([0, 1.1 * longest], [0, 1.1 * longest], color="#cccccc", linewidth=1, zorder=0)
        axis.set_xlim(0, 1.1 * longest)
        axis.set_ylim(0, 1.1 * longest)
        axis.set_aspect("equal")
        _finish(axis, f"{name}: {_number(len(pairs), 'size')}", "width (pixels)", "height (pixels)")
    return figure


def plot_class_shares(
    class_names: Sequence[str], counts: Mapping[str, np.ndarray], colours: Mapping[str, str]
) -> Figure:
    """Bars for each class: its share of the boxes of each set, the most frequent of the first set on top.

    Args:
        class_names: C names.
        counts: set name -> int (C,).
        colours: set name -> colour.
    """
    order = np.argsort(-next(iter(counts.values())), kind="stable")
    columns = 1 if len(order) <= CLASSES_IN_A_COLUMN else 2
    height = -(-len(order) // columns)
    figure, axes = _figure(1, columns, (9.8, 0.9 + max(0.2, 0.11 * len(counts) + 0.06) * height))
    shares = {name: 100 * values / max(values.sum(), 1) for name, values in counts.items()}
    for axis, start in zip(axes, range(0, len(order), height), strict=True):
        mine = order[start : start + height]
        thickness = 0.8 / len(shares)
        for i, (name, values) in enumerate(shares.items()):
            places = np.arange(len(mine)) + (i - (len(shares) - 1) / 2) * thickness
            axis.barh(places, values[mine], thickness, color=colours[name], label=name)
        axis.set_yticks(range(len(mine)), [_shortened(class_names[i]) for i in mine], fontsize=9)
        axis.set_ylim(height - 0.4, -0.6)
        # A scale for each half: the rare ones would be invisible on that of the frequent ones.
        axis.set_xlim(0, max(max(1.05 * values[mine].max() for values in shares.values()), 1e-9))
        _finish(axis, "", "share of the set's boxes (%)", "")
        axis.grid(visible=False, axis="y")
        if start:
            axis.get_legend().remove()
    return figure


def contact_sheet(
    pictures: Sequence[tuple[np.ndarray, BoxList, str]],
    class_names: Sequence[str],
    columns: int = 3,
    cell: tuple[int, int] = (326, 245),
) -> np.ndarray:
    """Images with their boxes and class names, each above its caption.

    Args:
        pictures: uint8 (H, W, 3) BGR, its boxes in its pixels with field ``labels``, and a caption.
        class_names: C names in label order.
        columns: pictures in a row.
        cell: width and height in pixels that each picture has to fit into; small ones are enlarged.

    Returns:
        uint8 (H, W, 3) BGR on white.
    """
    columns = min(columns, max(len(pictures), 1))
    rows = -(-len(pictures) // columns)
    width, height = cell[0] + _GAP, cell[1] + _CAPTION_HEIGHT + _GAP
    sheet = np.full((rows * height - _GAP if rows else 1, columns * width - _GAP, 3), 255, np.uint8)
    for number, (image, boxes, caption) in enumerate(pictures):
        top, left = number // columns * height, number % columns * width
        factor = min(cell[0] / image.shape[1], cell[1] / image.shape[0])
        size = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        drawn = draw_boxes(cv2.resize(image, size, interpolation=method), boxes.resize(size), class_names)
        x, y = left + (cell[0] - size[0]) // 2, top + cell[1] - size[1]
        sheet[y : y + size[1], x : x + size[0]] = drawn
        text = caption.encode("ascii", "replace").decode()
        text = text if len(text) <= 48 else "..." + text[-45:]
        place = (left + 2, top + cell[1] + _CAPTION_HEIGHT - 6)
        cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (90, 80, 70), 1, cv2.LINE_AA)
    return sheet


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _finish(axis: Any, title: str, below: str, beside: str) -> None:
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlabel(below)
    axis.set_ylabel(beside)
    axis.grid(color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if len(axis.get_legend_handles_labels()[1]):
        axis.legend(frameon=False, fontsize=9)


def _shortened(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
