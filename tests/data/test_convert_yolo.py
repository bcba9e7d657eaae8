"""YOLO folders to COCO files, there and back, and everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from labelenc.data import DataError
from labelenc.data.convert import Conversion, convert_folder

NAMES = ("cat", "dog", "cow")


def _image(path: Path, size: tuple[int, int], orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, **({"exif": exif} if orientation != 1 else {}))


def _text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _line(label: int, box: list[float], size: tuple[int, int]) -> str:
    (x, y, w, h), (width, height) = box, size
    return f"{label} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}"


def _written(done: Conversion) -> dict[str, dict[str, Any]]:
    return {part.split: json.loads(part.annotations.read_text()) for part in done.parts}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two flat images of 80 x 40: one with a box of 20 x 10 at (10, 5), one without a label file."""
    root = tmp_path / "flat"
    _image(root / "images/a.jpg", (80, 40))
    _image(root / "images/sub/b.png", (80, 40))
    _text(root / "labels/a.txt", "1 0.25 0.25 0.25 0.25")
    _text(root / "classes.txt", *NAMES)
    return root


def test_by_hand(folder):
    done = convert_folder(str(folder), val_share=0)
    (train,) = _written(done).values()
    assert done.kind == "yolo"
    assert done.problems == ()
    assert train["categories"] == [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
    assert [(i["file_name"], i["width"], i["height"]) for i in train["images"]] == [
        ("a.jpg", 80, 40),
        ("sub/b.png", 80, 40),
    ]
    assert train["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0}
    ]
    assert (done.parts[0].num_images, done.parts[0].num_boxes, done.parts[0].num_background) == (2, 1, 1)
    assert done.parts[0].image_dir == folder / "images"


LAYOUTS = {
    "ultralytics": ("images/{0}/{1}.jpg", "labels/{0}/{1}.txt", ("train", "val", "test")),
    "years": ("images/{0}/{1}.jpg", "labels/{0}/{1}.txt", ("train2017", "val2017", "test2017")),
    "roboflow": ("{0}/images/{1}.jpg", "{0}/labels/{1}.txt", ("train", "valid", "test")),
    "beside": ("{0}/{1}.jpg", "{0}/{1}.txt", ("train", "val", "test")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_coco_to_yolo_and_back(tmp_path, layout, seed):
    image_name, label_name, folders = LAYOUTS[layout]
    splits, root, truth = ("train", "val", "test"), tmp_path / layout, {}
    _text(root / "data.yaml", "names: {0: cat, 1: dog, 2: cow}", "train: ../train/images", "nc: 3")
    for split, name in zip(splits, folders, strict=True):
        for number in range(5):
            width, height = torch.randint(20, 300, (2,)).tolist()
            boxes = []
            for _ in range(int(torch.randint(0, 5, ()))):
                x, y = float(torch.rand(())) * (width - 4), float(torch.rand(())) * (height - 4)
                w, h = (
                    2 + float(torch.rand(())) * (width - x - 2),
                    2 + float(torch.rand(())) * (height - y - 2),
                )
                boxes.append((int(torch.randint(0, 3, ())), [x, y, w, h]))
            _image(root / image_name.format(name, number), (width, height))
            _text(root / label_name.format(name, number), *(_line(c, b, (width, height)) for c, b in boxes))
            truth[(split, f"{number}.jpg")] = ((width, height), boxes)
    done = convert_folder(str(root))
    assert done.problems == ()
    assert [part.split for part in done.parts] == list(splits)
    found = {}
    for split, data in _written(done).items():
        folder = next(part.image_dir for part in done.parts if part.split == split)
        for image in data["images"]:
            assert (folder / image["file_name"]).is_file()
            mine = [a for a in data["annotations"] if a["image_id"] == image["id"]]
            boxes = [(a["category_id"] - 1, a["bbox"]) for a in mine]
            found[(split, image["file_name"])] = ((image["width"], image["height"]), boxes)
    assert found.keys() == truth.keys()
    for key, (size, boxes) in truth.items():
        assert found[key][0] == size
        assert [c for c, _ in found[key][1]] == [c for c, _ in boxes]
        for (_, one), (_, other) in zip(found[key][1], boxes, strict=True):
            # Six digits of 300 pixels.
            assert one == pytest.approx(other, abs=1e-3)


def test_splits_are_stratified_and_deterministic(tmp_path):
    root = tmp_path / "data"
    for number in range(40):
        _image(root / f"images/{number:02}.png", (10, 10))
        # Class 2 is in two images only.
        _text(root / f"labels/{number:02}.txt", f"{2 if number in (7, 30) else number % 2} 0.5 0.5 0.5 0.5")
    _text(root / "classes.txt", *NAMES)
    once = _written(convert_folder(str(root), val_share=0.25, seed=4))
    again = _written(convert_folder(str(root), val_share=0.25, seed=4, overwrite=True))
    assert once == again
    other = _written(convert_folder(str(root), val_share=0.25, seed=5, overwrite=True))
    assert once != other
    assert len(once["val"]["images"]) == pytest.approx(10, abs=1)
    for data in once.values():
        assert {a["category_id"] for a in data["annotations"]} == {1, 2, 3}
    ids = [image["id"] for data in once.values() for image in data["images"]]
    assert sorted(ids) == list(range(1, 41))


def test_a_training_split_alone_is_divided_and_a_test_split_is_kept(folder):
    for name in ("c", "d"):
        _image(folder / f"images/test/{name}.jpg", (10, 10))
        _image(folder / f"images/train/{name}.jpg", (10, 10))
        _text(folder / f"labels/train/{name}.txt", "0 0.5 0.5 0.5 0.5")
    kept = convert_folder(str(folder))
    assert [part.split for part in kept.parts] == ["train", "test"]
    assert [p.kind for p in kept.problems] == ["labels without an image", "image in no split"] or [
        p.kind for p in kept.problems
    ] == ["image in no split"]
    for path in (folder / "images/test").iterdir():
        path.unlink()
    (folder / "images/test").rmdir()
    divided = convert_folder(str(folder), output=str(folder / "other"))
    assert [part.split for part in divided.parts] == ["train", "val"]
    assert [part.num_images for part in divided.parts] == [1, 1]


BOXES = {
    "polygon": ("0 0.1 0.5 0.3 0.25 0.4 0.75", [8, 10, 24, 20], "polygon"),
    "partly outside": ("0 0.95 0.5 0.2 0.5", [68, 10, 12, 20], "box partly outside its image"),
    "outside": ("0 1.5 0.5 0.2 0.5", None, "box outside its image"),
    "no area": ("0 0.5 0.5 0 0.5", None, "box without area"),
    "rounding": ("0 0.95 0.5 0.1000004 0.5", [72, 10, 8, 20], None),
    "class as a fraction": ("0.0 0.5 0.5 0.5 0.5", [20, 10, 40, 20], None),
}


@pytest.mark.parametrize("case", BOXES)
def test_single_boxes(folder, case):
    line, expected, kind = BOXES[case]
    _text(folder / "labels/a.txt", line)
    done = convert_folder(str(folder), val_share=0)
    found = [a["bbox"] for a in _written(done)["train"]["annotations"]]
    assert found == ([] if expected is None else [pytest.approx(expected, abs=1e-3)])
    assert [p.kind for p in done.problems] == ([] if kind is None else [kind])


def test_a_box_that_is_written_twice_counts_once(folder):
    _text(folder / "labels/a.txt", "0 0.5 0.5 0.5 0.5", "", "0 0.5 0.5 0.5 0.5")
    done = convert_folder(str(folder), val_share=0)
    assert done.parts[0].num_boxes == 1
    assert "line 3: " not in str(done.problems[0])
    assert "line 3" in str(done.problems[0])


def test_keypoints_after_the_box(folder):
    _text(folder / "data.yaml", "names: [person]", "kpt_shape: [2, 2]")
    _text(folder / "labels/a.txt", "0 0.5 0.5 0.5 0.5 0.1 0.1 0.9 0.9")
    done = convert_folder(str(folder), val_share=0)
    assert [a["bbox"] for a in _written(done)["train"]["annotations"]] == [[20, 10, 40, 20]]


FAULTS = {
    "words": ("0 0.5 0.5 wide 0.5", "line 2: .* are not all numbers"),
    "too few": ("0 0.5 0.5 0.5", "line 2: 4 numbers, not 5"),
    "score": ("0 0.5 0.5 0.5 0.5 0.9", "line 2: 6 numbers, not 5"),
    "not finite": ("0 0.5 nan 0.5 0.5", "line 2: a number is not finite"),
    "class": ("3 0.5 0.5 0.5 0.5", "line 2: class 3, but there are the classes 0 to 2"),
    "half a class": ("0.5 0.5 0.5 0.5 0.5", "line 2: class 0.5"),
    "pixels": ("0 40 20 10 10", "line 2: 40 is no share of the image's width or height"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_malformed_lines_stop_with_their_number_or_are_left_out(folder, case):
    line, message = FAULTS[case]
    _text(folder / "labels/a.txt", "0 0.5 0.5 0.5 0.5", line)
    with pytest.raises(DataError, match=rf"labels/a\.txt: malformed label \({message}(.|\n)*--skip-faulty"):
        convert_folder(str(folder), val_share=0)
    assert not (folder / "annotations").exists()
    done = convert_folder(str(folder), val_share=0, skip_faulty=True)
    assert done.parts[0].num_boxes == 1
    assert [p.action for p in done.problems] == ["left out"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photos(tmp_path, orientation):
    """Labels drawn on the picture as it is shown end up at the same place of the stored pixels."""
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:12, 30:50] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "images/photo.png"
    path.parent.mkdir()
    Image.fromarray(stored).save(path, exif=exif)
    with Image.open(path) as opened:
        shown = np.array(ImageOps.exif_transpose(opened))
    rows, columns = np.nonzero(shown[..., 0])
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    _text(tmp_path / "labels/photo.txt", _line(0, box, shown.shape[1::-1]))
    _text(tmp_path / "classes.txt", "thing")
    done = convert_folder(str(tmp_path), val_share=0)
    data = _written(done)["train"]
    assert (data["images"][0]["width"], data["images"][0]["height"]) == (60, 40)
    assert data["annotations"][0]["bbox"] == pytest.approx([30, 5, 20, 7], abs=1e-3)
    assert [p.kind for p in done.problems] == ([] if orientation == 1 else ["rotated photo"])
    _text(tmp_path / "labels/photo.txt", _line(0, [30, 5, 20, 7], (60, 40)))
    done = convert_folder(str(tmp_path), val_share=0, overwrite=True, displayed=False)
    assert _written(done)["train"]["annotations"][0]["bbox"] == pytest.approx([30, 5, 20, 7], abs=1e-3)
