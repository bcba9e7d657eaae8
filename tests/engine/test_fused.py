"""Fused optimizers against PyTorch's plain ones: equal steps, late gradients, overflow, and resuming."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD, AdamW, Optimizer
from yacs.config import CfgNode

from labelenc.config.defaults import default_config
from labelenc.engine import build_optimizer
from labelenc.engine.optim import restore_optimizer

DECAY = 1e-2


def config(optimizer: str) -> CfgNode:
    cfg = default_config()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.BIAS_LR_FACTOR = optimizer, 0.1, 1
    cfg.SOLVER.WEIGHT_DECAY = cfg.SOLVER.WEIGHT_DECAY_BIAS = DECAY
    return cfg


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 2))


def plain(name: str, model: nn.Module) -> Optimizer:
    if name == "SGD":
        return SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=DECAY, foreach=False, fused=False)
    return AdamW(model.parameters(), lr=0.1, weight_decay=DECAY, foreach=False, fused=False)


def steps(model: nn.Module, optimizer: Optimizer, inputs: torch.Tensor) -> None:
    for x in inputs:
        model(x[None]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_steps_equal_the_plain_ones_with_gradients_that_come_late(seed: int, name: str) -> None:
    ours = network()
    theirs = copy.deepcopy(ours)
    optimizers = build_optimizer(config(name), ours), plain(name, theirs)
    assert all(group["fused"] for group in optimizers[0].param_groups)
    x = torch.randn(8, 3, 6, 6)
    for trained, part in ((False, x[:3]), (True, x[3:6]), (False, x[6:])):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            model[3].requires_grad_(trained)
            steps(model, optimizer, part)
        assert_same_weights(ours, theirs)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_first_step_whose_gradients_overflow_leaves_no_trace(seed: int, name: str) -> None:
    ours = network()
    theirs, start = copy.deepcopy(ours), copy.deepcopy(ours)
    optimizer, reference = build_optimizer(config(name), ours), plain(name, theirs)
    scaler = GradScaler("cpu", init_scale=2.0**8)
    x = torch.randn(3, 3, 6, 6)
    # Memory that the optimizer gets may hold anything.
    rubbish = [torch.full_like(parameter, torch.nan) for parameter in ours.parameters() for _ in range(9)]
    del rubbish
    scaler.scale(ours(x[:1]).sum() * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    assert scaler.get_scale() == 2.0**7
    torch.testing.assert_close(ours.state_dict(), start.state_dict(), rtol=0, atol=0)
    for image in x:
        scaler.scale(ours(image[None]).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    steps(theirs, reference, x)
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_resuming_between_plain_and_fused(seed: int, name: str, late: bool) -> None:
    undisturbed = network()
    undisturbed[3].requires_grad_(not late)
    reference = plain(name, undisturbed)
    x = torch.randn(6, 3, 6, 6)
    steps(undisturbed, reference, x[:3])
    model, saved = copy.deepcopy(undisturbed), copy.deepcopy(reference.state_dict())
    for target in (undisturbed, model):
        target[3].requires_grad_(True)
    # Another layout in memory, too.
    model.to(memory_format=torch.channels_last)
    fused = build_optimizer(config(name), model)
    restore_optimizer(fused, saved)
    assert fused.param_groups[0]["fused"] is True
    steps(undisturbed, reference, x[3:4])
    steps(model, fused, x[3:4])
    assert_same_weights(model, undisturbed)
    # And back.
    again = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    back = plain(name, again)
    restore_optimizer(back, copy.deepcopy(fused.state_dict()))
    assert back.param_groups[0]["fused"] is False
    steps(undisturbed, reference, x[4:])
    steps(again, back, x[4:])
    assert_same_weights(again, undisturbed)


def test_other_groups_are_refused() -> None:
    model = network()
    saved = plain("SGD", model).state_dict()
    other = SGD([{"params": [p]} for p in model.parameters()], lr=0.1)
    with pytest.raises(ValueError, match="1 parameter groups were saved, not 6"):
        restore_optimizer(other, saved)
