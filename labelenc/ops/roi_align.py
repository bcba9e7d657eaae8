"""Features of a fixed size from regions of any size, from one map or from the levels of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import library, reference

ARGUMENTS = (
    "Tensor[] features, Tensor rois, Tensor levels, int bins_high, int bins_wide, float[] scales, "
    "int sampling_ratio"
)
FORWARD = f"multilevel_roi_align({ARGUMENTS}) -> Tensor"
BACKWARD = f"multilevel_roi_align_backward(Tensor grad, {ARGUMENTS}) -> Tensor[]"


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """RoIAlign (He et al., Mask R-CNN, ICCV 2017, section 3) as published weights expect it.

    A region is divided into ``output_size`` bins, and a bin's value is the mean of bilinear samples on a
    regular grid in it. Coordinates are multiplied by ``spatial_scale`` and not shifted by half a pixel
    (``aligned=False`` in torchvision). A region is at least one cell wide and high, also where its corners
    are swapped. A sample before -1 or beyond the map's height or width counts 0; others outside are moved to
    the border.

    Args:
        features: (N, C, H, W), any floating type and layout; half types are accumulated in float32. Autocast
            changes no types here: what comes in half comes out half.
        rois: (K, 5) floating point of any type, on the same device: index of the image, then x0, y0, x1, y1
            in pixels of the image. They get no gradient. A region that is not finite gives 0.
        output_size: bins (high, wide).
        spatial_scale: cells per pixel, 1/4 for a map of stride 4.
        sampling_ratio: samples along each axis of a bin; 0 adapts them to the region, one for each cell or
            part of one that a bin is long. Time then grows with the area that regions cover on the map.

    Returns:
        (K, C, *output_size) of the features' type, contiguous, as fully connected layers read it. It can be
        differentiated once; the gradient has the layout of the features and doesn't depend on the order in
        which threads work, on any device.

    Raises:
        ValueError: on wrong shapes, types or settings, or (on the CPU) an image index outside 0..N-1. On a
            GPU, where looking at indices would stall the stream, the kernels give such a region 0.
    """
    return multilevel_roi_align(
        [features],
        rois,
        torch.zeros(rois.shape[:1], dtype=torch.int64, device=rois.device),
        output_size,
        [spatial_scale],
        sampling_ratio,
    )


def multilevel_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: tuple[int, int],
    scales: Sequence[float],
    sampling_ratio: int,
) -> Tensor:
    """:func:`roi_align` in which every region is pooled from its own level of a pyramid, all at once.

    Args:
        features: maps (N, C, H_l, W_l) of one type on one device, each of any layout.
        rois: (K, 5) as in :func:`roi_align`.
        levels: (K,) int64, which map each region is pooled from.
        output_size: bins (high, wide).
        scales: cells per pixel of each map.
        sampling_ratio: as in :func:`roi_align`.

    Returns:
        (K, C, *output_size) in the order of ``rois``.

    Raises:
        ValueError: as :func:`roi_align`; a level outside 0..len(features)-1 is treated like an image index.
    """
    _check_features(features, rois)
    _check_settings(output_size, scales, sampling_ratio)
    if len(scales) != len(features):
        raise ValueError(f"{len(features)} levels have {len(scales)} scales")
    if levels.shape != rois.shape[:1] or levels.dtype != torch.int64 or levels.device != rois.device:
        raise ValueError(
            f"levels must be int64 ({len(rois)},) on {rois.device} like rois, got {levels.dtype} "
            f"{tuple(levels.shape)} on {levels.device}"
        )
    # Looking at values would stall a GPU's stream and cannot be compiled; the CPU kernel looks again.
    if not torch.compiler.is_compiling() and rois.device.type == "cpu" and len(rois):
        _check_range("images", rois.detach()[:, 0], len(features[0]))
        _check_range("levels", levels, len(features))
    compute_type = torch.float64 if features[0].dtype == torch.float64 else torch.float32
    pooled: Tensor = torch.ops.labelenc.multilevel_roi_align(
        list(features), rois.detach().to(compute_type), levels, *output_size, list(scales), sampling_ratio
    )
    return pooled


def _check_features(features: Sequence[Tensor], rois: Tensor) -> None:
    if len(features) == 0:
        raise ValueError("features must be one or more levels, got none")
    for feature in features:
        if feature.dim() != 4 or 0 in feature.shape[2:]:
            raise ValueError(f"features must be (N, C, H, W) with H, W > 0, got {tuple(feature.shape)}")
        if feature.shape[:2] != features[0].shape[:2] or feature.dtype != features[0].dtype:
            raise ValueError(
                "levels must have the same images, channels and type, got "
                + ", ".join(f"{f.dtype} {tuple(f.shape)}" for f in features)
            )
        if feature.device != rois.device:
            raise ValueError(f"features are on {feature.device}, rois on {rois.device}")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois must be (K, 5), (0, 5) when there are none; got {tuple(rois.shape)}")
    if not (features[0].is_floating_point() and rois.is_floating_point()):
        raise ValueError(
            f"features and rois must be floating point, got {features[0].dtype} and {rois.dtype}"
        )


def _check_settings(output_size: tuple[int, int], scales: Sequence[float], sampling_ratio: int) -> None:
    if len(output_size) != 2 or min(output_size) < 1:
        raise ValueError(f"output_size must be two positive numbers of bins, got {output_size}")
    for scale in scales:
        if not 0 < scale < float("inf"):
            raise ValueError(f"spatial_scale must be positive and finite, got {scale}")
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio must be at least 1, or 0 to adapt it, got {sampling_ratio}")


def _check_range(what: str, values: Tensor, count: int) -> None:
    low, high = (float(v) for v in values.aminmax())
    if not (low >= 0 and high < count):
        raise ValueError(f"rois name {what} {low:g} to {high:g}; allowed: 0 to {count - 1}")


def _reference_backward(grad: Tensor, features: list[Tensor], *arguments: Any) -> list[Tensor]:
    with library.autograd_inside():
        copies = [feature.detach().requires_grad_() for feature in features]
        pooled = reference.multilevel_roi_align(copies, *arguments)
        grads = torch.autograd.grad(pooled, copies, grad)
    return [torch.empty_like(f).copy_(g) for f, g in zip(features, grads, strict=True)]


def _fake(
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor,
    bins_high: int,
    bins_wide: int,
    scales: list[float],
    sampling_ratio: int,
) -> Tensor:
    return features[0].new_empty(rois.shape[0], features[0].shape[1], bins_high, bins_wide)


def _fake_backward(grad: Tensor, features: list[Tensor], *arguments: Any) -> list[Tensor]:
    return [torch.empty_like(feature) for feature in features]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    features, rois, levels, *settings = inputs
    ctx.save_for_backward(*features, rois, levels)
    ctx.settings = settings


def _backward(ctx: Any, grad: Tensor) -> tuple:
    *features, rois, levels = ctx.saved_tensors
    grads = torch.ops.labelenc.multilevel_roi_align_backward(grad, features, rois, levels, *ctx.settings)
    return grads, None, None, None, None, None, None


library.complete(FORWARD, reference.multilevel_roi_align, _fake)
library.complete(BACKWARD, _reference_backward, _fake_backward)
torch.library.register_autograd("labelenc::multilevel_roi_align", _backward, setup_context=_save)
library.once_differentiable("multilevel_roi_align_backward", "roi_align")
