"""Boxes in images: colours that belong to the class, frames where the boxes are."""

import numpy as np
import pytest
import torch

from labelenc.structures import BoxList
from labelenc.visualization import class_colour, draw_boxes

NAMES = ("cat", "dog", "bird")
GREY = np.full((100, 140, 3), 128, np.uint8)


def boxes(xyxy, labels, scores=None) -> BoxList:
    result = BoxList(torch.tensor(xyxy, dtype=torch.float32).reshape(-1, 4), (140, 100))
    result.add_field("labels", torch.tensor(labels, dtype=torch.int64))
    if scores is not None:
        result.add_field("scores", torch.tensor(scores))
    return result


def changed(image: np.ndarray) -> np.ndarray:
    return (image != 128).any(axis=2)


def test_colours_are_distinct_and_depend_on_the_label_alone() -> None:
    colours = [class_colour(label) for label in range(1, 81)]
    assert len(set(colours)) == 80
    assert all(0 <= value <= 255 for colour in colours for value in colour)
    # The first classes must be told apart at a glance.
    first = np.array(colours[:8], dtype=float)
    distances = np.linalg.norm(first[:, None] - first[None], axis=2) + 1e9 * np.eye(8)
    assert distances.min() > 60
    alone = draw_boxes(GREY, boxes([[60, 40, 90, 80]], [2]), NAMES, show_labels=False)
    among = draw_boxes(
        GREY, boxes([[5, 5, 20, 20], [60, 40, 90, 80]], [1, 2], [0.9, 0.1]), NAMES, show_labels=False
    )
    assert tuple(alone[60, 60]) == tuple(among[60, 60]) == class_colour(2)


def test_frame_is_where_the_box_is_and_input_unchanged() -> None:
    image = GREY.copy()
    drawn = draw_boxes(image, boxes([[20, 30, 60, 70]], [3]), NAMES, show_labels=False)
    assert np.array_equal(image, GREY)
    rows, columns = np.nonzero(changed(drawn))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (20, 30, 60, 70)
    assert not changed(drawn)[31:70, 21:60].any()


def test_label_and_score_thresholds() -> None:
    detections = boxes([[10, 40, 30, 60], [50, 40, 70, 60], [90, 40, 110, 60]], [1, 2, 3], [0.2, 0.9, 0.5])
    drawn = [draw_boxes(GREY, detections, NAMES, score_threshold=t, show_labels=False) for t in (0.0, 0.5)]
    assert [changed(image)[50, 10] for image in drawn] == [True, False]
    assert all(changed(image)[50, 50] and changed(image)[50, 90] for image in drawn)
    top = draw_boxes(GREY, detections, NAMES, max_boxes=1, show_labels=False)
    assert changed(top)[50, 50]
    assert not changed(top)[50, 10]
    assert not changed(top)[50, 90]
    labelled = draw_boxes(GREY, detections, NAMES, score_threshold=0.6)
    assert changed(labelled)[:40].any(), "the label stands above the box"


def test_certain_boxes_lie_on_top() -> None:
    same = boxes([[20, 20, 60, 60], [20, 20, 60, 60]], [1, 2], [0.9, 0.3])
    assert tuple(draw_boxes(GREY, same, NAMES, show_labels=False)[40, 20]) == class_colour(1)


def test_magnified_pictures_keep_proportions() -> None:
    drawn = draw_boxes(GREY, boxes([[20, 30, 60, 70]], [1]), NAMES, magnify=3, show_labels=False)
    assert drawn.shape == (300, 420, 3)
    rows, columns = np.nonzero(changed(drawn))
    assert abs(columns.min() - 60) <= 2
    assert abs(rows.max() - 210) <= 2


def test_awkward_boxes_and_names() -> None:
    corners = [
        [-50, -50, 500, 500],
        [130, 95, 139, 99],
        [0, 0, 0, 0],
        [1e30, 0, 1e30, 1],
        [float("nan"), 0, 5, 5],
        [40, 40, 80, 80],
    ]
    # OpenCV's text functions crash at a lone surrogate, which JSON may hold.
    names = ("Бутылка", "x" * 200, "", "\ud800 \n\0\t", "👀" * 50, "ق" * 90)
    drawn = draw_boxes(GREY, boxes(corners, [1, 2, 3, 4, 5, 6]), names)
    assert drawn.shape == GREY.shape
    assert drawn.dtype == np.uint8
    assert np.array_equal(draw_boxes(GREY, boxes([], []), NAMES), GREY)
    xywh = boxes([[20, 30, 60, 70]], [1]).convert("xywh")
    assert np.array_equal(draw_boxes(GREY, xywh, NAMES), draw_boxes(GREY, xywh.convert("xyxy"), NAMES))


def test_wrong_images_are_refused() -> None:
    for image in (GREY.astype(np.float32), GREY[:, :, 0]):
        with pytest.raises(ValueError, match="uint8"):
            draw_boxes(image, boxes([], []), NAMES)
