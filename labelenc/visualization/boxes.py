"""Boxes drawn into images, with one colour per class that never changes."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from labelenc.structures import BoxList

# Successive multiples of the golden ratio spread hues evenly for any number of classes.
_HUE_STEP = (5**0.5 - 1) / 2
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_colour(label: int) -> tuple[int, int, int]:
    """The (blue, green, red) colour, 0..255, of a label >= 1; it depends on the label alone."""
    index = label - 1
    # Neighbouring hues of long class lists are told apart by saturation and brightness too.
    saturation = (0.85, 0.6)[index // 8 % 2]
    value = (0.95, 0.7)[index // 16 % 2]
    red, green, blue = colorsys.hsv_to_rgb(index * _HUE_STEP % 1.0, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def draw_boxes(
    image: np.ndarray,
    boxes: BoxList,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.0,
    max_boxes: int | None = None,
    magnify: float = 1.0,
    show_labels: bool = True,
) -> np.ndarray:
    """Draw boxes with class names, and scores where there are any.

    Args:
        image: uint8 (H, W, 3) in BGR order; it is not changed.
        boxes: in the pixels of ``image`` with field ``labels`` (1..C) and perhaps ``scores``.
        class_names: C names in label order; a label beyond them is written as its number.
        score_threshold: boxes with lower scores are left out; boxes without scores are all drawn.
        max_boxes: draw only this many, the highest scores; None draws all.
        magnify: enlarge the picture by this factor first, so that labels on small images can be read.
        show_labels: False draws the frames only.

    Returns:
        A new uint8 image (round(H * magnify), round(W * magnify), 3). Lower scores are drawn first, so the
        most certain boxes lie on top.

    Raises:
        ValueError: the image is not uint8 (H, W, 3).
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"draw_boxes takes a uint8 (H, W, 3) image, got {image.dtype} {image.shape}")
    size = (round(image.shape[1] * magnify), round(image.shape[0] * magnify))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) if magnify != 1 else image.copy()
    boxes = _chosen(boxes, score_threshold, max_boxes)
    corners = (boxes.convert("xyxy").bbox.detach().cpu().double() * magnify).numpy()
    scores = boxes.get_field("scores").tolist() if boxes.has_field("scores") else None
    thickness = max(1, round(min(size) / 200))
    captions = []
    for i, label in enumerate(boxes.get_field("labels").tolist()):
        if not np.isfinite(corners[i]).all():
            continue
        # Far outside coordinates would overflow OpenCV's fixed-point numbers.
        x0, y0, x1, y1 = (round(value) for value in np.clip(corners[i], -2 * thickness, 2 * max(size)))
        cv2.rectangle(canvas, (x0, y0), (x1, y1), class_colour(label), thickness)
        text = class_names[label - 1] if 1 <= label <= len(class_names) else str(label)
        captions.append((text if scores is None else f"{text} {100 * scores[i]:.0f}", (x0, y0), label))
    if show_labels:
        # After all frames, so that no frame crosses a text.
        for text, corner, label in captions:
            _draw_label(canvas, text, corner, class_colour(label))
    return canvas


def _chosen(boxes: BoxList, score_threshold: float, max_boxes: int | None) -> BoxList:
    if not boxes.has_field("scores"):
        return boxes[:max_boxes]
    scores = boxes.get_field("scores")
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= score_threshold][:max_boxes]
    return boxes[order.flip(0)]


def _draw_label(canvas: np.ndarray, text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    height, width = canvas.shape[:2]
    scale = min(max(min(height, width) / 900, 0.4), 1.2)
    stroke = 1 if scale < 0.8 else 2
    # OpenCV's built-in fonts draw ASCII only.
    text = text.encode("ascii", "replace").decode()
    (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, scale, stroke)
    plate_width, plate_height = text_width + 4, text_height + baseline + 2
    # Above the box where there is room, else inside it; never cut off by the border.
    left = max(0, min(corner[0], width - plate_width))
    top = corner[1] - plate_height if corner[1] >= plate_height else max(0, corner[1])
    top = max(0, min(top, height - plate_height))
    cv2.rectangle(canvas, (left, top), (left + plate_width, top + plate_height), colour, cv2.FILLED)
    blue, green, red = colour
    bright = 0.114 * blue + 0.587 * green + 0.299 * red > 140
    ink = (0, 0, 0) if bright else (255, 255, 255)
    place = (left + 2, top + text_height + 1)
    cv2.putText(canvas, text, place, _FONT, scale, ink, stroke, cv2.LINE_AA)
