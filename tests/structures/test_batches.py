"""Padded image batches, training batches, data-set facts."""

import dataclasses

import pytest
import torch
from torchvision.transforms.functional import normalize

from labelenc.structures import Batch, BoxList, DatasetInfo, ImageBatch

MEAN, STD = [102.9801, 115.9465, 122.7717], [57.0, 58.0, 59.0]


def random_images(sizes):
    return [torch.randint(1, 256, (3, *size), dtype=torch.uint8) for size in sizes]


@pytest.mark.parametrize(("step", "expected"), [(0, (37, 61)), (1, (37, 61)), (32, (64, 64)), (37, (37, 74))])
def test_images_lie_in_the_corner_and_zeros_around(seed, step, expected):
    images = random_images([(37, 20), (12, 61)])
    batch = ImageBatch.from_tensors(images, step)
    assert batch.tensors.shape == (2, 3, *expected)
    assert batch.tensors.dtype == torch.uint8
    assert batch.image_sizes == [(37, 20), (12, 61)]
    assert len(batch) == 2
    for image, slot in zip(images, batch.tensors, strict=True):
        assert torch.equal(slot[:, : image.shape[1], : image.shape[2]], image)
        # All pixels are 1 or more, so what is left over must be exactly the zeros.
        assert int((slot != 0).sum()) == image.numel()


def test_sizes_that_fit_are_not_padded(seed):
    assert ImageBatch.from_tensors(random_images([(64, 32)]), 32).tensors.shape == (1, 3, 64, 32)


def test_normalising_is_torchvisions_inside_and_zero_outside(seed):
    images = random_images([(37, 20), (12, 61), (64, 64)])
    batch = ImageBatch.from_tensors(images, 32)
    pixels = batch.tensors.clone()
    normalised = batch.normalize(MEAN, STD)
    assert normalised.tensors.dtype == torch.float32
    assert normalised.image_sizes == batch.image_sizes
    for image, slot in zip(images, normalised.tensors, strict=True):
        height, width = image.shape[1:]
        torch.testing.assert_close(slot[:, :height, :width], normalize(image.float(), MEAN, STD))
        outside = slot.clone()
        outside[:, :height, :width] = 0
        assert torch.count_nonzero(outside) == 0
    assert torch.equal(batch.tensors, pixels)


def test_mirroring_stays_within_each_image(seed):
    images = random_images([(37, 20), (12, 61), (64, 64)])
    batch = ImageBatch.from_tensors(images, 32)
    pixels = batch.tensors.clone()
    mirrored = batch.flip_left_right()
    expected = ImageBatch.from_tensors([torch.from_numpy(i.numpy()[:, :, ::-1].copy()) for i in images], 32)
    assert torch.equal(mirrored.tensors, expected.tensors)
    assert mirrored.image_sizes == batch.image_sizes
    assert torch.equal(batch.tensors, pixels)


def test_normalising_float_input_leaves_it_alone(seed):
    batch = ImageBatch(torch.rand(1, 3, 8, 8), [(4, 8)])
    before = batch.tensors.clone()
    batch.normalize([0.5] * 3, [1.0] * 3)
    batch.normalize([0.0] * 3, [1.0] * 3)
    assert torch.equal(batch.tensors, before)


def test_a_batch_that_does_not_fit_its_sizes():
    with pytest.raises(ValueError, match="2 image sizes"):
        ImageBatch(torch.zeros(1, 3, 4, 4), [(4, 4), (4, 4)])
    with pytest.raises(ValueError, match=r"\(3, 4, 4\)"):
        ImageBatch(torch.zeros(3, 4, 4), [(4, 4)])


def make_batch():
    target = BoxList([[1.0, 2, 3, 4]], (20, 37))
    target.add_field("labels", torch.tensor([2]))
    empty = BoxList([], (61, 12))
    empty.add_field("labels", torch.zeros(0, dtype=torch.int64))
    images = ImageBatch.from_tensors(random_images([(37, 20), (12, 61)]))
    rescaled = [ImageBatch.from_tensors(random_images([(74, 40), (24, 122)]), 32)]
    return Batch(images, [target, empty], [7, 9], [(40, 74), (122, 24)], rescaled)


def test_moving_a_batch_moves_every_tensor(seed):
    moved = make_batch().to("meta", non_blocking=True)
    assert moved.images.tensors.device.type == "meta"
    for target in moved.targets:
        assert target.bbox.device.type == "meta"
        assert target.get_field("labels").device.type == "meta"
    assert (moved.image_ids, moved.original_sizes) == ([7, 9], [(40, 74), (122, 24)])
    assert moved.images.image_sizes == [(37, 20), (12, 61)]
    assert moved.rescaled[0].tensors.device.type == "meta"
    assert moved.rescaled[0].image_sizes == [(74, 40), (24, 122)]
    assert dataclasses.replace(make_batch(), rescaled=None).to("cpu").rescaled is None
    same = make_batch().to("cpu")
    assert same.targets[0].bbox.tolist() == [[1.0, 2, 3, 4]]
    assert same.targets[0].size == (20, 37)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_pinning_a_batch_pins_every_tensor(seed):
    pinned = make_batch().pin_memory()
    assert pinned.images.tensors.is_pinned()
    assert pinned.rescaled[0].tensors.is_pinned()
    assert pinned.targets[0].bbox.is_pinned()
    assert pinned.targets[0].get_field("labels").is_pinned()
    assert pinned.image_ids == [7, 9]


def test_dataset_facts():
    info = DatasetInfo("my", ((3, "cat"), (17, "dog")), "a.json", 5)
    assert (info.num_classes, info.category_ids, info.class_names) == (2, (3, 17), ("cat", "dog"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.name = "other"
