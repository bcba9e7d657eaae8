"""Pascal VOC folders to COCO files: training sees the same boxes as from the folder itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from labelenc.data import DataError
from labelenc.data.convert import Conversion, convert_folder
from labelenc.data.parse import load_coco
from labelenc.data.voc import load_voc, voc_to_coco

NAMES = ("cat", "dog", "cow")


def _add(folder: Path, images: Path, stem: str, size: tuple[int, int], objects: list[tuple]) -> None:
    for path in (folder, images):
        path.mkdir(parents=True, exist_ok=True)
    body = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{x0}</xmin>"
        f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, difficult, x0, y0, x1, y1 in objects
    )
    (folder / f"{stem}.xml").write_text(
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{body}</annotation>"
    )
    Image.new("RGB", size).save(images / f"{stem}.png")


def _random_objects(width: int, height: int) -> list[tuple]:
    objects = []
    for _ in range(int(torch.randint(0, 5, ()))):
        x0, y0 = int(torch.randint(1, width, ())), int(torch.randint(1, height, ()))
        x1, y1 = int(torch.randint(x0, width + 1, ())), int(torch.randint(y0, height + 3, ()))
        objects.append((NAMES[int(torch.randint(0, 3, ()))], torch.rand(()) < 0.2, x0, y0, x1, y1))
    return objects


@pytest.fixture
def voc_root(tmp_path: Path, seed: int) -> Path:
    """Ten images with random boxes, 2008_000000 to 2008_000009; no ImageSets."""
    root = tmp_path / "VOC"
    for number in range(10):
        size = (int(torch.randint(20, 90, ())), int(torch.randint(20, 90, ())))
        objects = [("cat", False, 1, 1, *size)] if number < 2 else _random_objects(*size)
        _add(root / "Annotations", root / "JPEGImages", f"2008_{number:06}", size, objects)
    return root


def _split(root: Path, **splits: range) -> None:
    folder = root / "ImageSets/Main"
    folder.mkdir(parents=True)
    for name, numbers in splits.items():
        (folder / f"{name}.txt").write_text("".join(f"2008_{number:06}\n" for number in numbers))


def _files(done: Conversion) -> dict[str, str]:
    return {part.split: str(part.annotations) for part in done.parts}


def test_training_sees_the_same_as_from_the_folder(voc_root):
    # 2008_000009 is in no split, but its classes count.
    _split(voc_root, train=range(5), val=range(5, 8), test=range(8, 9), trainval=range(8), cat_train=range(2))
    done = convert_folder(str(voc_root))
    files = _files(done)
    assert list(files) == ["train", "val", "test"]
    assert [p.kind for p in done.problems] == ["image in no split"]
    for split, file in files.items():
        one, other = load_voc(str(voc_root), split, split), load_coco(file, split)
        assert one.categories == other.categories
        for name in ("image_ids", "sizes", "file_names", "boxes", "labels", "offsets"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert (one.num_crowd, one.annotated) == (other.num_crowd, other.annotated)
        # The evaluator, too, sees the same.
        truth, written = voc_to_coco(str(voc_root), split), json.loads(Path(file).read_text())
        assert written["annotations"] == truth["annotations"]
        assert written["images"] == truth["images"]
        assert done.parts[0].image_dir == voc_root / "JPEGImages"


def test_without_splits_the_images_are_divided(voc_root):
    files = _files(convert_folder(str(voc_root), val_share=0.3, seed=1))
    assert list(files) == ["train", "val"]
    parts = [json.loads(Path(file).read_text()) for file in files.values()]
    names = [image["file_name"] for part in parts for image in part["images"]]
    assert sorted(names) == [f"2008_{number:06}.png" for number in range(10)]
    assert len(parts[1]["images"]) in (2, 3, 4, 5)
    # Only cats are sure to be in two images.
    cats = [{a["image_id"] for a in part["annotations"] if a["category_id"] == 1} for part in parts]
    assert all(cats)


def test_trainval_alone_is_divided(voc_root):
    _split(voc_root, trainval=range(10))
    assert list(_files(convert_folder(str(voc_root)))) == ["train", "val"]


def test_files_beside_the_images(tmp_path):
    root = tmp_path / "export"
    for split in ("train", "valid"):
        _add(root / split, root / split, f"{split}_1", (30, 20), [("cat", False, 11, 6, 20, 15)])
    done = convert_folder(str(root))
    assert list(_files(done)) == ["train", "val"]
    for part in done.parts:
        data = json.loads(part.annotations.read_text())
        assert [a["bbox"] for a in data["annotations"]] == [[10, 5, 10, 10]]
        assert (part.image_dir / data["images"][0]["file_name"]).is_file()


def test_a_photo_that_was_annotated_upright(tmp_path):
    _add(tmp_path / "Annotations", tmp_path / "JPEGImages", "a", (40, 60), [("cat", False, 1, 1, 10, 20)])
    exif = Image.Exif()
    exif[0x0112] = 6
    # Stored lying on its side: turned by 90 degrees clockwise, it is shown as 40 x 60.
    Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages/a.png", exif=exif)
    done = convert_folder(str(tmp_path), val_share=0)
    data = json.loads(done.parts[0].annotations.read_text())
    assert (data["images"][0]["width"], data["images"][0]["height"]) == (60, 40)
    # The upper left corner, 10 wide and 20 high, is stored at the lower left, 20 wide and 10 high.
    assert data["annotations"][0]["bbox"] == pytest.approx([0, 30, 20, 10])
    assert [p.kind for p in done.problems] == ["rotated photo"]


FAULTS = {
    "broken xml": (lambda r: (r / "Annotations/2008_000000.xml").write_text("<a>"), "malformed labels"),
    "other size": (
        lambda r: Image.new("RGB", (7, 7)).save(r / "JPEGImages/2008_000000.png"),
        "image size differs from the annotations",
    ),
    "no image": (lambda r: (r / "JPEGImages/2008_000000.png").unlink(), "labels without an image"),
    "broken image": (
        lambda r: (r / "JPEGImages/2008_000000.png").write_bytes(b"x"),
        "unreadable image",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_stop_or_are_left_out(voc_root, case):
    damage, kind = FAULTS[case]
    damage(voc_root)
    with pytest.raises(DataError, match=rf"2008_000000.*{kind}"):
        convert_folder(str(voc_root))
    done = convert_folder(str(voc_root), val_share=0, skip_faulty=True)
    assert done.parts[0].num_images == 9
    assert [(p.kind, p.action) for p in done.problems] == [(kind, "left out")]
