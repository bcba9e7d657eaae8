"""Both steps of LabelEnc with FCOS."""

import pytest
import torch

from labelenc.engine import build_optimizer
from labelenc.modeling import build_detector
from labelenc.supervision import LabelEncStep1, LabelEncStep2

DETECTOR = {"loss_cls", "loss_reg", "loss_centerness"}
OF_STEP = {
    LabelEncStep1: {*DETECTOR, *(f"ae_{name}" for name in DETECTOR), "loss_distance"},
    LabelEncStep2: {*DETECTOR, "loss_auxiliary"},
}
IMPROVED = ("MODEL.FCOS.NORM_REG_TARGETS", True, "MODEL.FCOS.CENTERNESS_ON_REG", True)
IMPROVED += ("MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5, "MODEL.FCOS.IOU_LOSS_TYPE", "giou")
IMPROVED += ("MODEL.FCOS.USE_DCN_IN_TOWER", True)


@pytest.fixture(params=[(), IMPROVED], ids=["plain", "improved"])
def cfg(request, small_cfg):
    words = ("MODEL.RETINANET_ON", False, "MODEL.FCOS_ON", True, "MODEL.FCOS.FPN_STRIDES", "[8, 16, 32]")
    words += ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32, "MODEL.FCOS.NUM_CONVS", 1)
    words += ("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 0.01, "MODEL.FCOS.PRIOR_PROB", 0.2)
    return small_cfg(*words, *request.param)


@pytest.mark.parametrize("step", OF_STEP)
def test_an_update_changes_everything_that_trains(seed, cfg, batch, step):
    model = step(cfg)
    # Otherwise every distance may begin below zero, where the improved head's ReLU passes no gradient.
    torch.nn.init.ones_(model.rpn.head.bbox_pred.bias)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = model(*batch)
    assert set(losses) == OF_STEP[step]
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    build_optimizer(cfg, model).step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@pytest.mark.parametrize("step", OF_STEP)
def test_a_batch_without_boxes_trains(seed, cfg, empty_batch, step):
    model = step(cfg)
    losses = model(*empty_batch)
    assert set(losses) == OF_STEP[step]
    assert losses["loss_reg"].item() == losses["loss_centerness"].item() == 0
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_detecting_is_the_plain_detectors(seed, cfg, batch):
    plain = build_detector(cfg).eval()
    for step in OF_STEP:
        model = step(cfg).eval()
        plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
        for found, wanted in zip(model(batch[0]), plain(batch[0]), strict=True):
            assert len(wanted) > 0
            assert torch.equal(found.bbox, wanted.bbox)
            assert torch.equal(found.get_field("scores"), wanted.get_field("scores"))


@torch.no_grad()
def test_the_mode_does_not_change_what_is_reconstructed(seed, cfg, batch):
    model = LabelEncStep1(cfg)
    for first, second in zip(model.reconstruct(*batch), model.eval().reconstruct(*batch), strict=True):
        assert len(first) > 0
        assert torch.equal(first.bbox, second.bbox)
