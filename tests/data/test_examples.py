"""The few images that pictures are made of."""

from __future__ import annotations

from labelenc.data import read_examples


def ids(batches):
    return [batch.image_ids for batch in batches]


def test_the_first_images_with_two_boxes(coco_dict, write_set, make_cfg):
    cfg = make_cfg(one=write_set(coco_dict))
    for count, expected in ((1, [[11]]), (5, [[11], [30]])):
        info, batches = read_examples(cfg, ["one"], count)
        assert ids(batches) == expected
        # The crowd box of image 30 does not count.
        assert all(len(batch.targets[0]) == 2 for batch in batches)
        assert info.name == "one"
    # Shorter side 32, at most 64, padded to multiples of 32.
    assert batches[0].images.image_sizes == [(32, 64)]
    assert batches[1].images.tensors.shape == (1, 3, 64, 32)
    assert batches[1].original_sizes == [(60, 80)]


def test_images_with_fewer_boxes_stand_in(coco_dict, write_set, make_cfg):
    fewer = [a for a in coco_dict["annotations"] if a["id"] != 3]
    sets = {
        "none": write_set({**coco_dict, "annotations": []}, "none"),
        "fewer": write_set({**coco_dict, "annotations": fewer}, "fewer"),
    }
    info, batches = read_examples(make_cfg(**sets), ["none", "fewer"], 2)
    assert ids(batches) == [[30], [11]]
    assert info.name == "fewer"
