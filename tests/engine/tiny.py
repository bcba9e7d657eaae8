"""A small but complete training run, as a module for the tests and as a program that they can kill.

python tiny.py survive DIR SEED     run in child processes that get killed at random times, until one finishes
python tiny.py pair DIR             one of two processes (RANK, WORLD_SIZE, … set); writes DIR/rank<n>.pt
"""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from labelenc.engine import (
    Checkpointer,
    LoopSettings,
    MetricsWriter,
    ParallelModel,
    Process,
    TrainingState,
    WeightAverage,
    close_distributed,
    load_file,
    make_scaler,
    on_main,
    reduce_mean,
    run_inference,
    setup_distributed,
    train,
)
from labelenc.structures import Batch, BoxList, ImageBatch

MAX_KILLS = 6
ALONE = Process(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


class Model(nn.Module):
    """Batch norm and a random number per call: resuming has to restore buffers and generators."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.head = nn.Linear(4, 4)
        self.helper = nn.Linear(4, 4)

    def forward(self, images: Tensor, helper_weight: float = 1.0) -> dict[str, Tensor]:
        features = self.body(images / 255).mean(dim=(2, 3))
        losses = {"loss_head": (self.head(features) - torch.rand((), device=images.device)).square().mean()}
        if helper_weight:
            losses["loss_helper"] = helper_weight * self.helper(features).square().mean()
        return losses


class Batches(Dataset):
    """Batch k is a function of k."""

    def __init__(self, delay: float = 0.0, images: int = 2) -> None:
        self.delay = delay
        self.images = images

    def __getitem__(self, k: int) -> Batch:
        time.sleep(self.delay)
        generator = torch.Generator().manual_seed(k)
        pixels = [
            torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator)
            for _ in range(self.images)
        ]
        boxes = [BoxList(torch.tensor([[1.0, 1.0, 5.0, 6.0]]), (8, 8)) for _ in range(self.images)]
        ids = [10 * k + slot for slot in range(self.images)]
        return Batch(ImageBatch.from_tensors(pixels), boxes, ids, [(16, 24)] * self.images)


def loader(start: int, stop: int, delay: float = 0.0, images: int = 2) -> DataLoader:
    return DataLoader(Batches(delay, images), batch_size=None, sampler=range(start, stop))


def make_state(seed: int = 3, dtype: str = "float32", device: str | torch.device = "cpu") -> TrainingState:
    torch.manual_seed(seed)
    model = Model().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    scheduler = LambdaLR(optimizer, lambda iteration: min(1.0, (iteration + 1) / 5))
    return TrainingState(model, optimizer, scheduler, make_scaler(dtype, torch.device(device)))


def model_losses(model: Callable[..., dict[str, Tensor]], batch: Batch, k: int) -> dict[str, Tensor]:
    return model(batch.images.tensors.float())


def run(output_dir: Path, max_iter: int, *, process: Process = ALONE, **options):
    """Start or resume a run.

    ``options`` may hold ``losses(model, batch, k)``, ``evaluate(model, iteration)``, ``data``, ``delay``
    (seconds per batch), ``kind``, ``ema_decay``, and any of LoopSettings.
    """
    state = make_state(dtype=options.get("dtype", "float32"), device=process.device)
    decay = options.pop("ema_decay", 0.0)
    state.average = WeightAverage(state.model, decay) if decay else None
    torch.manual_seed(process.rank)
    parallel = ParallelModel(state.model, process)
    losses, evaluate = options.pop("losses", model_losses), options.pop("evaluate", None)
    checkpointer = Checkpointer(output_dir, options.pop("kind", "baseline"))
    checkpointer.load_latest(state)
    data = options.pop("data", None)
    delay = options.pop("delay", 0.0)
    settings = LoopSettings(max_iter, **{"checkpoint_period": 4, **options})
    with MetricsWriter(output_dir, state.iteration, max_iter, log_period=5, rank=process.rank) as writer:
        metrics = train(
            state,
            lambda batch, k: losses(parallel, batch, k),
            loader(state.iteration, max_iter, delay) if data is None else data,
            settings,
            process=process,
            checkpointer=checkpointer,
            writer=writer,
            evaluate=None if evaluate is None else lambda iteration: evaluate(state.model, iteration),
        )
    return state, metrics


def final(output_dir: Path) -> dict:
    """The final checkpoint without its texts, for comparisons."""
    content = load_file(output_dir / "model_final.pth")
    del content["kind"]
    return content


def survive(output_dir: Path, seed: int) -> None:
    """Train undisturbed into "through"; then into "killed", by children that die after a random time.

    Forked children, because importing takes longer than the whole run.
    """
    import torch.utils.tensorboard

    generator = torch.Generator().manual_seed(seed)
    if _wait(_fork_run(output_dir / "through"), math.inf) != 0:
        sys.exit(1)
    for kills in range(MAX_KILLS + 1):
        child = _fork_run(output_dir / "killed")
        status = _wait(
            child, 0.05 + 0.15 * float(torch.rand((), generator=generator)) if kills < MAX_KILLS else math.inf
        )
        if status is not None:
            (output_dir / "kills").write_text(str(kills))
            sys.exit(0 if status == 0 else 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _fork_run(output_dir: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            run(output_dir, 40, delay=0.006)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def _wait(child: int, seconds: float) -> int | None:
    """The exit status of a child, or None if it is still alive after that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return status
        time.sleep(0.005)
    return None


def parallel_gradients(process: Process) -> tuple[list[dict[str, Tensor | None]], int]:
    """Gradients of four calls, the middle two without the helper, each process with its half of a batch.

    Also how many data-parallel wrappers are alive at the end.
    """
    torch.manual_seed(5)
    # Without the parts whose result depends on the other half of the batch or on the random state.
    model = nn.ModuleDict({"body": nn.Linear(6, 4), "helper": nn.Linear(4, 2)})
    model.forward = lambda x, helped: _two_part_loss(model, x, helped)
    parallel = ParallelModel(model, process)
    data = torch.randn(4, 8, 6)
    share = 8 // process.world_size
    gradients = []
    for call, helped in enumerate([True, False, False, True]):
        model["helper"].requires_grad_(helped)
        model.zero_grad(set_to_none=True)
        half = data[call, process.rank * share : (process.rank + 1) * share]
        parallel(half, helped).backward()
        gradients.append({name: tensor.grad for name, tensor in model.named_parameters()})
    wrappers = sum(type(thing) is DistributedDataParallel for thing in gc.get_objects())
    return gradients, wrappers


def _two_part_loss(model: nn.ModuleDict, x: Tensor, helped: bool) -> Tensor:
    hidden = model["body"](x).tanh()
    loss = hidden.square().mean()
    return loss + model["helper"](hidden).square().mean() if helped else loss


class Echo(nn.Module):
    """Detects one box per image; its score is the image's first pixel."""

    def forward(self, images: ImageBatch) -> list[BoxList]:
        found = []
        for pixels, (height, width) in zip(images.tensors, images.image_sizes, strict=True):
            boxes = BoxList(torch.tensor([[1.0, 1.0, 5.0, 6.0]]), (width, height))
            boxes.add_field("scores", pixels[0, 0, :1].float())
            found.append(boxes)
        return found


def on_images(model: nn.Module) -> Callable[[Batch], list[BoxList]]:
    return lambda batch: model(batch.images)


def attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def complain() -> None:
    raise RuntimeError("division of labour")


def nan_on_second(model: Callable, batch: Batch, k: int) -> dict[str, Tensor]:
    """Spoils one loss of rank 1, whose image ids are above 1000, at update 5."""
    losses = model_losses(model, batch, k)
    if batch.image_ids[0] == 1050:
        losses["loss_helper"] = losses["loss_helper"] * float("nan")
    return losses


def shares(rank: int) -> Iterator[Batch]:
    """Three batches for rank 0, one for rank 1."""
    return iter(loader(0, 3) if rank == 0 else loader(3, 4))


def pair(output_dir: Path) -> None:
    import divided

    torch.set_num_threads(1)
    process = setup_distributed("cpu")
    rank = process.rank
    found: dict = {"process": (process.rank, process.world_size)}
    found["means"] = reduce_mean({"b": torch.tensor(float(rank)), "a": torch.tensor(4.0 * rank)})
    found["gradients"], found["wrappers"] = parallel_gradients(process)
    echo = Echo()
    predictions = run_inference(echo, shares(rank), process, on_images(echo), num_images=8)
    if predictions is not None:
        found["scores"] = {key: float(boxes.get_field("scores")) for key, boxes in predictions.items()}
    found["predicts"] = predictions is not None
    found["overlap"] = attempt(lambda: run_inference(echo, loader(0, 1), process, on_images(echo)))
    # Different data and random numbers on each rank, once through and once with a stop in between.
    for name, stops in {"through": (10,), "stopped": (6, 10)}.items():
        for stop in stops:
            start = 0 if stop == stops[0] else 4
            data = loader(100 * rank + start, 100 * rank + stop)
            if start == 4 and rank == 0:
                # As if killed before the final checkpoint of the shorter run. Rank 0 alone reads it.
                (output_dir / name / "last_checkpoint").write_text("model_0000004.pth")
            run(output_dir / name, stop, process=process, data=data)
    data = loader(100 * rank, 100 * rank + 10)
    found["nan"] = attempt(
        lambda: run(output_dir / "nan", 10, process=process, losses=nan_on_second, data=data)
    )
    skipping, _ = run(
        output_dir / "skip", 10, process=process, losses=nan_on_second, data=data, on_nonfinite="skip"
    )
    found["skipped"], found["weights"] = skipping.extra, dict(skipping.model.named_parameters())
    found["divided"] = divided.run(output_dir / "divided", process, steps=2)
    found["local"], found["summed"] = divided.local_gradients(process)
    found["on_main"] = on_main(lambda: process.rank + 7)
    found["on_main_error"] = attempt(lambda: on_main(complain))
    torch.save(found, output_dir / f"rank{rank}.pt")
    close_distributed()


if __name__ == "__main__":
    if sys.argv[1] == "survive":
        survive(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        pair(Path(sys.argv[2]))
