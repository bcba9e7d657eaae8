"""Curves show the numbers of the metrics files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from labelenc.visualization import (
    figure_png,
    plot_ap,
    plot_learning_rates,
    plot_losses,
    read_metrics,
    run_colours,
)
from labelenc.visualization.curves import smooth


def write(path: Path, rows: list[dict], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


ROWS = [
    {"iteration": 20, "loss": 2.0, "lr": 0.1},
    {"iteration": 40, "loss": 1.0, "lr": 0.05},
    {"iteration": 40, "eval/val/AP": 0.125, "eval/val/APs": None},
]


def test_rows_are_merged_and_a_resumed_run_overrides(tmp_path: Path) -> None:
    resumed = [
        {"iteration": 60, "loss": 9.0},
        {"iteration": 40, "loss": 0.5},
        {"iteration": 60, "loss": 0.25},
    ]
    rows = read_metrics(write(tmp_path / "metrics.jsonl", ROWS + resumed))
    assert [row["iteration"] for row in rows] == [20, 40, 60]
    assert [row["loss"] for row in rows] == [2.0, 0.5, 0.25]
    assert rows[1]["eval/val/AP"] == 0.125


def test_cut_off_and_broken_lines(tmp_path: Path) -> None:
    assert len(read_metrics(write(tmp_path / "a", ROWS, '{"iteration": 60, "lo'))) == 2
    assert read_metrics(write(tmp_path / "b", [])) == []
    broken = tmp_path / "c"
    broken.write_text('{"iteration": 1}\nnonsense\n{"iteration": 2}\n')
    with pytest.raises(ValueError, match="c, line 2"):
        read_metrics(broken)


def test_lines_hold_the_numbers_in_the_run_colours(tmp_path: Path) -> None:
    rows = read_metrics(write(tmp_path / "metrics.jsonl", ROWS))
    runs = {"baseline": rows, "step 2": [{"iteration": 10, "loss": 3.0}]}
    colours = run_colours(runs)
    assert len(set(colours.values())) == 2
    figure = plot_losses(runs, ("loss", "lr"))
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines) == ["baseline", "step 2"]
    assert lines["baseline"].get_xydata().tolist() == [[20, 2.0], [40, 1.0]]
    assert {name: line.get_color() for name, line in lines.items()} == colours
    assert len(figure.axes[1].get_lines()) == 1, "a run that does not log a value has no line"
    (line,) = plot_ap(runs, "val").axes[0].get_lines()
    assert line.get_xydata().tolist() == [[40, 12.5]]
    assert plot_ap(runs, "val", ("APs",)).axes[0].get_lines() == []
    (line,) = plot_learning_rates({"baseline": rows}).axes[0].get_lines()
    assert line.get_ydata().tolist() == [0.1, 0.05]


def test_running_mean_by_hand() -> None:
    values = np.array([1.0, 2.0, 6.0, 3.0])
    assert smooth(values, 3) == pytest.approx([1.5, 3.0, 11 / 3, 4.5])
    assert smooth(values, 1) == pytest.approx(values)
    assert len(smooth(np.array([]), 5)) == 0
    assert smooth(np.array([4.0, 2.0]), 9) == pytest.approx([3.0, 3.0])


def test_png_can_be_read() -> None:
    png = figure_png(plot_losses({"a": [{"iteration": i, "loss": 1 / i} for i in range(1, 9)]}, window=3))
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert min(image.shape[:2]) > 200
    assert (image != 255).any()
    assert figure_png(plot_ap({}, "val")).startswith(b"\x89PNG")
