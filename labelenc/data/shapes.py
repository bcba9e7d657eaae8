"""`shapes`: a generated detection set in COCO format, for demonstrations and tests without a download.

Ten kinds of shapes of varied size, rotation, proportion, colour and texture overlap each other on textured
backgrounds, among lines, blobs and letters that are no objects. Everything follows from the seed.
"""

from __future__ import annotations

import json
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from labelenc.data.annotations import DataError

logger = logging.getLogger(__name__)

_GENERATOR = "labelenc shapes 1"
_MIN_VISIBLE = 0.4
_SUBPIXEL_BITS = 4
_Polygon = np.ndarray


def _regular(corners: int, radius: float = 1.0) -> _Polygon:
    angles = 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _star() -> _Polygon:
    points = _regular(10)
    points[1::2] *= 0.42
    return points


def _heart() -> _Polygon:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], axis=1) / 17


_CROSS = [(-1, -0.3), (-0.3, -0.3), (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3)]
_ARROW = [(0, -1), (0.8, -0.1), (0.3, -0.1), (0.3, 1), (-0.3, 1), (-0.3, -0.1), (-0.8, -0.1)]

# Name -> outline and hole, within the unit circle (about), y downwards.
_SHAPES: dict[str, tuple[_Polygon, _Polygon | None]] = {
    "circle": (_regular(40), None),
    "square": (_regular(4), None),
    "triangle": (_regular(3), None),
    "star": (_star(), None),
    "cross": (np.array(_CROSS + [(-x, -y) for x, y in _CROSS]), None),
    "ring": (_regular(40), _regular(40, 0.55)),
    "pentagon": (_regular(5), None),
    "crescent": (_regular(40), _regular(40, 0.85) + np.array([0.45, 0.0])),
    "heart": (_heart(), None),
    "arrow": (np.array(_ARROW, dtype=float), None),
}
SHAPE_NAMES = tuple(_SHAPES)


def generate_shapes(root: str, split: str, num_images: int, size: int, seed: int) -> str:
    """Write `<root>/<split>/*.jpg` and `<root>/<split>.json` (COCO format).

    The same arguments give the same images; an image depends on seed, split, size and its number only. The
    JSON comes last and in one step, so an interrupted run leaves none; a complete set made with the same
    arguments stays as it is.

    Args:
        root: folder, made where it is missing.
        split: name of the part; parts with different names share no image.
        num_images: how many.
        size: height and width in pixels.
        seed: any integer >= 0.

    Returns:
        Path of the JSON file. An object's box is tight around its visible pixels, at least 40% of the whole.

    Raises:
        DataError: the place holds a file that is not a generated set, or cannot be written to.
    """
    path, folder = Path(root, split + ".json"), Path(root, split)
    info = {"description": _GENERATOR, "split": split, "num_images": num_images, "size": size, "seed": seed}
    if _is_complete(path, folder, info):
        return str(path)
    logger.info("drawing %d images of shapes into %s", num_images, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write the shapes data set to {root}: {error}") from error
    data = {"info": info, **_draw_images(folder, split, num_images, size, seed)}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(data), encoding="utf-8")
    unfinished.replace(path)
    return str(path)


