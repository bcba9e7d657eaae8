"""Any timm model with ``features_only`` as a body."""

from __future__ import annotations

import difflib

import timm
import torch
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

STRIDES = (4, 8, 16, 32)
PROBE = 64


class TimmBody(nn.Module):
    """(N, 3, H, W) to [C2, C3, C4, C5] of a timm model, which is kept as the attribute ``model``.

    Args:
        name: timm's model name.
        kwargs: passed on to ``timm.create_model``; ``pad_type="same"`` and ``bn_eps=1e-3`` give the
            EfficientNet-Lite models their TensorFlow arithmetic.
        freeze_norm: batch normalisation keeps its statistics and affine terms.
        freeze_at: from 2 on, every parameter that C(freeze_at) is computed from gets no gradient.

    Raises:
        ValueError: timm does not know the name or a keyword argument, or the model has no maps of the
            strides 4 to 32.
    """

    def __init__(self, name: str, kwargs: dict, freeze_norm: bool, freeze_at: int) -> None:
        super().__init__()
        self.freeze_norm = freeze_norm
        self.model = _features_model(name, kwargs)
        self.out_channels: tuple[int, ...] = tuple(_feature_info(self.model).channels())
        if freeze_at >= 2:
            for parameter in _parameters_of_level(self.model, freeze_at - 2):
                parameter.requires_grad_(False)
        if freeze_norm:
            for norm in self._norms():
                norm.requires_grad_(False)
        self.train()

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.model.modules() if isinstance(module, _BatchNorm)]

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.model(x)

    def train(self, mode: bool = True) -> TimmBody:
        super().train(mode)
        if self.freeze_norm:
            for norm in self._norms():
                norm.eval()
        return self


def _feature_info(model: nn.Module) -> FeatureInfo:
    # timm keeps it as a plain attribute, which the type of nn.Module hides.
    info = model.feature_info
    assert isinstance(info, FeatureInfo)
    return info


def _features_model(name: str, kwargs: dict) -> nn.Module:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.0)
        raise ValueError(f"timm has no model {name!r}; similar names: {', '.join(near)}")
    try:
        with torch.device("meta"):
            probe = timm.create_model(name, pretrained=False, features_only=True, **kwargs)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"timm cannot make the feature maps of {name!r} with MODEL.TIMM.KWARGS {kwargs}: {error}"
        ) from error
    reductions = _feature_info(probe).reduction()
    if not set(STRIDES) <= set(reductions):
        raise ValueError(
            f"timm model {name!r} has maps of the strides {reductions}; 4, 8, 16 and 32 are needed"
        )
    indices = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES)
    model = timm.create_model(name, pretrained=False, features_only=True, out_indices=indices, **kwargs)
    _check_maps(name, model)
    return model


@torch.no_grad()
def _check_maps(name: str, model: nn.Module) -> None:
    """Some models take one input size only, or order their maps otherwise; find out before training."""
    channels = _feature_info(model).channels()
    wanted = [(1, c, PROBE // stride, PROBE // stride) for c, stride in zip(channels, STRIDES, strict=True)]
    try:
        shapes = [tuple(level.shape) for level in model.eval()(torch.zeros(1, 3, PROBE, PROBE))]
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"timm model {name!r} does not take images of any size: {error}") from error
    if shapes != wanted:
        raise ValueError(f"timm model {name!r} gives maps of the shapes {shapes}; {wanted} are needed")


def _parameters_of_level(model: nn.Module, level: int) -> list[nn.Parameter]:
    """The parameters that a level depends on, as autograd finds them on a small input."""
    was_training = model.training
    parameters = list(model.parameters())
    output = model.eval()(torch.zeros(1, 3, PROBE, PROBE))[level].sum()
    gradients = torch.autograd.grad(output, parameters, allow_unused=True)
    model.train(was_training)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
