"""How fast is labelenc's NMS beside torchvision's, in one process? ``python benchmarks/nms.py --help``."""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from labelenc import ops

CLASSES = 80


def make_boxes(n: int, size: float, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of up to ``size`` pixels in an image of 1216 x 800, scores, and class labels."""
    corner = torch.rand(n, 2) * torch.tensor([1216.0, 800.0])
    boxes = torch.cat([corner, corner + 4 + torch.rand(n, 2) * size], dim=1)
    return boxes.to(device), torch.rand(n).to(device), torch.randint(1, CLASSES + 1, (n,)).to(device)


def milliseconds(call: Callable[[], Tensor], repeats: int, device: str) -> float:
    """Median time of one call after two that warm up."""
    times = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if i >= 2:
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def compare(name: str, n: int, size: float, device: str, repeats: int) -> str:
    boxes, scores, labels = make_boxes(n, size, device)
    calls: list[Callable[[], Tensor]] = [
        lambda: torchvision.ops.nms(boxes, scores, 0.5),
        lambda: ops.nms(boxes, scores, 0.5),
    ]
    if name == "batched":
        calls = [
            lambda: torchvision.ops.batched_nms(boxes, scores, labels, 0.5),
            lambda: ops.batched_nms(boxes, scores, labels, 0.5),
        ]
    kept = [call() for call in calls]
    # torchvision shifts the classes apart, which rounds: a few of its pairs fall on the other side.
    if len(kept[0]) != len(kept[1]) and name == "nms":
        raise SystemExit(f"the results differ at {n} boxes: {len(kept[0])} and {len(kept[1])} kept")
    theirs, ours = (milliseconds(call, repeats, device) for call in calls)
    row = f"{name:<8} {n:>6} {size:>6.0f} {len(kept[1]):>6}"
    return f"{row} {theirs:>12.3f} {ours:>10.3f} {theirs / ours:>7.1f}x"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Times nms and batched_nms (80 classes) against torchvision."
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    where = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    print(
        f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}, {where}, {args.threads} threads"
    )
    print(
        f"{'op':<8} {'boxes':>6} {'size':>6} {'kept':>6} {'torchvision':>12} {'labelenc':>10} {'ratio':>8} ms"
    )
    for name in ("nms", "batched"):
        for n in (1000, 5000, 10000):
            for size in (80.0, 400.0):
                print(compare(name, n, size, args.device, args.repeats))


if __name__ == "__main__":
    main()
