"""``python -m labelenc.ops``: what is compiled here, and a small test that it computes what it should."""

from __future__ import annotations

import sys

import torch

from . import batched_nms, deform_conv2d, label_map, library, nms, reference, roi_align, sigmoid_focal_loss


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
    return {
        "nms": torch.equal(nms(boxes, scores, 0.5, True).cpu(), alone),
        "batched_nms": torch.equal(batched_nms(boxes, scores, groups, 0.5, True).cpu(), grouped),
        "sigmoid_focal_loss": torch.allclose(sigmoid_focal_loss(logits, groups, 2.0, 0.25).cpu(), loss),
        "label_map": torch.allclose(label_map([boxes], [groups + 1], 3, 140, 140).cpu(), drawn),
        "roi_align": _roi_align_is_right(boxes),
        "deform_conv2d": _deform_conv_is_right(device, generator),
    }


def _roi_align_is_right(boxes: torch.Tensor) -> bool:
    """A map whose cells hold their column: one bin gives the middle of a box."""
    columns = torch.arange(160.0, device=boxes.device).expand(1, 1, 160, 160)
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    found = roi_align(columns, rois, (1, 1), 1.0, 2)
    return torch.allclose(found.flatten(), (boxes[:, 0] + boxes[:, 2]) / 2, rtol=1e-5)


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
