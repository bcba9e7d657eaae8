"""The operations in plain PyTorch: the definition that compiled kernels and fast forms must agree with.

They run on any device and follow the formulas line by line. They also step in where nothing was compiled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

FLT_MIN = torch.finfo(torch.float32).tiny
# Corners of samples that ROIAlign looks up at once, 12 bytes each and about as much again on the way.
CORNERS_AT_ONCE = 1 << 23


def box_iou_one_to_many(box: Tensor, others: Tensor, legacy_offset: bool) -> Tensor:
    """Intersection over union of one box (4,) with boxes (N, 4), xyxy in pixels; returns (N,).

    With ``legacy_offset`` a box that ends at pixel 9 and starts at 0 is 10 wide, otherwise 9.
    """
    offset = 1.0 if legacy_offset else 0.0
    top_left = torch.maximum(box[:2], others[:, :2])
    bottom_right = torch.minimum(box[2:], others[:, 2:])
    overlap = (bottom_right - top_left + offset).clamp(min=0).prod(dim=1)
    area = (box[2:] - box[:2] + offset).prod()
    areas = (others[:, 2:] - others[:, :2] + offset).prod(dim=1)
    return overlap / (area + areas - overlap)


def nms_sorted(boxes: Tensor, groups: Tensor | None, iou_threshold: float, legacy_offset: bool) -> Tensor:
    """Which boxes survive greedy suppression: boxes (N, 4) by decreasing score -> bool (N,).

    A surviving box removes every later box of its own group whose IoU with it is greater than the threshold.
    ``groups`` is int64 (N,), or None when all boxes compete. Comparisons with NaN are false: a box with a NaN
    coordinate neither removes nor is removed.
    """
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes) - 1):
        if not keep[i]:
            continue
        removed = box_iou_one_to_many(boxes[i], boxes[i + 1 :], legacy_offset) > iou_threshold
        if groups is not None:
            removed &= groups[i + 1 :] == groups[i]
        keep[i + 1 :] &= ~removed
    return keep


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of every element, logits (N, C) and targets int64 (N,) -> (N, C); Lin et al. 2017, eq. 5.

    Targets: -1 ignored (the row is 0), 0 background, c is class c in column c - 1.
    """
    columns = torch.arange(1, logits.shape[1] + 1, device=logits.device)
    positive = targets[:, None] == columns
    p = torch.sigmoid(logits)
    log_p = torch.log(p.clamp(min=FLT_MIN))
    log_not_p = -torch.nn.functional.softplus(logits, threshold=50.0)
    loss = torch.where(positive, -alpha * (1 - p) ** gamma * log_p, (alpha - 1) * p**gamma * log_not_p)
    return torch.where(targets[:, None] >= 0, loss, torch.zeros_like(loss))


