"""Figures show the numbers they are given, legibly, for one class and for many, and say what is absent."""

import itertools
import warnings
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from labelenc.visualization import (
    figure_png,
    plot_ap_by_size,
    plot_confusion,
    plot_differences,
    plot_errors,
    plot_precision_recall,
    plot_reliability,
    plot_score_threshold,
    run_colours,
)

KINDS = ("class", "location", "both", "duplicate", "background", "missed", "false_positive", "false_negative")


def picture(figure: Figure) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = cv2.imdecode(np.frombuffer(figure_png(figure), np.uint8), cv2.IMREAD_COLOR)
    assert image.std() > 1
    return image


# Of tools/run_labelenc.py with everything.
STUDY = [
    *("baseline", "step1", "step2", "baseline_equal_budget"),
    *("step2_no_auxiliary_loss", "step2_no_step1_start"),
]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def assert_apart(figure: Figure, *groups: list) -> None:
    """No two texts of a group overlap on the drawn figure, and all lie inside it."""
    figure.canvas.draw()
    page = figure.bbox
    for labels in groups:
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert boxes
        for box in boxes:
            assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1
            assert page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1
        for a, b in itertools.combinations(boxes, 2):
            assert not a.overlaps(b)


def test_precision_recall_draws_every_run_and_its_ap() -> None:
    curves = {"a": np.linspace(1, 0, 101), "b": np.full(101, 0.25), "none": np.full(101, np.nan)}
    figure = plot_precision_recall(curves)
    picture(figure)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a  50.0", "b  25.0", "none  n/a"]
    lines = {line.get_label(): line for line in axis.get_lines()}
    assert len(axis.get_lines()) == 3
    np.testing.assert_allclose(lines["a  50.0"].get_ydata(), 100 * curves["a"])
    np.testing.assert_allclose(lines["a  50.0"].get_xdata(), np.arange(101))
    assert lines["b  25.0"].get_color() == run_colours(curves)["b"]


@pytest.mark.parametrize("height", [1.0, 0.3, 0.05])
def test_the_legend_covers_no_curve(height: float) -> None:
    curves = {f"run {i}": height * (1 - 0.1 * i) * np.sqrt(1 - np.linspace(0, 1, 101)) for i in range(3)}
    figure = plot_precision_recall(curves)
    figure.canvas.draw()
    axis = figure.axes[0]
    box = axis.get_legend().get_window_extent()
    for line in axis.get_lines():
        assert not box.count_contains(axis.transData.transform(line.get_xydata()))


@pytest.mark.parametrize("runs", [1, 2, 4, 7])
def test_bars_by_size(runs: int) -> None:
    ap = {f"run {i}": [0.5 - 0.01 * i, 1.0, None] for i in range(runs)}
    figure = plot_ap_by_size(ap, (1200, 5, 0))
    axis = figure.axes[0]
    heights = np.array([bar.get_height() for bar in axis.patches]).reshape(runs, 3)
    np.testing.assert_allclose(heights[:, 0], 50 - np.arange(runs))
    assert [label.get_text() for label in axis.get_xticklabels()] == [
        "small\n1,200 boxes",
        "medium\n5 boxes",
        "large\n0 boxes",
    ]
    assert to_hex(axis.patches[0].get_facecolor()).upper() == run_colours(ap)["run 0"]
    assert texts(figure).count("n/a") == runs
    assert "100" in texts(figure)
    assert_apart(figure, [*axis.texts, *axis.get_xticklabels()])


@pytest.mark.parametrize(
    "names", [STUDY, ["a", "b"], ["a name that is longer than anybody would like to read", "b"]]
)
def test_the_legend_below_is_on_the_page(names: list[str]) -> None:
    for figure in (
        plot_ap_by_size({name: [0.1, 0.2, 0.3] for name in names}, (1, 2, 3)),
        plot_errors({name: dict.fromkeys(KINDS, 0.1) for name in names}),
    ):
        figure.canvas.draw()
        box, page = figure.legends[0].get_window_extent(), figure.bbox
        assert page.x0 <= box.x0 <= box.x1 <= page.x1
        assert page.y0 - 1 <= box.y0


@pytest.mark.parametrize("runs", [1, 2, 3, 7])
def test_error_bars(runs: int) -> None:
    gain = {f"run {i}": {kind: 0.01 * k for k, kind in enumerate(KINDS)} for i in range(runs)}
    figure = plot_errors(gain)
    axis = figure.axes[0]
    np.testing.assert_allclose([bar.get_height() for bar in axis.patches], [*range(8)] * runs, atol=1e-9)
    assert [label.get_text() for label in axis.get_xticklabels()][-3:] == [
        "missed",
        "false\npositive",
        "false\nnegative",
    ]
    places = axis.get_xticks()
    assert np.diff(places).tolist() == [1, 1, 1, 1, 1, 1.5, 1], "the sums stand apart"
    assert_apart(figure, [*axis.texts, *axis.get_xticklabels()])


