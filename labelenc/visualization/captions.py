"""Captions on coloured plates beside boxes, placed so that they cover one another as little as possible."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Caption:
    """What is written at one box.

    Attributes:
        name: may be shortened where the picture is too narrow.
        score: text behind the name, never shortened; "" for none.
        frame: (x0, y0, x1, y1), the outermost pixels of the drawn box; they may lie outside the picture.
        colour: (blue, green, red) of the plate.
    """

    name: str
    score: str
    frame: tuple[int, int, int, int]
    colour: Colour


@dataclass(frozen=True)
class _Plate:
    text: str
    left: int
    top: int
    width: int
    colour: Colour


def ink_colour(plate: Colour) -> Colour:
    """Black or white, whichever has the higher contrast on ``plate`` (both BGR); it is at least 4.5 : 1.

    The contrast is that of the Web Content Accessibility Guidelines 2.1, from the relative luminance.
    """
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in plate)]
    luminance = 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]
    # Where (1 + 0.05) / (L + 0.05) = (L + 0.05) / 0.05.
    return (0, 0, 0) if luminance > 0.1791 else (255, 255, 255)


def draw_captions(canvas: np.ndarray, captions: Sequence[Caption]) -> None:
    """Write captions into a picture, in place; where they must overlap, later ones lie on top.

    Each stands above its box where there is room, else at another of the box's corners, never cut off by the
    border. Later captions choose first. The size of the text follows the size of the picture.

    Args:
        canvas: uint8 (H, W, 3), BGR.
        captions: the most important last.
    """
    size = _text_size(canvas)
    plates: list[_Plate] = []
    taken = np.zeros((len(captions), 4))
    for count, caption in enumerate(reversed(captions)):
        plate = _placed(caption, size, canvas.shape[1::-1], taken[:count])
        taken[count] = plate.left, plate.top, plate.left + plate.width, plate.top + _plate_height(size)
        plates.append(plate)
    for plate in reversed(plates):
        _draw(canvas, plate, size)


def _text_size(canvas: np.ndarray) -> int:
    """Pixels: to be read in a small picture as it is, and in a large one when it is shown scaled down."""
    return max(12, round(min(canvas.shape[:2]) / 45))


def _plate_height(size: int) -> int:
    return round(1.25 * size)


def _margin(size: int) -> int:
    return max(2, round(size / 5))


def _placed(caption: Caption, size: int, canvas: tuple[int, int], taken: np.ndarray) -> _Plate:
    """The caption at the first corner of its box where it covers no other one, or covers least."""
    text = _fitting(caption, size, canvas[0] - 2 * _margin(size))
    width, height = text_width(text, size) + 2 * _margin(size), _plate_height(size)
    x0, y0, x1, y1 = caption.frame
    right = x1 + 1 - width
    corners = np.array(
        [
            (x0, y0 - height),
            (x0, y0),
            (right, y0 - height),
            (x0, y1 + 1),
            (right, y0),
            (right, y1 + 1),
            (x0, y1 + 1 - height),
            (right, y1 + 1 - height),
        ]
    )
    # Above all, a caption that has no room above the box shall not slide over the box's edge.
    if y0 < height:
        corners = corners[[1, 4, 3, 5, 6, 7, 0, 2]]
    corners = np.clip(corners, 0, np.maximum((canvas[0] - width, canvas[1] - height), 0))
    low = np.maximum(corners[:, None], taken[:, :2])
    high = np.minimum(corners[:, None] + (width, height), taken[:, 2:])
    covered = np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
    left, top = corners[covered.argmin()].tolist()
    return _Plate(text, left, top, width, caption.colour)


def _fitting(caption: Caption, size: int, room: int) -> str:
    """Name and score, with an ellipsis for the end of a name that is wider than ``room`` pixels."""
    name, score = printable(caption.name), f" {caption.score}" if caption.score else ""
    if text_width(name + score, size) <= room:
        return name + score
    fits, too_long = 0, len(name)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if text_width(f"{name[:middle]}…{score}", size) <= room:
            fits = middle
        else:
            too_long = middle
    return f"{name[:fits]}…{score}"


def printable(text: str) -> str:
    """The text on one line, with marks for what can't be drawn."""
    # OpenCV breaks lines by itself, and a lone surrogate, which JSON may hold, ends the whole process.
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def text_width(text: str, size: int) -> int:
    """The width in pixels of a `printable` text of ``size`` pixels."""
    return cv2.getTextSize((0, 0), text, (0, 0), _font(), size, _WEIGHT)[2]


def write_text(canvas: np.ndarray, text: str, place: tuple[int, int], colour: Colour, size: int) -> None:
    """Write a `printable` text from ``place``, the left end of its base line, on."""
    cv2.putText(canvas, text, place, colour, _font(), size, _WEIGHT)


def _draw(canvas: np.ndarray, plate: _Plate, size: int) -> None:
    bottom = plate.top + _plate_height(size)
    cv2.rectangle(
        canvas, (plate.left, plate.top), (plate.left + plate.width - 1, bottom - 1), plate.colour, cv2.FILLED
    )
    baseline = (plate.left + _margin(size), bottom - round(0.33 * size))
    write_text(canvas, plate.text, baseline, ink_colour(plate.colour), size)


# Between regular and bold.
_WEIGHT = 500


@functools.cache
def _font() -> cv2.FontFace:
    # OpenCV's own: Latin, Greek, Cyrillic, Arabic, Chinese and more, the same on every machine.
    return cv2.FontFace("sans")
