"""SOLVER.COMPILE: one graph per part for all sizes of images, the same losses, names and checkpoints.

The tests take a backend that runs what was traced as it is; what C++ or a GPU makes of it is `slow`.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from labelenc import engine, pipeline
from labelenc.structures import BoxList, ImageBatch
from labelenc.supervision import COMPILED_PARTS, LabelEncStep1, LabelEncStep2

CLASSES = ("MODEL.NUM_CLASSES", 3)


@pytest.fixture(autouse=True)
def _nothing_compiled_yet():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def random_batch(height: int, width: int) -> tuple[ImageBatch, list[BoxList]]:
    targets = []
    for count in (0, 3):
        corner = torch.rand(count, 2) * 20
        target = BoxList(torch.cat([corner, corner + 10 + 20 * torch.rand(count, 2)], dim=1), (width, height))
        target.add_field("labels", torch.randint(1, 4, (count,)))
        targets.append(target)
    return ImageBatch(torch.randn(2, 3, height, width), [(height, width)] * 2), targets


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_one_graph_per_part_whatever_the_sizes(seed, tiny_cfg):
    model = LabelEncStep2(tiny_cfg(*CLASSES)).train()
    engine.compile_parts(model, COMPILED_PARTS, backend="eager")
    sizes = [(96, 160), *(torch.randint(2, 8, (15, 2)) * 32).tolist(), (128, 128)]
    for height, width in sizes:
        sum(model(*random_batch(height, width)).values()).backward()
        if (height, width) == sizes[0]:
            first = graphs()
    # The two towers have the same code and sizes, and so one graph.
    assert 1 < first <= len(COMPILED_PARTS)
    assert graphs() == first
    assert counters["graph_break"] == {}


def test_flat_sizes_and_thawed_parts_are_compiled_too(seed, tiny_cfg):
    model = LabelEncStep1(tiny_cfg(*CLASSES)).train()
    engine.compile_parts(model, COMPILED_PARTS, backend="eager")
    for weight in (0.0, 1.0):
        model.feature_adapt.requires_grad_(weight > 0)
        for size in ((96, 160), (64, 64), (32, 160), (160, 32), (32, 32), (128, 96)):
            sum(model(*random_batch(*size), distance_loss_weight=weight).values()).backward()
    # What passes the limit of variants runs uncompiled from then on, and is counted there.
    assert counters["unimplemented"] == {}
    assert graphs() > len(COMPILED_PARTS)


def test_losses_gradients_and_names_are_those_of_the_model(seed, tiny_cfg):
    plain = LabelEncStep1(tiny_cfg(*CLASSES, "MODEL.BACKBONE.ACTIVATION_CHECKPOINTING", True)).train()
    compiled = deepcopy(plain)
    engine.compile_parts(compiled, COMPILED_PARTS, backend="aot_eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    images, targets = random_batch(64, 96)
    results = []
    for model in (plain, compiled):
        torch.manual_seed(seed)  # step 1 draws the strength of boxes
        losses = model(images, targets)
        sum(losses.values()).backward()
        results.append((losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (wanted, gradients), (losses, own) = results
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own, gradients, rtol=1e-4, atol=1e-6)


def test_runs_with_evaluations_end_as_without_compiling(tiny_cfg, losses_of, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "compile_parts", partial(engine.compile_parts, backend="eager"))
    schedule = ("TEST.EVAL_PERIOD", 2, "SOLVER.MAX_ITER", 4, "MODEL.LABELENC.AUXILIARY_LOSS_ITERS", 2)
    schedule += ("MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS", 2, "TEST.METHOD_IMAGES", 1)
    for compiled in (False, True):
        key = ("SOLVER.COMPILE", compiled, *schedule)
        pipeline.train_step1(tiny_cfg(*key, out=f"step1_{compiled}"))
        handed = tmp_path / f"step1_{compiled}/label_encoding_function.pth"
        pipeline.train_step2(tiny_cfg(*key, out=f"step2_{compiled}"), str(handed))
        assert (graphs() > 0) == compiled
    for kind in ("step1", "step2"):
        plain, own = (losses_of(tmp_path / f"{kind}_{compiled}") for compiled in (False, True))
        assert own.keys() == plain.keys()
        for iteration, losses in own.items():
            assert losses == pytest.approx(plain[iteration], rel=1e-3)
        names = [
            list(torch.load(tmp_path / f"{kind}_{c}/model_final.pth", weights_only=True)["model"])
            for c in (False, True)
        ]
        assert names[0] == names[1]


def test_evaluation_compiles_nothing(seed, tiny_cfg):
    model = LabelEncStep2(tiny_cfg(*CLASSES)).train()
    engine.compile_parts(model, COMPILED_PARTS, backend="eager")
    process = engine.Process(0, 1, 0, torch.device("cpu"))
    engine.run_inference(model, [], process, lambda batch: model(batch.images))
    images, _ = random_batch(64, 96)

    class Loader:
        image_ids, original_sizes = [1, 2], [(96, 64)] * 2

        def to(self, *_, **__):
            return self

    found = engine.run_inference(model, [Loader()], process, lambda _: model(images))
    assert set(found) == {1, 2}
    assert graphs() == 0


@pytest.mark.slow
def test_inductor_trains_a_tower_on_several_sizes(seed, tiny_cfg):
    model = LabelEncStep2(tiny_cfg(*CLASSES)).train()
    plain = deepcopy(model)
    engine.compile_parts(model, ("rpn.head.cls_tower",))
    for height, width in ((64, 96), (96, 128), (64, 64)):
        batch = random_batch(height, width)
        gradients = []
        for side in (model, plain):
            side.zero_grad()
            sum(side(*batch).values()).backward()
            gradients.append(side.rpn.head.cls_tower[0].weight.grad)
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    assert graphs() == 1