def sigmoid_focal_loss_slope(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """Derivative of :func:`sigmoid_focal_loss` with respect to the logits, without the clamp: (N, C)."""
    columns = torch.arange(1, logits.shape[1] + 1, device=logits.device)
    positive = targets[:, None] == columns
    p, not_p = torch.sigmoid(logits), torch.sigmoid(-logits)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    slope = torch.where(
        positive,
        alpha * not_p**gamma * (gamma * p * log_p - not_p),
        (1 - alpha) * p**gamma * (p - gamma * not_p * log_not_p),
    )
    return torch.where(targets[:, None] >= 0, slope, torch.zeros_like(slope))


def label_map(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    num_classes: int,
    height: int,
    width: int,
    scales: Sequence[Tensor] | None = None,
) -> Tensor:
    """Boxes drawn as images with one channel per class -> float32 (N, num_classes, height, width).

    LabelEnc section 3.2: at pixel (x, y) a box of size (w, h) and centre (cx, cy) has the value
    ``1 - max(|x - cx| / w, |y - cy| / h)`` where that is at least 0.5, else 0; a channel is the maximum over
    the boxes of its class. ``labels`` are 1..num_classes, ``scales`` multiply each box's values.
    """
    flat = torch.cat([b.reshape(-1, 4) for b in boxes]).float() if len(boxes) else torch.zeros(0, 4)
    slots = [image * num_classes + label.long() - 1 for image, label in enumerate(labels)]
    factors = None if scales is None else torch.cat([flat.new_zeros(0), *scales]).float()
    count = len(boxes) * num_classes
    maps = label_map_slots(flat, torch.cat([flat.new_zeros(0).long(), *slots]), factors, count, height, width)
    return maps.reshape(len(boxes), num_classes, height, width)


def label_map_slots(
    boxes: Tensor, slots: Tensor, scales: Tensor | None, count: int, height: int, width: int
) -> Tensor:
    """:func:`label_map` of boxes (K, 4) in the maps 0..count-1 that ``slots`` (K,) names -> (count, H, W)."""
    out = torch.zeros(count, height, width, device=boxes.device)
    xs = torch.arange(width, device=boxes.device, dtype=torch.float32)
    ys = torch.arange(height, device=boxes.device, dtype=torch.float32)[:, None]
    x0, y0, x1, y1 = boxes.unbind(1)
    w, h = x1 - x0, y1 - y0
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    drawn = (w > 0) & (h > 0) & w.isfinite() & h.isfinite()
    # Two transfers to the host instead of one per box.
    for i, (slot, is_drawn) in enumerate(zip(slots.tolist(), drawn.tolist(), strict=True)):
        if not 0 <= slot < count:
            raise ValueError(f"box {i} is in map {slot} of {count}")
        if is_drawn:
            value = 1 - torch.maximum((xs - cx[i]).abs() / w[i], (ys - cy[i]).abs() / h[i])
            # Beside an enormous box, distances are rounded to its border.
            near = (xs >= x0[i].floor()) & (xs <= x1[i].ceil()) & (ys >= y0[i].floor()) & (ys <= y1[i].ceil())
            value = torch.where((value >= 0.5) & near, value, torch.zeros_like(value))
            value = value if scales is None else value * scales[i]
            torch.maximum(out[slot], value, out=out[slot])
    return out


def roi_align(
    features: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """Mean of bilinear samples in every bin of every RoI -> (K, C, *output_size); He et al. 2017, section 3.

    Features are (N, C, H, W), RoIs (K, 5) an image index and xyxy in image pixels, taken without a half-pixel
    shift and at least one cell wide and high. Each axis of a bin has ``sampling_ratio`` samples, with 0 one
    for every cell or part of one. A sample before -1 or beyond H or W is 0, others are moved onto the map. An
    RoI that is not finite gives 0.
    """
    channels = features.shape[1]
    compute_type = torch.float64 if features.dtype == torch.float64 else torch.float32
    # The last row is that of samples which lie nowhere: 0 times a cell would not be 0 if that is infinite.
    cells = F.pad(features.permute(0, 2, 3, 1).reshape(-1, channels).to(compute_type), (0, 0, 0, 1))
    images, boxes = rois.detach()[:, 0].int(), rois.detach()[:, 1:].to(compute_type)
    finite = boxes.isfinite().all(dim=1, keepdim=True)
    boxes = torch.where(finite, boxes * spatial_scale, -9.0)
    starts = boxes[:, [1, 0]]
    bins = (boxes[:, [3, 2]] - starts).clamp(min=1) / boxes.new_tensor(output_size)
    grids = torch.full_like(bins, sampling_ratio) if sampling_ratio else bins.ceil()
    corners = 4 * output_size[0] * output_size[1] * grids.double().prod(dim=1)
    portions = (corners.cumsum(0) / CORNERS_AT_ONCE).long().unique_consecutive(return_counts=True)[1].tolist()
    parts = zip(*(t.split(portions) for t in (images, starts, bins, grids)), strict=True)
    pooled = [_roi_align_portion(cells, part, output_size, features.shape[2:]) for part in parts]
    if not pooled:
        # Still a function of the features, as backward() expects of a loss.
        return features[:0, :, :1, :1].expand(0, channels, *output_size)
    return (pooled[0] if len(pooled) == 1 else torch.cat(pooled)).to(features.dtype)


def multilevel_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    bins_high: int,
    bins_wide: int,
    scales: Sequence[float],
    sampling_ratio: int,
) -> Tensor:
    """:func:`roi_align` of every RoI on its own map, ``features[levels[k]]`` for RoI k."""
    pooled = [
        roi_align(feature, rois[levels == level], (bins_high, bins_wide), scale, sampling_ratio)
        for level, (feature, scale) in enumerate(zip(features, scales, strict=True))
    ]
    return torch.cat(pooled).index_select(0, levels.argsort(stable=True).argsort())


def _roi_align_portion(
    cells: Tensor, rois: tuple[Tensor, ...], output_size: tuple[int, int], map_size: torch.Size
) -> Tensor:
    """RoIs (image; start, size of a bin, samples per bin, each vertical and horizontal) -> (K, C, h, w).

    RoIs with equally many samples are prepared together. Every value is then a weighted sum of ``cells``
    (positions and a row of zeros, C), which one operation gathers and adds up.
    """
    images, starts, bins, grids = rois
    different, kind = grids.unique(dim=0, return_inverse=True)
    indices, weights, lengths = [], [], []
    for number, (rows, columns) in enumerate(different.int().tolist()):
        chosen = torch.nonzero(kind == number)[:, 0]
        start, size = starts[chosen], bins[chosen]
        y, y_weight = _axis_samples(start[:, 0], size[:, 0], output_size[0], rows, map_size[0])
        x, x_weight = _axis_samples(start[:, 1], size[:, 1], output_size[1], columns, map_size[1])
        y = y + images[chosen, None, None] * map_size[0]
        weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        index = y[:, :, None, :, None] * map_size[1] + x[:, None, :, None, :]
        indices.append(torch.where(weight > 0, index, len(cells) - 1).flatten())
        weights.append(weight.flatten())
        lengths.append(chosen.new_full((len(chosen) * y.shape[1] * x.shape[1],), 4 * rows * columns))
    ends = torch.cat(lengths).cumsum(0)
    begins = torch.cat([ends.new_zeros(1), ends[:-1]]).int()
    sums = F.embedding_bag(
        torch.cat(indices), cells, begins, mode="sum", per_sample_weights=torch.cat(weights)
    )
    in_order = kind.argsort(stable=True).argsort()
    per_roi = sums.reshape(len(images), output_size[0] * output_size[1], cells.shape[1])
    return per_roi.transpose(1, 2).index_select(0, in_order).unflatten(2, output_size)


def _axis_samples(start: Tensor, size: Tensor, bins: int, samples: int, cells: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the cells that samples lie between, and their weights: both (K, bins, 2 samples)."""
    step = torch.arange(samples, device=start.device, dtype=start.dtype) + 0.5
    left = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None] * size[:, None, None]
    position = start[:, None, None] + left + step * size[:, None, None] / samples
    on_map = (position >= -1) & (position <= cells)
    position = position.clamp(0, cells - 1)
    low = position.floor()
    share = position - low
    index = torch.stack([low, (low + 1).clamp(max=cells - 1)], dim=3).int()
    weight = torch.stack([1 - share, share], dim=3) * (on_map.to(start.dtype) / samples)[..., None]
    return index.flatten(2), weight.flatten(2)


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deformable_groups: int,
) -> Tensor:
    """Convolution whose taps are moved by ``offset`` and weighed by ``mask``; Zhu et al. 2019, eq. 1.

    Tap k of deformable group g lies at its place in an ordinary convolution plus (dy, dx), channels
    ``2 (g K + k)`` and the next of ``offset``. Its value is bilinear between four pixels, where those outside
    of the image are 0, times channel ``g K + k`` of ``mask`` (1 without a mask).
    """
    n, channels = x.shape[:2]
    kernel, out_size = weight.shape[2:], offset.shape[2:]
    compute_type = torch.float64 if x.dtype == torch.float64 else torch.float32
    # Dimensions: n, out height, out width, kernel height, kernel width, deformable group, then the corners.
    # So the sums over corners come as the rows of a matrix product.
    moves = offset.to(compute_type).reshape(n, deformable_groups, *kernel, 2, *out_size)
    moves = moves.permute(4, 0, 5, 6, 2, 3, 1)
    cell, shares = _corners(moves, x.shape[2:], stride, padding, dilation)
    if mask is not None:
        mask = mask.to(compute_type).reshape(n, deformable_groups, *kernel, *out_size)
        shares = shares * mask.permute(0, 4, 5, 2, 3, 1)[..., None, None]
    cells = x.to(compute_type).permute(0, 2, 3, 1).reshape(-1, channels // deformable_groups)
    # The last row is that of all corners off the map: 0 times a cell would not be 0 if that is infinite.
    cell, cells = torch.where(cell < 0, len(cells), cell), F.pad(cells, (0, 0, 0, 1))
    columns = F.embedding_bag(
        cell.reshape(-1, 4), cells, mode="sum", per_sample_weights=shares.reshape(-1, 4)
    )
    columns = columns.reshape(-1, kernel.numel(), groups, channels // groups).permute(2, 0, 1, 3).flatten(2)
    matrix = weight.to(compute_type).unflatten(0, (groups, -1)).flatten(3).permute(0, 3, 2, 1).flatten(1, 2)
    out = torch.bmm(columns, matrix).transpose(0, 1).reshape(n, *out_size, len(weight))
    if bias is not None:
        out = out + bias
    return out.permute(0, 3, 1, 2).to(x.dtype).contiguous()


def _corners(
    moves: Tensor,
    map_size: Sequence[int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """The four cells around each moved tap, -1 for one off the map, and their shares: both (..., 2, 2).

    ``moves`` is (dy and dx, n, out height, out width, kernel height, kernel width, deformable group). Cells
    are counted as (n, height, width, deformable group).
    """
    n, groups = moves.shape[1], moves.shape[6]
    # A place of which one coordinate is not a number has none.
    moves = moves * torch.where(moves.isnan().any(0), torch.nan, 1.0)
    ys, xs = (
        torch.arange(moves.shape[2 + axis], device=moves.device)[:, None] * stride[axis]
        + torch.arange(moves.shape[4 + axis], device=moves.device) * dilation[axis]
        - padding[axis]
        for axis in (0, 1)
    )
    row, y_share = _neighbours(ys[:, None, :, None, None] + moves[0], map_size[0])
    column, x_share = _neighbours(xs[:, None, :, None] + moves[1], map_size[1])
    on_map = (row >= 0)[..., :, None] & (column >= 0)[..., None, :]
    image = torch.arange(n, device=moves.device).view(n, *[1] * 7) * map_size[0]
    cell = (image + row[..., :, None]) * map_size[1] + column[..., None, :]
    cell = cell * groups + torch.arange(groups, device=moves.device)[:, None, None]
    return torch.where(on_map, cell, -1), y_share[..., :, None] * x_share[..., None, :]


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the two cells that a position lies between, -1 for one off the map; their shares."""
    position = position.masked_fill((position <= -1) | (position >= size), -2)
    low = position.floor()
    cell = torch.stack([low, low + 1], dim=-1)
    share = torch.stack([low + 1 - position, position - low], dim=-1)
    return torch.where((cell >= 0) & (cell < size), cell, -1).long(), share
