"""How fast are labelenc's operations beside torchvision's, and how near to what the machine can do?

    python benchmarks/ops.py --device cpu --threads 2 --output benchmarks/results/FILE.json

Both sides alternate in one process. README.md in this folder says how to read the table.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from op_cases import CASES, Case

from labelenc.ops import library

SECONDS_PER_SAMPLE = 0.005
HEADER = (
    f"{'operation':<20}{'size':<32}{'passes':<18}{'ours ms':>9}{'other ms':>10}{'ratio':>8}"
    f"{'memory ms':>11}{'arithm. ms':>11}{'share':>7}"
)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], calls: int, device: str) -> float:
    """Time of one call, from ``calls`` of them in a row."""
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - start) / calls


def compare(calls: list[Callable[[], object]], repeats: int, device: str) -> list[float]:
    """Median seconds of each, taken in turn."""
    number = []
    for call in calls:
        call()
        number.append(max(1, int(SECONDS_PER_SAMPLE / max(seconds(call, 1, device), 1e-7))))
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, times, n in zip(calls, samples, number, strict=True):
            times.append(seconds(call, n, device))
    return [statistics.median(times) for times in samples]


def machine_rates(device: str, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Bytes per second of a large copy; operations per second of large matrix products.

    Float32 products (on a GPU without TF32) stand for what the vector units can do.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    size = 1 << (28 if device == "cuda" else 26)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    side = 8192 if device == "cuda" else 1536
    rates = {"bytes": 2 * size / compare([lambda: target.copy_(source)], repeats, device)[0]}
    for name, kind in (("vector", torch.float32), ("matrix", dtype)):
        a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
        rates[name] = 2 * side**3 / compare([lambda a=a, b=b: a @ b], repeats, device)[0]
    return rates


def measure(case: Case, rates: dict[str, float], repeats: int, device: str) -> dict[str, object]:
    row: dict[str, object] = {"op": case.op, "size": case.size, "passes": case.passes}
    try:
        case.other()
    except (RuntimeError, NotImplementedError) as error:
        row["other_error"] = str(error).split("\n")[0]
        ours, other = compare([case.ours], repeats, device)[0], None
    else:
        ours, other = compare([case.ours, case.other], repeats, device)
    moved, vector, matrix = case.work
    memory = moved / rates["bytes"]
    arithmetic = max(vector / rates["vector"], matrix / rates["matrix"])
    return row | {
        "ours_ms": 1000 * ours,
        "other": case.other_name,
        "other_ms": None if other is None else 1000 * other,
        "ratio": None if other is None else other / ours,
        "bytes": moved,
        "vector_operations": vector,
        "matrix_operations": matrix,
        "memory_floor_ms": 1000 * memory,
        "arithmetic_floor_ms": 1000 * arithmetic,
        "share_of_floor": max(memory, arithmetic) / ours,
    }


def line(row: dict) -> str:
    other = "—" if row["other_ms"] is None else f"{row['other_ms']:.3f}"
    ratio = "—" if row["ratio"] is None else f"{row['ratio']:.2f}x"
    return (
        f"{row['op']:<20}{row['size']:<32}{row['passes']:<18}{row['ours_ms']:>9.3f}{other:>10}{ratio:>8}"
        f"{row['memory_floor_ms']:>11.3f}{row['arithmetic_floor_ms']:>11.3f}{row['share_of_floor']:>7.0%}"
    )


def processor() -> str:
    path = Path("/proc/cpuinfo")
    names = [s for s in path.read_text().split("\n") if s.startswith("model name")] if path.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


def describe(args: argparse.Namespace, rates: dict[str, float]) -> dict[str, object]:
    build = library.build
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python benchmarks/ops.py", *sys.argv[1:]]),
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
        "bytes_per_second": rates["bytes"],
        "float32_operations_per_second": rates["vector"],
        "matrix_operations_per_second": rates["matrix"],
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both sides")
    parser.add_argument("--repeats", type=int, default=9, help="samples per side, of which the median counts")
    parser.add_argument(
        "--only", nargs="+", default=list(CASES), choices=list(CASES), help="these operations"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    dtype = getattr(torch, args.dtype)
    rates = machine_rates(args.device, dtype, args.repeats)
    about = describe(args, rates)
    print(f"{about['device']}, {args.threads} threads, {args.dtype}, {about['versions']}")
    print(
        f"copy {rates['bytes'] / 1e9:.1f} GB/s, float32 product {rates['vector'] / 1e9:.0f} GFLOP/s, "
        f"{args.dtype} product {rates['matrix'] / 1e9:.0f} GFLOP/s\n\n{HEADER}"
    )
    rows = []
    for name in args.only:
        for case in CASES[name](args.device, dtype):
            rows.append(measure(case, rates, args.repeats, args.device))
            print(line(rows[-1]), flush=True)
        gc.collect()
    if args.output is not None:
        args.output.write_text(json.dumps({**about, "results": rows}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
