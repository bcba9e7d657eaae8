"""Images at the further sizes of test-time augmentation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.functional import resize

from labelenc.data import DataError, build_test_loaders, build_train_loader

# The sizes (height, width) of the images 11, 12, 30 of 100 x 50, 50 x 40 and 60 x 80 pixels, by hand: 24 is
# the shorter side of all; 48 that of the last two, the first would be 96 long where 70 are allowed: 35 x 70.
SCALES = ("TEST.BBOX_AUG.SCALES", "(24, 48)", "TEST.BBOX_AUG.MAX_SIZE", "70")
SIZES = {11: [(24, 48), (35, 70)], 12: [(24, 30), (48, 60)], 30: [(32, 24), (64, 48)]}


@pytest.fixture
def place(coco_dict, write_set) -> tuple[Path, Path]:
    """The small set, with noise as images."""
    folder, file = write_set(coco_dict)
    rng = np.random.default_rng()
    for image in coco_dict["images"]:
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
        cv2.imwrite(str(folder / image["file_name"]), pixels)
    return folder, file


@pytest.mark.parametrize("workers", [0, 1])
def test_every_size_is_resized_from_the_file(place, make_cfg, coco_dict, workers):
    cfg = make_cfg(*SCALES, "DATALOADER.NUM_WORKERS", str(workers), one=place)
    names = {image["id"]: image["file_name"] for image in coco_dict["images"]}
    seen = []
    [(info, loader)] = build_test_loaders(cfg, 1, 0, rescaled=True)
    assert info.num_images == 3
    for batch in loader:
        assert len(batch.rescaled) == 2
        for number, images in enumerate(batch.rescaled):
            assert images.tensors.dtype == torch.uint8
            assert all(side % 32 == 0 for side in images.tensors.shape[-2:])
            for image_id, size, padded in zip(
                batch.image_ids, images.image_sizes, images.tensors, strict=True
            ):
                assert size == SIZES[image_id][number]
                pixels = torch.from_numpy(cv2.imread(str(place[0] / names[image_id]))).permute(2, 0, 1)
                # Through float32; torchvision's own uint8 arithmetic may round the other way.
                expected = resize(pixels.float(), list(size), antialias=True)
                difference = padded[:, : size[0], : size[1]] - expected
                assert difference.abs().max() <= 1.01
                assert padded[:, size[0] :].count_nonzero() == padded[:, :, size[1] :].count_nonzero() == 0
        seen += batch.image_ids
    assert sorted(seen) == sorted(SIZES)


def test_the_batches_are_otherwise_the_same(place, make_cfg):
    cfg = make_cfg(*SCALES, "TEST.BBOX_AUG.ENABLED", "True", one=place)
    pairs = zip(
        build_test_loaders(cfg, 1, 0)[0][1], build_test_loaders(cfg, 1, 0, rescaled=True)[0][1], strict=True
    )
    for plain, other in pairs:
        assert plain.rescaled is None
        assert torch.equal(plain.images.tensors, other.images.tensors)
        assert plain.image_ids == other.image_ids
        for target, same in zip(plain.targets, other.targets, strict=True):
            assert target.size == same.size
            assert torch.equal(target.bbox, same.bbox)
    assert all(batch.rescaled is None for batch in build_train_loader(cfg, 1, 0, 0, 2))


def test_no_sizes_are_none(place, make_cfg):
    [(_, loader)] = build_test_loaders(make_cfg("TEST.BBOX_AUG.ENABLED", "True", one=place), 1, 0, True)
    assert all(batch.rescaled is None for batch in loader)


def test_rgb(place, make_cfg):
    [(_, bgr)] = build_test_loaders(make_cfg(*SCALES, one=place), 1, 0, True)
    [(_, rgb)] = build_test_loaders(make_cfg(*SCALES, "INPUT.TO_BGR255", "False", one=place), 1, 0, True)
    for one, other in zip(bgr, rgb, strict=True):
        assert torch.equal(one.rescaled[1].tensors, other.rescaled[1].tensors[:, [2, 1, 0]])


def test_a_missing_image_is_told_as_ever(place, make_cfg):
    (place[0] / "b.png").unlink()
    [(_, loader)] = build_test_loaders(make_cfg(*SCALES, one=place), 1, 0, True)
    with pytest.raises(DataError, match=r"image 12: .*b\.png is missing"):
        list(loader)
