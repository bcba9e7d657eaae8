"""LabelEnc made visible: strips of pictures of one image's labels, encodings, features and their distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from labelenc.structures import BoxList
from labelenc.visualization.boxes import class_colour, draw_boxes
from labelenc.visualization.captions import printable, text_width, write_text
from labelenc.visualization.encodings import label_map_image

WIDTH, COLUMNS = 1100, 3
MAX_HEIGHT = 320
_GAP = 16
_CELL = (WIDTH - _GAP * (COLUMNS - 1)) // COLUMNS
_LINE, _FOOT = 26, 42
_TITLE_SIZE, _CAPTION_SIZE, _SMALL_SIZE = 17, 14, 13
_LEGEND_LINE, _INK, _FRAME = 16, (30, 30, 30), (200, 200, 200)
# Of two unrelated maps of unit variance the distance is 2; double that is rarely passed.
_FARTHEST, _TICKS = 4.0, (0.0, 0.25, 1.0, 4.0)
# Names of many small boxes would hide the image.
_MANY_BOXES = 8


@dataclass(frozen=True)
class Scene:
    """An image as the network sees it, and what is in it.

    ``pixels`` are uint8 (H, W, 3) in BGR order without padding, ``boxes`` in these pixels; ``padded`` is the
    (width, height) of the batch tensor, which label maps and features cover.
    """

    pixels: np.ndarray
    boxes: BoxList
    padded: tuple[int, int]

    @property
    def scale(self) -> float:
        """Pixels of a panel for one of the image."""
        height, width = self.pixels.shape[:2]
        return min(_CELL / width, MAX_HEIGHT / height)

    @property
    def panel_size(self) -> tuple[int, int]:
        height, width = self.pixels.shape[:2]
        return max(1, round(width * self.scale)), max(1, round(height * self.scale))


@dataclass(frozen=True)
class Panel:
    """A picture of a strip, uint8 (h, w, 3) in BGR order, and the line below it.

    After the caption come the colours of the classes of ``legend``, (name, label), or of distances.
    """

    picture: np.ndarray
    caption: str
    legend: Sequence[tuple[str, int]] = ()
    with_distance_bar: bool = False


def boxes_panel(scene: Scene, boxes: BoxList, class_names: Sequence[str], caption: str) -> Panel:
    """The image with ``boxes`` in its pixels, which may have scores."""
    small = cv2.resize(scene.pixels, scene.panel_size, interpolation=_interpolation(scene.scale))
    boxes = boxes.resize(scene.panel_size)
    picture = draw_boxes(small, boxes, class_names, show_labels=len(boxes) <= _MANY_BOXES)
    return Panel(picture, caption)


def label_map_panel(
    scene: Scene, label_map: Tensor, labels: Sequence[int], class_names: Sequence[str], caption: str
) -> Panel:
    """The label map of the padded image; (P, H, W) with the channels of the classes ``labels``."""
    legend = [(class_names[label - 1], label) for label in labels]
    return Panel(_aligned(scene, label_map_image(label_map, labels)), caption, legend)


def map_panel(scene: Scene, colours: np.ndarray, caption: str) -> Panel:
    """A map of a pyramid level, uint8 (h, w, 3) in BGR order, with the frames of the scene's boxes."""
    return Panel(_with_frames(scene, _aligned(scene, colours)), caption)


def distance_panel(scene: Scene, distance: Tensor, caption: str) -> Panel:
    """What each position (h, w) of a level contributes to the distance, 0 to 4, in colours of its root.

    What is no number is drawn as 4.
    """
    values = distance.detach().cpu().float().nan_to_num(nan=_FARTHEST).clamp(0, _FARTHEST).numpy()
    picture = _with_frames(scene, _aligned(scene, _heat(values)))
    return Panel(picture, caption, with_distance_bar=True)


