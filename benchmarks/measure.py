"""What the benchmarks share: options, alternating timings, and how results are described and written."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torchvision

from labelenc.ops import library

SECONDS_PER_SAMPLE = 0.005


def options(description: str | None, repeats: int = 9) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark; ``repeats`` is the default of ``--repeats``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of all sides")
    parser.add_argument(
        "--repeats", type=int, default=repeats, help="samples per side, of which the median counts"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    return parser


def start(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with threads and seed already set."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return args


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], calls: int, device: str) -> float:
    """Time of one call, from ``calls`` of them in a row."""
    wait(device)
    begun = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - begun) / calls


def samples(calls: Sequence[Callable[[], object]], repeats: int, device: str) -> list[list[float]]:
    """Seconds of each, ``repeats`` times, taken in turn; a sample is as many calls as take 5 ms."""
    number = []
    for call in calls:
        call()
        number.append(max(1, int(SECONDS_PER_SAMPLE / max(seconds(call, 1, device), 1e-7))))
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, times, n in zip(calls, found, number, strict=True):
            times.append(seconds(call, n, device))
    return found


def compare(calls: Sequence[Callable[[], object]], repeats: int, device: str) -> list[float]:
    """Median of the :func:`samples` of each."""
    return [statistics.median(times) for times in samples(calls, repeats, device)]


def processor() -> str:
    path = Path("/proc/cpuinfo")
    names = [s for s in path.read_text().split("\n") if s.startswith("model name")] if path.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


def describe(args: argparse.Namespace) -> dict[str, object]:
    """When, with which command, on what and with which versions; prints the essence."""
    build = library.build
    about: dict[str, object] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else processor(),
        "threads": args.threads,
        "dtype": args.dtype,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "compiler": build.compiler if build else "operations not compiled",
            "cuda_architectures": build.cuda_architectures if build else "",
        },
    }
    print(f"{about['device']}, {args.threads} threads, {args.dtype}, {about['versions']}", flush=True)
    return about


def write(path: Path | None, content: Mapping[str, object]) -> None:
    """The results as JSON; nowhere where ``path`` is None."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
