"""What a detector finds in one image, and the forms in which people want it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from labelenc.evaluation import to_coco_results
from labelenc.structures import BoxList
from labelenc.visualization import draw_boxes


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one image, best first, on the CPU.

    Attributes:
        boxes: float32 (N, 4), corners x0, y0, x1, y1 in pixels of the original image. As in training, the
            last column and row belong to a box: it is ``x1 - x0 + 1`` wide.
        scores: float32 (N,), 0..1.
        labels: int64 (N,), 1..C.
        class_names: of the C classes; label ``k`` is ``class_names[k - 1]``.
        category_ids: of the C classes in the annotations that the detector was trained with.
        image: uint8 (H, W, 3), BGR: the original.
        path: the image's file; None where an array was given.
        number: of the image in the call that it was given to, from 1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image: np.ndarray
    path: str | None = None
    number: int = 1

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        width, height = self.image_size
        return f"Detections({len(self)} boxes in {self.path or 'an image'} of {width} x {height} pixels)"

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the original in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.class_names[label - 1] for label in self.labels.tolist()]

    def box_list(self) -> BoxList:
        """The same as a BoxList with the fields ``scores`` and ``labels``."""
        boxes = BoxList(self.boxes, self.image_size)
        boxes.add_field("scores", self.scores)
        boxes.add_field("labels", self.labels)
        return boxes

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        keep = self.scores >= score
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep])

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """Entries ``{image_id, category_id, bbox [x, y, w, h], score}`` of COCO's result format.

        ``image_id`` is the image's in the annotations; None takes ``number``.
        """
        number = self.number if image_id is None else image_id
        return to_coco_results({number: self.box_list()}, self.category_ids)

    def draw(self, score_threshold: float = 0.0, magnify: float = 1.0) -> np.ndarray:
        """A picture of the boxes with names and scores, uint8 (H, W, 3), BGR: ready for ``cv2.imwrite``."""
        return draw_boxes(
            self.image, self.box_list(), self.class_names, score_threshold=score_threshold, magnify=magnify
        )

    def to_supervision(self) -> Any:
        """The same as ``supervision.Detections``; its ``class_id`` counts from 0, ``data["class_name"]`` has
        the names, and its ``xyxy`` are `boxes` as they are, with inclusive corners.

        Raises:
            ImportError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision needs a further package: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy() - 1,
            data={"class_name": np.array(self.names, dtype=str)},
        )


def from_box_list(
    found: BoxList,
    categories: Sequence[tuple[int, str]],
    image: np.ndarray,
    path: str | None,
    number: int = 1,
) -> Detections:
    """Detections from a BoxList in the pixels of ``image``; ``categories`` are (category id, name)."""
    found = found.to("cpu").convert("xyxy")
    return Detections(
        boxes=found.bbox,
        scores=found.get_field("scores"),
        labels=found.get_field("labels"),
        class_names=tuple(name for _, name in categories),
        category_ids=tuple(category_id for category_id, _ in categories),
        image=image,
        path=path,
        number=number,
    )
