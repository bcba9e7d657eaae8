"""What does a training step cost beside torchvision's detector, without LabelEnc, and with dense label maps?

    python benchmarks/train_step.py --detectors retinanet --size 320x480 --batch 2 --threads 2
    python benchmarks/train_step.py --device cuda --dtype bfloat16 --size 800x1333 --batch 16

Contenders take turns in one process. README.md in this folder says how to read the table.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from measure import compare, describe, options, start, wait, write
from step_cases import (
    CLASSES,
    DETECTORS,
    Contender,
    contenders,
    dense_encoding,
    random_scene,
)
from torch import nn
from torch.amp import GradScaler

from labelenc import engine
from labelenc.supervision import label_encoder

PARTS = ("data", "forward", "backward", "optimizer")
STEM_CHANNELS = 128
HEADER = (
    f"{'':<22}{'ms/step':>9}{'images/s':>10}{'/torchvision':>13}{'/baseline':>10}{'/dense':>8}{'MB':>8}   "
    + "".join(f"{part:>10}" for part in PARTS)
)


def step(contender: Contender, device: str, scaler: GradScaler | None, mark: Callable[[], None]) -> None:
    """One update; ``mark`` is called before and after each of PARTS."""
    mark()
    inputs = contender.inputs()
    mark()
    half = contender.dtype != torch.float32
    with contender.scope(), torch.autocast(device, contender.dtype, enabled=half):
        losses = contender.losses(inputs)
        total = torch.stack([value.float() for value in losses.values()]).sum()
    mark()
    (total if scaler is None else scaler.scale(total)).backward()
    mark()
    if scaler is None:
        contender.optimizer.step()
    else:
        scaler.step(contender.optimizer)
        scaler.update()
    contender.optimizer.zero_grad(set_to_none=True)
    mark()


def timed_steps(contender: Contender, device: str, count: int) -> list[list[float]]:
    """Seconds of each of PARTS in each of ``count`` steps in a row.

    On a GPU times are taken on its own stream, so that the host may run ahead as it does in training.
    """
    name = str(contender.dtype).removeprefix("torch.")
    scaler = engine.make_scaler(name, torch.device(device))
    events: list = []

    def mark() -> None:
        if device == "cuda":
            events.append(torch.cuda.Event(enable_timing=True))
            events[-1].record()
        else:
            events.append(time.perf_counter())

    wait(device)
    for _ in range(count):
        step(contender, device, scaler, mark)
    wait(device)
    per_step = [events[i : i + len(PARTS) + 1] for i in range(0, len(events), len(PARTS) + 1)]
    return [[elapsed(a, b) for a, b in itertools.pairwise(marks)] for marks in per_step]


def elapsed(begun, ended) -> float:
    return ended - begun if isinstance(begun, float) else begun.elapsed_time(ended) / 1000


def peak_memory(contender: Contender, device: str) -> int:
    """Bytes: the most that a step holds above what was there before, and the model with gradients' and
    optimizer's state."""
    tensors = [*contender.model.parameters(), *contender.model.buffers()]
    tensors += [
        v for state in contender.optimizer.state.values() for v in state.values() if torch.is_tensor(v)
    ]
    own = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    wait(device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(contender, device, None, lambda: None)
        wait(device)
        return own + torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        step(contender, device, None, lambda: None)
    # Of the allocations the profiler offers sums only; the peak needs them one by one.
    records = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = (record.nbytes() for record in sorted(records, key=lambda e: e.start_ns()))
    return own + max(itertools.accumulate(sizes, initial=0))


def measure(sides: list[Contender], args) -> list[dict]:
    """A row for each contender."""
    for contender in sides:
        timed_steps(contender, args.device, args.warmup)
    samples: list[list[list[float]]] = [[] for _ in sides]
    for _ in range(args.repeats):
        for contender, taken in zip(sides, samples, strict=True):
            taken += timed_steps(contender, args.device, args.steps)
    rows = []
    for contender, taken in zip(sides, samples, strict=True):
        seconds = statistics.median(map(sum, taken))
        parts = [statistics.median(part) for part in zip(*taken, strict=True)]
        rows.append(
            {
                "contender": contender.name,
                "seconds": seconds,
                "images_per_second": args.batch / seconds,
                "peak_bytes": peak_memory(contender, args.device),
                "share": {part: t / sum(parts) for part, t in zip(PARTS, parts, strict=True)},
                "samples": [sum(parts) for parts in taken],
            }
        )
        check_finite(contender)
    return with_ratios(rows)


def check_finite(contender: Contender) -> None:
    """Numbers that are not finite take other branches, and times of them mean nothing."""
    with torch.no_grad(), contender.scope():
        losses = contender.losses(contender.inputs())
    assert all(value.isfinite() for value in losses.values()), (contender.name, losses)


def with_ratios(rows: list[dict]) -> list[dict]:
    """``seconds`` as multiples of the other contenders' of the same detector."""
    seconds = {row["contender"]: row["seconds"] for row in rows}
    for row in rows:
        name = row["contender"]
        others = {
            "torchvision": "torchvision",
            "torchvision_float32": "torchvision float32",
            "baseline": "baseline",
            "dense": f"{name}, dense",
        }
        row["time_to"] = {key: row["seconds"] / seconds[o] for key, o in others.items() if o in seconds}
    return rows


def line(row: dict) -> str:
    cells = [
        f"{row['time_to'][key]:.2f}x" if key in row["time_to"] else "—"
        for key in ("torchvision", "baseline", "dense")
    ]
    return (
        f"{row['contender']:<22}{1000 * row['seconds']:>9.1f}{row['images_per_second']:>10.2f}"
        f"{cells[0]:>13}{cells[1]:>10}{cells[2]:>8}{row['peak_bytes'] / 1e6:>8.0f}   "
        + "".join(f"{row['share'][part]:>10.1%}" for part in PARTS)
    )


def first_convolution(args) -> list[dict]:
    """The encoder's drawing and first convolution, as it is and over dense label maps."""
    height, width = map(int, args.encoder_size.split("x"))
    scene = random_scene(1, height, width, pinned=False)
    targets = [target.to(args.device) for target in scene.targets]
    first = nn.Conv2d(CLASSES, STEM_CHANNELS, 7, stride=2, padding=3).to(args.device)
    dtype = getattr(torch, args.dtype)

    def forward(encode: Callable) -> torch.Tensor:
        with torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
            return encode(first, targets, (height, width), None)

    def without_gradient(encode: Callable) -> None:
        with torch.no_grad():
            forward(encode)

    def with_gradient(encode: Callable) -> None:
        forward(encode).float().sum().backward()

    rows = []
    for passes, run in {"forward": without_gradient, "forward+backward": with_gradient}.items():
        calls = [lambda run=run, f=f: run(f) for f in (label_encoder.encode_label_maps, dense_encoding)]
        ours, dense_form = compare(calls, args.repeats, args.device)
        rows.append(
            {"passes": passes, "seconds": ours, "dense_seconds": dense_form, "ratio": dense_form / ours}
        )
        print(
            f"first convolution, {passes}: {ours:.4f} s, dense {dense_form:.4f} s, {dense_form / ours:.2f}x"
        )
    return rows


def main() -> None:
    parser = options(__doc__, repeats=7)
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), choices=list(DETECTORS))
    parser.add_argument("--size", default="320x480", help="height x width of the images")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock runs")
    parser.add_argument("--steps", type=int, default=1, help="steps in a row of one contender")
    parser.add_argument("--contenders", nargs="+", help="these only; torchvision, baseline, 'step 1' …")
    parser.add_argument("--encoder-size", default="800x1216", help="of the encoder's first convolution")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs for our configurations")
    args = start(parser)
    about = describe(args)
    scene = random_scene(args.batch, *map(int, args.size.split("x")), pinned=args.device == "cuda")
    results: dict[str, list[dict]] = {}
    for detector in args.detectors:
        found = contenders(detector, scene, args.device, getattr(torch, args.dtype), args.opts)
        sides = [side for side in found if args.contenders is None or side.name in args.contenders]
        print(f"\n{detector}, {args.batch} images of {args.size}\n{HEADER}")
        results[detector] = measure(sides, args)
        print(*map(line, results[detector]), sep="\n", flush=True)
        del sides
        gc.collect()
    settings = {"size": args.size, "batch": args.batch, "encoder_size": args.encoder_size}
    encoder = first_convolution(args)
    write(args.output, {**about, **settings, "results": results, "first_convolution": encoder})


if __name__ == "__main__":
    main()
