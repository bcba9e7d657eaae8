"""The deformable layer and bodies with it against ordinary convolutions, torchvision and recorded numbers."""

import json
import math

import pytest
import torch
import torchvision
from torch import nn

from labelenc.config import load_config
from labelenc.engine import build_optimizer
from labelenc.modeling import build_detector
from labelenc.modeling.backbone.build import build_body
from labelenc.modeling.backbone.deform import DeformableConv
from labelenc.modeling.backbone.norm import FrozenBatchNorm2d
from labelenc.modeling.backbone.resnet import ResNet, ResNetSettings

SMALL = {"stem_channels": 8, "res2_channels": 16, "width_per_group": 4}
RETINANET = (
    *("MODEL.RETINANET_ON", "True", "MODEL.NUM_CLASSES", "3", "MODEL.DEVICE", "cpu"),
    *("MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "16"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "4", "MODEL.RESNETS.STAGE_WITH_DCN", "(False, False, True, True)"),
)


def layer_of(modulated=True, bias=True, **changes):
    sizes = {"in_channels": 8, "out_channels": 12, "kernel": 3, "stride": 2, "groups": 4, **changes}
    return DeformableConv(**{"deformable_groups": 2, **sizes}, modulated=modulated, bias=bias)


def body_of(freeze_at=0, **changes):
    settings = ResNetSettings(**{"depth": 50, "modulated": True, **SMALL, **changes})
    return ResNet(settings, FrozenBatchNorm2d, freeze_at)


@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_names_and_shapes(modulated, bias):
    shapes = {name: tuple(tensor.shape) for name, tensor in layer_of(modulated, bias).state_dict().items()}
    offsets = 54 if modulated else 36
    expected = {"offset.weight": (offsets, 8, 3, 3), "offset.bias": (offsets,), "conv.weight": (12, 2, 3, 3)}
    assert shapes == {**expected, **({"conv.bias": (12,)} if bias else {})}


@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (1, 1)])
def test_offsets_come_first_and_then_the_mask(seed, modulated, kernel, stride):
    layer = layer_of(modulated, kernel=kernel, stride=stride).double()
    with torch.no_grad():
        layer.offset.bias.uniform_(-1, 1)
    x = torch.randn(2, 8, 9, 10, dtype=torch.float64)
    fields = layer.offset(x)
    count = 2 * 2 * kernel**2
    mask = 1 / (1 + torch.exp(-fields[:, count:])) if modulated else None
    expected = torchvision.ops.deform_conv2d(
        x, fields[:, :count], layer.conv.weight, layer.conv.bias, stride, kernel // 2, mask=mask
    )
    torch.testing.assert_close(layer(x), expected)


def test_zero_offsets_make_an_ordinary_convolution(seed):
    for modulated, share in ((True, 0.5), (False, 1.0)):
        layer = layer_of(modulated, bias=False)
        nn.init.zeros_(layer.offset.weight)
        x = torch.randn(2, 8, 9, 10)
        torch.testing.assert_close(layer(x), share * layer.conv(x), rtol=1e-4, atol=1e-5)


def test_recorded_initialisation(seed, shared_dir):
    path = shared_dir / "parity/init_stats.json"
    wanted = json.loads(path.read_text())["configs"]["fcos_imprv_dcnv2_R_50_FPN_1x"]
    name = "backbone.body.layer2.1.conv2."
    layer = DeformableConv(128, 128, 3, 1, groups=1, deformable_groups=1, modulated=True, bias=True)
    for part in ("offset.weight", "conv.weight"):
        found, recorded = layer.get_parameter(part), wanted[name + part]
        assert found.abs().max().item() == pytest.approx(recorded["max_abs"], rel=0.01)
        assert found.std().item() == pytest.approx(recorded["std"], rel=0.02)
        assert found.abs().max().item() * math.sqrt(1152) == pytest.approx(
            math.sqrt(3) if part == "offset.weight" else 1, rel=0.01
        )
    assert not layer.offset.bias.any()
    assert not layer.conv.bias.any()


