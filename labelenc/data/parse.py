"""COCO-format annotations read, checked and flattened.

What is wrong with a set is collected as `Problem`s. Structural faults (a key missing, an id that is used
twice or that points nowhere) stop training: a set with them means something other than what it says. Faults
of single boxes only drop the box.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labelenc.data.annotations import CLIPPED, DROPPED, STOPS, Annotations, DataError, Problem

# Boxes are float32, which has all whole numbers up to this one.
MAX_SIDE = 2**24
# COCO rounds coordinates to 0.01, so a box that ends at the border may pass it by that much.
_BORDER_SLACK = 0.05


def _is_id(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_length(value: object) -> bool:
    return type(value) in (int, float) and 0 < value <= MAX_SIDE and value == int(value)  # type: ignore[operator,call-overload]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_file_name(value: object) -> bool:
    try:
        return isinstance(value, str) and value != "" and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _is_box(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 4:
        return False
    kinds = set(map(type, value))
    return kinds == {float} or (kinds <= {int, float} and all(type(v) is float or _is_id(v) for v in value))


_Schema = dict[str, tuple[Callable[[object], bool], str]]
_CATEGORY: _Schema = {"id": (_is_id, "an integer"), "name": (_is_text, "a text")}
_IMAGE: _Schema = {
    "id": (_is_id, "an integer"),
    "file_name": (_is_file_name, "a text that can name a file"),
    "width": (_is_length, f"a positive whole number up to {MAX_SIDE}"),
    "height": (_is_length, f"a positive whole number up to {MAX_SIDE}"),
}
_ANNOTATION: _Schema = {
    "id": (_is_id, "an integer"),
    "image_id": (_is_id, "an integer"),
    "category_id": (_is_id, "an integer"),
    "bbox": (_is_box, "four numbers [x, y, width, height]"),
}


class _Parser:
    """Reads one COCO dictionary and collects what is wrong with it."""

    def __init__(self, data: object, dataset: str, source: str) -> None:
        self.dataset, self.source = dataset, source
        self.problems: list[Problem] = []
        if not isinstance(data, dict):
            raise DataError(
                f"{dataset}: {source}: the top level is a {type(data).__name__}, not a JSON object; "
                "write the file in COCO format"
            )
        self.annotated = "annotations" in data
        for key in ("categories", "images"):
            if key not in data:
                have = ", ".join(map(str, list(data)[:8])) or "nothing"
                raise DataError(
                    f"{dataset}: {source}: the key '{key}' is missing (found: {have}); "
                    "write the file in COCO format"
                )
        self.categories = self._records(data, "categories", "category", _CATEGORY)
        self.images = self._records(data, "images", "image", _IMAGE)
        self.annotations = (
            self._records(data, "annotations", "annotation", _ANNOTATION) if self.annotated else []
        )

    def add(
        self, kind: str, action: str, detail: str = "", image_id: Any = None, annotation_id: Any = None
    ) -> None:
        self.problems.append(
            Problem(self.dataset, kind, action, self.source, detail, image_id, annotation_id)
        )

    def _ids(self, what: str, record: dict) -> dict[str, int | None]:
        """The ids that a problem of this record names, where they are known."""
        image_key, number = {"image": "id", "annotation": "image_id"}.get(what), record.get("id")
        image_id = record.get(image_key) if image_key else None
        return {
            "image_id": image_id if _is_id(image_id) else None,
            "annotation_id": number if what == "annotation" and _is_id(number) else None,
        }

    def _records(self, data: dict, key: str, what: str, schema: _Schema) -> list[dict]:
        """The well-formed records under `key`, each id once; the others become problems."""
        records = data[key]
        if not isinstance(records, list):
            raise DataError(
                f"{self.dataset}: {self.source}: '{key}' is a {type(records).__name__}, not a list"
            )
        sound, seen = [], set()
        for position, record in enumerate(records):
            if not isinstance(record, dict):
                self.add(f"malformed {what}", STOPS, f"{key}[{position}] is no object")
                continue
            bad = [name for name, (valid, _) in schema.items() if not valid(record.get(name))]
            if bad:
                name = bad[0]
                fault = f"is {record[name]!r:.60}, not {schema[name][1]}" if name in record else "is missing"
                self.add(
                    f"malformed {what}",
                    STOPS,
                    f"{key}[{position}]: '{name}' {fault}",
                    **self._ids(what, record),
                )
            elif record["id"] in seen:
                self.add(f"duplicate {what} id", STOPS, f"id {record['id']}", **self._ids(what, record))
            else:
                seen.add(record["id"])
                sound.append(record)
        return sound

    def known(self, key: str, what: str, known_ids: Sequence[int]) -> np.ndarray:
        """Position in `known_ids` of each annotation's `key`; -1 (and a problem) where there is none."""
        lookup = {number: position for position, number in enumerate(known_ids)}
        found = np.array([lookup.get(a[key], -1) for a in self.annotations], dtype=np.int64)
        if any(p.kind == f"malformed {what}" for p in self.problems):
            # Its annotations are not to blame for a record that was set aside.
            return found
        for position in np.flatnonzero(found < 0):
            record = self.annotations[position]
            self.add(
                f"unknown {what} id", STOPS, f"'{key}' is {record[key]}", **self._ids("annotation", record)
            )
        return found

    def note_boxes(self, positions: np.ndarray, sizes: np.ndarray, kind: str, action: str) -> None:
        for position, (width, height) in zip(positions.tolist(), sizes.tolist(), strict=True):
            record = self.annotations[position]
            detail = f"bbox {record['bbox']} in an image of {width} x {height}"
            self.add(kind, action, detail, **self._ids("annotation", record))


