"""The operations at the sizes of a training step, with the bytes and operations that they cannot do without.

800 x 1216 pixels, two images. A case counts every byte that has to be read or written once, and the
arithmetic of its definition; README.md in this folder derives the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from labelenc import ops
from labelenc.ops import reference

HEIGHT, WIDTH, IMAGES, CLASSES, CHANNELS = 800, 1216, 2, 80, 256
STRIDES = (4, 8, 16, 32)
# Channels of the 3x3 convolutions of ResNet-101's stages, and how much smaller than the image their maps are.
RESNET_STAGES = {"c2": (64, 4), "c3": (128, 8), "c4": (256, 16), "c5": (512, 32)}
ANCHORS = 9
OPERATIONS_PER_OVERLAP = 13
OPERATIONS_PER_LOSS, OPERATIONS_PER_SLOPE = 40, 43


@dataclass(frozen=True)
class Case:
    """``work`` is bytes, operations on vectors, operations in matrix products."""

    op: str
    size: str
    passes: str
    ours: Callable[[], object]
    other: Callable[[], object]
    other_name: str
    work: tuple[float, float, float]


def random_boxes(n: int, smallest: float, largest: float) -> Tensor:
    """Boxes inside the image with sides between the two numbers, small ones as often as large ones."""
    sides = smallest * (largest / smallest) ** torch.rand(n, 2)
    sides = torch.minimum(sides, torch.tensor([WIDTH - 1.0, HEIGHT - 1.0]))
    corner = torch.rand(n, 2) * (torch.tensor([WIDTH - 1.0, HEIGHT - 1.0]) - sides)
    return torch.cat([corner, corner + sides], dim=1)


def nms_cases(device: str, _: torch.dtype) -> Iterator[Case]:
    for n in (1000, 5000, 10000):
        boxes, scores = random_boxes(n, 16, 400).to(device), torch.rand(n).to(device)
        labels = torch.randint(1, CLASSES + 1, (n,)).to(device)

        def alone(f: Callable, b: Tensor = boxes, s: Tensor = scores) -> Callable[[], Tensor]:
            return lambda: f(b, s, 0.5)

        def grouped(f: Callable, b: Tensor = boxes, s: Tensor = scores, g: Tensor = labels) -> Callable:
            return lambda: f(b, s, g, 0.5)

        pairs = [(alone, ops.nms, torchvision.ops.nms, None)]
        pairs.append((grouped, ops.batched_nms, torchvision.ops.batched_nms, labels))
        for bind, ours, theirs, groups in pairs:
            kept = bind(ours)()
            compared = touching_pairs(boxes, kept, groups)
            work = (n * (20 + 8 * (groups is not None)) + 8 * len(kept), OPERATIONS_PER_OVERLAP * compared, 0)
            yield Case(ours.__name__, f"{n} boxes", "forward", bind(ours), bind(theirs), "torchvision", work)


def touching_pairs(boxes: Tensor, kept: Tensor, groups: Tensor | None) -> int:
    """Pairs of a survivor and a later survivor that touch: nobody can avoid comparing these."""
    survivors = boxes[kept].cpu()
    labels = None if groups is None else groups[kept].cpu()
    count = 0
    for i in range(0, len(survivors), 500):
        part = survivors[i : i + 500, None]
        touch = (
            torch.minimum(part[..., 2:], survivors[:, 2:]) > torch.maximum(part[..., :2], survivors[:, :2])
        ).all(2)
        if labels is not None:
            touch &= labels[i : i + 500, None] == labels
        count += int(touch.sum())
    return (count - len(survivors)) // 2


def under_autocast(call: Callable[[], Tensor], device: str, dtype: torch.dtype) -> Callable[[], Tensor]:
    """torchvision's operations take half types by way of autocast only."""
    if dtype == torch.float32:
        return call

    def run() -> Tensor:
        with torch.autocast(device, dtype):
            return call()

    return run


def with_backward(call: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], object]:
    upstream: list[Tensor] = []

    def run() -> object:
        out = call()
        if not upstream or upstream[0].dtype != out.dtype:
            upstream[:] = [torch.rand_like(out)]
        return torch.autograd.grad(out, leaves, upstream[0])

    return run


