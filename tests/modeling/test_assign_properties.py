"""Whatever boxes an image has: who is to predict what, by the rules, and losses that stay finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labelenc.modeling import build_detector
from labelenc.modeling.dense.fcos_targets import LocationTargets, grid_locations
from labelenc.modeling.matching import BACKGROUND, IGNORED
from labelenc.structures import BoxList, ImageBatch

CLASSES = 3
# Rounding of float32 may decide between an IoU and its threshold.
SLACK = 1e-4


@st.composite
def truths(draw: st.DrawFn, largest: int = 96) -> BoxList:
    """Boxes as data sets have them: finite, inside their image, x0 < x1, from a sliver to all of it."""
    width, height = (draw(st.integers(33, largest)) for _ in range(2))

    def interval(side: int) -> tuple[float, float]:
        end = float(np.float32(draw(st.floats(2.0**-20, side - 1) | st.integers(1, side - 1))))
        before = float(np.nextafter(np.float32(end), np.float32(0)))
        start = draw(st.floats(0, before, width=32) | st.sampled_from([0.0, before]))
        return start, end

    boxes: list[list[float]] = []
    for _ in range(draw(st.integers(0, 8))):
        if boxes and draw(st.integers(0, 5)) == 0:
            boxes.append(draw(st.sampled_from(boxes)))
        else:
            (x0, x1), (y0, y1) = interval(width), interval(height)
            boxes.append([x0, y0, x1, y1])
    target = BoxList(boxes, (width, height))
    labels = draw(st.lists(st.integers(1, CLASSES), min_size=len(boxes), max_size=len(boxes)))
    target.add_field("labels", torch.tensor(labels, dtype=torch.int64))
    return target


def train_once(model: torch.nn.Module, target: BoxList, seed: int) -> None:
    """One forward and backward pass on one image; losses and gradients have to be finite."""
    width, height = target.size
    pixels = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    losses = model(ImageBatch.from_tensors([pixels], 32), [target])
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def overlaps(truth: Tensor, anchors: Tensor) -> Tensor:
    """IoU (G, R) of boxes with inclusive corners, in float64."""
    a, b = truth.double()[:, None], anchors.double()[None]
    shared = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + 1
    shared = shared.clamp(min=0).prod(dim=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2] + 1).prod(dim=-1) for boxes in (a, b)]
    return shared / (areas[0] + areas[1] - shared)


def require_rules(
    rpn: torch.nn.Module, anchors: Tensor, target: BoxList, names: Tensor, found: tuple[Tensor, Tensor]
) -> None:
    """That labels (R,) and offsets (R, 4) of the anchors obey the matcher's thresholds."""
    labels, offsets = found
    assert offsets.isfinite().all()
    if len(target) == 0:
        assert (labels <= 0).all()
        assert (offsets == 0).all()
        return
    quality = overlaps(target.bbox, anchors)
    best = quality.amax(dim=0)
    rescued = ((quality >= quality.amax(dim=1, keepdim=True) - SLACK) & (quality > 0)).any(dim=0)
    positive = labels > 0
    enough = best >= rpn.matcher.high - SLACK
    assert (enough | rescued if rpn.matcher.allow_low_quality else enough)[positive].all()
    assert (best < rpn.matcher.low + SLACK)[labels == BACKGROUND].all()
    assert set(labels.tolist()) <= {IGNORED, BACKGROUND, *names.tolist()}
    # A match predicts the box, or one of the boxes, that it overlaps most, and is called as that is.
    decoded = rpn.box_coder.decode(offsets[positive], anchors[positive])
    close = (decoded[None] - target.bbox[:, None]).abs().amax(dim=-1) < 0.01
    nearest = quality[:, positive] >= best[positive] - SLACK
    called = names[:, None] == labels[positive]
    assert (close & nearest & called).any(dim=0).all()


@pytest.mark.parametrize("kind", ["retinanet", "rpn"])
def test_anchors(small_cfg, two_stage_cfg, kind, seed):
    make = small_cfg if kind == "retinanet" else two_stage_cfg
    model = build_detector(make())
    assign, calls = model.rpn.assign, []

    def noting(anchors: Tensor, *others: object) -> tuple[Tensor, Tensor]:
        calls.append((anchors, assign(anchors, *others)))
        return calls[-1][1]

    model.rpn.assign = noting

    @given(target=truths())
    @settings(max_examples=30)
    def check(target: BoxList) -> None:
        calls.clear()
        train_once(model, target, seed)
        (anchors, (labels, offsets)) = calls[0]
        names = target.get_field("labels")
        names = names if kind == "retinanet" else torch.ones_like(names)
        require_rules(model.rpn, anchors, target, names, (labels.reshape(-1), offsets.reshape(-1, 4)))

    check()


def test_fcos_model(fcos_cfg, seed):
    model = build_detector(fcos_cfg())

    @given(target=truths())
    @settings(max_examples=30)
    def check(target: BoxList) -> None:
        train_once(model, target, seed)

    check()


@given(target=truths(largest=400), radius=st.sampled_from([0.0, 1.5]), in_strides=st.booleans())
@settings(max_examples=60)
def test_locations(target: BoxList, radius: float, in_strides: bool):
    strides = (8, 16, 32)
    width, height = target.size
    levels = grid_locations(
        [torch.zeros(1, 1, math.ceil(height / s), math.ceil(width / s)) for s in strides], strides
    )
    labels, distances = LocationTargets(strides, radius, in_strides)(levels, [target])
    assert distances.isfinite().all()
    points = torch.cat(levels)
    stride = torch.cat([points.new_full((len(level),), s) for level, s in zip(levels, strides, strict=True)])
    labels, distances = labels[0], distances[0] * (stride[:, None] if in_strides else 1)
    positive = labels > 0
    assert (labels[~positive] == 0).all()
    assert (distances[~positive] == 0).all()
    points, stride, sides, labels = points[positive], stride[positive], distances[positive], labels[positive]
    assert (sides > 0).all()
    farthest = sides.amax(dim=1)
    assert (farthest >= torch.where(stride > 8, 4 * stride, 0) - SLACK).all()
    assert (farthest <= torch.where(stride < 32, 8 * stride, math.inf) + SLACK).all()
    boxes = torch.cat([points - sides[:, :2], points + sides[:, 2:]], dim=1)
    close = (boxes[None] - target.bbox[:, None]).abs().amax(dim=-1) < 0.01
    assert (close & (target.get_field("labels")[:, None] == labels)).any(dim=0).all()
    if radius:
        from_centre = (points - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(dim=1)
        assert (from_centre < radius * stride + SLACK).all()
