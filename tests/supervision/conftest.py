"""What the tests of both steps share."""

from pathlib import Path

import pytest
import torch

from labelenc.config import load_config
from labelenc.structures import BoxList, ImageBatch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small_cfg():
    """Make the demo's configuration (R-18 of 16 channels, P3-P5) for three classes, thinner and changed."""

    def make(*words):
        words = ["MODEL.NUM_CLASSES", "3", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "16", *map(str, words)]
        return load_config(ROOT / "configs/demo/shapes_R-18_small.yaml", words)

    return make


def make_target(boxes, labels, size):
    """Boxes in an image of (height, width)."""
    target = BoxList(boxes, (size[1], size[0]))
    target.add_field("labels", torch.tensor(labels, dtype=torch.int64))
    return target


@pytest.fixture
def batch():
    """Random pixels of 64 x 96 and targets, one image of two with two boxes, the other with one."""
    sizes = [(64, 96), (60, 70)]
    targets = [
        make_target([[2.0, 3, 50, 60], [30, 10, 90, 40]], [1, 3], sizes[0]),
        make_target([[8.0, 8, 40, 44]], [2], sizes[1]),
    ]
    return ImageBatch(torch.randn(2, 3, 64, 96), sizes), targets


@pytest.fixture
def empty_batch():
    """The same without a single box."""
    sizes = [(64, 96), (60, 70)]
    return ImageBatch(torch.randn(2, 3, 64, 96), sizes), [make_target([], [], size) for size in sizes]


@pytest.fixture(scope="module")
def parity_cfg():
    """Load a recorded configuration, as the records do: every candidate is sampled, none at random."""
    words = ["MODEL.DEVICE", "cpu"]
    for group in ("RPN", "ROI_HEADS"):
        words += [f"MODEL.{group}.BATCH_SIZE_PER_IMAGE", "100000"]
    return lambda name: load_config(ROOT / f"configs/{name}.yaml", words)


@pytest.fixture(scope="module")
def inputs(recipe):
    """Images and targets of the parity records."""
    targets = []
    for entry in recipe.make_targets():
        target = BoxList(entry["boxes"], entry["size"])
        target.add_field("labels", entry["labels"])
        targets.append(target)
    return ImageBatch(recipe.make_batch(), recipe.IMAGE_SIZES), targets


@pytest.fixture(scope="session")
def assert_statistics():
    """Compare a tensor with its recorded shape, mean, spread and first values."""

    def check(tensor, expected):
        values = tensor.double()
        assert list(tensor.shape) == expected["shape"]
        scale = expected["abs_mean"]
        assert values.mean().item() == pytest.approx(expected["mean"], abs=1e-4 * scale)
        assert values.abs().mean().item() == pytest.approx(scale, rel=1e-4)
        assert values.std(unbiased=False).item() == pytest.approx(expected["std"], rel=1e-4)
        assert tensor.flatten()[:5].tolist() == pytest.approx(expected["first5"], rel=1e-3, abs=1e-3 * scale)

    return check
