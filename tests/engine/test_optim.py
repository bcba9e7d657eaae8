"""Optimizer groups and learning rates against the records; clipping against its definition."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from yacs.config import CfgNode

from labelenc.config import ConfigError
from labelenc.config.defaults import default_config
from labelenc.engine import GradientClip, build_clip, build_optimizer, build_scheduler
from labelenc.engine.optim import clip_gradients, cosine_factor, multistep_factor, schedule, warmup_factor

RECORDS = [
    "retinanet_R-50-FPN_1x",
    "retinanet_dcnv2_R-101-FPN_2x",
    "fcos_R_50_FPN_1x",
    "e2e_faster_rcnn_R_50_FPN_1x",
]


def solver_config(**values: object) -> CfgNode:
    """The default configuration with these keys of SOLVER replaced."""
    cfg = default_config()
    cfg.merge_from_list([word for key, value in values.items() for word in (f"SOLVER.{key}", value)])
    cfg.freeze()
    return cfg


def record_config(record: dict) -> CfgNode:
    solver = yaml.safe_load(record["cfg_yaml"])["SOLVER"]
    known = solver_config().SOLVER
    return solver_config(**{key: value for key, value in solver.items() if key in known})


def read_record(shared_dir: Path, name: str) -> dict:
    return json.loads((shared_dir / "parity" / f"{name}.json").read_text())


def module_of(shapes: dict[str, list[int]], frozen: list[str]) -> nn.Module:
    """A tree of modules with parameters of these names and shapes, and nothing in memory behind them."""
    root = nn.Module()
    for name, shape in shapes.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            if part not in dict(node.named_children()):
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        parameter = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=name not in frozen)
        node.register_parameter(last, parameter)
    return root


@pytest.mark.parametrize("step", ["plain", "step1", "step2"])
@pytest.mark.parametrize("name", RECORDS)
def test_groups_equal_the_records(shared_dir: Path, name: str, step: str) -> None:
    record = read_record(shared_dir, name)
    expected = record["models"][step]["optimizer"]
    names = [*expected["groups"], *record["models"][step]["frozen_parameters"]]
    shapes = {key: record["models"][step]["state_dict"][key] for key in names}
    model = module_of(shapes, record["models"][step]["frozen_parameters"])
    optimizer = build_optimizer(record_config(record), model)
    name_of = {id(parameter): key for key, parameter in model.named_parameters()}
    groups = {
        name_of[id(parameter)]: [group["lr"], group["weight_decay"]]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert groups == expected["groups"]
    assert {group["momentum"] for group in optimizer.param_groups} == {expected["momentum"]}
    assert len(optimizer.param_groups) == len({tuple(pair) for pair in expected["groups"].values()})


@pytest.mark.parametrize(("key", "extra"), [("plain_and_step2", 0), ("step1_steps_shifted_by_30000", 30000)])
@pytest.mark.parametrize("name", RECORDS)
def test_learning_rates_equal_the_records(shared_dir: Path, name: str, key: str, extra: int) -> None:
    record = read_record(shared_dir, name)
    cfg = record_config(record)
    factor = schedule(cfg.SOLVER, extra)
    for iteration, (weights, biases) in record["lr_schedule"][key].items():
        lr = cfg.SOLVER.BASE_LR * factor(int(iteration))
        assert lr == pytest.approx(weights, rel=1e-12)
        assert lr * cfg.SOLVER.BIAS_LR_FACTOR == pytest.approx(biases, rel=1e-12)


def test_scheduler_gives_update_k_the_entry_before_it() -> None:
    cfg = solver_config(BASE_LR=1.0, STEPS=(3, 5), GAMMA=0.1, WARMUP_ITERS=2, WARMUP_FACTOR=0.5, MAX_ITER=6)
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_scheduler(cfg, optimizer)
    seen = []
    for _ in range(6):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    weights = [0.5, 0.75, 1.0, 0.1, 0.1, 0.01]
    assert seen == [pytest.approx([value, 2 * value]) for value in weights]


def test_warmup_methods() -> None:
    assert [warmup_factor(k, 4, 0.2, "linear") for k in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert [warmup_factor(k, 4, 0.2, "constant") for k in range(6)] == [0.2] * 4 + [1, 1]
    assert warmup_factor(0, 0, 0.2, "linear") == 1
    with pytest.raises(ConfigError, match="WARMUP_METHOD"):
        warmup_factor(0, 4, 0.2, "quadratic")


def test_cosine_is_a_half_wave_to_zero() -> None:
    total = 600
    for k in range(0, total + 1, 7):
        assert cosine_factor(k, total) == pytest.approx(math.cos(math.pi * k / total / 2) ** 2, abs=1e-12)
    assert cosine_factor(total, total) == 0
    assert cosine_factor(total + 5, total) == 0
    factor = schedule(
        solver_config(
            LR_SCHEDULE="cosine", MAX_ITER=400, WARMUP_ITERS=10, WARMUP_FACTOR=0.1, STEPS=()
        ).SOLVER,
        200,
    )
    assert factor(0) == pytest.approx(0.1)
    assert factor(300) == pytest.approx(0.5)
    assert factor(600) == 0


def test_steps_must_increase() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.STEPS"):
        multistep_factor(0, (80, 60), 0.1)


def test_offset_factor_multiplies_the_bias_factor() -> None:
    shapes = {f"conv2.{part}.{kind}": [2] for part in ("offset", "conv") for kind in ("weight", "bias")}
    model = module_of(shapes, [])
    cfg = solver_config(BASE_LR=0.5, BIAS_LR_FACTOR=2, DCONV_OFFSETS_LR_FACTOR=0.25, WEIGHT_DECAY=0.1)
    lrs = {
        id(parameter): group["lr"]
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    by_name = {name: lrs[id(parameter)] for name, parameter in model.named_parameters()}
    assert by_name == {
        "conv2.offset.weight": 0.125,
        "conv2.offset.bias": 0.25,
        "conv2.conv.weight": 0.5,
        "conv2.conv.bias": 1.0,
    }


def test_adamw_steps_by_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    cfg = solver_config(OPTIMIZER="AdamW", BASE_LR=0.1, WEIGHT_DECAY=0.2)
    optimizer = build_optimizer(cfg, model)
    before = model.weight.item()
    (3 * model.weight).sum().backward()
    optimizer.step()
    # In the first step both moments are unbiased, so the step is lr times the sign of the gradient.
    assert model.weight.item() == pytest.approx(before * (1 - 0.1 * 0.2) - 0.1, abs=1e-6)


def test_frozen_model_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(solver_config(), nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0])
def test_clip_by_norm_over_all_parameters(seed: int, norm_type: float) -> None:
    tensors = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 2), (5,), (1,))]
    for tensor in tensors[:2]:
        tensor.grad = torch.randn_like(tensor)
    flat = torch.cat([tensor.grad.flatten() for tensor in tensors[:2]]).double()
    norm = float(flat.abs().pow(norm_type).sum() ** (1 / norm_type))
    clip_gradients(iter(tensors), GradientClip("norm", norm / 3, norm_type))
    clipped = torch.cat([tensor.grad.flatten() for tensor in tensors[:2]]).double()
    torch.testing.assert_close(clipped, flat / 3, rtol=1e-5, atol=1e-6)
    assert tensors[2].grad is None
    clip_gradients(tensors, GradientClip("norm", norm, norm_type))
    torch.testing.assert_close(torch.cat([t.grad.flatten() for t in tensors[:2]]).double(), clipped)


def test_clip_by_value() -> None:
    tensor = nn.Parameter(torch.zeros(4))
    tensor.grad = torch.tensor([-3.0, -0.5, 0.5, 3.0])
    clip_gradients([tensor], GradientClip("value", 1.0))
    assert tensor.grad.tolist() == [-1.0, -0.5, 0.5, 1.0]


def test_build_clip() -> None:
    assert build_clip(solver_config()) is None
    cfg = solver_config(**{"CLIP_GRADIENTS.ENABLED": True, "CLIP_GRADIENTS.CLIP_VALUE": 35.0})
    assert build_clip(cfg) == GradientClip("norm", 35.0, 2.0)
    with pytest.raises(ConfigError, match="CLIP_VALUE"):
        GradientClip("norm", 0.0)
    with pytest.raises(ConfigError, match="CLIP_TYPE"):
        GradientClip("angle", 1.0)
