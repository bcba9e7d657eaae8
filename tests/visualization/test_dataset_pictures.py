"""Charts and contact sheets of data sets."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from labelenc.structures import BoxList
from labelenc.visualization import (
    Distribution,
    class_colour,
    contact_sheet,
    figure_png,
    plot_class_shares,
    plot_distributions,
    plot_image_sizes,
)

COLOURS = {"train": "#0072B2", "val": "#E69F00"}


def _decoded(figure) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(figure_png(figure), np.uint8), cv2.IMREAD_COLOR)


def test_shares_of_a_distribution():
    values = {"train": np.array([1.0, 1, 3, 100]), "val": np.array([])}
    panel = Distribution("sizes", "pixels", values, np.array([0.0, 2, 4, 6]), marks=[(4, "border")])
    figure = plot_distributions([panel], COLOURS)
    (axis,) = figure.axes
    steps = axis.patches[0].get_data()
    # What lies beyond the last border counts there.
    assert steps.values.tolist() == [50, 25, 25]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["train"]
    assert _decoded(figure).shape[2] == 3


@pytest.mark.parametrize("num_classes", [1, 7, 20, 21, 80])
def test_class_shares_in_descending_order(num_classes):
    names = [f"class {i}" for i in range(num_classes)]
    train, val = np.arange(num_classes), np.full(num_classes, 3)
    figure = plot_class_shares(names, {"train": train, "val": val}, COLOURS)
    shown = [label.get_text() for axis in figure.axes for label in axis.get_yticklabels()]
    assert shown == names[::-1]
    widths = [bar.get_width() for bar in figure.axes[0].containers[1]]
    assert widths == pytest.approx([100 / num_classes] * len(widths))
    assert _decoded(figure).shape[1] > 900


def test_image_sizes_have_a_panel_for_each_set():
    sizes = {"train": np.array([[640, 480]] * 3 + [[480, 640]]), "val": np.array([[640, 480]])}
    figure = plot_image_sizes(sizes, COLOURS)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["train: 2 sizes", "val: 1 size"]
    areas = figure.axes[0].collections[0].get_sizes()
    assert areas[1] > areas[0]


def _picture(size: tuple[int, int], box: list[float]) -> tuple[np.ndarray, BoxList]:
    boxes = BoxList([box], size)
    boxes.add_field("labels", torch.tensor([1]))
    return np.full((size[1], size[0], 3), 90, np.uint8), boxes


def test_contact_sheet_draws_boxes_at_the_scale_of_the_picture():
    # 200 x 100 is halved into a cell of 100 x 60; the second image goes beside it.
    image, boxes = _picture((200, 100), [40, 20, 160, 80])
    sheet = contact_sheet(
        [(image, boxes, "a.jpg"), (image, boxes, "b" * 99)], ["x"], columns=2, cell=(100, 60)
    )
    assert sheet.shape == (80, 210, 3)
    where = np.argwhere((sheet[:, :100] == class_colour(1)).all(axis=2))
    assert where[:, 1].min() == pytest.approx(20, abs=1)
    assert where[:, 1].max() == pytest.approx(80, abs=1)
    # Pictures stand on their captions: 10 rows of the cell are free above.
    assert where[:, 0].max() == pytest.approx(10 + 40, abs=1)
    assert (sheet[:10] == 255).all()
    assert (sheet[61:, :100] < 200).any()


def test_contact_sheet_of_few_and_of_no_pictures():
    image, boxes = _picture((30, 40), [1, 1, 9, 9])
    assert contact_sheet([(image, boxes, "")], ["x"]).shape[1] == 326
    assert contact_sheet([(image, boxes, "")] * 4, ["x"]).shape[:2] == (2 * 275 - 10, 3 * 336 - 10)
    assert contact_sheet([], ["x"]).size
