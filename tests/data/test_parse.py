"""Annotation files, sound and faulty."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from labelenc.data import DataError
from labelenc.data.annotations import CLIPPED, DROPPED, STOPS
from labelenc.data.parse import load_coco, parse_coco


def test_flat_arrays_against_values_worked_out_by_hand(coco_dict):
    found = parse_coco(coco_dict, "pets", "pets.json")
    assert found.categories == ((3, "dog"), (7, "cat"))
    assert found.image_ids.tolist() == [11, 12, 30]
    assert found.offsets.tolist() == [0, 2, 2, 4]
    assert found.labels.tolist() == [2, 1, 1, 2]
    # Inclusive corners: 20 pixels from 10 end at 29.
    expected = [[10, 5, 29, 14], [50.5, 20.25, 79.5, 44.25], [0, 0, 59, 79], [1, 2, 3, 5]]
    assert found.boxes.tolist() == expected
    assert found.boxes.dtype == np.float32
    assert found.num_crowd == 1
    assert found.problems == ()
    assert found.file_name(2) == "c.png"


def test_sizes_stated_as_whole_floats_are_fine(coco_dict):
    coco_dict["images"][0]["width"] = 60.0
    assert parse_coco(coco_dict, "pets", "pets.json").require_sound().sizes[2].tolist() == [60, 80]


Change = Callable[[dict[str, Any]], Any]


def _set(*path: Any) -> Change:
    *keys, last, value = path

    def change(data: dict[str, Any]) -> None:
        node: Any = data
        for key in keys:
            node = node[key]
        node[last] = value

    return change


def _delete(*path: Any) -> Change:
    *keys, last = path

    def change(data: dict[str, Any]) -> None:
        node: Any = data
        for key in keys:
            node = node[key]
        del node[last]

    return change


STOPPING: list[tuple[str, Change, str]] = [
    ("no images key", _delete("images"), "key 'images' is missing"),
    ("no categories key", _delete("categories"), "key 'categories' is missing"),
    ("images no list", _set("images", {}), "'images' is a dict, not a list"),
    ("annotation no object", _set("annotations", 0, 5), r"annotations\[0\] is no object"),
    ("empty images", lambda d: d.update(images=[], annotations=[]), "no images"),
    ("empty categories", lambda d: d.update(categories=[], annotations=[]), "no categories"),
    ("image without width", _delete("images", 1, "width"), r"image 12: .*images\[1\]: 'width' is missing"),
    ("image height zero", _set("images", 1, "height", 0), "'height' is 0, not a positive whole number"),
    ("image id text", _set("images", 1, "id", "12"), "'id' is '12', not an integer"),
    ("no file name", _set("images", 1, "file_name", ""), "'file_name' is ''"),
    (
        "file name for no disk",
        _set("images", 1, "file_name", "a\udc80.png"),
        "not a text that can name a file",
    ),
    ("file name with NUL", _set("images", 1, "file_name", "b.png\0"), "not a text that can name a file"),
    ("image beyond float32", _set("images", 1, "width", 2**24 + 1), "whole number up to 16777216"),
    ("duplicate image id", _set("images", 1, "id", 11), "image 11: duplicate image id"),
    ("duplicate annotation id", _set("annotations", 1, "id", 1), "annotation 1: duplicate annotation id"),
    ("duplicate category id", _set("categories", 0, "id", 3), "duplicate category id"),
    ("category without name", _delete("categories", 0, "name"), "'name' is missing"),
    ("unknown image", _set("annotations", 0, "image_id", 99), "image 99, annotation 1: unknown image id"),
    ("unknown category", _set("annotations", 0, "category_id", 1), "annotation 1: unknown category id"),
    ("no bbox", _delete("annotations", 0, "bbox"), "'bbox' is missing"),
    ("bbox of three", _set("annotations", 0, "bbox", [1, 2, 3]), "four numbers"),
    ("bbox with null", _set("annotations", 0, "bbox", [1, 2, 3, None]), "four numbers"),
    ("bbox with text", _set("annotations", 0, "bbox", [1, 2, 3, "4"]), "four numbers"),
    ("bbox beyond numbers", _set("annotations", 0, "bbox", [1, 2, 3, 10**400]), "four numbers"),
]


@pytest.mark.parametrize(("change", "message"), [c[1:] for c in STOPPING], ids=[c[0] for c in STOPPING])
def test_structural_fault_stops_with_one_error(coco_dict, change, message):
    change(coco_dict)
    with pytest.raises(DataError, match=message) as caught:
        parse_coco(coco_dict, "pets", "pets.json").require_sound()
    assert "pets.json" in str(caught.value)


BAD_BOXES: list[tuple[str, list[float], str]] = [
    ("zero width", [5, 5, 0, 10], "box without area"),
    ("negative height", [5, 5, 10, -4], "box without area"),
    ("one pixel wide", [5, 5, 1, 10], "box without area"),
    ("nan", [float("nan"), 5, 10, 10], "box not finite"),
    ("infinite", [5, 5, float("inf"), 10], "box not finite"),
    ("right of the image", [100, 5, 10, 10], "box outside its image"),
    ("above the image", [5, -20, 10, 15], "box outside its image"),
    ("a hair wider than a pixel", [5, 5, 1 + 1e-9, 10], "box without area"),
    ("a hair inside the image", [99 - 1e-9, 5, 10, 10], "box outside its image"),
    ("far away and huge", [1e308, 5, 1e308, 10], "box outside its image"),
]


@pytest.mark.parametrize(("box", "kind"), [b[1:] for b in BAD_BOXES], ids=[b[0] for b in BAD_BOXES])
def test_faulty_box_is_dropped_and_noted(coco_dict, box, kind):
    coco_dict["annotations"][0]["bbox"] = box
    found = parse_coco(coco_dict, "pets", "pets.json").require_sound()
    assert found.offsets.tolist() == [0, 1, 1, 3]
    (problem,) = found.problems
    assert (problem.kind, problem.action) == (kind, DROPPED)
    assert (problem.image_id, problem.annotation_id) == (11, 1)
    line = str(problem)
    assert "\n" not in line
    assert line.startswith("pets: pets.json, image 11, annotation 1: " + kind)


def test_box_over_the_border_is_clipped_and_noted(coco_dict):
    coco_dict["annotations"][0]["bbox"] = [-10, 40, 200, 30]
    found = parse_coco(coco_dict, "pets", "pets.json").require_sound()
    assert found.boxes[0].tolist() == [0, 40, 99, 49]
    (problem,) = found.problems
    assert (problem.kind, problem.action, problem.annotation_id) == (
        "box partly outside its image",
        CLIPPED,
        1,
    )


def test_rounding_at_the_border_is_no_problem(coco_dict):
    coco_dict["annotations"][0]["bbox"] = [90, 40, 10.01, 10]
    assert parse_coco(coco_dict, "pets", "pets.json").problems == ()


def test_one_error_lists_the_first_faults_and_counts_all(coco_dict):
    base = coco_dict["annotations"][0]
    for number in range(100, 140):
        coco_dict["annotations"].append({**copy.deepcopy(base), "id": number, "category_id": 99})
    coco_dict["annotations"].append({**base, "id": 140, "image_id": 98})
    with pytest.raises(DataError) as caught:
        parse_coco(coco_dict, "pets", "pets.json").require_sound()
    message = str(caught.value)
    assert "40 x unknown category id in pets" in message
    assert "1 x unknown image id in pets" in message
    assert "and 36 more" in message
    assert len(caught.value.problems) == 41
    assert all(p.action == STOPS for p in caught.value.problems)


def test_annotations_of_a_malformed_image_are_not_blamed(coco_dict):
    del coco_dict["images"][2]["width"]
    problems = parse_coco(coco_dict, "pets", "pets.json").problems
    assert [p.kind for p in problems] == ["malformed image"]


FILES = [
    ("truncated", '{"images": [\n {"id": 1,', "not valid JSON at line 2, column"),
    ("empty", "", "not valid JSON at line 1, column 1"),
    ("a list", "[1, 2]", "top level is a list"),
    ("endless number", '{"images": ' + "9" * 5000 + "}", "cannot read"),
]


@pytest.mark.parametrize(("text", "message"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_broken_file(write_set, text, message):
    _, file = write_set(text)
    with pytest.raises(DataError, match=message) as caught:
        load_coco(str(file), "pets")
    assert str(file) in str(caught.value)


def test_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"no annotation file .*none\.json.*DATASETS"):
        load_coco(str(tmp_path / "none.json"), "pets")


def test_not_text(tmp_path):
    file = tmp_path / "binary.json"
    file.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="cannot read"):
        load_coco(str(file), "pets")


def test_a_changed_file_is_read_again(coco_dict, write_set):
    _, file = write_set(coco_dict)
    before = load_coco(str(file), "pets")
    assert load_coco(str(file), "pets") is before
    coco_dict["annotations"].pop()
    file.write_text(json.dumps(coco_dict))
    assert len(load_coco(str(file), "pets").labels) == 3
