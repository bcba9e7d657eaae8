"""Faster R-CNN as a whole: plain, in both steps of LabelEnc, and on two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.ops import box_iou

from labelenc.modeling import build_detector
from labelenc.structures import ImageBatch
from labelenc.supervision import LabelEncStep1, LabelEncStep2, export_label_encoding, load_label_encoding

RANK = Path(__file__).resolve().parents[1] / "pipeline/empty_rank.py"
LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
SIZES = [(64, 96), (60, 70)]
# With these nothing is left to chance, and no image's proposals depend on another's.
SAMPLE_ALL = (
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 100000),
    *("MODEL.RPN.FPN_POST_NMS_PER_BATCH", False),
)


@pytest.fixture
def batch(seed, make_target):
    targets = [
        make_target([[2.0, 3, 50, 60], [30, 10, 90, 40]], [1, 3], SIZES[0]),
        make_target([[8.0, 8, 40, 44]], [2], SIZES[1]),
    ]
    return ImageBatch(torch.randn(2, 3, 64, 96), SIZES), targets


@pytest.fixture
def empty_batch(seed, make_target):
    return ImageBatch(torch.randn(2, 3, 64, 96), SIZES), [make_target([], [], size) for size in SIZES]


def names_of(make):
    if make is LabelEncStep1:
        return {*LOSSES, *(f"ae_{name}" for name in LOSSES), "loss_distance"}
    return {*LOSSES, "loss_auxiliary"} if make is LabelEncStep2 else LOSSES


@pytest.mark.parametrize("make", [build_detector, LabelEncStep1, LabelEncStep2])
@pytest.mark.parametrize("kind", ["batch", "empty_batch"])
def test_training(request, two_stage_cfg, make, kind):
    model = make(two_stage_cfg())
    losses = model(*request.getfixturevalue(kind))
    assert set(losses) == names_of(make)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    if kind == "empty_batch":
        assert all(loss == 0 for name, loss in losses.items() if name.endswith("box_reg"))
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_the_seed_decides(batch, two_stage_cfg):
    few = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 8, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8)
    model = build_detector(two_stage_cfg(*few))

    def values(seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            return [loss.item() for loss in model(*batch).values()]

    assert values(1) == values(1)
    assert values(1) != values(2)


@pytest.mark.parametrize("make", [LabelEncStep1, LabelEncStep2])
@torch.no_grad()
def test_detecting_is_the_plain_detectors(batch, two_stage_cfg, make):
    model, plain = make(two_stage_cfg()).eval(), build_detector(two_stage_cfg()).eval()
    state = model.state_dict()
    plain.load_state_dict({k: state[k] for k in plain.state_dict()})
    for found, wanted, (height, width) in zip(model(batch[0]), plain(batch[0]), SIZES, strict=True):
        assert 0 < len(wanted) <= 100
        assert found.size == (width, height)
        assert torch.equal(found.bbox, wanted.bbox)
        assert torch.equal(found.get_field("scores"), wanted.get_field("scores"))
        assert (found.get_field("scores").diff() <= 0).all()
        assert ((found.bbox >= 0) & (found.bbox <= torch.tensor([width, height] * 2) - 1)).all()


@torch.no_grad()
def test_reconstruction_sees_the_labels_only(batch, two_stage_cfg):
    model = LabelEncStep1(two_stage_cfg()).eval()
    images, targets = batch
    found = model.reconstruct(images, targets)
    images.tensors.normal_()
    again = model.reconstruct(images, targets)
    for first, second, (height, width) in zip(found, again, SIZES, strict=True):
        assert first.size == (width, height)
        assert len(first) > 0
        assert torch.equal(first.bbox, second.bbox)
    other = model.reconstruct(images, [targets[0][:1], targets[1]])
    assert not torch.equal(other[0].bbox, found[0].bbox)


def test_step1_hands_both_heads_to_step2(batch, two_stage_cfg, tmp_path):
    step1, step2 = LabelEncStep1(two_stage_cfg()), LabelEncStep2(two_stage_cfg())
    with torch.no_grad():
        for parameter in step1.parameters():
            parameter.normal_()
    torch.save(export_label_encoding(step1), tmp_path / "label_encoding_function.pth")
    content = torch.load(tmp_path / "label_encoding_function.pth", weights_only=True)
    assert set(content) == {"label_encoding_function", "rpn", "roi_heads"}
    assert {"head.conv.weight", "anchor_generator.cell_anchors.4"} <= set(content["rpn"])
    assert {"box.feature_extractor.fc6.weight", "box.predictor.bbox_pred.bias"} <= set(content["roi_heads"])
    load_label_encoding(step2, content, "f.pth")
    for part in content:
        state = step2.get_submodule(part).state_dict()
        assert set(state) == set(content[part])
        assert all(torch.equal(state[name], tensor) for name, tensor in content[part].items())
    fpn = step2.backbone.fpn.state_dict()
    assert all(torch.equal(v, content["label_encoding_function"][f"fpn.{k}"]) for k, v in fpn.items())


def test_the_heads_learn_to_detect_from_encodings(batch, two_stage_cfg):
    few = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 64, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64)
    wide = ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 64)
    model = LabelEncStep1(two_stage_cfg(*few, *wide), augment=False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(60):
        losses = model(*batch, distance_loss_weight=0.0)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        found = model.eval().reconstruct(*batch)
    overlaps = []
    for boxes, target in zip(found, batch[1], strict=True):
        for box, label in zip(target.bbox, target.get_field("labels"), strict=True):
            best = boxes.bbox[boxes.get_field("labels") == label][:1]
            overlaps.append(box_iou(best, box[None]).sum().item())
    assert sum(overlaps) / 3 > 0.5, overlaps


@pytest.mark.parametrize("make", [LabelEncStep1, LabelEncStep2])
def test_half_precision(batch, two_stage_cfg, make):
    model = make(two_stage_cfg(*SAMPLE_ALL))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(*batch)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_a_timm_body(batch, two_stage_cfg):
    body = ("MODEL.BACKBONE.CONV_BODY", "timm/efficientnet_lite0-FPN")
    frozen = ("MODEL.RESNETS.STEM_FUNC", "StemWithFixedBatchNorm")
    frozen += ("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithFixedBatchNorm")
    model = LabelEncStep1(two_stage_cfg(*body, *frozen))
    losses = model(*batch)
    assert set(losses) == names_of(LabelEncStep1)
    sum(losses.values()).backward()
    with torch.no_grad():
        assert [boxes.size for boxes in model.eval()(batch[0])] == [(96, 64), (70, 60)]


def test_a_process_without_boxes_neither_crashes_nor_hangs(two_stage_cfg, tmp_path, free_port):
    """And the gradients are those of one process with the whole batch."""
    config = tmp_path / "config.yaml"
    config.write_text(two_stage_cfg(*SAMPLE_ALL, "MODEL.NUM_CLASSES", 10).dump())
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    for name, launcher in (("one", []), ("two", torchrun)):
        (tmp_path / name).mkdir()
        command = [sys.executable, *launcher, str(RANK), str(config), "step1", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    one = torch.load(tmp_path / "one/rank0.pt", weights_only=True)
    assert any(name.startswith("roi_heads.") for name in one)
    for rank in (0, 1):
        two = torch.load(tmp_path / f"two/rank{rank}.pt", weights_only=True)
        assert one.keys() == two.keys()
        for name, gradient in one.items():
            torch.testing.assert_close(two[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
