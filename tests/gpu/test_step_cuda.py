"""A training step in half precision with the channels last, and compiled; skips without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from labelenc import engine
from labelenc.config import load_config
from labelenc.structures import BoxList, ImageBatch
from labelenc.supervision import COMPILED_PARTS, LabelEncStep2

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CONFIG = Path(__file__).resolve().parents[2] / "configs/demo/shapes_R-18_small.yaml"


def losses_and_gradient(model: LabelEncStep2, dtype: torch.dtype, batch: tuple) -> tuple[dict, torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        losses = model(*batch)
    sum(loss.float() for loss in losses.values()).backward()
    return {name: loss.detach().float() for name, loss in losses.items()}, model.feature_adapt[4].weight.grad


def test_channels_last_and_compiled_steps_agree_with_float32(seed):
    cfg = load_config(CONFIG, ["MODEL.NUM_CLASSES", "3", "MODEL.DEVICE", "cuda"])
    model = LabelEncStep2(cfg).train()
    pixels = torch.randn(2, 3, 128, 192, device="cuda")
    target = BoxList(torch.tensor([[10.0, 12, 90, 100], [40, 8, 150, 60]], device="cuda"), (192, 128))
    target.add_field("labels", torch.tensor([1, 3], device="cuda"))
    batch = ImageBatch(pixels, [(128, 192)] * 2), [target, target]
    engine.place(model, "cuda", "float32")
    wanted, gradient = losses_and_gradient(model, torch.float32, batch)
    engine.place(model, "cuda", "bfloat16")
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in model.backbone(pixels))
    for compiled in (False, True):
        engine.compile_parts(model, COMPILED_PARTS if compiled else ())
        losses, own = losses_and_gradient(model, torch.bfloat16, batch)
        torch.testing.assert_close(losses, wanted, rtol=0.05, atol=0.02)
        assert torch.cosine_similarity(own.flatten(), gradient.flatten(), dim=0) > 0.98
    torch.compiler.reset()
