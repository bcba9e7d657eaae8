"""ResNet bodies against torchvision's with the same weights."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from labelenc.config import ConfigError
from labelenc.modeling import build_detector
from labelenc.modeling.backbone.build import build_body
from labelenc.modeling.backbone.norm import FrozenBatchNorm2d, group_norm
from labelenc.modeling.backbone.resnet import ResNet, ResNetSettings

LEVELS = ("layer1", "layer2", "layer3", "layer4")
BODIES = {
    "resnet18": ResNetSettings(depth=18, res2_channels=64),
    "resnet50": ResNetSettings(depth=50, stride_in_1x1=False),
    "resnext50_32x4d": ResNetSettings(depth=50, groups=32, width_per_group=4, stride_in_1x1=False),
}
FIXED = ("MODEL.RESNETS.STEM_FUNC", "StemWithFixedBatchNorm")
FIXED += ("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithFixedBatchNorm")
TRAINED = (
    "MODEL.RESNETS.STEM_FUNC",
    "StemWithBatchNorm",
    "MODEL.RESNETS.TRANS_FUNC",
    "BottleneckWithBatchNorm",
)


def reference_model(name, norm=nn.BatchNorm2d):
    """torchvision's model in float64 with norms that do something."""
    model = getattr(torchvision.models, name)(weights=None, norm_layer=norm).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                module.weight.uniform_(0.3, 0.7)
                module.bias.normal_(0, 0.2)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return model


def renamed(state, eps=0.0):
    """torchvision's tensors under our names; ``eps`` is folded into the variances."""
    ours = {}
    for name, tensor in state.items():
        if name.startswith("fc."):
            continue
        if name.startswith(("conv1.", "bn1.")):
            name = f"stem.{name}"
        ours[name] = tensor + eps if name.endswith("running_var") else tensor
    return ours


def compare(body, model):
    pixels = torch.randn(2, 3, 65, 97, dtype=torch.float64)
    expected = create_feature_extractor(model, list(LEVELS))(pixels)
    levels = body(pixels)
    assert len(levels) == 4
    assert [level.shape[1] for level in levels] == list(body.out_channels)
    for level, name in zip(levels, LEVELS, strict=True):
        torch.testing.assert_close(level, expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BODIES)
@torch.no_grad()
def test_frozen_norm_body_equals_torchvision_in_eval_mode(seed, name):
    model = reference_model(name)
    body = ResNet(BODIES[name], FrozenBatchNorm2d, freeze_at=2).double()
    state = {k: v for k, v in renamed(model.state_dict(), eps=1e-5).items() if "num_batches" not in k}
    body.load_state_dict(state, strict=True)
    compare(body.train(), model)


@torch.no_grad()
def test_trained_norm_body_equals_torchvision_in_both_modes(seed):
    model = reference_model("resnet18")
    body = ResNet(BODIES["resnet18"], nn.BatchNorm2d, freeze_at=0).double()
    body.load_state_dict(renamed(model.state_dict()), strict=True)
    compare(body.eval(), model.eval())
    compare(body.train(), model.train())


@torch.no_grad()
def test_group_norm_body_equals_torchvision(seed):
    model = reference_model("resnet18", partial(nn.GroupNorm, 8))
    body = ResNet(BODIES["resnet18"], group_norm(8, -1, 1e-5), freeze_at=0).double()
    body.load_state_dict(renamed(model.state_dict()), strict=True)
    compare(body, model)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_every_depth_has_torchvisions_shapes(depth):
    with torch.device("meta"):
        model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        res2 = 64 if depth < 50 else 256
        body = ResNet(ResNetSettings(depth=depth, res2_channels=res2), nn.BatchNorm2d, freeze_at=2)
    expected = {name: tensor.shape for name, tensor in renamed(model.state_dict()).items()}
    assert {name: tensor.shape for name, tensor in body.state_dict().items()} == expected


@pytest.mark.parametrize("in_1x1", [True, False])
def test_the_stride_sits_where_the_setting_says(in_1x1):
    with torch.device("meta"):
        body = ResNet(ResNetSettings(depth=50, stride_in_1x1=in_1x1), FrozenBatchNorm2d, freeze_at=0)
    for stage in (2, 3, 4):
        block = body.get_submodule(f"layer{stage}.0")
        assert block.conv1.stride == ((2, 2) if in_1x1 else (1, 1))
        assert block.conv2.stride == ((1, 1) if in_1x1 else (2, 2))
        assert block.downsample[0].stride == (2, 2)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
@pytest.mark.parametrize("freeze_at", range(-1, 6))
def test_freezing_counts_the_stem_as_one(freeze_at, norm):
    body = ResNet(ResNetSettings(depth=18, res2_channels=16, stem_channels=16), norm, freeze_at)
    parts = ("stem.", "layer1.", "layer2.", "layer3.", "layer4.")
    frozen = {name for name, p in body.named_parameters() if not p.requires_grad}
    assert frozen == {
        name for name, _ in body.named_parameters() if name.startswith(parts[: max(freeze_at, 0)] or "-")
    }
    pixels = torch.randn(1, 3, 64, 64)
    if freeze_at < 5:
        sum(level.sum() for level in body(pixels)).backward()
    assert {name for name, p in body.named_parameters() if p.grad is None} == frozen


def test_frozen_norm_agrees_with_the_record(ops_record):
    layer = FrozenBatchNorm2d(3)
    layer.weight.copy_(torch.tensor([0.5, 1, 2]))
    layer.bias.copy_(torch.tensor([0.1, 0, -0.3]))
    layer.running_mean.copy_(torch.tensor([0.2, -0.1, 1]))
    layer.running_var.copy_(torch.tensor([0.3, 1, 1e-6]))
    assert list(layer.parameters()) == []
    out = layer(ops_record["frozen_bn/input"])
    torch.testing.assert_close(out, ops_record["frozen_bn/out"], rtol=1e-5, atol=1e-4)


def test_frozen_norm_keeps_half_precision():
    assert FrozenBatchNorm2d(3)(torch.randn(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("words", "kind"), [(FIXED, FrozenBatchNorm2d), (TRAINED, nn.BatchNorm2d), ((), nn.GroupNorm)]
)
def test_the_norm_is_chosen_by_the_function_names(small_cfg, words, kind):
    body = build_body(small_cfg(*words))
    norms = {type(m) for name, m in body.named_modules() if name.split(".")[-1].startswith("bn")}
    assert norms == {kind}
    assert isinstance(body.layer2[0].downsample[1], kind)
    assert body.out_channels == (16, 32, 64, 128)


def test_mixed_norms_are_refused(small_cfg):
    with pytest.raises(ConfigError, match=r"TRANS_FUNC.*STEM_FUNC"):
        build_body(small_cfg(*FIXED[:2]))


@pytest.mark.parametrize(("words", "groups"), [((), 8), (("MODEL.GROUP_NORM.DIM_PER_GP", 4), 4)])
def test_group_norm_by_number_or_by_width(small_cfg, words, groups):
    norm = build_body(small_cfg(*words)).stem.bn1
    assert (norm.num_groups, norm.num_channels) == (groups, 16)


def test_group_norm_that_does_not_divide_names_the_keys(small_cfg):
    with pytest.raises(ValueError, match=r"16 channels do not divide into 5 groups.*MODEL\.GROUP_NORM"):
        build_detector(small_cfg("MODEL.GROUP_NORM.NUM_GROUPS", 5))
