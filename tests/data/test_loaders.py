"""Data sets and loaders as the configuration builds them."""

from __future__ import annotations

import copy
import logging
import pickle

import cv2
import numpy as np
import pytest
import torch

from labelenc.config import ConfigError
from labelenc.data import (
    DataError,
    Draw,
    build_test_loaders,
    build_train_loader,
    check_datasets,
    coco_ground_truth,
    log_problems,
    read_dataset_info,
)
from labelenc.data.coco import CocoDataset
from labelenc.data.parse import load_coco
from labelenc.data.transforms import Transform
from labelenc.structures import Batch


def _same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.images.tensors, other.images.tensors)
        and one.images.image_sizes == other.images.image_sizes
        and one.image_ids == other.image_ids
        and one.original_sizes == other.original_sizes
        and all(torch.equal(a.bbox, b.bbox) for a, b in zip(one.targets, other.targets, strict=True))
        and all(
            torch.equal(a.get_field("labels"), b.get_field("labels"))
            for a, b in zip(one.targets, other.targets, strict=True)
        )
    )


def _dataset(place, training: bool, transform: Transform | None = None) -> CocoDataset:
    folder, file = place
    transform = transform or Transform((1000,), 100)
    return CocoDataset(load_coco(str(file), "pets"), str(folder), transform, training, str(file))


def test_training_drops_images_without_boxes_and_testing_keeps_all(coco_dict, write_set, caplog):
    place = write_set(coco_dict)
    with caplog.at_level(logging.INFO, logger="labelenc"):
        train = _dataset(place, training=True)
    assert "pets: 1 images without a usable box are left out of training" in caplog.text
    assert "pets: 1 crowd (or difficult) boxes are not used as targets" in caplog.text
    test = _dataset(place, training=False)
    assert train.image_ids == [11, 30]
    assert test.image_ids == [11, 12, 30]
    assert (len(train), train.info.num_images, len(test)) == (2, 2, 3)
    assert train.info.categories == ((3, "dog"), (7, "cat"))
    assert train.info.annotation_file == str(place[1])
    assert train.aspect_groups() == [0, 1]
    assert train.targets(0).get_field("labels").tolist() == [2, 1]
    assert train.targets(0).get_field("labels").dtype == torch.int64
    assert train.targets(1).bbox.tolist() == [[0, 0, 59, 79], [1, 2, 3, 5]]
    empty = test.targets(1)
    assert (len(empty), empty.size, empty.get_field("labels").dtype) == (0, (50, 40), torch.int64)


def test_dropped_boxes_are_logged_with_their_ids(coco_dict, write_set, make_cfg, caplog):
    coco_dict["annotations"][0]["bbox"][2] = 0
    with caplog.at_level(logging.WARNING, logger="labelenc"):
        log_problems(check_datasets(make_cfg(one=write_set(coco_dict)), test=False))
    assert "one: 1 x box without area; dropped" in caplog.text
    assert "image 11, annotation 1" in caplog.text


def test_sample_is_the_decoded_image(coco_dict, write_set):
    place = write_set(coco_dict)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 100, 3), dtype=np.uint8)
    cv2.imwrite(str(place[0] / "a.png"), pixels)
    sample = _dataset(place, True, Transform((50,), 100))[0]
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), pixels)
    assert (sample.image_id, sample.original_size) == (11, (100, 50))


def test_exif_rotation_is_not_applied(coco_dict, write_set):
    folder, file = write_set(coco_dict)
    _, encoded = cv2.imencode(".jpg", np.zeros((50, 100, 3), np.uint8))
    # An APP1 segment that holds one EXIF entry: orientation 6, a quarter turn.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = encoded.tobytes()
    (folder / "a.png").write_bytes(
        data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    )
    assert cv2.imread(str(folder / "a.png")).shape == (100, 50, 3)
    assert _dataset((folder, file), True)[0].original_size == (100, 50)


BAD_IMAGES = [
    ("missing", None, "a.png is missing; put it there"),
    ("empty", b"", "a.png cannot be decoded"),
    ("no image", b"GIF89a nonsense", "a.png cannot be decoded"),
]


@pytest.mark.parametrize(("content", "message"), [b[1:] for b in BAD_IMAGES], ids=[b[0] for b in BAD_IMAGES])
def test_bad_image(coco_dict, write_set, content, message):
    folder, file = write_set(coco_dict)
    (folder / "a.png").unlink()
    if content is not None:
        (folder / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"^pets, image 11: .*" + message):
        _dataset((folder, file), True)[0]


