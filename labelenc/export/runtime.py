"""Exported files at work: what anybody who runs them has to do around them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelenc.data import Transform
from labelenc.data.transforms import resized_size
from labelenc.export.errors import ExportError
from labelenc.export.formats import require_onnx
from labelenc.export.interface import EXTRA_FILE, INPUTS, from_texts
from labelenc.export.postprocess import Detections as Outputs
from labelenc.prediction import Detections
from labelenc.prediction.detections import from_box_list
from labelenc.prediction.predictor import Picture, read_picture
from labelenc.structures import BoxList, ImageBatch

Run = Callable[[Tensor, Tensor], Sequence[Tensor]]


class ExportedDetector:
    """A ``.onnx`` file run by onnxruntime, or a ``.pt2`` file run by PyTorch, on the CPU.

    ``interface`` is what the file says about itself, see `interface.describe_interface`. The scaling is
    labelenc's (antialiased bilinear). Others do nearly as well; detections then differ by a little.

    Raises:
        ExportError: the file is of another kind or cannot be run.
    """

    def __init__(self, path: str | Path) -> None:
        openers: dict[str, Callable[[Path], tuple[dict[str, Any], Run]]] = {
            ".onnx": _open_onnx,
            ".pt2": _open_pt2,
        }
        suffix = Path(path).suffix
        if suffix not in openers:
            raise ExportError(f"{path} is neither .onnx nor .pt2; labelenc.load_detector reads slim files")
        self.interface, self._run = openers[suffix](Path(path))
        self.categories = tuple(
            zip(self.interface["category_ids"], self.interface["class_names"], strict=True)
        )

    def predict(self, images: Iterable[Picture]) -> list[Detections]:
        """Detections of paths or uint8 arrays (H, W, 3), BGR, one image at a time, in their pixels."""
        results = []
        for image in images:
            picture = read_picture(image)
            [found] = self.run(self.batch([picture]))
            found = found.resize((picture.shape[1], picture.shape[0]))
            path = None if isinstance(image, np.ndarray) else str(image)
            results.append(from_box_list(found, self.categories, picture, path))
        return results

    def batch(self, pictures: Sequence[np.ndarray]) -> ImageBatch:
        """The input that pictures, uint8 (H, W, 3), BGR, make together: scaled, padded, uint8 BGR.

        With a fixed batch of more images than there are, blank ones follow.
        """
        limits = self.interface
        step, count = limits["size_divisor"], limits["batch"] or len(pictures)
        blank = torch.zeros(3, limits["height"] or 2 * step, limits["width"] or 2 * step, dtype=torch.uint8)
        scaled = [self._scaled(picture) for picture in pictures]
        filled = [*scaled, *[blank] * (count - len(scaled))]
        # The last one makes the batch as large as it has to be, and goes again.
        padded = ImageBatch.from_tensors([*filled, blank], step)
        return ImageBatch(padded.tensors[:-1], padded.image_sizes[:-1])

    def _scaled(self, picture: np.ndarray) -> Tensor:
        limits = self.interface
        height, width = picture.shape[:2]
        short, longest = limits["min_size"], limits["max_size"]
        wide, high = resized_size(width, height, short, longest)
        shrink = min((limits["height"] or high) / high, (limits["width"] or wide) / wide)
        if shrink < 1:
            short = max(int(min(wide, high) * shrink), 1)
        transform = Transform((short,), longest, bgr=True)
        pixels = torch.from_numpy(picture).permute(2, 0, 1)
        return transform(pixels, BoxList(torch.zeros(0, 4), (width, height)), None)[0]

    def run(self, images: ImageBatch) -> list[BoxList]:
        """Detections of each image of a batch, in its pixels, with ``scores`` and ``labels``."""
        outputs = Outputs(*self._run(images.tensors, torch.tensor(images.image_sizes)))
        found = []
        for index, (height, width) in enumerate(images.image_sizes):
            rows = slice(int(outputs.counts[index]))
            boxes = BoxList(outputs.boxes[index][rows], (width, height))
            boxes.add_field("scores", outputs.scores[index][rows])
            boxes.add_field("labels", outputs.labels[index][rows])
            found.append(boxes)
        return found


def _open_onnx(path: Path) -> tuple[dict[str, Any], Run]:
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # Its errors have no common class of their own.
    except Exception as error:
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} cannot run {path.name}: {str(error).strip()}"
        ) from error

    def run(images: Tensor, image_sizes: Tensor) -> list[Tensor]:
        feeds = zip(INPUTS, (images.numpy(), image_sizes.numpy()), strict=True)
        return [torch.from_numpy(np.asarray(output)) for output in session.run(None, dict(feeds))]

    return from_texts(session.get_modelmeta().custom_metadata_map), run


def _open_pt2(path: Path) -> tuple[dict[str, Any], Run]:
    extra = {EXTRA_FILE: ""}
    try:
        module = torch.export.load(path, extra_files=extra).module()
    except Exception as error:
        raise ExportError(f"PyTorch {torch.__version__} cannot load {path.name}: {error}") from error
    return json.loads(extra[EXTRA_FILE]), torch.no_grad()(module)
