"""Features of a fixed size from regions of any size."""

from __future__ import annotations

from torch import Tensor

from . import reference


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
        features: (N, C, H, W), any floating type and layout; half types are accumulated in float32.
        rois: (K, 5) floating point of any type, on the same device: index of the image, then x0, y0, x1, y1
            in pixels of the image. They get no gradient. A region that is not finite gives 0.
        output_size: bins (high, wide).
        spatial_scale: cells per pixel, 1/4 for a map of stride 4.
        sampling_ratio: samples along each axis of a bin; 0 adapts them to the region, one for each cell or
            part of one that a bin is long. Time and memory then grow with the area of the regions.

    Returns:
        (K, C, *output_size) of the features' type; it can be differentiated once.

    Raises:
        ValueError: on wrong shapes, types or settings, or (on the CPU) an image index outside 0..N-1.
    """
    _check(features, rois, output_size, spatial_scale, sampling_ratio)
    return reference.roi_align(features, rois, output_size, spatial_scale, sampling_ratio)


def _check(
    features: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int
) -> None:
    if features.dim() != 4 or 0 in features.shape[2:]:
        raise ValueError(f"features must be (N, C, H, W) with H, W > 0, got {tuple(features.shape)}")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois must be (K, 5), (0, 5) when there are none; got {tuple(rois.shape)}")
    if not (features.is_floating_point() and rois.is_floating_point()):
        raise ValueError(f"features and rois must be floating point, got {features.dtype} and {rois.dtype}")
    if features.device != rois.device:
        raise ValueError(f"features are on {features.device}, rois on {rois.device}")
    if len(output_size) != 2 or min(output_size) < 1:
        raise ValueError(f"output_size must be two positive numbers of bins, got {output_size}")
    if not 0 < spatial_scale < float("inf"):
        raise ValueError(f"spatial_scale must be positive and finite, got {spatial_scale}")
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio must be at least 1, or 0 to adapt it, got {sampling_ratio}")
    # Looking at values would stall a GPU's stream: there the lookup fails instead.
    if rois.device.type == "cpu" and len(rois):
        low, high = (float(v) for v in rois.detach()[:, 0].aminmax())
        if not (low >= 0 and high < len(features)):
            raise ValueError(f"rois name images {low:g} to {high:g}; allowed: 0 to {len(features) - 1}")
