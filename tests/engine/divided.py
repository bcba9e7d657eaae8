"""Updates whose batches are divided over processes and micro-batches; for a model with mean losses alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from labelenc.engine import (
    Checkpointer,
    GradientClip,
    LoopSettings,
    MetricsWriter,
    ParallelModel,
    Process,
    TrainingState,
    train,
)
from labelenc.structures import Batch, BoxList, ImageBatch

UPDATES, IMAGES = 4, 8


class Mean(nn.Module):
    """Its losses are means over the images; the helper joins in at update 2."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.helper = nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, images: Tensor, helped: bool) -> dict[str, Tensor]:
        features = self.body(images.flatten(1) / 255).tanh()
        losses = {"loss_body": features.square().mean()}
        if helped:
            losses["loss_helper"] = self.helper(features).square().sum(dim=1).mean()
        return losses


def micro_batches(process: Process, steps: int) -> list[Batch]:
    """This process's micro-batches of all updates, in order."""
    generator = torch.Generator().manual_seed(11)
    dealt = []
    for k in range(UPDATES):
        pixels = torch.randint(0, 256, (IMAGES, 3, 2, 2), dtype=torch.uint8, generator=generator)
        for number in range(steps):
            first, stride = process.rank + number * process.world_size, process.world_size * steps
            chosen = list(range(first, IMAGES, stride))
            images = ImageBatch(pixels[chosen], [(2, 2)] * len(chosen))
            boxes = [BoxList(torch.zeros(0, 4), (2, 2))] * len(chosen)
            dealt.append(Batch(images, boxes, [100 * k + i for i in chosen], [(2, 2)] * len(chosen)))
    return dealt


def run(folder: Path, process: Process, steps: int, clip: GradientClip | None = None) -> dict[str, Tensor]:
    """The weights after all updates; losses are in ``folder``'s metrics.jsonl."""
    torch.manual_seed(2)
    model = Mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-2)
    state = TrainingState(model, optimizer, LambdaLR(optimizer, lambda _: 1.0))
    parallel = ParallelModel(model, process)

    def losses(batch: Batch, k: int) -> dict[str, Tensor]:
        model.helper.requires_grad_(k >= 2)
        return parallel(batch.images.tensors.float(), helped=k >= 2)

    settings = LoopSettings(UPDATES, UPDATES, clip=clip, accumulation_steps=steps)
    with MetricsWriter(folder, 0, UPDATES, rank=process.rank) as writer:
        train(
            state,
            losses,
            micro_batches(process, steps),
            settings,
            process=process,
            checkpointer=Checkpointer(folder, "baseline"),
            writer=writer,
            no_sync=parallel.no_sync,
        )
    return model.state_dict()


def local_gradients(process: Process) -> tuple[Tensor, Tensor]:
    """The gradient after a call inside `no_sync`, and after another one outside."""
    torch.manual_seed(4)
    parallel = ParallelModel(nn.Linear(3, 1, bias=False), process)
    x = torch.randn(2, 2, 1, 3)[process.rank]
    with parallel.no_sync():
        parallel(x[0]).sum().backward()
    local = parallel.model.weight.grad.clone()
    parallel(x[1]).sum().backward()
    return local, parallel.model.weight.grad.clone()
