"""Who takes part in ``train_step.py``: torchvision's detectors; ours without LabelEnc, in step 1 and step 2.

All train on the same images and boxes. The bodies have frozen batch normalisation and a frozen stem and first
stage (FREEZE_CONV_BODY_AT 2), the heads 80 classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from yacs.config import CfgNode

from labelenc import engine, ops, testing
from labelenc.config import load_config
from labelenc.modeling import Detector, build_detector
from labelenc.structures import BoxList, ImageBatch
from labelenc.supervision import COMPILED_PARTS, LabelEncStep1, LabelEncStep2

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DETECTORS = {
    "retinanet": "retinanet/retinanet_R-50-FPN_1x.yaml",
    "fcos": "fcos/fcos_imprv_R_50_FPN_1x.yaml",
    "faster_rcnn": "e2e_faster_rcnn_R_50_FPN_1x.yaml",
}
CLASSES, CLASSES_PRESENT, BOXES, DIVISIBILITY = 80, 4, 7, 32
# The weights are to stay: random ones with a frozen normalisation would soon leave the range of numbers.
LEARNING_RATE = 1e-8
# Keeps the sum of a body's residual branches in range, in place of trained normalisation.
BRANCH_SCALE = 0.2
ENCODING = "labelenc.supervision.label_encoder.encode_label_maps"


@dataclass(frozen=True)
class Scene:
    """Images (3, H, W) uint8 with their targets, on the CPU, as a loader gives them."""

    images: list[Tensor]
    targets: list[BoxList]


@dataclass
class Contender:
    """``inputs()`` brings a batch to the device; ``losses(inputs)`` are summed inside ``scope()``."""

    name: str
    model: nn.Module
    optimizer: Optimizer
    inputs: Callable[[], tuple]
    dtype: torch.dtype
    scope: Callable[[], AbstractContextManager] = nullcontext

    def losses(self, inputs: tuple) -> dict[str, Tensor]:
        return self.model(*inputs)


def random_scene(batch: int, height: int, width: int, pinned: bool) -> Scene:
    """Seven boxes of four classes in every image: COCO has as many."""
    images, targets = [], []
    for _ in range(batch):
        sides = torch.rand(BOXES, 2) * torch.tensor([width / 2, height / 2]) + 8
        corner = torch.rand(BOXES, 2) * (torch.tensor([width - 1.0, height - 1.0]) - sides)
        target = BoxList(torch.cat([corner, corner + sides], dim=1), (width, height))
        present = torch.randperm(CLASSES)[:CLASSES_PRESENT] + 1
        target.add_field("labels", present[torch.arange(BOXES) % CLASSES_PRESENT])
        pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        images.append(pixels.pin_memory() if pinned else pixels)
        targets.append(target.pin_memory() if pinned else target)
    return Scene(images, targets)


def dense_encoding(
    first: nn.Conv2d, targets: Sequence[BoxList], size: tuple[int, int], scales: Sequence[Tensor] | None
) -> Tensor:
    """The encoder's first convolution over label maps with a channel for every class."""
    boxes, labels = [t.bbox for t in targets], [t.get_field("labels") for t in targets]
    return first(ops.label_map(boxes, labels, first.in_channels, *size, scales).to(first.weight.dtype))


def dense() -> AbstractContextManager:
    """Within it the label encoders work on dense label maps."""
    return mock.patch(ENCODING, dense_encoding)


def contenders(
    detector: str, scene: Scene, device: str, dtype: torch.dtype, opts: Sequence[str]
) -> Iterator[Contender]:
    """All of one kind of detector; in half precision also torchvision's and our baseline in float32.

    ``opts`` are KEY VALUE pairs for our configurations.
    """
    theirs = prepared(torchvision_detector(detector, scene), device)
    optimizer = SGD([p for p in theirs.parameters() if p.requires_grad], LEARNING_RATE, 0.9)
    common = (theirs, optimizer, partial(torchvision_inputs, scene, device))
    yield Contender("torchvision", *common, dtype)
    if dtype != torch.float32:
        yield Contender("torchvision float32", *common, torch.float32)
    kinds = {"baseline": build_detector, "step 1": LabelEncStep1, "step 2": LabelEncStep2}
    for name, build in kinds.items():
        own = ours(name, build, detector, scene, device, dtype, opts)
        yield own
        if name != "baseline":
            yield replace(own, name=f"{name}, dense", scope=dense)
        elif dtype != torch.float32:
            yield ours("baseline float32", build, detector, scene, device, torch.float32, opts)


def ours(
    name: str,
    build: Callable[[CfgNode], Detector],
    detector: str,
    scene: Scene,
    device: str,
    dtype: torch.dtype,
    opts: Sequence[str],
) -> Contender:
    words = ["MODEL.DEVICE", device, "DTYPE", str(dtype).removeprefix("torch."), "MODEL.NUM_CLASSES", CLASSES]
    words += ["SOLVER.BASE_LR", LEARNING_RATE, *opts]
    cfg = load_config(CONFIGS / DETECTORS[detector], list(map(str, words)))
    model = engine.place(prepared(build(cfg), device), device, cfg.DTYPE)
    engine.compile_parts(model, COMPILED_PARTS if cfg.SOLVER.COMPILE else ())
    inputs = partial(our_inputs, cfg, scene, device)
    return Contender(name, model, engine.build_optimizer(cfg, model), inputs, dtype)


def prepared(model: nn.Module, device: str) -> nn.Module:
    for name, module in model.named_modules():
        if name.startswith("backbone.body.layer") and name.endswith("bn3"):
            nn.init.constant_(module.weight, BRANCH_SCALE)
    return model.to(device).train()


def torchvision_detector(detector: str, scene: Scene) -> nn.Module:
    """torchvision's model with random weights, frozen as ours is; its transform leaves the size alone."""
    levels = {} if detector == "faster_rcnn" else {"returned_layers": [2, 3, 4]}
    if levels:
        levels["extra_blocks"] = LastLevelP6P7(256, 256)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3, **levels
    )
    make, classes = {
        "retinanet": (detection.RetinaNet, CLASSES),
        "fcos": (detection.FCOS, CLASSES),
        "faster_rcnn": (detection.FasterRCNN, CLASSES + 1),
    }[detector]
    sides = sorted(scene.images[0].shape[-2:])
    return make(backbone, classes, min_size=sides[0], max_size=sides[1], _skip_resize=True)


def torchvision_inputs(scene: Scene, device: str) -> tuple:
    images = [image.to(device, non_blocking=True).float() / 255 for image in scene.images]
    moved = [target.to(device, non_blocking=True) for target in scene.targets]
    return images, [{"boxes": t.bbox, "labels": t.get_field("labels") - 1} for t in moved]


def our_inputs(cfg: CfgNode, scene: Scene, device: str) -> tuple:
    images = ImageBatch.from_tensors(scene.images, DIVISIBILITY).to(device, non_blocking=True)
    targets = [target.to(device, non_blocking=True) for target in scene.targets]
    return testing.prepare(cfg, images), targets
