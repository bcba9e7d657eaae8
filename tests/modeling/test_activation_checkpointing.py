"""Activation checkpointing of the body: the same numbers from fewer kept tensors."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from labelenc.config import ConfigError
from labelenc.modeling.backbone.build import build_body
from labelenc.modeling.backbone.norm import FrozenBatchNorm2d, group_norm
from labelenc.modeling.backbone.resnet import ResNet, ResNetSettings

NORMS = {"frozen": FrozenBatchNorm2d, "group": group_norm(4, -1, 1e-5)}


def twins(settings, norm, freeze_at):
    """The same body with and without checkpointing."""
    bodies = [ResNet(settings, norm, freeze_at, checkpointing) for checkpointing in (False, True)]
    for name, module in bodies[0].named_modules():
        if name.endswith("bn3") and isinstance(module, FrozenBatchNorm2d):
            nn.init.constant_(module.weight, 0.2)
    bodies[1].load_state_dict(bodies[0].state_dict(), strict=True)
    return bodies


def forward(body: ResNet, pixels: Tensor) -> tuple[list[Tensor], int]:
    """The levels, and the bytes that are kept for the backward pass beside parameters."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        levels = body(pixels)
    return levels, sum(kept.values())


@pytest.mark.parametrize("freeze_at", [0, 2, 4])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_are_equal_bit_by_bit(seed, norm, freeze_at):
    settings = ResNetSettings(depth=50, stem_channels=8, res2_channels=16, width_per_group=4)
    bodies = twins(settings, NORMS[norm], freeze_at)
    pixels, upstream = torch.randn(2, 3, 64, 96), []
    gradients = []
    for body in bodies:
        levels = body(pixels)
        upstream = upstream or [torch.randn_like(level) for level in levels]
        products = [(level * up).sum() for level, up in zip(levels, upstream, strict=True)]
        torch.stack(products).sum().backward()
        gradients.append({name: p.grad for name, p in body.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys() != set()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
        assert gradient.count_nonzero()


def test_less_is_kept(seed):
    plain, checkpointed = twins(ResNetSettings(depth=50), FrozenBatchNorm2d, 2)
    pixels = torch.randn(1, 3, 128, 192)
    wanted, kept = forward(plain, pixels)
    levels, kept_less = forward(checkpointed, pixels)
    for level, other in zip(levels, wanted, strict=True):
        assert torch.equal(level, other)
    assert 0 < kept_less <= 0.6 * kept
    with torch.no_grad():
        assert forward(checkpointed.eval(), pixels)[1] == 0


def test_the_key_reaches_the_body_and_says_what_it_cannot_do(small_cfg):
    key = ("MODEL.BACKBONE.ACTIVATION_CHECKPOINTING", True)
    assert build_body(small_cfg(*key)).first_checkpointed is not None
    assert build_body(small_cfg()).first_checkpointed is None
    with pytest.raises(ConfigError, match=r"ACTIVATION_CHECKPOINTING.*CONV_BODY is 'timm/resnet18"):
        small_cfg(*key, "MODEL.BACKBONE.CONV_BODY", "timm/resnet18-FPN-RETINANET")
    trained = ("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithBatchNorm")
    with pytest.raises(ConfigError, match=r"ACTIVATION_CHECKPOINTING.*BottleneckWithBatchNorm; choose"):
        small_cfg(*key, *trained, "MODEL.RESNETS.STEM_FUNC", "StemWithBatchNorm")
