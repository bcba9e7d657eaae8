"""The feature adapter and the distance between image features and encodings (LabelEnc, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def build_adapter(channels: int) -> nn.Sequential:
    """Three 3x3 convolutions with ReLU between, shared by all levels; training only."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


def normalize_level(level: Tensor) -> Tensor:
    """(N, C, H, W) to zero mean and unit variance per image over (C, H, W), in float32."""
    return F.group_norm(level.float(), 1, eps=1e-5)


def compared_levels(
    features: Sequence[Tensor], encodings: Sequence[Tensor], adapter: nn.Module
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each level what the distance compares: normalised adapted features, normalised encodings.

    The encodings get no gradient.
    """
    for feature, encoding in zip(features, encodings, strict=True):
        yield normalize_level(adapter(feature)), normalize_level(encoding.detach())


def feature_distance(features: Sequence[Tensor], encodings: Sequence[Tensor], adapter: nn.Module) -> Tensor:
    """Mean squared difference of normalised adapted features and normalised encodings.

    The mean is over the N x C x (sum of H_l W_l) numbers of all levels; the encodings get no gradient.
    """
    squared = [
        F.mse_loss(adapted, encoding, reduction="sum")
        for adapted, encoding in compared_levels(features, encodings, adapter)
    ]
    return torch.stack(squared).sum() / sum(feature.numel() for feature in features)
