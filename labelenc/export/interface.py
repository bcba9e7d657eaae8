"""What users of an exported file must know; it goes into the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from labelenc import __version__
from labelenc.config import detector_kind
from labelenc.export.program import Layout

# The name of the description among the extra files of a .pt2 archive.
EXTRA_FILE = "labelenc.json"
INPUTS = ("images", "image_sizes")
OUTPUTS = ("boxes", "scores", "labels", "counts")
TEXT = """\
Inputs
  images       uint8 (N, 3, H, W): pixels 0..255 in BGR order, as OpenCV reads them. Scale each picture so
               that its shorter side is min_size, or less, so that the longer one is at most max_size; put it
               into the upper left corner. What is right of it and below does not matter. H and W are
               multiples of size_divisor, and at least twice that. Normalisation is inside.
  image_sizes  int64 (N, 2): height and width of each scaled picture, without padding.
Outputs, best first, filled up with zeros to K places
  boxes        float32 (N, K, 4): x0, y0, x1, y1 in pixels of the scaled picture; divide by its scale (width
               and height apart). Corners are inclusive: a box is x1 - x0 + 1 wide.
  scores       float32 (N, K)
  labels       int64 (N, K): label k is class_names[k - 1], and category_ids[k - 1] in COCO's result format.
  counts       int64 (N,): how many of the K places are detections.
"""


def describe_interface(
    cfg: CfgNode, categories: Sequence[tuple[int, str]], layout: Layout, score_threshold: float
) -> dict[str, Any]:
    """Plain values: classes, how inputs are made, which sizes are fixed (None: free), and the version."""
    return {
        "labelenc_version": __version__,
        "detector": detector_kind(cfg),
        "class_names": [name for _, name in categories],
        "category_ids": [category_id for category_id, _ in categories],
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "size_divisor": layout.divisor,
        "batch": layout.batch,
        "height": layout.height,
        "width": layout.width,
        "score_threshold": score_threshold,
        "interface": TEXT,
    }


def as_texts(interface: Mapping[str, Any]) -> dict[str, str]:
    """The form of ONNX's metadata, which is text: texts as they are, all else as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in interface.items()}


def from_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The inverse of `as_texts`."""
    plain = ("labelenc_version", "detector", "interface")
    return {key: value if key in plain else json.loads(value) for key, value in texts.items()}
