"""Captions: legible in any picture, in any script, beside their boxes and not on top of one another."""

import itertools

import numpy as np
import pytest
import torch

from labelenc.structures import BoxList
from labelenc.visualization import class_colour, draw_boxes
from labelenc.visualization.captions import ink_colour


def picture(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def boxes(image: np.ndarray, xyxy, labels, scores=None) -> BoxList:
    result = BoxList(torch.tensor(xyxy, dtype=torch.float32), image.shape[1::-1])
    result.add_field("labels", torch.tensor(labels))
    if scores is not None:
        result.add_field("scores", torch.tensor(scores))
    return result


def plate(image: np.ndarray, found: BoxList, names=("thing",) * 99) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 (inclusive) of everything that the captions add to the frames."""
    without = draw_boxes(image, found, names, show_labels=False)
    rows, columns = np.nonzero((draw_boxes(image, found, names) != without).any(axis=2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_ink_can_be_read_on_every_class_colour() -> None:
    def luminance(colour) -> float:
        blue, green, red = (
            (v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4) for v in colour
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for label in range(1, 201):
        colour = class_colour(label)
        dark, light = sorted((luminance(colour), luminance(ink_colour(colour))))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, label


@pytest.mark.parametrize("size", [(120, 90), (640, 480), (3840, 2160)])
def test_text_grows_with_the_picture(size) -> None:
    image = picture(*size)
    x0, y0, x1, y1 = plate(
        image, boxes(image, [[size[0] / 2, size[1] / 2, size[0] - 9, size[1] - 9]], [1], [0.5])
    )
    # At least 12 pixels, and at least a fiftieth of the height when the picture is scaled to fit a screen.
    assert y1 - y0 + 1 >= max(12, size[1] / 50)
    assert y1 - y0 + 1 <= size[1] / 5
    assert x1 - x0 + 1 <= size[0] / 2


def test_a_caption_stands_above_its_box_or_stays_in_the_picture() -> None:
    image = picture(300, 200)
    x0, y0, x1, y1 = plate(image, boxes(image, [[100, 80, 180, 150]], [1]))
    assert (x0, y1) == (100, 79)
    whole = (x1 - x0, y1 - y0)
    for corner in ([-40, -30, 60, 50], [250, -9, 299, 20], [-9, 150, 20, 260], [280, 180, 299, 199]):
        x0, y0, x1, y1 = plate(image, boxes(image, [corner], [1]))
        # Two lines less, where the plate lies on the frame, which has its colour.
        assert np.abs(np.subtract((x1 - x0, y1 - y0), whole)).max() <= 2, corner


def test_captions_of_boxes_that_coincide_do_not_overlap() -> None:
    image = picture(400, 300)
    same = [[150, 100, 260, 200]] * 4
    drawn = draw_boxes(image, boxes(image, same, [1, 2, 3, 4], [0.9, 0.8, 0.7, 0.6]), ("thing",) * 4)
    areas = [int((drawn == class_colour(label)).all(axis=2).sum()) for label in (1, 2, 3, 4)]
    alone = [
        int(
            (draw_boxes(image, boxes(image, same[:1], [n], [0.5]), ("thing",) * 4) == class_colour(n))
            .all(axis=2)
            .sum()
        )
        for n in (1, 2, 3, 4)
    ]
    frame = int(
        (draw_boxes(image, boxes(image, same[:1], [1]), ("",) * 4, show_labels=False) != 128)
        .any(axis=2)
        .sum()
    )
    for seen, whole in itertools.islice(zip(areas, alone, strict=True), 1, 4):
        # The frame lies below the first one's, and digits differ by a few pixels of ink.
        assert seen > (whole - frame) * 0.8


def test_the_most_certain_caption_has_the_first_choice() -> None:
    image = picture(400, 300)
    found = boxes(image, [[150, 100, 260, 200]] * 2, [1, 2], [0.3, 0.9])
    drawn = draw_boxes(image, found, ("thing",) * 2)
    assert tuple(drawn[90, 150]) == class_colour(2)


def test_long_names_keep_their_score() -> None:
    image = picture(160, 120)

    def ink(name: str, score: float) -> np.ndarray:
        return draw_boxes(image, boxes(image, [[5, 40, 100, 100]], [1], [score]), (name,))

    x0, _, x1, _ = plate(image, boxes(image, [[5, 40, 100, 100]], [1], [0.5]), ("very " * 40,))
    assert x0 >= 0
    assert x1 <= 159
    assert (ink("very " * 40, 0.11) != ink("very " * 40, 0.88)).any()
    assert np.array_equal(ink("very " * 40, 0.5), ink("very " * 80, 0.5))


def test_names_in_other_scripts_are_written() -> None:
    image = picture(200, 100)
    found = boxes(image, [[20, 40, 150, 90]], [1])
    question_marks = draw_boxes(image, found, ("???",))
    for name in ("кот", "猫猫猫", "γάτ", "قطط", "ñçé"):
        assert (draw_boxes(image, found, (name,)) != question_marks).any(), name
