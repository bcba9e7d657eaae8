"""The page of a checked data set."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from labelenc import data, visualization
from labelenc.data import Annotations, DataError, NamedSet, Problem, SetStatistics
from labelenc.data.coco import decode_image
from labelenc.data.statistics import LARGE, SMALL
from labelenc.engine import CheckpointError
from labelenc.reports import Page
from labelenc.reports.page import Cell
from labelenc.structures import BoxList
from labelenc.visualization import CLASSES_IN_A_COLUMN, Distribution

logger = logging.getLogger(__name__)

_SIDES = 2.0 ** np.arange(1, 11.01, 0.25)
_PROPORTIONS = 2.0 ** np.arange(-4, 4.01, 0.25)
_SHOWN_PROBLEMS = 5
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Sizes:
    """(shorter, longer) side in pixels that images are resized to; the training size is the largest.

    ``smallest_box`` is the side in pixels below which a box suits no part of the detector, and ``reason``
    what that means; None where the detector isn't known.
    """

    train: tuple[int, int]
    test: tuple[int, int]
    smallest_box: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Findings:
    """What is known of the sets, in the same order in ``sets`` and ``statistics``."""

    sets: Sequence[tuple[NamedSet, Annotations]]
    statistics: Sequence[SetStatistics]
    problems: Sequence[Problem]
    advice: Sequence[str]


def write_page(found: Findings, sizes: Sizes, folder: Path, samples: int) -> Path:
    """Write ``index.html`` and its pictures into ``folder``; returns the page's path.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    colours = visualization.run_colours(part.name for part in found.statistics)
    page = Page("Data set check", ", ".join(part.name for part in found.statistics))
    _add_overview(page, found.statistics, colours)
    page.add_heading("What to look at")
    if found.advice:
        page.add_list(found.advice)
    else:
        page.add_text("Nothing stands out.")
    _add_problems(page, found.problems)
    if any(part.num_boxes for part in found.statistics):
        _add_classes(page, found.statistics, colours)
        _add_sizes(page, found.statistics, sizes, colours)
    if samples:
        for part, annotations in found.sets:
            _add_sheet(page, part, annotations, samples)
    try:
        return page.write(folder / "index.html")
    except CheckpointError as error:
        reason = error.__cause__ or error
        raise DataError(f"cannot write the page to {folder}: {reason}; choose another --output") from error


def _add_overview(page: Page, parts: Sequence[SetStatistics], colours: dict[str, str]) -> None:
    """A column for each set, as names of sets may be long."""
    rows: dict[str, list[Cell]] = {
        "used for": ["training" if part.training else "test" for part in parts],
        "images": [part.num_images for part in parts],
        "images without a box": [part.num_empty for part in parts],
        "boxes": [part.num_boxes for part in parts],
        "boxes an image": [f"{part.num_boxes / max(part.num_images, 1):.1f}" for part in parts],
        "most boxes in an image": [int(part.boxes_per_image.max(initial=0)) for part in parts],
        f"small boxes, below {SMALL} x {SMALL} pixels": [part.size_counts[0] for part in parts],
        "medium boxes": [part.size_counts[1] for part in parts],
        f"large boxes, from {LARGE} x {LARGE} pixels": [part.size_counts[2] for part in parts],
        "crowd (VOC: difficult) boxes besides": [part.num_crowd for part in parts],
        "faulty boxes besides": [part.num_dropped for part in parts],
    }
    headers = ["", *(part.name for part in parts)]
    table = [[name, *cells] for name, cells in rows.items()]
    page.add_table(headers, table, column_colours=[None, *colours.values()])


def _add_problems(page: Page, problems: Sequence[Problem]) -> None:
    page.add_heading("Problems")
    if not problems:
        page.add_text("None.")
        return
    groups: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.dataset, problem.kind, problem.action), []).append(problem)
    rows: list[list[Cell]] = [[*key, len(members)] for key, members in groups.items()]
    page.add_table(["set", "problem", "what is done", "number"], rows)
    shown = [str(p) for members in groups.values() for p in members[:_SHOWN_PROBLEMS]]
    page.add_text(f"The first {_SHOWN_PROBLEMS} of each; the console lists all:")
    page.add_list(shown)


