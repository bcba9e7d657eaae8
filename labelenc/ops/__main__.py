"""``python -m labelenc.ops``: what is compiled here, and a small test that it computes what it should."""

from __future__ import annotations

import sys

import torch

from . import (
    batched_nms,
    compact_label_map,
    deform_conv2d,
    label_map,
    library,
    multilevel_roi_align,
    nms,
    reference,
    roi_align,
    sigmoid_focal_loss,
)


def describe() -> str:
    """One line per fact about the build."""
    build = library.build
    lines = [f"PyTorch            {torch.__version__} (CUDA {torch.version.cuda or 'none'})"]
    if build is None:
        return "\n".join([*lines, "compiled kernels   none, operations run in plain PyTorch"])
    lines += [
        f"compiled kernels   {build.path}",
        f"built with         PyTorch {build.torch_version}, {build.compiler}",
        f"CPU kernels        yes, {torch.get_num_threads()} threads in this process",
        f"CUDA kernels       {build.cuda_architectures if library.has_cuda_kernels else 'no'}",
        f"GPU visible        {torch.cuda.get_device_name() if torch.cuda.is_available() else 'no'}",
    ]
    return "\n".join(lines)


def self_test(device: str) -> dict[str, bool]:
    """Name of operation -> whether it gives on one small input what the reference or a closed form does."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + torch.rand(200, 2, generator=generator) * 40 + 1], dim=1)
    scores = torch.rand(200, generator=generator)
    groups = torch.arange(200) % 3
    logits = torch.randn(200, 3, generator=generator)
    order = scores.argsort(descending=True)
    alone = order[reference.nms_sorted(boxes[order], None, 0.5, True)]
    grouped = order[reference.nms_sorted(boxes[order], groups[order], 0.5, True)]
    loss = reference.sigmoid_focal_loss(logits, groups, 2.0, 0.25).sum()
    drawn = reference.label_map([boxes], [groups + 1], 3, 140, 140)
    boxes, scores, groups, logits = (t.to(device) for t in (boxes, scores, groups, logits))
    maps, images, channels = compact_label_map([boxes], [groups + 1], 3, 140, 140)
    return {
        "nms": torch.equal(nms(boxes, scores, 0.5, True).cpu(), alone),
        "batched_nms": torch.equal(batched_nms(boxes, scores, groups, 0.5, True).cpu(), grouped),
        "sigmoid_focal_loss": torch.allclose(sigmoid_focal_loss(logits, groups, 2.0, 0.25).cpu(), loss),
        "label_map": torch.allclose(label_map([boxes], [groups + 1], 3, 140, 140).cpu(), drawn),
        "compact_label_map": torch.allclose(maps.cpu(), drawn[images.cpu(), channels.cpu()]),
        "roi_align": _roi_align_is_right(boxes),
        "multilevel_roi_align": _pyramid_is_right(boxes),
        "deform_conv2d": _deform_conv_is_right(device, generator),
        "gradients": _gradients_are_right(device, generator),
    }


def _with_image(boxes: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)


def _roi_align_is_right(boxes: torch.Tensor) -> bool:
    """A map whose cells hold their column: one bin gives the middle of a box."""
    columns = torch.arange(160.0, device=boxes.device).expand(1, 1, 160, 160)
    found = roi_align(columns, _with_image(boxes), (1, 1), 1.0, 2)
    return torch.allclose(found.flatten(), (boxes[:, 0] + boxes[:, 2]) / 2, rtol=1e-5)


def _pyramid_is_right(boxes: torch.Tensor) -> bool:
    """Three maps that hold 1, 2 and 3 everywhere: every box gives the number of its own level."""
    levels = torch.arange(len(boxes), device=boxes.device) % 3
    maps = [torch.full((1, 1, 160 >> n, 160 >> n), n + 1.0, device=boxes.device) for n in range(3)]
    found = multilevel_roi_align(maps, _with_image(boxes), levels, (1, 1), [1.0, 0.5, 0.25], 2)
    return torch.allclose(found.flatten(), levels + 1.0)


def _deform_conv_is_right(device: str, generator: torch.Generator) -> bool:
    """One tap on an image whose pixels hold ``10 row + column``: an offset adds ``10 dy + dx`` to it."""
    image = (10 * torch.arange(20.0)[:, None] + torch.arange(20.0)).expand(1, 1, 20, 20)
    offset = torch.rand(1, 2, 20, 20, generator=generator) * torch.arange(20.0).flip(0).clamp(max=1)
    offset[:, :, -1] = 0
    mask = torch.rand(1, 1, 20, 20, generator=generator)
    expected = mask * (image + 10 * offset[:, :1] + offset[:, 1:])
    image, offset, mask = (t.to(device) for t in (image, offset, mask))
    found = deform_conv2d(image, offset, mask, torch.ones(1, 1, 1, 1, device=device), None)
    return torch.allclose(found.cpu(), expected, rtol=1e-5)


def _gradients_are_right(device: str, generator: torch.Generator) -> bool:
    """A step along the gradient changes each result, in float64, as much as the gradient says."""
    x, offset, weight, logits = (
        torch.randn(size, generator=generator, dtype=torch.float64).to(device).requires_grad_()
        for size in ((1, 2, 6, 6), (1, 18, 6, 6), (3, 2, 3, 3), (9, 4))
    )
    rois = torch.tensor([[0.0, 0.3, 0.6, 4.7, 3.1]], dtype=torch.float64, device=device)
    targets = torch.arange(9, device=device) % 6 - 1

    def results(x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, logits: torch.Tensor) -> tuple:
        return (
            deform_conv2d(x, offset, None, weight, None, padding=1).sum(),
            roi_align(x, rois, (2, 2), 1.0, 2).square().sum(),
            sigmoid_focal_loss(logits, targets, 2.0, 0.25),
        )

    # On a GPU the gradient of a deformable convolution is summed in any order.
    return torch.autograd.gradcheck(
        results, (x, offset, weight, logits), nondet_tol=1e-9, raise_exception=False
    )


def main() -> int:
    print(describe())
    failed = False
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for name, good in self_test(device).items():
            print(f"self-test {device:<8} {name:<20} {'ok' if good else 'WRONG'}")
            failed |= not good
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
