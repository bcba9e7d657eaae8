"""The generated data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from labelenc.data import DataError, generate_shapes, shapes
from labelenc.data.parse import load_coco
from labelenc.data.shapes import SHAPE_NAMES


def _contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def test_same_arguments_same_bytes(tmp_path, seed):
    for name in ("a", "b"):
        generate_shapes(str(tmp_path / name), "train", 12, 96, seed)
    generate_shapes(str(tmp_path / "c"), "train", 12, 96, seed + 1)
    one, two, other = (_contents(tmp_path / name) for name in "abc")
    assert one == two
    assert len(one) == 13
    assert not set(one.values()) & set(other.values())


def test_splits_share_no_image_and_more_images_keep_the_first(tmp_path, seed):
    generate_shapes(str(tmp_path), "train", 10, 64, seed)
    generate_shapes(str(tmp_path), "val", 10, 64, seed)
    generate_shapes(str(tmp_path / "more"), "train", 14, 64, seed)
    files = _contents(tmp_path)
    images = {name: data for name, data in files.items() if name.endswith(".jpg")}
    assert len({data for name, data in images.items() if not name.startswith("more")}) == 20
    assert all(images[f"more/train/{i:06d}.jpg"] == images[f"train/{i:06d}.jpg"] for i in range(1, 11))


def test_boxes_are_tight_around_the_drawn_pixels(seed, monkeypatch):
    """What an object changed in the picture, less what later ones changed again, spans its box."""
    changes: list[np.ndarray] = []
    add_object = shapes._add_object

    def watched(canvas, size, rng):
        before, count = canvas.pixels.copy(), len(canvas.labels)
        add_object(canvas, size, rng)
        if len(canvas.labels) > count:
            changes.append((canvas.pixels != before).any(axis=2))

    monkeypatch.setattr(shapes, "_add_object", watched)
    exact: list[bool] = []
    for number in range(60):
        changes.clear()
        _, objects = shapes.draw_image(128, np.random.Generator(np.random.PCG64([seed, number])))
        assert len(objects) == len(changes)
        for position, (_, (x, y, width, height), area) in enumerate(objects):
            later = np.any([np.zeros((128, 128), bool), *changes[position + 1 :]], axis=0)
            rows, columns = np.nonzero(changes[position] & ~later)
            found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            # A pixel may keep its value by chance, so what changed falls short of the box for a few objects.
            exact.append(found == (x, y, x + width, y + height) and len(rows) == area)
            # At least 40% of an object can be seen.
            assert len(rows) >= 0.4 * changes[position].sum() - 1
    assert len(exact) > 100
    assert np.mean(exact) > 0.95


def test_set_is_sound_coco_with_all_classes(tmp_path, seed):
    path = generate_shapes(str(tmp_path), "train", 60, 128, seed)
    found = load_coco(path, "shapes").require_sound()
    assert found.problems == ()
    assert [name for _, name in found.categories] == list(SHAPE_NAMES)
    assert len(SHAPE_NAMES) >= 8
    assert set(found.labels.tolist()) == set(range(1, len(SHAPE_NAMES) + 1))
    sizes = found.boxes[:, 2:] - found.boxes[:, :2]
    assert sizes.max() / sizes.min() > 4
    # Overlap: in some image two boxes meet.
    spans = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    assert any(_overlap(found.boxes[a:b]) for a, b in spans)


def _overlap(boxes: np.ndarray) -> bool:
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    return bool(((high - low).min(axis=2) > 0).sum() > len(boxes))


def test_a_complete_set_is_kept_and_an_incomplete_one_made_again(tmp_path):
    path = Path(generate_shapes(str(tmp_path), "train", 5, 64, 3))
    image = tmp_path / "train" / "000002.jpg"
    image.write_bytes(b"marker")
    generate_shapes(str(tmp_path), "train", 5, 64, 3)
    assert image.read_bytes() == b"marker"
    path.unlink()
    generate_shapes(str(tmp_path), "train", 5, 64, 3)
    assert image.read_bytes() != b"marker"
    image.unlink()
    generate_shapes(str(tmp_path), "train", 5, 64, 3)
    assert image.exists()
    generate_shapes(str(tmp_path), "train", 6, 64, 3)
    assert len(json.loads(path.read_text())["images"]) == 6


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "train.json").write_text('{"info": {"description": "my annotations"}, "images": []}')
    with pytest.raises(DataError, match=r"train\.json exists and is not a generated shapes set"):
        generate_shapes(str(tmp_path), "train", 2, 64, 3)
    assert "my annotations" in (tmp_path / "train.json").read_text()


def test_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the shapes data set"):
        generate_shapes(str(tmp_path / "file"), "train", 2, 64, 3)