@pytest.mark.parametrize("rows", [1, 3, 83])
def test_differences(rows: int) -> None:
    values = [0.01 * (i % 3 - 1) for i in range(rows)]
    figure = plot_differences(
        [f"class {i}" for i in range(rows)], values, [v - 0.005 for v in values], [v + 0.005 for v in values]
    )
    axis = figure.axes[0]
    dots = [line for line in axis.get_lines() if line.get_marker() == "o"]
    np.testing.assert_allclose([dot.get_xdata()[0] for dot in dots], 100 * np.array(values), atol=1e-9)
    assert dots[0].get_color() == "#D55E00", "worse, and the interval leaves out 0"
    if rows > 1:
        assert [dots[1].get_color(), dots[2].get_color()] == ["#777777", "#0072B2"]
    whisker = axis.get_lines()[1]
    np.testing.assert_allclose(whisker.get_xdata(), [-1.5, -0.5])
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "from top to bottom"
    assert_apart(figure, axis.get_yticklabels())


@pytest.mark.parametrize("classes", [1, 3, 7, 80, 365])
def test_confusion(classes: int) -> None:
    generator = np.random.default_rng(classes)
    counts = generator.integers(0, 50, (classes + 1, classes + 1))
    counts[-1, -1] = 0
    counts[0] = 0
    counts[1, :2] = (30, 10)
    counts[1, 2:] = 0
    figure = plot_confusion(counts, ["hippopotamus and friends", *map(str, range(1, classes))])
    axis = figure.axes[0]
    shown = np.ma.filled(axis.get_images()[0].get_array(), np.nan)
    assert np.isnan(shown[0]).all(), "a class without boxes has no shares"
    assert np.isnan(shown[-1, -1])
    if classes > 1:
        assert shown[1, :3].tolist() == [75, 25, 0]
        assert np.nansum(shown, axis=1)[1:].tolist() == pytest.approx([100] * classes)
    assert axis.get_yticklabels()[0].get_text() == "hippopotamus and frie… (0)"
    assert (len(texts(figure)) > 0) == (classes <= 15)
    assert max(figure.get_size_inches()) < 30
    # Laying out hundreds of names takes a while.
    if classes <= 80:
        assert_apart(figure, axis.get_yticklabels(), axis.get_xticklabels())
    else:
        assert 100 < len(axis.get_xticklabels()) <= 160


def test_reliability_and_thresholds() -> None:
    edges = np.linspace(0, 1, 11)
    counts = np.array([1000, 0, 5, 1, 2, 3, 4, 5, 6, 7])
    precision = np.where(counts > 0, edges[:-1] / 2, np.nan)
    figure = plot_reliability(edges, counts, precision, precision + 0.05, 0.123)
    picture(figure)
    upper, lower = figure.axes
    assert "12.3" in upper.get_title(loc="left")
    np.testing.assert_allclose([bar.get_height() for bar in upper.patches], 100 * precision)
    assert [bar.get_height() for bar in lower.patches] == counts.tolist()
    thresholds = np.linspace(0, 1, 101)
    figure = plot_score_threshold(thresholds, thresholds, 1 - thresholds, thresholds / 2, 0.42)
    picture(figure)
    labels = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(labels) == ["precision", "recall", "F1", "best F1 at 0.42"]
    np.testing.assert_allclose(labels["recall"].get_ydata(), 100 - 100 * thresholds)


NAN = np.full(101, np.nan)
EMPTY: dict[str, Callable[[], Figure]] = {
    "precision": lambda: plot_precision_recall({"a": NAN}),
    "size": lambda: plot_ap_by_size({"a": [None] * 3}, (0, 0, 0)),
    "errors": lambda: plot_errors({"a": dict.fromkeys(KINDS)}),
    "differences": lambda: plot_differences(["AP", "x"], [None] * 2, [None] * 2, [np.nan] * 2),
    "confusion": lambda: plot_confusion(np.zeros((2, 2), int), ["x"]),
    "reliability": lambda: plot_reliability(np.linspace(0, 1, 3), np.zeros(2, int), NAN[:2], NAN[:2]),
    "thresholds": lambda: plot_score_threshold(np.linspace(0, 1, 101), NAN, NAN, NAN),
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_show(name: str) -> None:
    figure = EMPTY[name]()
    picture(figure)
    expected = {"size": "n/a", "errors": "n/a", "differences": "n/a", "confusion": "–"}
    if name in expected:
        assert expected[name] in " ".join(texts(figure))
    if name == "reliability":
        assert "no detections" in texts(figure)
