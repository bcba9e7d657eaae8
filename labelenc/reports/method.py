"""The part of a page on what LabelEnc's training does: labels, encodings, features, their distance."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labelenc.reports.page import Cell, Page
from labelenc.reports.run_folder import Run, read_json

_GUIDE = {
    "step1": (
        "Step 1 draws the labels as a map, encodes it, and pulls the image features towards the encodings. "
        "Two things should happen from the first pictures to the last: the head reads the labels back from "
        "the encodings (right of the label map), and the distance between encodings and adapted image "
        "features falls. Where the labels are not read back, train step 1 longer before step 2."
    ),
    "step2": (
        "Step 2 trains the detector, and its auxiliary loss pulls the adapted image features towards the "
        "encodings of the labels, which no longer change. The distance should fall, most of all on the "
        "objects. Where it stays near 2, features and encodings have nothing in common: check that step 1 "
        "belongs to the same data and ended with a high reconstruction AP."
    ),
}
_SCALE = "0 means equal, 2 means unrelated."
_REMEDY = "take its folder away to make the report"


def add_method(page: Page, run: Run) -> None:
    """The pictures below ``method/`` of a run of step 1 or step 2, and the distances; nothing without any."""
    folders = sorted(path.parent for path in run.folder.glob("method/iteration_*/pictures.json"))
    pictures = {folder: shown for folder in folders if (shown := _pictures(folder))}
    if not pictures:
        return
    first, last = next(iter(pictures)), list(pictures)[-1]
    page.add_heading(f"See the method: {run.name}").add_guide(_GUIDE.get(run.kind, _GUIDE["step1"]))
    _add_distances(page, first, last)
    listed = [(folder, entry) for folder in dict.fromkeys((first, last)) for entry in pictures[folder]]
    for image_id in dict.fromkeys(entry["image_id"] for _, entry in listed):
        page.add_heading(f"Image {image_id}", 3)
        mine = [(folder, entry) for folder, entry in listed if entry["image_id"] == image_id]
        # Labels have no level; the finest level comes next.
        for number, level in enumerate(dict.fromkeys(entry.get("level") for _, entry in mine)):
            with page.folded(f"Level {level}") if number > 1 else contextlib.nullcontext():
                for folder, entry in mine:
                    if entry.get("level") == level:
                        page.add_figure(_file(folder, entry).read_bytes(), entry["caption"])


def _pictures(folder: Path) -> list[Mapping[str, Any]]:
    """What pictures.json lists, as far as the files are there."""
    listed = read_json(folder / "pictures.json", _REMEDY)
    return [picture for picture in listed if _file(folder, picture).is_file()]


def _file(folder: Path, picture: Mapping[str, Any]) -> Path:
    return folder / Path(picture["file"]).name


def _add_distances(page: Page, first: Path, last: Path) -> None:
    moments = list(dict.fromkeys((first, last)))
    means = [_means(folder) for folder in moments]
    if not means[-1]:
        return
    headers = ["image", *(f"after {_iteration(folder):,} iterations" for folder in moments)]
    rows: list[list[Cell]] = [
        [image_id, *(_distance(mean.get(image_id, "")) for mean in means)] for image_id in means[-1]
    ]
    caption = f"Distance between adapted image features and encodings, all levels; {_SCALE}"
    page.add_table(headers, rows, caption)


def _means(folder: Path) -> Mapping[str, float | None]:
    path = folder / "summary.json"
    return read_json(path, _REMEDY).get("mean", {}) if path.is_file() else {}


def _distance(value: float | str | None) -> Cell:
    """As text; None, which stands for a distance that is not finite, as it is."""
    return f"{value:.3f}" if isinstance(value, float) else value


def _iteration(folder: Path) -> int:
    return int(folder.name.removeprefix("iteration_"))
