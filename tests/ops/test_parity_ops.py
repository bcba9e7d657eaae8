"""Recorded arrays of single operations of the original implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from labelenc import ops
from labelenc.modeling.roi.pooler import Pooler

TESTS = Path(__file__).resolve().parents[1]
# Where each family of arrays is compared.
FAMILIES = {
    "anchors": "modeling/test_parts.py",
    "box_coder": "modeling/test_parts.py",
    "box_encode": "ops/test_label_map.py",
    "boxlist": "structures/test_boxes.py",
    "dcnv2": "ops/test_parity_ops.py",
    "fcos": "modeling/test_fcos_targets.py",
    "focal": "ops/test_focal_loss.py",
    "frozen_bn": "modeling/test_resnet.py",
    "iou": "modeling/test_iou_losses.py",
    "layernorm": "supervision/test_steps.py",
    "levels": "ops/test_parity_ops.py",
    "matcher": "modeling/test_parts.py",
    "ml_nms": "ops/test_nms.py",
    "nms": "ops/test_nms.py",
    "pooler": "ops/test_parity_ops.py",
    "roi_align": "ops/test_parity_ops.py",
    "smooth_l1": "modeling/test_parts.py",
}


@pytest.fixture(scope="module")
def record(shared_dir: Path) -> dict[str, Tensor]:
    with np.load(shared_dir / "parity/ops.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def test_no_family_is_left_out(record: dict[str, Tensor]) -> None:
    assert {name.split("/")[0].split("_s1")[0].split("_s2")[0] for name in record} == set(FAMILIES)
    for family, file in FAMILIES.items():
        text = (TESTS / file).read_text()
        assert f"{family}/" in text or f"{family}_s" in text, f"{file} does not compare {family}"


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_roi_align(record: dict[str, Tensor], sampling_ratio: int) -> None:
    features = record["roi_align/input"].clone().requires_grad_()
    found = ops.roi_align(features, record["roi_align/rois"], (7, 7), 0.25, sampling_ratio)
    torch.testing.assert_close(found, record[f"roi_align/out_sr{sampling_ratio}"], rtol=1e-5, atol=1e-5)
    found.backward(record["roi_align/grad_out"])
    wanted = record[f"roi_align/grad_input_sr{sampling_ratio}"]
    torch.testing.assert_close(features.grad, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "stride", "deformable_groups"), [("dcnv2_s1", 1, 1), ("dcnv2_s2", 2, 1), ("dcnv2_s1dg2", 1, 2)]
)
def test_deform_conv2d(record: dict[str, Tensor], family: str, stride: int, deformable_groups: int) -> None:
    names = ("input", "offset", "mask", "weight", "bias")
    tensors = [record[f"{family}/{name}"].clone().requires_grad_() for name in names]
    found = ops.deform_conv2d(*tensors, stride=stride, padding=1, deformable_groups=deformable_groups)
    torch.testing.assert_close(found, record[f"{family}/out"], rtol=1e-5, atol=1e-5)
    found.backward(record[f"{family}/grad_out"])
    for name, tensor in zip(names, tensors, strict=True):
        wanted = record[f"{family}/grad_{name}"]
        torch.testing.assert_close(tensor.grad, wanted, rtol=1e-4, atol=1e-5, msg=name)


def test_pooler(record: dict[str, Tensor]) -> None:
    pooler = Pooler(7, (1 / 4, 1 / 8, 1 / 16, 1 / 32), 2)
    assert torch.equal(pooler.levels(record["levels/boxes"]), record["levels/index"].long())
    features = [record[f"pooler/feature{level}"] for level in range(4)]
    found = pooler(features, [record["pooler/boxes0"], record["pooler/boxes1"]])
    torch.testing.assert_close(found, record["pooler/out"], rtol=1e-5, atol=1e-5)
