"""Sizes and EXIF orientations of image files, read from their headers without decoding pixels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_ORIENTATION = 0x0112

# How normalised corners (u, v) of the picture as it is shown become (x, y) of the stored pixels, by EXIF
# orientation: whether u and v change places, then which of x and y is counted from the other side.
_TO_STORED = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True)
class Header:
    """Width and height of the pixels that `coco.decode_image` gives; their EXIF orientation, 1 to 8."""

    width: int
    height: int
    orientation: int = 1

    @property
    def sideways(self) -> bool:
        """Viewers that obey the orientation show width and height exchanged."""
        return self.orientation >= 5


def read_header(path: str | Path) -> Header:
    """Read an image file's header.

    Raises:
        OSError: the file is missing, or no image that Pillow knows.
        ValueError: its header is damaged, or states an absurd size.
    """
    with warnings.catch_warnings():
        # Nothing is decoded, so a large picture costs nothing.
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                width, height = image.size
                return Header(width, height, _orientation(image))
        except (Image.DecompressionBombError, SyntaxError, TypeError, OverflowError) as error:
            raise ValueError(str(error)) from error


def _orientation(image: Image.Image) -> int:
    # OpenCV, which decodes for training, and Pillow turn TIFF images upright whatever they are asked for.
    if image.format == "TIFF":
        return 1
    # For a PNG file without EXIF in front, getexif() would decode all pixels to look behind them.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    # Damaged EXIF raises nearly anything; such pictures are shown as they are stored.
    except Exception:
        return 1
    return value if value in _TO_STORED else 1


def to_stored(boxes: np.ndarray, orientation: int) -> np.ndarray:
    """Boxes of the picture as it is shown, in the coordinates of the stored pixels.

    Args:
        boxes: float (K, 4), xyxy, each coordinate divided by width or height of the shown picture.
        orientation: of `Header`.

    Returns:
        float (K, 4), xyxy, divided by width or height of the stored picture.
    """
    exchanged, from_right, from_below = _TO_STORED[orientation]
    x, y = boxes[:, [0, 2]], boxes[:, [1, 3]]
    if exchanged:
        x, y = y, x
    if from_right:
        x = 1 - x[:, ::-1]
    if from_below:
        y = 1 - y[:, ::-1]
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