def both_passes(
    op: str, size: str, leaves: list[Tensor], calls: tuple[Callable, Callable], works: tuple[tuple, tuple]
) -> Iterator[Case]:
    """The case of the forward pass, without keeping anything for a gradient, and that of both passes."""

    def without_gradient(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad():
                return call()

        return run

    ours, theirs = calls
    yield Case(op, size, "forward", without_gradient(ours), without_gradient(theirs), "torchvision", works[0])
    total = tuple(a + b for a, b in zip(*works, strict=True))
    trained = [with_backward(call, leaves) for call in calls]
    yield Case(op, size, "forward+backward", *trained, "torchvision", total)


def roi_align_cases(
    device: str, dtype: torch.dtype, count: int = 1000, bins: int = 7, samples: int = 2
) -> Iterator[Case]:
    maps = [
        torch.randn(IMAGES, CHANNELS, HEIGHT // s, WIDTH // s, device=device).to(dtype).requires_grad_()
        for s in STRIDES
    ]
    boxes = random_boxes(count, 16, 800)
    images = torch.randint(0, IMAGES, (count, 1))
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    levels = (4 + torch.log2(sizes / 224)).floor().clamp(2, 5).long() - 2
    rois = torch.cat([images, boxes], dim=1).to(device)
    chosen = [torch.nonzero(levels == level)[:, 0].to(device) for level in range(4)]
    levels = levels.to(device)

    def ours() -> Tensor:
        scales = [1 / s for s in STRIDES]
        return ops.multilevel_roi_align(maps, rois, levels, (bins, bins), scales, samples)

    def theirs() -> Tensor:
        pooled = [
            torchvision.ops.roi_align(level_map, rois[rows], bins, 1 / stride, samples)
            for level_map, rows, stride in zip(maps, chosen, STRIDES, strict=True)
        ]
        return torch.cat(pooled).index_select(0, torch.cat(chosen).argsort())

    item, values = maps[0].element_size(), count * CHANNELS * bins * bins
    cells = sum(
        touched_cells(rois[rows].cpu(), s, bins, samples) for rows, s in zip(chosen, STRIDES, strict=True)
    )
    arithmetic = values * samples * samples * 4 * 2
    forward = (item * (values + cells * CHANNELS), arithmetic, 0)
    backward = (item * (values + sum(m.numel() for m in maps)), arithmetic, 0)
    calls = (ours, under_autocast(theirs, device, dtype))
    yield from both_passes("roi_align", f"{count} RoIs, 4 levels", maps, calls, (forward, backward))


def touched_cells(rois: Tensor, stride: int, bins: int, samples: int) -> int:
    """Cells of a level's maps that lie next to a sample."""
    touched = torch.zeros(IMAGES, HEIGHT // stride, WIDTH // stride, dtype=torch.bool)
    step = (torch.arange(bins * samples) + 0.5) / (bins * samples)
    for roi in rois:
        x0, y0, x1, y1 = (roi[1:] / stride).tolist()
        rows, columns = (
            torch.cat([(low + step * max(high - low, 1)).floor() + k for k in (0, 1)])
            .long()
            .unique()
            .clamp(0, size - 1)
            for low, high, size in ((y0, y1, touched.shape[1]), (x0, x1, touched.shape[2]))
        )
        touched[int(roi[0]), rows[:, None], columns] = True
    return int(touched.sum())


def deform_conv_cases(device: str, dtype: torch.dtype) -> Iterator[Case]:
    for stage, (channels, stride) in RESNET_STAGES.items():
        height, width = HEIGHT // stride, WIDTH // stride
        shapes = [(IMAGES, channels, height, width), (IMAGES, 18, height, width), (IMAGES, 9, height, width)]
        x, offset, mask, weight = (
            torch.randn(shape, device=device).to(dtype).requires_grad_()
            for shape in (*shapes, (channels, channels, 3, 3))
        )

        def ours(
            x: Tensor = x, offset: Tensor = offset, mask: Tensor = mask, weight: Tensor = weight
        ) -> Tensor:
            return ops.deform_conv2d(x, offset, mask, weight, None, padding=1)

        def theirs(
            x: Tensor = x, offset: Tensor = offset, mask: Tensor = mask, weight: Tensor = weight
        ) -> Tensor:
            return torchvision.ops.deform_conv2d(x, offset, weight, None, padding=1, mask=mask)

        item = x.element_size()
        taps = IMAGES * height * width * 9
        inputs = item * (x.numel() + offset.numel() + mask.numel() + weight.numel())
        product, sampling = 2 * taps * channels * channels, 9 * taps * channels
        forward = (inputs + item * x.numel(), sampling, product)
        backward = (2 * inputs + item * x.numel(), 2 * sampling, 2 * product)
        calls = (ours, under_autocast(theirs, device, dtype))
        size = f"{stage}: {channels} channels, {height} x {width}"
        yield from both_passes("deform_conv2d", size, [x, offset, mask, weight], calls, (forward, backward))


def label_map_cases(device: str, _: torch.dtype) -> Iterator[Case]:
    counts = (7, 9)
    boxes = [random_boxes(n, 16, 600).to(device) for n in counts]
    labels = [torch.randint(1, CLASSES + 1, (n,)).to(device) for n in counts]
    arguments = (boxes, labels, CLASSES, HEIGHT, WIDTH)
    present = len(ops.compact_label_map(*arguments)[0])
    for op, planes in ((ops.label_map, IMAGES * CLASSES), (ops.compact_label_map, present)):
        yield Case(
            op.__name__,
            f"{planes} maps, {sum(counts)} boxes",
            "forward",
            lambda f=op: f(*arguments),
            lambda: reference.label_map(*arguments),
            "plain PyTorch, dense",
            (4 * planes * HEIGHT * WIDTH, 0, 0),
        )


def focal_loss_cases(device: str, dtype: torch.dtype) -> Iterator[Case]:
    cells = sum(-(-HEIGHT // s) * -(-WIDTH // s) for s in (8, 16, 32, 64, 128))
    rows = IMAGES * ANCHORS * cells
    logits = (torch.randn(rows, CLASSES, device=device) - 4).to(dtype).requires_grad_()
    targets = torch.randint(1, CLASSES + 1, (rows,)) * (torch.rand(rows) < 0.002)
    targets = targets.to(device)

    def ours() -> Tensor:
        return ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25)

    def theirs() -> Tensor:
        dense = F.one_hot(targets, CLASSES + 1)[:, 1:].to(dtype)
        return torchvision.ops.sigmoid_focal_loss(logits, dense, 0.25, 2.0, reduction="sum")

    size, item = logits.numel(), logits.element_size()
    forward = (item * size + 8 * rows, OPERATIONS_PER_LOSS * size, 0)
    backward = (2 * item * size + 8 * rows, OPERATIONS_PER_SLOPE * size, 0)
    calls = (ours, theirs)
    yield from both_passes("sigmoid_focal_loss", f"{rows} x {CLASSES}", [logits], calls, (forward, backward))


# Cases are made when they are needed: together they would take gigabytes.
CASES: dict[str, Callable[[str, torch.dtype], Iterator[Case]]] = {
    "nms": nms_cases,
    "roi_align": roi_align_cases,
    "deform_conv2d": deform_conv_cases,
    "label_map": label_map_cases,
    "focal_loss": focal_loss_cases,
}
