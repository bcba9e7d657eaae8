"""The check of a data set before training."""

from __future__ import annotations

import copy
import json

import cv2
import numpy as np
import pytest

from labelenc.data import DataError, check_datasets, stop_if_unusable
from labelenc.data.annotations import CLIPPED, DROPPED, STOPS


def _kinds(problems, action):
    return sorted(p.kind for p in problems if p.action == action)


def test_sound_set(coco_dict, write_set, make_cfg):
    cfg = make_cfg(one=write_set(coco_dict))
    problems = check_datasets(cfg, train=False)
    assert problems == []
    (problem,) = check_datasets(cfg, full=True, test=False)
    assert str(problem) == "one: b.png, image 12: image without a usable box; dropped"
    stop_if_unusable([problem])


@pytest.mark.parametrize("full", [False, True])
def test_every_fault_is_reported_with_id_file_and_action(coco_dict, write_set, make_cfg, full):
    coco_dict["images"] += [
        {"id": 40 + i, "file_name": f"{name}.png", "width": 20, "height": 30}
        for i, name in enumerate(("gone", "broken", "turned", "Upper"))
    ]
    coco_dict["annotations"] += [
        {"id": 50 + i, "image_id": 40 + i, "category_id": 3, "bbox": [2, 2, 10, 10]} for i in range(4)
    ]
    coco_dict["annotations"][0]["bbox"] = [-5, 0, 20, 20]
    coco_dict["annotations"][2]["bbox"] = [0, 0, 0, 20]
    folder, file = write_set(coco_dict)
    (folder / "gone.png").unlink()
    (folder / "broken.png").write_bytes(b"x")
    cv2.imwrite(str(folder / "turned.png"), np.zeros((20, 30, 3), np.uint8))
    (folder / "Upper.png").rename(folder / "UPPER.png")
    problems = check_datasets(make_cfg(one=(folder, file)), full=full, test=False)
    assert _kinds(problems, DROPPED) == ["box without area", "image without a usable box"]
    assert _kinds(problems, CLIPPED) == ["box partly outside its image"]
    expected = {
        40: "missing image file",
        41: "unreadable image",
        42: "image size differs from the annotations",
        43: "missing image file",
    }
    stopping = {p.image_id: p for p in problems if p.action == STOPS}
    assert {number: p.kind for number, p in stopping.items()} == expected
    assert stopping[40].file == str(folder / "gone.png")
    assert "UPPER.png" in stopping[43].detail
    assert "30 x 20 pixels, but the annotations say 20 x 30" in str(stopping[42])
    with pytest.raises(DataError, match="2 x missing image file in one"):
        stop_if_unusable(problems)


def test_missing_image_folder_is_one_short_error(coco_dict, write_set, make_cfg, tmp_path):
    _, file = write_set(coco_dict)
    problems = check_datasets(make_cfg(one=(tmp_path / "nowhere", file)), train=False)
    assert len(problems) == 3
    with pytest.raises(DataError, match=r"nowhere does not exist") as caught:
        stop_if_unusable(problems)
    assert len(str(caught.value).splitlines()) < 8


def test_faults_of_all_sets_come_together(coco_dict, write_set, make_cfg):
    folder, file = write_set(coco_dict, "good")
    _, broken = write_set('{"images": [', "broken")
    other = copy.deepcopy(coco_dict)
    other["categories"].append({"id": 9, "name": "cow"})
    unlike = write_set(other, "unlike")
    cfg = make_cfg(good=(folder, file), broken=(folder, broken), unlike=unlike)
    stopping = [p for p in check_datasets(cfg, test=False) if p.action == STOPS]
    assert [(p.dataset, p.kind) for p in stopping] == [
        ("broken", "unusable annotations"),
        ("unlike", "other categories"),
    ]
    assert "cow" in stopping[1].detail


def test_set_without_annotations(coco_dict, write_set, make_cfg):
    del coco_dict["annotations"]
    cfg = make_cfg(one=write_set(coco_dict))
    assert check_datasets(cfg, train=False) == []
    assert _kinds(check_datasets(cfg), STOPS) == ["no annotations"]


def test_fast_check_decodes_few_images(coco_dict, write_set, make_cfg):
    image = coco_dict["images"][0]
    coco_dict["images"] = [{**image, "id": i, "file_name": f"{i}.png"} for i in range(400)]
    coco_dict["annotations"] = []
    folder, file = write_set(coco_dict)
    for path in folder.iterdir():
        path.write_bytes(b"broken")
    cfg = make_cfg(one=(folder, file))
    fast = check_datasets(cfg, train=False)
    assert 24 <= len(fast) <= 48
    assert max(p.image_id for p in fast) - min(p.image_id for p in fast) > 350
    assert len(check_datasets(cfg, full=True, train=False)) == 400


def test_problems_are_plain_data(coco_dict, write_set, make_cfg):
    coco_dict["annotations"][0]["bbox"] = [0, 0, 0, 0]
    problems = check_datasets(make_cfg(one=write_set(coco_dict)), test=False)
    assert json.loads(json.dumps([vars(p) for p in problems]))[0]["annotation_id"] == 1
