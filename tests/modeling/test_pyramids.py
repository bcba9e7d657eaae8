"""Losses of several pyramids at once are those of each alone, and the host need not wait for any of it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labelenc.modeling import build_detector
from labelenc.modeling.roi.build import build_roi_heads
from labelenc.structures import BoxList, ImageBatch

SIZES = ((64, 96), (50, 70))
IMPROVED = ("MODEL.FCOS.NORM_REG_TARGETS", True, "MODEL.FCOS.CENTERNESS_ON_REG", True)
IMPROVED += ("MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5, "MODEL.FCOS.IOU_LOSS_TYPE", "giou")
FEW = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 8, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8)


@pytest.fixture
def make_cfg(small_cfg, fcos_cfg, two_stage_cfg):
    """Make the configuration of a kind."""
    kinds = {
        "retinanet": lambda: small_cfg("MODEL.RETINANET.STRADDLE_THRESH", 0),
        "fcos": fcos_cfg,
        "improved": lambda: fcos_cfg(*IMPROVED),
        "deformable": lambda: fcos_cfg(*IMPROVED, "MODEL.FCOS.USE_DCN_IN_TOWER", True),
        "faster_rcnn": lambda: two_stage_cfg(*FEW),
    }
    return lambda kind: kinds[kind]()


@pytest.fixture
def targets(make_target):
    return [
        make_target([[2.0, 3, 50, 60], [30, 10, 90, 40]], [1, 3], SIZES[0]),
        make_target([[8.0, 8, 40, 44]], [2], SIZES[1]),
    ]


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "improved", "deformable", "faster_rcnn"])
def test_several_pyramids_at_once(seed, make_cfg, targets, kind):
    # In double precision, so that no choice hangs on how a batch is rounded.
    model = build_detector(make_cfg(kind)).double()
    if kind not in ("retinanet", "faster_rcnn"):
        torch.nn.init.ones_(model.rpn.head.bbox_pred.bias)
    images = ImageBatch(torch.randn(2, 3, 64, 96).double(), SIZES)
    with torch.no_grad():
        levels = model.backbone(images.tensors)
    pyramids = [[torch.randn_like(level).requires_grad_() for level in levels] for _ in range(2)]
    inputs = [level for pyramid in pyramids for level in pyramid]
    heads = [p for name, p in model.named_parameters() if name.startswith(("rpn.", "roi_heads."))]
    calls = []
    model.rpn.head.register_forward_hook(lambda *_: calls.append(1))

    def outcome(ask):
        torch.manual_seed(seed)
        losses = ask()
        total = sum((1 + i) * loss for i, of_one in enumerate(losses) for loss in of_one.values())
        return losses, torch.autograd.grad(total, inputs + heads, allow_unused=True)

    both, gradients = outcome(lambda: model.head_losses(images, pyramids, targets))
    assert len(calls) == 1
    alone, expected = outcome(lambda: [model.head_losses(images, [p], targets)[0] for p in pyramids])
    for found, wanted in zip(both, alone, strict=True):
        assert found.keys() == wanted.keys()
        for name, loss in wanted.items():
            assert found[name].item() == pytest.approx(loss.item(), rel=1e-5), name
    assert both[0] != both[1]
    for found, wanted in zip(gradients, expected, strict=True):
        # P6 of Faster R-CNN, for one, is not pooled from.
        assert (found is None) == (wanted is None)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


class NothingToRead(TorchDispatchMode):
    """Fails where tensors on "meta" are made from lists or copied there: with a GPU the host would wait.

    What reads numbers back, or makes tensors as long as numbers say, fails there by itself.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        made = {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)}
        from_list = func is torch.ops.aten.lift_fresh.default and "meta" in made
        copied = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if from_list or (copied and len(given | made) > 1):
            raise AssertionError(f"{func}: from {given} to {made}")
        return result


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "improved"])
@pytest.mark.parametrize("empty", [False, True])
def test_the_host_reads_nothing_back(make_cfg, make_target, targets, kind, empty):
    model = build_detector(make_cfg(kind)).to("meta")
    pixels = ImageBatch(torch.zeros(2, 3, 64, 96, dtype=torch.uint8), SIZES).to("meta")
    targets = [make_target([], [], size) for size in SIZES] if empty else targets
    targets = [target.to("meta") for target in targets]
    with NothingToRead():
        images = pixels.normalize([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
        features = model.backbone(images.tensors)
        encodings = [torch.rand_like(level).requires_grad_() for level in features]
        losses = model.head_losses(images, [features, encodings], targets)
        sum(loss for of_one in losses for loss in of_one.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(level.grad is not None for level in encodings)


def test_the_second_stage_reads_nothing_back(make_cfg, targets):
    """Between the stages is NMS, the number of whose survivors the host must know."""
    heads = build_roi_heads(make_cfg("faster_rcnn")).to("meta")
    pyramid = [torch.rand(2, 16, 64 // s, 96 // s, device="meta", requires_grad=True) for s in (4, 8, 16, 32)]
    targets = [target.to("meta") for target in targets]
    proposals = [BoxList(torch.rand(40, 4), target.size).to("meta") for target in targets]
    with NothingToRead():
        sampled = [heads.sample(*pair) for pair in zip(proposals, targets, strict=True)]
        [losses] = heads.losses([pyramid], [sampled])
        sum(losses.values()).backward()
    assert [len(boxes) for boxes in sampled] == [8, 8]
    assert all(p.grad is not None for p in heads.parameters())


def test_reading_back_would_be_noticed():
    numbers = torch.rand(5, device="meta")
    waits = [
        lambda: numbers.sum().item(),
        lambda: numbers[numbers > 0.5],
        lambda: numbers.nonzero(),
        lambda: numbers.masked_select(numbers > 0.5),
        lambda: numbers.cpu(),
        lambda: torch.tensor([1.0], device="meta"),
        lambda: numbers.new_tensor([1.0]),
        lambda: torch.ones(3).to("meta"),
    ]
    for wait in waits:
        with NothingToRead(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
            wait()