def legacy_boxes(xywh: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """COCO boxes to inclusive corners within the image.

    A box that covers w pixels ends at x0 + w - 1, as the published weights were trained (maskrcnn-benchmark).

    Args:
        xywh: float64 (K, 4), left, top, width, height in pixels.
        sizes: (K, 2), width and height of each box's image.

    Returns:
        float32 (K, 4) xyxy clipped to [0, W - 1] x [0, H - 1]; masks (K,) of the unusable boxes by kind of
        fault; and the mask of usable boxes that were clipped.
    """
    finite = np.isfinite(xywh).all(axis=1)
    xywh = np.where(finite[:, None], xywh, 0.0)
    extent = xywh[:, 2:]
    with np.errstate(over="ignore"):
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + np.maximum(extent - 1, 0)], axis=1)
    limit = np.concatenate([sizes, sizes], axis=1) - 1.0
    clipped = np.clip(corners, 0.0, limit)
    boxes = clipped.astype(np.float32)
    vanished = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    # One pixel wide or high means x1 == x0 in inclusive corners, which the box coder cannot use either.
    no_area = finite & ((extent <= 1).any(axis=1) | (vanished & (clipped == corners).all(axis=1)))
    outside = finite & ~no_area & vanished
    usable = finite & ~no_area & ~outside
    faults = {"box not finite": ~finite, "box without area": no_area, "box outside its image": outside}
    return boxes, faults, usable & (np.abs(clipped - corners) > _BORDER_SLACK).any(axis=1)


def parse_coco(data: object, dataset: str, source: str) -> Annotations:
    """Check a COCO dictionary and flatten it.

    Args:
        data: the parsed JSON.
        dataset: name of the set, for messages.
        source: file that it came from, for messages.

    Raises:
        DataError: the dictionary has not the form of COCO. Faults of single records do not raise here: they
        are in
            `.problems`, and `.require_sound()` raises for those that stop training.
    """
    parser = _Parser(data, dataset, source)
    categories = tuple(sorted((c["id"], c["name"]) for c in parser.categories))
    images = sorted(parser.images, key=lambda image: image["id"])
    image_ids = [image["id"] for image in images]
    sizes = np.array([(i["width"], i["height"]) for i in images], dtype=np.int32).reshape(-1, 2)
    image_of = parser.known("image_id", "image", image_ids)
    label_of = parser.known("category_id", "category", [number for number, _ in categories]) + 1
    rows = np.flatnonzero((image_of >= 0) & (label_of > 0))
    crowd = np.array([bool(parser.annotations[r].get("iscrowd", 0)) for r in rows], dtype=bool)
    rows, num_crowd = rows[~crowd], int(crowd.sum())
    boxes, labels, image_of = _usable_boxes(parser, rows, image_of[rows], label_of[rows], sizes)
    for kind, records in (("no categories", categories), ("no images", images)):
        if not records and not any(p.action == STOPS for p in parser.problems):
            parser.add(kind, STOPS, "the list is empty")
    return Annotations(
        dataset=dataset,
        source=source,
        categories=categories,
        image_ids=np.array(image_ids, dtype=np.int64),
        sizes=sizes,
        file_names=np.array([image["file_name"].encode() for image in images], dtype=np.bytes_),
        boxes=boxes,
        labels=labels,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(image_of, minlength=len(images)))]).astype(
            np.int64
        ),
        num_crowd=num_crowd,
        annotated=parser.annotated,
        problems=tuple(parser.problems),
    )


def _usable_boxes(
    parser: _Parser, rows: np.ndarray, image_of: np.ndarray, label_of: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes float32 (K, 4), labels int32 (K,), image positions int64 (K,); by image, then as in the file."""
    xywh = np.array([parser.annotations[r]["bbox"] for r in rows], dtype=np.float64).reshape(-1, 4)
    row_sizes = sizes[image_of].reshape(-1, 2)
    boxes, faults, clipped = legacy_boxes(xywh, row_sizes)
    usable = np.ones(len(rows), dtype=bool)
    for kind, mask in faults.items():
        parser.note_boxes(rows[mask], row_sizes[mask], kind, DROPPED)
        usable &= ~mask
    parser.note_boxes(rows[clipped], row_sizes[clipped], "box partly outside its image", CLIPPED)
    order = np.argsort(image_of[usable], kind="stable")
    return (
        boxes[usable][order],
        label_of[usable][order].astype(np.int32),
        image_of[usable][order],
    )


def read_json(path: str, dataset: str) -> Any:
    """Parse a JSON file; a DataError says where it is broken."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise DataError(
            f"{dataset}: there is no annotation file {path}; link the data there, or name its place "
            "in DATASETS.REGISTER or DATASETS.DATA_DIR"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{dataset}: {path} is not valid JSON at line {error.lineno}, column {error.colno} "
            f"({error.msg}); the file may be truncated: copy or export it again"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        # ValueError: no UTF-8, or a number of thousands of digits.
        raise DataError(f"{dataset}: cannot read the annotation file {path}: {error}") from error


def load_coco(path: str, dataset: str) -> Annotations:
    """Read and check a COCO file, once per process while the file stays the same."""
    try:
        status = Path(path).stat()
    except OSError:
        read_json(path, dataset)
        raise
    return _load_coco(path, dataset, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _load_coco(path: str, dataset: str, _mtime: int, _size: int) -> Annotations:
    return parse_coco(read_json(path, dataset), dataset, path)
