"""Run a detector that tools/export.py wrote as ONNX, with onnxruntime and OpenCV alone.

    python docs/run_onnx.py model_final_inference.onnx a.jpg b.jpg

A pattern to copy. labelenc scales a little differently (antialiased bilinear), so scores may differ slightly.
"""

import json
import math
import sys

import cv2
import numpy as np
import onnxruntime


def detect(session, picture):
    """Boxes (n, 4) in pixels of the uint8 (H, W, 3) BGR picture, scores (n,) and class names, best first."""
    texts = session.get_modelmeta().custom_metadata_map
    keys = ("class_names", "min_size", "max_size", "size_divisor", "batch", "height", "width")
    names, min_size, max_size, step, batch, fixed_height, fixed_width = (
        json.loads(texts[key]) for key in keys
    )

    height, width = picture.shape[:2]
    scale = min(min_size / min(height, width), max_size / max(height, width))
    scale = min(scale, (fixed_height or math.inf) / height, (fixed_width or math.inf) / width)
    high, wide = max(int(height * scale), 1), max(int(width * scale), 1)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(picture, (wide, high), interpolation=method)

    rows = fixed_height or max(math.ceil(high / step), 2) * step
    columns = fixed_width or max(math.ceil(wide / step), 2) * step
    images = np.zeros((batch or 1, 3, rows, columns), np.uint8)
    images[0, :, :high, :wide] = scaled.transpose(2, 0, 1)
    image_sizes = np.full((len(images), 2), (high, wide), np.int64)

    found = session.run(None, {"images": images, "image_sizes": image_sizes})
    boxes, scores, labels, counts = (output[0] for output in found)
    boxes = boxes[:counts] * np.array([width / wide, height / high] * 2, np.float32)
    return boxes, scores[:counts], [names[label - 1] for label in labels[:counts]]


def main():
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    for file in sys.argv[2:]:
        for box, score, name in zip(*detect(session, cv2.imread(file)), strict=True):
            print(file, name, f"{score:.2f}", box.round(1).tolist())


if __name__ == "__main__":
    main()