def test_truncated_jpeg(coco_dict, write_set):
    folder, file = write_set(coco_dict)
    noise = np.random.default_rng(0).integers(0, 256, (50, 100, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    (folder / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="image 11"):
        _dataset((folder, file), True)[0]


def test_turned_image(coco_dict, write_set):
    folder, file = write_set(coco_dict)
    cv2.imwrite(str(folder / "a.png"), np.zeros((100, 50, 3), np.uint8))
    with pytest.raises(DataError, match=r"50 x 100 pixels, but the annotations say 100 x 50.*EXIF"):
        _dataset((folder, file), True)[0]


def test_sets_that_cannot_be_trained_on(coco_dict, write_set):
    unlabelled = {key: coco_dict[key] for key in ("images", "categories")}
    with pytest.raises(DataError, match="has no 'annotations'"):
        _dataset(write_set(unlabelled, "unlabelled"), True)
    assert len(_dataset(write_set(unlabelled, "unlabelled"), False)) == 3
    with pytest.raises(DataError, match=r"none of the 3 images .* has a usable box"):
        _dataset(write_set({**coco_dict, "annotations": []}, "empty"), True)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_seed_and_iteration_alone(coco_dict, write_set, make_cfg, workers):
    place = write_set(coco_dict)
    options = ("INPUT.MIN_SIZE_TRAIN", "(24, 32, 40)")
    plain = list(build_train_loader(make_cfg(*options, one=place), 1, 0, 0, 6))
    state = torch.get_rng_state()
    cfg = make_cfg(*options, "DATALOADER.NUM_WORKERS", str(workers), one=place)
    loader = build_train_loader(cfg, 1, 0, 2, 6)
    assert len(loader) == 4
    again = list(loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(again) == 4
    assert all(_same(a, b) for a, b in zip(plain[2:], again, strict=True))
    other = list(build_train_loader(make_cfg(*options, "SEED", "6", one=place), 1, 0, 0, 6))
    assert not all(_same(a, b) for a, b in zip(plain, other, strict=True))
    first = plain[0]
    assert first.images.tensors.dtype == torch.uint8
    assert first.images.tensors.shape[0] == 4
    assert all(side % 32 == 0 for side in first.images.tensors.shape[-2:])
    assert len({len(first.targets), len(first.image_ids), len(first.original_sizes)}) == 1


def test_two_processes_see_the_samples_of_one(coco_dict, write_set, make_cfg):
    cfg = make_cfg(one=write_set(coco_dict))
    whole = list(build_train_loader(cfg, 1, 0, 0, 5))
    halves = [list(build_train_loader(cfg, 2, rank, 0, 5)) for rank in range(2)]
    for iteration, batch in enumerate(whole):
        parts = [half[iteration] for half in halves]
        for position in range(4):
            part, slot = parts[position % 2], position // 2
            assert part.image_ids[slot] == batch.image_ids[position]
            assert torch.equal(part.targets[slot].bbox, batch.targets[position].bbox)
            height, width = batch.images.image_sizes[position]
            assert part.images.image_sizes[slot] == (height, width)
            ours, theirs = part.images.tensors[slot], batch.images.tensors[position]
            assert torch.equal(ours[:, :height, :width], theirs[:, :height, :width])


def test_several_training_sets_with_equal_image_ids(coco_dict, write_set, make_cfg):
    other = copy.deepcopy(coco_dict)
    for image in other["images"]:
        image["width"] += 8
    cfg = make_cfg(one=write_set(coco_dict, "one"), two=write_set(other, "two"))
    assert read_dataset_info(cfg, cfg.DATASETS.TRAIN).num_images == 6
    seen = set()
    for batch in build_train_loader(cfg, 1, 0, 0, 12):
        seen |= set(zip(batch.image_ids, batch.original_sizes, strict=True))
    assert seen == {(11, (100, 50)), (30, (60, 80)), (11, (108, 50)), (30, (68, 80))}


def test_sets_with_other_categories_are_refused(coco_dict, write_set, make_cfg):
    other = copy.deepcopy(coco_dict)
    other["categories"][0]["name"] = "lion"
    cfg = make_cfg(one=write_set(coco_dict, "one"), two=write_set(other, "two"))
    with pytest.raises(
        DataError, match=r"one and two have different categories.*\(7, 'cat'\).*\(7, 'lion'\)"
    ):
        read_dataset_info(cfg, cfg.DATASETS.TRAIN)
    with pytest.raises(DataError, match="different categories"):
        build_train_loader(cfg, 1, 0, 0, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_in_training_gives_its_own_message(coco_dict, write_set, make_cfg, workers):
    folder, file = write_set(coco_dict)
    (folder / "c.png").write_bytes(b"no image")
    cfg = make_cfg("DATALOADER.NUM_WORKERS", str(workers), one=(folder, file))
    with pytest.raises(DataError) as caught:
        list(build_train_loader(cfg, 1, 0, 0, 8))
    assert str(caught.value).startswith(f"one, image 30: the file {folder / 'c.png'} cannot be decoded")
    assert "Traceback" not in str(caught.value)


def test_errors_survive_the_way_between_processes():
    error = DataError("what is wrong")
    assert str(pickle.loads(pickle.dumps(error))) == "what is wrong"


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_testing_sees_every_image_once(coco_dict, write_set, make_cfg, replicas):
    cfg = make_cfg(one=write_set(coco_dict))
    ids, names = [], set()
    for rank in range(replicas):
        ((info, loader),) = build_test_loaders(cfg, replicas, rank)
        names.add((info.name, info.num_images))
        for batch in loader:
            assert len(batch.image_ids) <= max(2 // replicas, 1)
            ids += batch.image_ids
            for size, (height, width) in zip(batch.original_sizes, batch.images.image_sizes, strict=True):
                assert min(height, width) == 32 or max(height, width) == 64
                assert width / height == pytest.approx(size[0] / size[1], rel=0.05)
    assert sorted(ids) == [11, 12, 30]
    assert names == {("one", 3)}


def test_range_of_training_sizes(coco_dict, write_set, make_cfg):
    cfg = make_cfg(
        "INPUT.MIN_SIZE_RANGE_TRAIN", "(20, 23)", "INPUT.MAX_SIZE_TRAIN", "1000", one=write_set(coco_dict)
    )
    batches = build_train_loader(cfg, 1, 0, 0, 25)
    assert {min(size) for batch in batches for size in batch.images.image_sizes} == {20, 21, 22, 23}


def test_rgb(coco_dict, write_set, make_cfg):
    cfg = make_cfg("INPUT.TO_BGR255", "False", one=write_set(coco_dict))
    batch = next(iter(build_train_loader(cfg, 1, 0, 0, 1)))
    assert batch.images.tensors[0, :, 4, 4].tolist() == [200, 10, batch.image_ids[0] % 251]


def test_batch_that_cannot_be_split(coco_dict, write_set, make_cfg):
    with pytest.raises(ConfigError, match=r"SOLVER.IMS_PER_BATCH is 4, .* over 3 processes"):
        build_train_loader(make_cfg(one=write_set(coco_dict)), 3, 0, 0, 1)
    cfg = make_cfg("SOLVER.ACCUMULATION_STEPS", "4", one=write_set(coco_dict))
    with pytest.raises(ConfigError, match=r"2 processes times SOLVER.ACCUMULATION_STEPS 4; .* multiple of 8"):
        build_train_loader(cfg, 2, 0, 0, 1)


def test_unresolved_seed(coco_dict, write_set, make_cfg):
    with pytest.raises(ConfigError, match="SEED is -1"):
        build_train_loader(make_cfg("SEED", "-1", one=write_set(coco_dict)), 1, 0, 0, 1)


def test_ground_truth_for_the_evaluator(coco_dict, write_set, make_cfg):
    coco_dict["annotations"][1]["bbox"][0] = -3
    assert coco_ground_truth(make_cfg(one=write_set(coco_dict)), "one") == coco_dict
    del coco_dict["annotations"]
    assert coco_ground_truth(make_cfg(one=write_set(coco_dict)), "one") == {"annotations": [], **coco_dict}


def test_augmentation_of_a_draw_repeats(coco_dict, write_set):
    data = _dataset(write_set(coco_dict), True, Transform((20, 30, 40, 50), 200, 0.5))
    shapes = {tuple(data[Draw(0, number)].image.shape) for number in range(40)}
    assert len(shapes) == 4
    assert torch.equal(data[Draw(0, 3)].image, data[Draw(0, 3)].image)
