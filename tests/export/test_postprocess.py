"""The form in fixed shapes finds what the detectors' own lists of varying length hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

import labelenc
from labelenc.config import load_config
from labelenc.export.errors import ExportError
from labelenc.export.operators import nms_mask
from labelenc.export.program import ExportableDetector, Layout
from labelenc.modeling import build_detector
from labelenc.structures import ImageBatch
from labelenc.testing import prepare
from tests.export.conftest import KINDS, enliven

SIZES = [(160, 120), (96, 224), (133, 187)]


def both(cfg, model, height=160, width=224):
    """Detections of three random images: the exportable form's, and the detector's own."""
    images = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8)
    unit = 1.0 if cfg.INPUT.TO_BGR255 else 255.0
    mean, std = ([v * unit for v in values] for values in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
    program = ExportableDetector(model, mean, std, cfg.INPUT.TO_BGR255)
    with torch.no_grad():
        fixed = program(images, torch.tensor(SIZES))
        channels = images if cfg.INPUT.TO_BGR255 else images.flip(1)
        batch = prepare(cfg, ImageBatch(channels, SIZES))
        return fixed, model.eval()(batch), model.candidates(batch, model.backbone(batch.tensors))


def rows(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """(N, 6): 2e-3 is that many pixels, or 2e-5 of a score."""
    return torch.cat([boxes, 100 * scores[:, None], labels[:, None].float()], dim=1).double()


def check(fixed: tuple[Tensor, ...], own, candidates) -> None:
    boxes, scores, labels, counts = fixed
    for index, found in enumerate(own):
        count = int(counts[index])
        assert abs(count - len(found)) <= 1
        assert count > 5
        # NMS and the limit had something to do.
        assert len(candidates[index]) > 1.3 * count
        mine = rows(boxes[index, :count], scores[index, :count], labels[index, :count])
        theirs = rows(found.bbox, found.get_field("scores"), found.get_field("labels"))
        # Rounding may exchange neighbours, and once in a while one decision of NMS.
        apart = torch.cdist(mine, theirs, p=torch.inf)
        assert int((apart.amin(dim=0) > 2e-3).sum()) <= 2
        assert bool((scores[index, :count].diff() <= 0).all())
        for rest in (boxes, scores, labels):
            assert not rest[index, count:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_detector(kind, checkpoint, seed):
    detector = labelenc.load_detector(checkpoint(kind), device="cpu")
    check(*both(detector.cfg, detector.model))


def test_few_detections_leave_places_empty(checkpoint, seed):
    opts = ["MODEL.RETINANET.NMS_TH", "0.02", "TEST.DETECTIONS_PER_IMG", "500"]
    detector = labelenc.load_detector(checkpoint("retinanet"), opts=opts, device="cpu")
    fixed, own, candidates = both(detector.cfg, detector.model)
    assert fixed[0].shape[1] == 500
    assert int(fixed[3].max()) < 500
    check(fixed, own, candidates)


def test_rgb_input_and_padding_of_timm_bodies(seed):
    """The body pads by TensorFlow's rule, asymmetric; the exportable form pads by constants."""
    cfg = load_config("configs/bccd/bccd_efficientnet_lite0.yaml", ["MODEL.NUM_CLASSES", "3"])
    check(*both(cfg, enliven(build_detector(cfg))))


def test_nms_of_groups_against_torchvision(seed):
    boxes = torch.rand(2, 60, 4) * 40
    boxes[..., 2:] += boxes[..., :2]
    scores = torch.rand(2, 3, 60)
    scores[torch.rand(2, 3, 60) < 0.3] = -1
    kept = nms_mask(boxes, scores, 0.5)
    for image in range(2):
        group, row = (scores[image] >= 0).nonzero(as_tuple=True)
        # One more at the right and bottom makes torchvision's widths the inclusive ones.
        grown = boxes[image, row].double() + torch.tensor([0, 0, 1, 1])
        best = batched_nms(grown, scores[image, group, row].double(), group, 0.5)
        wanted = torch.zeros(3, 60, dtype=torch.bool)
        wanted[group[best], row[best]] = True
        assert torch.equal(kept[image], wanted)


@pytest.mark.parametrize(
    ("sizes", "advice"), [((2, 100, 96), "take 128"), ((2, 96, -3), "take 32"), ((0, 32, 32), "batch")]
)
def test_sizes_that_cannot_be(sizes, advice):
    with pytest.raises(ExportError, match=advice):
        Layout(*sizes, 32)
