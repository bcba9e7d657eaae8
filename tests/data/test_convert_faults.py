"""Folders that cannot be converted as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from labelenc.data import DataError
from labelenc.data.convert import convert_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of one class, flat."""
    root = tmp_path / "flat"
    for below in ("images", "labels"):
        (root / below).mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (20, 10)).save(root / f"images/{name}.jpg")
        (root / f"labels/{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "classes.txt").write_text("cat\n")
    return root


def _remove_labels(root: Path) -> None:
    for path in (root / "labels").iterdir():
        path.unlink()


FAULTS = {
    "no names": (lambda r: (r / "classes.txt").unlink(), "says nowhere what its classes are called"),
    "a name twice": (lambda r: (r / "classes.txt").write_text("cat\ndog\ncat\n"), "class cat more than once"),
    "gap in the names": (
        lambda r: (r / "data.yaml").write_text("names: {0: cat, 2: dog}"),
        "0 to 1, without a gap",
    ),
    "names are a text": (lambda r: (r / "data.yaml").write_text("names: cat"), "must be a list"),
    "broken yaml": (lambda r: (r / "data.yaml").write_text("names: [cat"), "cannot read .*data.yaml"),
    "no label file": (_remove_labels, "2 images but no label file"),
    "two images of one name": (
        lambda r: Image.new("RGB", (2, 2)).save(r / "images/a.png"),
        "a.png: two images of one name .another image has the name a",
    ),
    "broken image": (lambda r: (r / "images/a.jpg").write_bytes(b"x"), "a.jpg: unreadable image"),
    "empty image": (lambda r: (r / "images/a.jpg").write_bytes(b""), "a.jpg: unreadable image"),
    "label file is no text": (
        lambda r: (r / "labels/a.txt").write_bytes(b"\xff\xfe\x00"),
        "a.txt: unreadable label file",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(folder, case):
    damage, message = FAULTS[case]
    damage(folder)
    with pytest.raises(DataError, match=message):
        convert_folder(str(folder), kind="yolo")
    assert not (folder / "annotations").exists()


def test_an_unreadable_image_is_left_out_on_request(folder):
    (folder / "images/a.jpg").write_bytes(b"x")
    done = convert_folder(str(folder), val_share=0, skip_faulty=True)
    assert [(part.num_images, part.num_boxes) for part in done.parts] == [(1, 1)]
    assert [(p.kind, p.action) for p in done.problems] == [("unreadable image", "left out")]


def test_labels_without_an_image_are_reported(folder):
    (folder / "labels/lost.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "labels/classes.txt").write_text("cat\n")
    (problem,) = convert_folder(str(folder)).problems
    assert str(problem).endswith("labels/lost.txt: labels without an image; left out")


def test_existing_files_stay(folder):
    done = convert_folder(str(folder))
    before = [part.annotations.read_bytes() for part in done.parts]
    (folder / "labels/a.txt").write_text("")
    with pytest.raises(DataError, match=r"train\.json, .*val\.json exists; --overwrite"):
        convert_folder(str(folder))
    assert [part.annotations.read_bytes() for part in done.parts] == before
    elsewhere = convert_folder(str(folder), output=str(folder.parent / "out"))
    assert all(part.annotations.parent == folder.parent / "out/annotations" for part in elsewhere.parts)
    convert_folder(str(folder), overwrite=True)
    after = [json.loads(part.annotations.read_text()) for part in done.parts]
    assert sum(len(data["annotations"]) for data in after) == 1
    assert sorted(path.name for path in (folder / "annotations").iterdir()) == ["train.json", "val.json"]


def test_output_that_cannot_be_written(folder):
    (folder / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*--output"):
        convert_folder(str(folder), output=str(folder / "file"))


def test_which_format(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither Pascal VOC's .* say with --format"):
        convert_folder(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="there is no folder"):
        convert_folder(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="holds no XML files"):
        convert_folder(str(folder), kind="voc")
    (folder / "Annotations").mkdir()
    (folder / "Annotations/a.xml").write_text("<a/>")
    with pytest.raises(DataError, match="both Pascal VOC's and YOLO's"):
        convert_folder(str(folder))


def test_lists_of_splits_are_not_read_and_it_says_so(folder):
    for split, stem in (("train", "a"), ("val", "b")):
        (folder / f"{split}.txt").write_text(f"images/{stem}.jpg\n")
    found = [problem for problem in convert_folder(str(folder)).problems if problem.kind == "list of a split"]
    assert [Path(problem.file).name for problem in found] == ["train.txt", "val.txt"]
    assert all("not read" in problem.detail for problem in found)


def test_a_single_image_cannot_be_divided(folder):
    for path in (folder / "images/b.jpg", folder / "labels/b.txt"):
        path.unlink()
    with pytest.raises(DataError, match="--val-share 0 writes one file"):
        convert_folder(str(folder))
    (only,) = convert_folder(str(folder), val_share=0).parts
    assert (only.split, only.num_images) == ("train", 1)
