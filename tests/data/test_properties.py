"""Whatever an annotation file holds, it loads or a DataError names it; what loads is sound."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labelenc.data import Annotations, CocoDataset, DataError, Draw
from labelenc.data.check import check_set
from labelenc.data.coco import read_image
from labelenc.data.parse import load_coco
from labelenc.data.transforms import Transform
from labelenc.data.voc import load_voc

T = TypeVar("T")
numbers = st.integers(-(10**6), 10**6) | st.floats() | st.sampled_from([1e308, -1e308, 2**62, 1e-300])
# Lone surrogates, which JSON can write and no encoding knows, and characters that end a C string.
text = st.text(st.characters(), max_size=8)
junk = st.recursive(
    st.none() | st.booleans() | numbers | st.sampled_from([10**400, "", "5"]) | text,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(text, values, max_size=2),
    max_leaves=6,
)
counter = itertools.count()


@st.composite
def boxes_near(draw: st.DrawFn, width: int, height: int) -> list[float]:
    """COCO boxes in and around an image: whole, sub-pixel, at its borders, or anything at all."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.lists(numbers, min_size=4, max_size=4))
    near = [st.floats(-2, side + 2) | st.integers(-2, side + 2) for side in (width, height)]
    edge = st.sampled_from([0.0, 1e-7, 1.0, 1 + 1e-7])
    x, y = (
        draw(start | edge.map(lambda e, side=side: side - 1 - e))
        for start, side in zip(near, (width, height), strict=True)
    )
    return [x, y, *(draw(st.floats(0, side + 9) | st.just(1 + 1e-9)) for side in (width, height))]


