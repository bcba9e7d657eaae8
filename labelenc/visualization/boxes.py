"""Boxes drawn into images, with one colour per class that never changes."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from labelenc.structures import BoxList
from labelenc.visualization.captions import Caption, draw_captions

# Successive multiples of the golden ratio spread hues evenly for any number of classes.
_HUE_STEP = (5**0.5 - 1) / 2


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
    thickness = max(1, round(min(size) / 300 + 0.5))
    captions = []
    for i, label in enumerate(boxes.get_field("labels").tolist()):
        if not np.isfinite(corners[i]).all():
            continue
        # Far outside coordinates would overflow OpenCV's fixed-point numbers.
        x0, y0, x1, y1 = (round(value) for value in np.clip(corners[i], -2 * thickness, 2 * max(size)))
        cv2.rectangle(canvas, (x0, y0), (x1, y1), class_colour(label), thickness)
        name = class_names[label - 1] if 1 <= label <= len(class_names) else str(label)
        score = "" if scores is None else f"{100 * scores[i]:.0f}"
        half = thickness // 2
        captions.append(
            Caption(name, score, (x0 - half, y0 - half, x1 + half, y1 + half), class_colour(label))
        )
    if show_labels:
        # After all frames, so that no frame crosses a text.
        draw_captions(canvas, captions)
    return canvas


def _chosen(boxes: BoxList, score_threshold: float, max_boxes: int | None) -> BoxList:
    if not boxes.has_field("scores"):
        return boxes[:max_boxes]
    scores = boxes.get_field("scores")
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= score_threshold][:max_boxes]
    return boxes[order.flip(0)]