def _draw_images(folder: Path, split: str, num_images: int, size: int, seed: int) -> dict[str, Any]:
    """Write the images; returns their COCO dictionary."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, num_images + 1):
        pixels, objects = draw_image(size, _generator(seed, split, number))
        file_name = f"{number:06d}.jpg"
        if not cv2.imwrite(str(folder / file_name), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92]):
            raise DataError(f"cannot write {folder / file_name!s}; is the disk full or the folder read-only?")
        images.append({"id": number, "file_name": file_name, "width": size, "height": size})
        for label, box, area in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(SHAPE_NAMES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _is_complete(path: Path, folder: Path, info: dict[str, Any]) -> bool:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found, names = data["info"], {image["file_name"] for image in data["images"]}
        ours = found["description"].startswith("labelenc shapes")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        ours = False
    if not ours:
        raise DataError(
            f"{path} exists and is not a generated shapes set; choose another folder or remove it"
        )
    return found == info and folder.is_dir() and names <= {file.name for file in folder.iterdir()}


def _generator(seed: int, split: str, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(split.encode()), number]))


@dataclass
class _Canvas:
    """An image in the making; `owner` holds the number of the object that each pixel shows, -1 for none."""

    pixels: np.ndarray
    owner: np.ndarray
    labels: list[int]
    areas: list[int]


def draw_image(size: int, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, list[int], int]]]:
    """Draw one image.

    Returns:
        uint8 (size, size, 3), BGR, and for each object its label (from 1), box [x, y, w, h] around its
        visible pixels, and their number.
    """
    background = _texture(size, rng, rng.uniform(20, 235, 3), spread=rng.uniform(10, 60))
    canvas = _Canvas(background, np.full((size, size), -1, dtype=np.int16), [], [])
    _clutter(canvas.pixels, rng, int(rng.integers(2, 9)))
    wanted = int(rng.integers(1, 7))
    for _ in range(4 * wanted):
        if len(canvas.labels) == wanted:
            break
        _add_object(canvas, size, rng)
    _clutter(canvas.pixels, rng, int(rng.integers(0, 3)), thin=True)
    pixels = canvas.pixels
    if rng.random() < 0.4:
        pixels = cv2.GaussianBlur(pixels, (3, 3), 0)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(2, 16)
    pixels = np.clip(pixels * rng.uniform(0.75, 1.2) + noise, 0, 255).astype(np.uint8)
    objects = []
    for number, label in enumerate(canvas.labels):
        visible = (canvas.owner == number).astype(np.uint8)
        objects.append((label, list(map(int, cv2.boundingRect(visible))), int(visible.sum())))
    return pixels, objects


def _add_object(canvas: _Canvas, size: int, rng: np.random.Generator) -> None:
    """Draw one object over the others, unless that would hide too much of one of them."""
    label = int(rng.integers(len(SHAPE_NAMES)))
    radius = size * np.exp(rng.uniform(np.log(0.07), np.log(0.28)))
    mask = _mask(SHAPE_NAMES[label], size, radius, rng).astype(bool)
    area = int(mask.sum())
    if area < 20:
        return
    owner = np.where(mask, len(canvas.labels), canvas.owner)
    visible = np.bincount(owner[owner >= 0].ravel(), minlength=len(canvas.labels))
    if any(visible[i] < _MIN_VISIBLE * whole for i, whole in enumerate(canvas.areas)):
        return
    canvas.owner = owner
    canvas.labels.append(label + 1)
    canvas.areas.append(area)
    around = canvas.pixels[mask].mean(axis=0)
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - around).max() < 70:
        colour = rng.uniform(0, 255, 3)
    # A low contrast within the object keeps its texture from hiding its outline.
    canvas.pixels[mask] = _texture(size, rng, colour, spread=rng.uniform(0, 50))[mask]
    if rng.random() < 0.4:
        inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        canvas.pixels[mask & ~inner] = rng.uniform(0, 255, 3)


def _mask(name: str, size: int, radius: float, rng: np.random.Generator) -> np.ndarray:
    """uint8 (size, size), 1 where a randomly placed, turned and stretched shape is."""
    angle, stretch = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(-0.3, 0.3, 2))
    centre = rng.uniform(0.7 * radius, size - 1 - 0.7 * radius, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    mask = np.zeros((size, size), dtype=np.uint8)
    for polygon, value in zip(_SHAPES[name], (1, 0), strict=True):
        if polygon is not None:
            points = (polygon * stretch * radius) @ turn + centre
            fixed = np.round(points * 2**_SUBPIXEL_BITS).astype(np.int32)
            cv2.fillPoly(mask, [fixed], value, shift=_SUBPIXEL_BITS)
    return mask


def _texture(size: int, rng: np.random.Generator, colour: np.ndarray, spread: float) -> np.ndarray:
    """uint8 (size, size, 3): plain, stripes, checks, blotches or a gradient, `spread` around a colour."""
    kind = int(rng.integers(5))
    angle, period = rng.uniform(0, np.pi), size * rng.uniform(0.03, 0.12)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    if kind == 0:
        pattern: np.ndarray = np.zeros((size, size))
    elif kind == 1:
        pattern = np.sign(np.sin(2 * np.pi * along / period))
    elif kind == 2:
        pattern = np.sign(np.sin(np.pi * along / period) * np.sin(np.pi * across / period))
    elif kind == 3:
        cells = int(rng.integers(4, 17))
        blotches = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        pattern = cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC)
    else:
        pattern = 2 * (along - along.min()) / max(float(np.ptp(along)), 1.0) - 1
    tint = rng.uniform(-1, 1, 3)
    return np.clip(colour + spread * pattern[..., None] * tint, 0, 255).astype(np.uint8)


def _clutter(pixels: np.ndarray, rng: np.random.Generator, count: int, thin: bool = False) -> None:
    """Draw `count` things that are no objects; `thin` ones are lines only, as they lie over the objects."""
    size = pixels.shape[0]
    for _ in range(count):
        colour = tuple(rng.uniform(0, 255, 3).tolist())
        one, other = (tuple(int(v) for v in rng.integers(0, size, 2)) for _ in range(2))
        kind = 0 if thin else int(rng.integers(3))
        if kind == 0:
            cv2.line(pixels, one, other, colour, 1 if thin else int(rng.integers(1, 4)), cv2.LINE_AA)
        elif kind == 1:
            axes = tuple(int(v) for v in rng.integers(1, max(size // 24, 2), 2))
            cv2.ellipse(pixels, one, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        else:
            letter, scale = chr(int(rng.integers(65, 91))), size / 128 * rng.uniform(0.4, 1.2)
            cv2.putText(pixels, letter, one, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