def strip(title: str, panels: Sequence[Panel]) -> np.ndarray:
    """At most three panels side by side under a title; uint8 (h, 1100, 3) in BGR order."""
    height = max(panel.picture.shape[0] for panel in panels)
    canvas = np.full((_LINE + height + _FOOT, WIDTH, 3), 255, np.uint8)
    _write(canvas, title, (0, _LINE - 8), _TITLE_SIZE)
    for number, panel in enumerate(panels):
        left = number * (_CELL + _GAP)
        rows, columns = panel.picture.shape[:2]
        canvas[_LINE : _LINE + rows, left : left + columns] = panel.picture
        cv2.rectangle(canvas, (left, _LINE), (left + columns - 1, _LINE + rows - 1), _FRAME, 1)
        base = _LINE + height + 17
        end = _write(canvas, panel.caption, (left, base), _CAPTION_SIZE)
        _draw_legend(canvas, panel.legend, (end + 14, base), left + _CELL)
        if panel.with_distance_bar:
            _draw_bar(canvas, end + 14, left + _CELL - 18, base)
    return canvas


def _interpolation(scale: float) -> int:
    return cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR


def _aligned(scene: Scene, picture: np.ndarray) -> np.ndarray:
    """A map of the padded image at the size of a panel, without the padding; its cells stay visible."""
    width, height = (max(1, round(side * scene.scale)) for side in scene.padded)
    shrinks = picture.shape[0] > height
    enlarged = cv2.resize(
        picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    )
    columns, rows = scene.panel_size
    return enlarged[:rows, :columns]


def _with_frames(scene: Scene, picture: np.ndarray) -> np.ndarray:
    framed = np.ascontiguousarray(picture)
    corners = scene.boxes.resize(scene.panel_size).convert("xyxy").bbox.cpu().numpy()
    for x0, y0, x1, y1 in corners.round().astype(int).tolist():
        cv2.rectangle(framed, (x0, y0), (x1, y1), (255, 255, 255), 1)
    return framed


def _heat(values: np.ndarray) -> np.ndarray:
    levels = np.rint(255 * np.sqrt(values / _FARTHEST)).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)


def _write(canvas: np.ndarray, text: str, place: tuple[int, int], size: int) -> int:
    """Write from ``place`` (left end of the base line) on; the column where the text ends."""
    text = printable(text)
    write_text(canvas, text, place, _INK, size)
    return place[0] + text_width(text, size)


def _draw_legend(
    canvas: np.ndarray, legend: Sequence[tuple[str, int]], place: tuple[int, int], right: int
) -> None:
    """Colours and names of classes, as many as there is room for on two lines."""
    start, base = place
    x, last = start, base + _LEGEND_LINE
    for name, label in legend:
        width = 14 + text_width(printable(name), _SMALL_SIZE)
        if x + width > right and base < last:
            x, base = start, last
        if x + width > right:
            _write(canvas, "…", (min(x, right - 12), base), _SMALL_SIZE)
            return
        cv2.rectangle(canvas, (x, base - 9), (x + 9, base), class_colour(label), cv2.FILLED)
        x = _write(canvas, name, (x + 14, base), _SMALL_SIZE) + 12


def _draw_bar(canvas: np.ndarray, left: int, right: int, base: int) -> None:
    """The colours of the distances from 0 to 4, with numbers under them."""
    shown = _FARTHEST * np.linspace(0, 1, right - left, dtype=np.float32)[None] ** 2
    canvas[base - 12 : base - 3, left:right] = _heat(shown)
    for tick in _TICKS:
        x = left + round((right - left - 1) * (tick / _FARTHEST) ** 0.5)
        text = f"{tick:g}" + ("+" if tick == _FARTHEST else "")
        half = text_width(text, _SMALL_SIZE) // 2
        cv2.line(canvas, (x, base - 12), (x, base - 1), _INK, 1)
        _write(canvas, text, (x - half, base + 11), _SMALL_SIZE)
