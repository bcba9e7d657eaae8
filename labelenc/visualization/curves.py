"""Curves of several runs side by side, drawn from their metrics.jsonl files."""

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# The colour-blind safe palette of Okabe and Ito, without its yellow, which is too faint on white.
RUN_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#555555")

Rows = Sequence[Mapping[str, Any]]


def run_colours(names: Iterable[str]) -> dict[str, str]:
    """One CSS colour for each run name, by position; give the same names in the same order everywhere."""
    return {name: RUN_COLOURS[i % len(RUN_COLOURS)] for i, name in enumerate(names)}


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl file in order of iteration.

    A run that was stopped and resumed repeats iterations: the later row counts, and training and evaluation
    rows of one iteration are merged. A last line that was cut off by a crash is left out.

    Raises:
        ValueError: a broken line before the last, with its number.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    merged: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            iteration = row["iteration"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(f'{path}, line {number}: not a JSON object with "iteration"') from error
        merged.setdefault(iteration, {}).update(row)
    return [merged[iteration] for iteration in sorted(merged)]


def curve(rows: Rows, key: str, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and values (times ``scale``) of the rows that have a number under ``key``; (n,) each."""
    points = [(row["iteration"], row[key] * scale) for row in rows if row.get(key) is not None]
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over each point and the ``window // 2`` on either side, fewer at the ends; (n,) -> (n,)."""
    half = window // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def plot_losses(
    runs: Mapping[str, Rows],
    keys: Sequence[str] = ("loss",),
    colours: Mapping[str, str] | None = None,
    window: int = 1,
) -> Figure:
    """One panel for each loss name, one line for each run that logs it.

    Args:
        runs: run name -> rows as `read_metrics` gives them.
        keys: the names to plot, such as "loss" or "loss_retina_cls".
        colours: run name -> colour; None takes `run_colours`.
        window: width, in logged points, of the running mean; the raw values stay visible as a faint line.
    """
    figure, axes = _panels(len(keys))
    for axis, key in zip(axes, keys, strict=True):
        for name, colour in (colours or run_colours(runs)).items():
            iterations, values = curve(runs.get(name, ()), key)
            if len(values) == 0:
                continue
            if window > 1:
                axis.plot(iterations, values, color=colour, alpha=0.25, linewidth=1)
            axis.plot(iterations, smooth(values, window), color=colour, linewidth=1.8, label=name)
        _finish(axis, key)
    return figure


def plot_ap(
    runs: Mapping[str, Rows],
    dataset: str,
    numbers: Sequence[str] = ("AP",),
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """AP, or other COCO numbers, of ``dataset`` in percent over the iterations; one panel for each number."""
    figure, axes = _panels(len(numbers))
    for axis, number in zip(axes, numbers, strict=True):
        for name, colour in (colours or run_colours(runs)).items():
            iterations, values = curve(runs.get(name, ()), f"eval/{dataset}/{number}", 100.0)
            if len(values):
                axis.plot(iterations, values, color=colour, marker="o", markersize=4, label=name)
        _finish(axis, f"{number} on {dataset} (%)")
        axis.set_ylim(bottom=0)
    return figure


def plot_learning_rates(runs: Mapping[str, Rows], colours: Mapping[str, str] | None = None) -> Figure:
    """The learning rate of each run over the iterations."""
    figure = plot_losses(runs, ("lr",), colours)
    figure.axes[0].set_title("learning rate", fontsize=11, loc="left")
    return figure


def figure_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, independent of pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(count: int) -> tuple[Figure, list[Any]]:
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = new_figure(4.8 * columns if columns > 1 else 7.0, 3.1 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def tidy(axis: Any, title: str, grid: Literal["both", "x", "y"] = "both") -> None:
    """The look of all axes: a title on the left, a pale grid behind, no frame at the top and right."""
    axis.set_title(title, fontsize=11, loc="left")
    axis.grid(color="#dddddd", linewidth=0.8, axis=grid)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _finish(axis: Any, title: str) -> None:
    tidy(axis, title)
    axis.set_xlabel("iteration")
    if axis.get_lines():
        axis.legend(frameon=False, fontsize=9)
    else:
        axis.text(0.5, 0.5, "no data", ha="center", transform=axis.transAxes, color="#777777")
