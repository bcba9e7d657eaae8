"""Folders of Pascal VOC files as a source to convert from."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from labelenc.data import voc
from labelenc.data.annotations import STOPS, DataError, Problem
from labelenc.data.coco import size_difference
from labelenc.data.folders import (
    CORRECTED,
    LEFT_OUT,
    UNDIVIDED,
    ImageFile,
    LabelledBox,
    LabelledFolder,
    Part,
    Reading,
    split_folders,
)
from labelenc.data.headers import Header, read_header, to_stored

_SPLITS = ("train", "val", "test")


def find_voc(root: str) -> LabelledFolder:
    """Look at a Pascal VOC folder; the XML files are not read yet.

    Known layouts: ``Annotations`` with ``JPEGImages`` and, for the splits, ``ImageSets/Main``; and XML files
    beside the images, in the folder itself or in ``train``, ``valid``, ``test``. Classes are those found in
    all XML files, sorted, and image ids those of `voc.voc_to_coco`, so a converted set equals the folder.

    Raises:
        DataError: there are no XML files.
    """
    base, problems = Path(root), list[Problem]()
    annotations = base / "Annotations"
    if annotations.is_dir():
        images = Path(voc.image_dir(root))
        known = {path.stem for path in annotations.glob("*.xml")}
        stems = _stated_splits(root) or {UNDIVIDED: sorted(known)}
        parts = {split: _part(root, images, annotations, names, problems) for split, names in stems.items()}
    else:
        folders = split_folders(base) or {UNDIVIDED: base}
        stems = {split: sorted(path.stem for path in at.glob("*.xml")) for split, at in folders.items()}
        known = set().union(*stems.values())
        parts = {split: _part(root, at, at, stems[split], problems) for split, at in folders.items()}
    if not known:
        raise DataError(f"{root} holds no XML files, in Annotations/ or beside the images")
    unnamed = sorted(known.difference(*stems.values()))
    if unnamed:
        detail = f"{len(unnamed)} XML files that no split names, the first of them"
        problems.append(Problem(root, "image in no split", LEFT_OUT, f"{unnamed[0]}.xml", detail))
    further = partial(_names, [annotations / f"{stem}.xml" for stem in unnamed])
    return LabelledFolder("voc", None, parts, partial(_read, dataset=root), further, problems)


def _stated_splits(root: str) -> dict[str, list[str]]:
    """Image names by split, of ImageSets/Main; "trainval" only counts where there is no "train"."""
    found = {split: voc.read_split(root, split) for split in _SPLITS if voc.split_file(root, split).is_file()}
    if "train" not in found and voc.split_file(root, "trainval").is_file():
        found = {"train": voc.read_split(root, "trainval"), **found}
    return found


def _part(root: str, images: Path, annotations: Path, stems: list[str], problems: list[Problem]) -> Part:
    names = voc.image_files(str(images))
    files = []
    for image_id, stem in zip(voc.image_ids(stems), stems, strict=True):
        labels = annotations / f"{stem}.xml"
        if stem in names:
            files.append(ImageFile(images / names[stem], names[stem], labels, image_id))
        else:
            problems.append(Problem(root, "labels without an image", STOPS, str(labels)))
    return Part(images, tuple(files))


def _names(paths: Iterable[Path]) -> set[str]:
    return set[str]().union(*(voc.names_in(path) for path in paths))


def _read(image: ImageFile, *, dataset: str) -> Reading:
    assert image.labels is not None  # images are found by their labels
    try:
        stated, objects = voc.read_annotation(image.labels)
    except DataError as error:
        return Reading(
            None, (), (Problem(dataset, "malformed labels", STOPS, str(image.labels), str(error)),)
        )
    try:
        header = read_header(image.path)
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        return Reading(None, (), (Problem(dataset, "unreadable image", STOPS, str(image.path), detail),))
    stored = (header.width, header.height)
    if stored == stated:
        return Reading(stored, tuple(objects))
    if header.sideways and stored == stated[::-1]:
        detail = f"EXIF orientation {header.orientation}; the boxes were turned to the stored pixels"
        problem = Problem(dataset, "rotated photo", CORRECTED, str(image.path), detail)
        return Reading(stored, tuple(_turned(found, header) for found in objects), (problem,))
    kind, detail = "image size differs from the annotations", size_difference(stored, stated)
    return Reading(None, (), (Problem(dataset, kind, STOPS, str(image.path), detail),))


def _turned(found: LabelledBox, header: Header) -> LabelledBox:
    x, y, w, h = found.box
    shown = np.array([header.height, header.width] * 2, dtype=np.float64)
    stored = np.array([header.width, header.height] * 2, dtype=np.float64)
    corners = to_stored(np.array([[x, y, x + w, y + h]]) / shown, header.orientation)[0] * stored
    left, top, right, bottom = (round(float(value), 4) for value in corners)
    return LabelledBox(found.name, (left, top, right - left, bottom - top), found.crowd)
