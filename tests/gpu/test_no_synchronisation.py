"""A training step of RetinaNet and FCOS never makes the host wait for the GPU; skips without a GPU.

The step is everything from uint8 pixels on the GPU to updated weights. PyTorch raises where an operation
would wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from labelenc.config import load_config
from labelenc.engine import build_optimizer
from labelenc.modeling import build_detector
from labelenc.ops import library
from labelenc.structures import Batch, BoxList, ImageBatch
from labelenc.supervision import LabelEncStep1, LabelEncStep2

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not library.has_cuda_kernels, reason="labelenc.ops was built without CUDA kernels"),
]

CONFIG = Path(__file__).resolve().parents[2] / "configs/demo/shapes_R-18_small.yaml"
# (height, width) of the images in a batch of 128 x 160.
SIZES = ((128, 160), (110, 150))
RETINANET = ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32)
FCOS = (
    *RETINANET,
    "MODEL.RETINANET_ON",
    False,
    "MODEL.FCOS_ON",
    True,
    "MODEL.FCOS.FPN_STRIDES",
    "[8, 16, 32]",
)
FCOS += ("MODEL.FCOS.NUM_CONVS", 1)
IMPROVED = (*FCOS, "MODEL.FCOS.NORM_REG_TARGETS", True, "MODEL.FCOS.CENTERNESS_ON_REG", True)
IMPROVED += ("MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5, "MODEL.FCOS.IOU_LOSS_TYPE", "giou")
KINDS = {
    "retinanet": RETINANET,
    "retinanet_straddle": (*RETINANET, "MODEL.RETINANET.STRADDLE_THRESH", 0),
    "fcos": FCOS,
    "fcos_improved": IMPROVED,
    "fcos_deformable": (*IMPROVED, "MODEL.FCOS.USE_DCN_IN_TOWER", True),
}


@contextmanager
def nobody_waits() -> Iterator[None]:
    # Of what was queued before, nothing is to be waited for any more.
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def make_batch(boxes_per_image: tuple[int, int]) -> Batch:
    targets = []
    for count, (height, width) in zip(boxes_per_image, SIZES, strict=True):
        corner = torch.rand(count, 2) * torch.tensor([width, height]) * 0.6
        boxes = BoxList(torch.cat([corner, corner + 8 + torch.rand(count, 2) * 40], dim=1), (width, height))
        boxes.add_field("labels", torch.randint(1, 4, (count,)))
        targets.append(boxes)
    pixels = ImageBatch(torch.randint(0, 256, (2, 3, 128, 160), dtype=torch.uint8), SIZES)
    return Batch(pixels, targets, [1, 2], [(width, height) for height, width in SIZES])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [build_detector, LabelEncStep1, LabelEncStep2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step(seed, kind, make, precision) -> None:
    cfg = load_config(CONFIG, ["MODEL.NUM_CLASSES", "3", *map(str, KINDS[kind])])
    model = make(cfg).to("cuda")
    optimizer = build_optimizer(cfg, model)
    batches = [make_batch(counts).to("cuda") for counts in ((3, 9), (3, 9), (0, 5), (0, 0))]

    def step(batch: Batch) -> torch.Tensor:
        images = batch.images.normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            losses = model(images, batch.targets)
        total = sum(losses.values())
        total.backward()
        optimizer.step()
        return total.detach()

    # The first step makes what the others keep: the optimizer's state, the libraries' handles and workspaces.
    totals = [step(batches[0])]
    with nobody_waits():
        totals += [step(batch) for batch in batches[1:]]
    assert torch.stack(totals).isfinite().all()


def test_waiting_would_be_noticed() -> None:
    numbers = torch.rand(10, device="cuda")
    waits = [
        lambda: numbers.sum().item(),
        lambda: numbers[numbers > 0.5],
        lambda: torch.tensor([1.0, 2.0], device="cuda"),
        lambda: numbers.cpu(),
    ]
    for wait in waits:
        with nobody_waits(), pytest.raises(RuntimeError, match="synchroniz"):
            wait()
