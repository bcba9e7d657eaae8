"""What is wrong with a data set, before hours of training find out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from labelenc.data.annotations import DROPPED, STOPS, Annotations, DataError, Problem
from labelenc.data.coco import decode_image, size_difference

logger = logging.getLogger(__name__)

_SAMPLED_IMAGES = 32


@dataclass(frozen=True)
class NamedSet:
    """One set to look at: what for, where its images lie, and how to get its annotations.

    ``source`` is the file or folder that messages name. ``read`` raises DataError where nothing can be read.
    """

    name: str
    source: str
    image_dir: str
    read: Callable[[], Annotations]
    training: bool
    tested: bool


def check_sets(sets: Sequence[NamedSet], full: bool = False) -> list[Problem]:
    """All problems of several sets that are used together; ``full`` decodes every image."""
    problems: list[Problem] = []
    first: Annotations | None = None
    for part in sets:
        try:
            annotations = part.read()
        except DataError as error:
            problems.append(Problem(part.name, "unusable annotations", STOPS, part.source, str(error)))
            continue
        problems += check_set(annotations, part.image_dir, part.training, full, part.tested)
        first = first or annotations
        difference = category_difference(first, annotations)
        if difference is not None:
            problems.append(Problem(part.name, "other categories", STOPS, annotations.source, difference))
    return problems


def check_set(
    annotations: Annotations, image_dir: str, training: bool, full: bool = False, tested: bool = False
) -> list[Problem]:
    """All problems of one set: its annotations', missing image files, and images that can't be used.

    Args:
        annotations: of the set.
        image_dir: folder that the file names are relative to.
        training: images without a usable box are left out then, and are not looked at unless ``tested``.
        full: decode every image; otherwise a few dozen, spread over the set.
        tested: the set is evaluated on too, with all its images.
    """
    problems = list(annotations.problems)
    rows: Sequence[int] = range(len(annotations))
    if training:
        problems += _unusable_for_training(annotations)
    if training and not tested:
        rows = [row for row in rows if annotations.offsets[row] < annotations.offsets[row + 1]]
    missing = _missing_files(annotations, image_dir, rows)
    problems += missing.values()
    present = [row for row in rows if row not in missing]
    if not full:
        present = (
            [present[i * len(present) // _SAMPLED_IMAGES] for i in range(_SAMPLED_IMAGES)] if present else []
        )
        present = list(dict.fromkeys(present))
    return problems + _bad_images(annotations, image_dir, present)


def category_difference(one: Annotations, other: Annotations) -> str | None:
    """A sentence on how the categories of two sets differ; None where they are the same."""
    if one.categories == other.categories:
        return None
    only_one = sorted(set(one.categories) - set(other.categories))[:5]
    only_other = sorted(set(other.categories) - set(one.categories))[:5]
    return (
        f"{one.dataset} and {other.dataset} have different categories (id, name): only {one.dataset} "
        f"({one.source}) has {only_one or 'nothing'}, "
        f"only {other.dataset} ({other.source}) has {only_other or 'nothing'}"
    )


def log_problems(problems: Sequence[Problem], show: int = 3) -> None:
    """Log each kind of problem of each set: its count, what is done, and the first ``show`` cases."""
    groups: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.dataset, problem.kind, problem.action), []).append(problem)
    for (dataset, kind, action), members in groups.items():
        cases = "".join(f"\n  {problem}" for problem in members[:show])
        rest = f"\n  ... and {len(members) - show} more" if len(members) > show else ""
        logger.warning("%s: %d x %s; %s%s%s", dataset, len(members), kind, action, cases, rest)


def stop_if_unusable(problems: Iterable[Problem]) -> None:
    """Raise one DataError that lists the problems that stop training, if there are any."""
    stopping = [problem for problem in problems if problem.action == STOPS]
    if stopping:
        raise DataError.from_problems(stopping)


def _unusable_for_training(annotations: Annotations) -> list[Problem]:
    name, source = annotations.dataset, annotations.source
    if not annotations.annotated:
        return [
            Problem(
                name, "no annotations", STOPS, source, "a set without 'annotations' can only be tested on"
            )
        ]
    empty = [
        row for row in range(len(annotations)) if annotations.offsets[row] == annotations.offsets[row + 1]
    ]
    if len(annotations) and len(empty) == len(annotations):
        return [Problem(name, "no usable box", STOPS, source, "in any image")]
    return [
        Problem(
            name,
            "image without a usable box",
            DROPPED,
            annotations.file_name(r),
            "",
            int(annotations.image_ids[r]),
        )
        for r in empty
    ]


def _listing(folder: Path) -> set[str] | None:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return None


def _missing_files(annotations: Annotations, image_dir: str, rows: Sequence[int]) -> dict[int, Problem]:
    """Problems of missing files by row; each folder is listed once instead of asking for every file."""
    listings: dict[Path, set[str] | None] = {}
    missing: dict[int, Problem] = {}
    for row in rows:
        path = Path(image_dir, annotations.file_name(row))
        folder, name = path.parent, path.name
        if folder not in listings:
            listings[folder] = _listing(folder)
        present = listings[folder]
        if present is None or name not in present:
            image_id = int(annotations.image_ids[row])
            detail = f"the folder {folder} does not exist or cannot be read" if present is None else ""
            if present is not None:
                similar = (
                    [other for other in present if other.lower() == name.lower()] if len(missing) < 20 else []
                )
                detail = f"there is {similar[0]}, with other capitals" if similar else ""
            missing[row] = Problem(
                annotations.dataset, "missing image file", STOPS, str(path), detail, image_id
            )
    return missing


def _bad_images(annotations: Annotations, image_dir: str, rows: Sequence[int]) -> list[Problem]:
    """Decode the images of `rows`; problems of those that are unreadable or of another size."""

    def check(row: int) -> Problem | None:
        path = str(Path(image_dir, annotations.file_name(row)))
        image_id = int(annotations.image_ids[row])
        try:
            image = decode_image(path)
        except OSError as error:
            return Problem(
                annotations.dataset, "unreadable image", STOPS, path, str(error.strerror), image_id
            )
        if image is None:
            return Problem(
                annotations.dataset, "unreadable image", STOPS, path, "OpenCV cannot decode it", image_id
            )
        found, stated = (image.shape[1], image.shape[0]), tuple(annotations.sizes[row].tolist())
        if found != stated:
            detail = size_difference(found, stated)
            return Problem(
                annotations.dataset, "image size differs from the annotations", STOPS, path, detail, image_id
            )
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return [problem for problem in pool.map(check, rows) if problem is not None]