@st.composite
def sound_sets(draw: st.DrawFn, largest: int = 5000) -> dict[str, Any]:
    """COCO dictionaries without a fault that stops; boxes may be of any kind."""
    names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=8)
    sides = st.integers(1, largest)
    ids = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 20)
    images = [
        {"id": number, "file_name": draw(names), "width": draw(sides), "height": float(draw(sides))}
        for number in draw(st.lists(ids, unique=True, min_size=1, max_size=4))
    ]
    categories = [
        {"id": number, "name": draw(names)}
        for number in draw(st.lists(ids, unique=True, min_size=1, max_size=4))
    ]
    annotations = []
    for number in draw(st.lists(ids, unique=True, max_size=8)):
        image, category = draw(st.sampled_from(images)), draw(st.sampled_from(categories))
        box = draw(boxes_near(image["width"], int(image["height"])))
        record = {"id": number, "image_id": image["id"], "category_id": category["id"], "bbox": box}
        annotations.append({**record, "iscrowd": draw(st.sampled_from([0, 0, 0, 1]))})
    return {"images": images, "annotations": annotations, "categories": categories}


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below ``node``."""
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [found for key in keys for found in [(node, key), *places(node[key])]]


@st.composite
def broken_sets(draw: st.DrawFn) -> Any:
    """Sound sets of which one to three parts are deleted, doubled or replaced."""
    data = copy.deepcopy(draw(sound_sets()))
    for _ in range(draw(st.integers(1, 3))):
        found = places(data)
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        kind = draw(st.sampled_from(["delete", "double", "replace", "replace"]))
        if kind == "delete":
            del container[key]
        elif kind == "double" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[key] = draw(junk)
    return data if draw(st.integers(0, 20)) else draw(junk)


def require_invariants(found: Annotations) -> None:
    assert len(found) > 0
    assert found.offsets[0] == 0
    assert found.offsets[-1] == len(found.boxes) == len(found.labels)
    assert (np.diff(found.offsets) >= 0).all()
    assert len(found.offsets) == len(found) + 1
    assert (np.diff(found.image_ids.astype(object)) > 0).all()
    assert ((found.labels >= 1) & (found.labels <= len(found.categories))).all()
    assert np.isfinite(found.boxes).all()
    limit = np.repeat(found.sizes, np.diff(found.offsets), axis=0).astype(np.float64) - 1
    x0y0, x1y1 = found.boxes[:, :2].astype(np.float64), found.boxes[:, 2:].astype(np.float64)
    assert (x0y0 >= 0).all()
    assert (x1y1 <= limit).all()
    assert (x1y1 > x0y0).all()


def unless_named(path: Path, load: Callable[[], T]) -> T | None:
    """What ``load`` gives; None after a DataError, which must name the file. No other error passes."""
    try:
        return load()
    except DataError as error:
        named = str(path) in str(error)
    assert named
    return None


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory):
    """Write ``content`` (bytes or an object) to a new file and load it; None after its DataError."""
    folder = tmp_path_factory.mktemp("annotations")

    def attempt(content: Any) -> Annotations | None:
        path = folder / f"{next(counter)}.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        try:
            return unless_named(path, lambda: load_coco(str(path), "mine").require_sound())
        finally:
            path.unlink()

    return attempt


@given(data=sound_sets())
@settings(max_examples=150)
def test_sound_files_load(load, data):
    found = load(data)
    assert found is not None
    require_invariants(found)
    assert len(found) == len(data["images"])
    assert sorted(map(found.file_name, range(len(found)))) == sorted(i["file_name"] for i in data["images"])
    dropped = sum(problem.action == "dropped" for problem in found.problems)
    assert len(found.labels) + found.num_crowd + dropped == len(data["annotations"])


@given(data=broken_sets())
@settings(max_examples=250)
def test_broken_files_load_or_are_named(load, data):
    found = load(data)
    if found is not None:
        require_invariants(found)
        # Nothing of it makes the look at its files stumble; that they are missing is a finding.
        assert len(check_set(found, "no such folder", training=False)) >= len(found)


@given(data=sound_sets(), where=st.data())
@settings(max_examples=100)
def test_damaged_bytes_load_or_are_named(load, data, where):
    content = bytearray(json.dumps(data, ensure_ascii=where.draw(st.booleans())).encode())
    for _ in range(where.draw(st.integers(1, 4))):
        start = where.draw(st.integers(0, len(content)))
        end = where.draw(st.integers(start, min(start + 9, len(content))))
        content[start:end] = where.draw(st.binary(max_size=3) | st.sampled_from([b"9" * 5000, b"[" * 10**5]))
    found = load(bytes(content))
    if found is not None:
        require_invariants(found)


@given(data=sound_sets(largest=40), size=st.integers(1, 60), seed=st.integers(0, 2**31))
@settings(max_examples=40)
def test_samples_are_sound(tmp_path_factory, data, size, seed):
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(data["images"]):
        image["file_name"] = f"{number}.png"
        pixels = np.zeros((int(image["height"]), image["width"], 3), np.uint8)
        cv2.imwrite(str(folder / image["file_name"]), pixels)
    (folder / "annotations.json").write_text(json.dumps(data))
    annotations = load_coco(str(folder / "annotations.json"), "mine")
    dataset = CocoDataset(annotations, str(folder), Transform((size,), 100, 0.5), training=False)
    for index in range(len(dataset)):
        sample = dataset[Draw(index, seed)]
        height, width = sample.image.shape[1:]
        assert sample.target.size == (width, height)
        boxes = sample.target.bbox
        assert boxes.isfinite().all()
        # A box of next to no size may lose it to rounding; its corners are inclusive.
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
        # Corners of inclusive boxes scale as coordinates do, which takes them less than a pixel too far.
        assert ((boxes > -1) & (boxes < torch.tensor([width, height]).repeat(2))).all()


@given(content=st.binary(max_size=40), start=st.integers(0, 1200), kind=st.sampled_from([".jpg", ".png"]))
@settings(max_examples=100)
def test_damaged_images_are_read_or_named(tmp_path_factory, content, start, kind):
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    encoded = cv2.imencode(kind, picture)[1].tobytes()
    start = start % (len(encoded) + 1)
    path = tmp_path_factory.getbasetemp() / f"damaged{kind}"
    path.write_bytes(encoded[:start] + content + encoded[start + len(content) :])
    pixels = unless_named(path, lambda: read_image(str(path), (24, 16), "mine, image 1"))
    assert pixels is None or pixels.shape == (16, 24, 3)


VOC_XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation><size><width>50</width><height>40</height></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>3</xmin><ymin>4.5</ymin><xmax>20</xmax><ymax>40</ymax></bndbox></object></annotation>
"""


@given(where=st.data())
@settings(max_examples=150)
def test_damaged_voc_files_load_or_are_named(tmp_path_factory, where):
    root = tmp_path_factory.mktemp("voc")
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "JPEGImages/one.jpg").touch()
    words = ["50", "4.5", "utf-8", "dog", "bndbox", "<size>", "one"]
    word = where.draw(st.sampled_from(words))
    other = where.draw(
        text | numbers.map(str) | st.sampled_from(["utf-16", "big5", "latin-1", "ucs4", "&lol;"])
    )
    damaged = VOC_XML.replace(word, other).encode(errors="surrogatepass")
    (root / "Annotations/one.xml").write_bytes(damaged)
    split = "one".replace(word, other) if word == "one" else "one"
    (root / "ImageSets/Main/train.txt").write_bytes(split.encode(errors="surrogatepass"))
    found = unless_named(root, lambda: load_voc(str(root), "train", "mine").require_sound())
    if found is not None:
        require_invariants(found)
