"""The annotations of a data set in flat arrays, and what can be wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DROPPED = "dropped"
CLIPPED = "clipped"
STOPS = "stops training"


@dataclass(frozen=True)
class Problem:
    """One fault of a data set and what is done about it; `str()` gives one line."""

    dataset: str
    kind: str
    action: str
    file: str
    detail: str = ""
    image_id: int | None = None
    annotation_id: int | None = None

    def __str__(self) -> str:
        ids = [f"image {self.image_id}"] if self.image_id is not None else []
        ids += [f"annotation {self.annotation_id}"] if self.annotation_id is not None else []
        what = f"{self.kind} ({self.detail})" if self.detail else self.kind
        where = f"{self.file}, {', '.join(ids)}" if ids else self.file
        return f"{self.dataset}: {where}: {what}; {self.action}"


class DataError(ValueError):
    """Data that nothing can go on with; `problems` holds the single faults where there are several."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def from_problems(cls, problems: Sequence[Problem], show: int = 5) -> DataError:
        """One error that lists the first `show` problems and counts the rest by kind."""
        counts = Counter((p.dataset, p.kind) for p in problems)
        total = ", ".join(f"{n} x {kind} in {dataset}" for (dataset, kind), n in counts.items())
        lines = "\n".join(f"  {p}" for p in problems[:show])
        rest = f"\n  ... and {len(problems) - show} more" if len(problems) > show else ""
        return cls(
            f"the data cannot be used as it is: {total}. Mend the files and start again.\n{lines}{rest}",
            problems,
        )


@dataclass(frozen=True, eq=False)
class Annotations:
    """The checked contents of one set, images in the order of ascending id.

    Image `i` has the boxes `offsets[i]:offsets[i + 1]` of `boxes` and `labels`: usable boxes only, neither
    crowd nor faulty ones.

    Attributes:
        categories: (category id, name) in label order; label `k` (from 1) is `categories[k - 1]`.
        image_ids: int64 (M,).
        sizes: int32 (M, 2), width and height in pixels as the annotations state them.
        file_names: bytes (M,), relative to the image folder, UTF-8.
        boxes: float32 (K, 4), xyxy in pixels with inclusive corners, within the image.
        labels: int32 (K,), 1..C.
        offsets: int64 (M + 1,).
        num_crowd: crowd boxes set aside.
        annotated: False where the file has no annotations at all, as test sets.
    """

    dataset: str
    source: str
    categories: tuple[tuple[int, str], ...]
    image_ids: np.ndarray
    sizes: np.ndarray
    file_names: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    num_crowd: int
    annotated: bool
    problems: tuple[Problem, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    def file_name(self, index: int) -> str:
        return self.file_names[index].decode()

    def require_sound(self) -> Annotations:
        """Return self, or raise a DataError where a fault stops training."""
        stopping = [p for p in self.problems if p.action == STOPS]
        if stopping:
            raise DataError.from_problems(stopping)
        return self
