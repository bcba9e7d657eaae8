"""``python -m labelenc.ops``: what is compiled here, and a small test that it computes what it should."""

from __future__ import annotations

import sys

import torch

from . import batched_nms, label_map, library, nms, reference, sigmoid_focal_loss


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
    """Name of operation -> whether it agrees with the reference on one small input."""
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
    }


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
