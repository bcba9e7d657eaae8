"""The numbers of one evaluation, as text, as JSON, and as the files under ``inference/``."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COCO_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class ClassResult:
    """One row of the per-class table. ``ap`` and ``ap50`` are fractions, None without ground truth.

    ``boxes`` counts the ground-truth boxes that are not crowds, ``detections`` all detections of the class.
    """

    category_id: int
    name: str
    ap: float | None
    ap50: float | None
    boxes: int
    detections: int


@dataclass(frozen=True)
class CocoSummary:
    """The 12 COCO numbers (fractions in 0..1, None where no ground truth exists) and the per-class AP."""

    numbers: dict[str, float | None]
    per_class: list[ClassResult]
    evaluator: str
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CocoSummary":
        """The inverse of `to_dict`; other keys are ignored."""
        per_class = [ClassResult(**row) for row in data["per_class"]]
        return cls(dict(data["numbers"]), per_class, data["evaluator"], data["num_images"])

    def table(self, per_class: bool = True) -> str:
        """The numbers as text for a console, in percent with one decimal ("n/a" without ground truth)."""
        lines = []
        for names in (COCO_NUMBERS[:6], COCO_NUMBERS[6:]):
            lines.append("  ".join(f"{name:>6}" for name in names))
            lines.append("  ".join(f"{format_percent(self.numbers[name]):>6}" for name in names))
        if per_class and self.per_class:
            lines += ["", *self._class_lines()]
        return "\n".join(lines)

    def _class_lines(self) -> list[str]:
        width = max(5, *(len(row.name) for row in self.per_class))
        head = f"{'class':<{width}}  {'AP':>5}  {'AP50':>5}  {'boxes':>6}"
        rows = [
            f"{row.name:<{width}}  {format_percent(row.ap):>5}  {format_percent(row.ap50):>5}  {row.boxes:>6}"
            for row in self.per_class
        ]
        # Long class lists are folded into as many columns as a wide terminal takes.
        columns = min(-(-len(rows) // 20), max(1, 130 // (len(head) + 4)))
        height = -(-len(rows) // columns)
        folded = [[head, *rows[i : i + height]] for i in range(0, len(rows), height)]
        blank = " " * len(head)
        return [
            "    ".join(column[line] if line < len(column) else blank for column in folded).rstrip()
            for line in range(height + 1)
        ]


def format_percent(value: float | None) -> str:
    """A fraction as percent with one decimal, None as "n/a"."""
    return "n/a" if value is None else f"{100 * value:.1f}"


def write_evaluation(
    output_dir: str | os.PathLike[str],
    dataset_name: str,
    results: Sequence[Mapping[str, Any]],
    summary: CocoSummary,
) -> Path:
    """Write predictions.json and results.json to ``output_dir/inference/dataset_name``; return that folder.

    Each file appears whole or not at all. results.json holds `CocoSummary.to_dict` and the data set's name.
    """
    folder = Path(output_dir) / "inference" / dataset_name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "predictions.json", json.dumps(list(results), allow_nan=False))
    content = {"dataset": dataset_name, **summary.to_dict()}
    write_atomically(folder / "results.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    return folder


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 so that a reader sees the old file or the whole new one, never a part."""
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