def _add_classes(page: Page, parts: Sequence[SetStatistics], colours: dict[str, str]) -> None:
    page.add_heading("Classes")
    alike = [part for part in parts if part.class_names == parts[0].class_names and part.num_boxes]
    names = parts[0].class_names
    if len(names) > 1 and alike:
        figure = visualization.plot_class_shares(names, {p.name: p.class_boxes for p in alike}, colours)
        scales = " Each half of the list has its own scale." if len(names) > CLASSES_IN_A_COLUMN else ""
        caption = f"Division of the boxes among the classes.{scales}"
        page.add_figure(visualization.figure_png(figure), caption, "classes")
    if not alike:
        return
    headers = ["class", *(["boxes", "%", "images", "%"] * len(alike))]
    squares = [None, *(square for part in alike for square in (colours[part.name], None, None, None))]
    rows: list[list[Cell]] = []
    for i in np.argsort(-alike[0].class_boxes, kind="stable").tolist():
        row: list[Cell] = [names[i]]
        for part in alike:
            boxes, images = int(part.class_boxes[i]), int(part.class_images[i])
            row += [boxes, boxes / part.num_boxes, images, images / part.num_images]
        rows.append(row)
    caption = "Boxes of each class and images with at least one of them, for each set, and their shares."
    long = len(rows) > CLASSES_IN_A_COLUMN
    with page.folded(f"Table of all {len(rows)} classes") if long else contextlib.nullcontext():
        page.add_table(headers, rows, caption, column_colours=squares)


def _add_sizes(
    page: Page,
    parts: Sequence[SetStatistics],
    sizes: Sizes,
    colours: dict[str, str],
) -> None:
    page.add_heading("Boxes and images")
    # A line at what is too small says more than the borders of COCO once the image is resized.
    marks = [] if sizes.smallest_box is None else [(sizes.smallest_box, f"{sizes.smallest_box:.3g}")]
    most = max(int(part.boxes_per_image.max(initial=0)) for part in parts)
    step = max(-(-most // 40), 1)
    panels = [
        Distribution(
            "box size in the file", "square root of the area (pixels)",
            {p.name: p.sides for p in parts}, _SIDES, True, [(SMALL, str(SMALL)), (LARGE, str(LARGE))],
        ),
        Distribution(
            f"box size at the test size, {sizes.test[0]} (at most {sizes.test[1]})",
            "square root of the area (pixels)",
            {p.name: p.resized_sides(*sizes.test) for p in parts}, _SIDES, True, marks,
        ),
        Distribution(
            "proportions of the boxes", "width / height",
            {p.name: p.aspect_ratios for p in parts}, _PROPORTIONS, True,
        ),
        Distribution(
            "boxes in an image", "boxes", {p.name: p.boxes_per_image for p in parts},
            np.arange(0, most + step + 1, step) - 0.5,
        ),
    ]  # fmt: skip
    meaning = f" Dashed at the test size: smaller boxes don't suit the detector ({sizes.reason})."
    meaning = meaning if marks else ""
    page.add_figure(
        visualization.figure_png(visualization.plot_distributions(panels, colours)),
        f"Dashed in the file's pixels: COCO's borders between small, medium and large boxes.{meaning} Values "
        "beyond an axis count at its end.",
        "boxes",
    )
    figure = visualization.plot_image_sizes({p.name: p.image_sizes for p in parts if p.num_images}, colours)
    caption = "Sizes of the images in the files; a larger dot stands for more images."
    page.add_figure(visualization.figure_png(figure), caption, "images")


def _add_sheet(page: Page, part: NamedSet, annotations: Annotations, samples: int) -> None:
    names = tuple(name for _, name in annotations.categories)
    rows = data.choose_images(annotations, samples)
    shown, seen = [], set()
    progress = tqdm(rows.tolist(), desc=part.name, disable=not sys.stderr.isatty(), leave=False)
    for row in progress:
        boxes = _boxes(annotations, row)
        image = None
        with contextlib.suppress(OSError):
            image = decode_image(str(Path(part.image_dir, annotations.file_name(row))))
        # The check tells of an image that is missing or of another size.
        if image is not None and image.shape[1::-1] == boxes.size:
            shown.append((image, boxes, annotations.file_name(row)))
            seen |= set(boxes.get_field("labels").tolist())
    if not shown:
        return
    sheet = visualization.contact_sheet(shown, names)
    picture = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    present = len(np.unique(annotations.labels))
    page.add_heading(f"Images of {part.name}")
    page.add_figure(
        picture,
        f"{len(shown)} images with their boxes; {len(seen)} of the {present} classes present are seen.",
        f"images_{part.name.replace('/', '_')}",
    )


def _boxes(annotations: Annotations, row: int) -> BoxList:
    span = slice(annotations.offsets[row], annotations.offsets[row + 1])
    width, height = annotations.sizes[row].tolist()
    boxes = BoxList(torch.from_numpy(annotations.boxes[span].copy()), (width, height))
    boxes.add_field("labels", torch.from_numpy(annotations.labels[span].astype(np.int64)))
    return boxes
