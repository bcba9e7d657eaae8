"""One backward pass of step 1 or 2 over two images, the second without boxes; saves the gradients.

python empty_rank.py CONFIG KIND OUT    alone: both images; as one of two processes: one image each
"""

import sys
from pathlib import Path

import torch

from labelenc.config import load_config, with_num_classes
from labelenc.engine import ParallelModel, close_distributed, setup_distributed
from labelenc.structures import BoxList, ImageBatch
from labelenc.supervision import LabelEncStep1, LabelEncStep2


def main() -> None:
    config, kind, out = sys.argv[1:]
    process = setup_distributed("cpu")
    cfg = with_num_classes(load_config(config), 10, "the test")
    torch.manual_seed(0)
    model = LabelEncStep1(cfg, augment=False) if kind == "step1" else LabelEncStep2(cfg)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    boxes = [[[4.0, 6.0, 30.0, 40.0], [20.0, 20.0, 60.0, 50.0]], []]
    targets = []
    for rows in boxes:
        target = BoxList(rows, (64, 64))
        target.add_field("labels", torch.arange(1, len(rows) + 1))
        targets.append(target)
    mine = slice(process.rank, None, process.world_size)
    images = ImageBatch(pixels[mine], [(64, 64)] * len(pixels[mine]))
    parallel = ParallelModel(model, process)
    losses = parallel(images, targets[mine], **model.begin_iteration(5))
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    torch.save(gradients, Path(out) / f"rank{process.rank}.pt")
    close_distributed()


if __name__ == "__main__":
    main()