def test_half_precision_under_autocast(seed):
    layer, x = layer_of(), torch.randn(2, 8, 9, 10)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x.bfloat16())
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("modulated", [True, False])
def test_only_the_3x3_of_the_chosen_stages_deform(modulated):
    body = body_of(stage_with_dcn=(False, True, False, True), modulated=modulated)
    deforming = {name for name, module in body.named_modules() if isinstance(module, DeformableConv)}
    assert deforming == {f"layer2.{i}.conv2" for i in range(4)} | {f"layer4.{i}.conv2" for i in range(3)}
    plain = body_of().state_dict()
    state = body.state_dict()
    extra = {f"{name}.{leaf}" for name in deforming for leaf in ("offset.weight", "offset.bias")}
    renamed = {name.replace("conv2.conv.", "conv2.") for name in set(state) - extra}
    assert renamed == set(plain)
    assert state["layer2.0.conv2.offset.bias"].shape == ((27,) if modulated else (18,))


@pytest.mark.parametrize("in_1x1", [True, False])
def test_without_offsets_it_is_the_plain_body(seed, in_1x1):
    """Also with the groups of ResNeXt; unmodulated, as the mask would be one half."""
    shape = {"groups": 4, "stride_in_1x1": in_1x1, "deformable_groups": 2}
    plain = body_of(**shape).double()
    body = body_of(**shape, stage_with_dcn=(True,) * 4, modulated=False, zero_init_offsets=True).double()
    renamed = {
        name.replace(".conv2.weight", ".conv2.conv.weight"): t for name, t in plain.state_dict().items()
    }
    missing, unexpected = body.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(".offset." in name for name in missing)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    for found, expected in zip(body(x), plain(x), strict=True):
        torch.testing.assert_close(found, expected)


def test_offsets_start_at_zero_or_at_random():
    for zero in (True, False):
        body = body_of(stage_with_dcn=(False, False, False, True), zero_init_offsets=zero)
        assert bool(body.layer4[0].conv2.offset.weight.any()) is not zero
        assert body.layer4[0].conv2.conv.weight.any()


def test_gradients_and_freezing(seed):
    body = body_of(freeze_at=2, stage_with_dcn=(True, True, True, True))
    sum(level.square().mean() for level in body(torch.randn(1, 3, 64, 64))).backward()
    for name, parameter in body.named_parameters():
        frozen = name.startswith(("stem.", "layer1."))
        assert (parameter.grad is None) == frozen, name
        assert frozen or parameter.grad.any(), name


@pytest.mark.parametrize("depth", [18, 34])
def test_basic_blocks_cannot(depth):
    with pytest.raises(ValueError, match=f"R-{depth} has no bottlenecks"):
        body_of(depth=depth, stage_with_dcn=(False, False, False, True))


def test_the_configuration_decides():
    words = ("MODEL.RESNETS.WITH_MODULATED_DCN", "True", "MODEL.RESNETS.DEFORMABLE_GROUPS", "2")
    body = build_body(load_config(None, [*RETINANET, *words, "MODEL.RESNETS.ZERO_INIT_OFFSETS", "True"]))
    assert isinstance(body.layer2[0].conv2, nn.Conv2d)
    layer = body.layer3[0].conv2
    assert layer.offset.weight.shape == (54, 16, 3, 3)
    assert not layer.offset.weight.any()
    body = build_body(load_config(None, list(RETINANET)))
    assert body.layer3[0].conv2.offset.weight.shape == (18, 16, 3, 3)
    assert body.layer3[0].conv2.offset.weight.any()


def test_offsets_have_a_learning_rate_of_their_own():
    words = ("SOLVER.DCONV_OFFSETS_LR_FACTOR", "0.25", "SOLVER.BASE_LR", "0.01", "SOLVER.BIAS_LR_FACTOR", "2")
    cfg = load_config(None, [*RETINANET, *words])
    model = build_detector(cfg)
    rates = {
        id(p): group["lr"] for group in build_optimizer(cfg, model).param_groups for p in group["params"]
    }
    layer = model.backbone.body.layer4[2].conv2
    assert rates[id(layer.offset.weight)] == pytest.approx(0.0025)
    assert rates[id(layer.offset.bias)] == pytest.approx(0.005)
    assert rates[id(layer.conv.weight)] == pytest.approx(0.01)
