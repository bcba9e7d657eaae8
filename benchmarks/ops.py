"""How fast are labelenc's operations beside torchvision's, and how near to what the machine can do?

    python benchmarks/ops.py --device cpu --threads 2 --output benchmarks/results/FILE.json

Both sides alternate in one process. README.md in this folder says how to read the table.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from measure import compare, describe, options, samples, start, write
from op_cases import CASES, Case

HEADER = (
    f"{'operation':<20}{'size':<32}{'passes':<18}{'ours ms':>9}{'other ms':>10}{'ratio':>8}"
    f"{'memory ms':>11}{'arithm. ms':>11}{'share':>7}"
)


def machine_rates(device: str, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Bytes per second of a large copy; operations per second of large matrix products.

    Float32 products (on a GPU without TF32) stand for what the vector units can do. The fastest sample
    counts: what the machine can do isn't less because something else ran.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    size = 1 << (28 if device == "cuda" else 26)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    side = 8192 if device == "cuda" else 1536

    def fastest(call: Callable[[], object]) -> float:
        return min(samples([call], repeats, device)[0])

    def product(kind: torch.dtype) -> float:
        a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
        return 2 * side**3 / fastest(lambda: a @ b)

    vector = product(torch.float32)
    return {
        "bytes": 2 * size / fastest(lambda: target.copy_(source)),
        "vector": vector,
        "matrix": vector if dtype == torch.float32 else product(dtype),
    }


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


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--only", nargs="+", default=list(CASES), choices=list(CASES), help="these operations"
    )
    args = start(parser)
    dtype = getattr(torch, args.dtype)
    about = describe(args)
    rates = machine_rates(args.device, dtype, args.repeats)
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
    speeds = {
        "bytes_per_second": rates["bytes"],
        "float32_operations_per_second": rates["vector"],
        "matrix_operations_per_second": rates["matrix"],
    }
    write(args.output, {**about, **speeds, "results": rows})


if __name__ == "__main__":
    main()
