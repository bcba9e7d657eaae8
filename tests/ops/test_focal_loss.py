"""The focal loss against torchvision, cross-entropy, numeric derivatives and the recorded results."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from labelenc import ops
from labelenc.ops import library, reference

FOCAL_LOSS = importlib.import_module("labelenc.ops.focal_loss")
FLT_MIN = torch.finfo(torch.float32).tiny
NEEDS_KERNELS = pytest.mark.skipif(
    library.build is None, reason="what the kernels promise beyond plain PyTorch"
)


def one_hot(targets: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.one_hot(targets.clamp(min=0), columns + 1)[:, 1:].double()


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.7])
def test_same_as_torchvision(seed: int, gamma: float, reduction: str) -> None:
    logits = (torch.randn(57, 6, dtype=torch.float64) * 4).requires_grad_()
    targets = torch.randint(-1, 7, (57,))
    alpha = float(torch.rand(()))
    used = targets >= 0
    weights = torch.rand(57, 6, dtype=torch.float64)
    theirs = torchvision.ops.sigmoid_focal_loss(logits, one_hot(targets, 6), alpha, gamma)
    theirs = theirs * used[:, None]
    ours = ops.sigmoid_focal_loss(logits, targets, gamma, alpha, reduction)
    if reduction == "sum":
        theirs, weights = theirs.sum(), torch.tensor(1.7, dtype=torch.float64)
    torch.testing.assert_close(ours, theirs)
    (our_grad,) = torch.autograd.grad((ours * weights).sum(), logits)
    (their_grad,) = torch.autograd.grad((theirs * weights).sum(), logits)
    torch.testing.assert_close(our_grad, their_grad)


def test_gamma_zero_is_weighted_cross_entropy(seed: int) -> None:
    logits, targets = torch.randn(20, 3) * 3, torch.randint(0, 4, (20,))
    truth = one_hot(targets, 3).float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    expected = entropy * torch.where(truth > 0, 0.3, 0.7)
    torch.testing.assert_close(ops.sigmoid_focal_loss(logits, targets, 0.0, 0.3, "none"), expected)


def test_recorded_results(shared_dir: Path) -> None:
    record = np.load(shared_dir / "parity/ops.npz")
    logits = torch.from_numpy(record["focal/logits"]).requires_grad_()
    targets = torch.from_numpy(record["focal/targets"])
    expected = torch.from_numpy(record["focal/loss"])
    loss = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, "none")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(reference.sigmoid_focal_loss(logits, targets, 2.0, 0.25), expected)
    total = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25)
    torch.testing.assert_close(total, expected.sum())
    for value in (loss.sum(), total):
        (grad,) = torch.autograd.grad(value, logits)
        torch.testing.assert_close(grad, torch.from_numpy(record["focal/grad_of_sum"]))


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("gamma", [1.5, 2.0])
def test_gradient_is_the_derivative(seed: int, gamma: float, reduction: str) -> None:
    logits = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([-1, 0, 1, 2, 3, 4, 0])
    assert torch.autograd.gradcheck(
        lambda x: ops.sigmoid_focal_loss(x, targets, gamma, 0.25, reduction), logits
    )


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[-1e4], [1e4], [-1e4], [1e4]], requires_grad=True)
    targets = torch.tensor([1, 1, 0, 0])
    loss = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, "none")
    expected = torch.tensor([[-0.25 * math.log(FLT_MIN)], [0.0], [0.0], [0.75e4]])
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(grad, torch.tensor([[-0.25], [0.0], [0.0], [0.75]]))


def test_small_probabilities_keep_their_precision() -> None:
    """log(1 - p) of p = 1e-9 is -1e-9, which 1 - p in float32 would round to 0."""
    loss = ops.sigmoid_focal_loss(torch.tensor([[-20.0]]), torch.tensor([0]), 0.0, 0.0, "none")
    assert float(loss) == pytest.approx(math.log1p(math.exp(-20.0)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(seed: int, dtype: torch.dtype) -> None:
    logits = torch.randn(30, 5).to(dtype).requires_grad_()
    targets = torch.randint(-1, 6, (30,))
    loss = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25)
    wide = logits.detach().float().requires_grad_()
    expected = ops.sigmoid_focal_loss(wide, targets, 2.0, 0.25)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad.dtype == dtype
    assert torch.equal(grad, torch.autograd.grad(expected, wide)[0].to(dtype))


def test_layout_and_integer_type_do_not_matter(seed: int) -> None:
    logits, targets = torch.randn(12, 5), torch.randint(-1, 6, (12,))
    expected = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, "none")
    columns = logits.t().contiguous().t().requires_grad_()
    loss = ops.sigmoid_focal_loss(columns, targets.to(torch.int32), 2.0, 0.25, "none")
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    (grad,) = torch.autograd.grad(
        ops.sigmoid_focal_loss(dense := logits.requires_grad_(), targets, 2.0, 0.25, "none").sum(), dense
    )
    torch.testing.assert_close(columns.grad, grad)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_nothing(shape: tuple[int, int]) -> None:
    logits = torch.zeros(shape, requires_grad=True)
    targets = torch.zeros(shape[0], dtype=torch.int64)
    total = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25)
    assert float(total.detach()) == 0
    total.backward()
    assert logits.grad is not None
    assert logits.grad.shape == shape
    assert ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, "none").shape == shape


def exact(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> tuple[Tensor, Tensor]:
    """Loss and slope of every element in float64, from logarithms of probabilities."""
    logits = logits.double()
    log_p, log_not_p = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
    p, not_p = log_p.exp(), log_not_p.exp()
    truth = one_hot(targets, logits.shape[1]) > 0
    loss = torch.where(
        truth,
        -alpha * (gamma * log_not_p).exp() * log_p.clamp(min=math.log(FLT_MIN)),
        (alpha - 1) * (gamma * log_p).exp() * log_not_p,
    )
    slope = torch.where(
        truth,
        alpha * (gamma * log_not_p).exp() * (gamma * p * log_p - not_p),
        (1 - alpha) * (gamma * log_p).exp() * (p - gamma * not_p * log_not_p),
    )
    used = (targets >= 0)[:, None]
    return loss * used, slope * used


@NEEDS_KERNELS
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("shape", [(40000, 5), (31, 7001), (3000, 1), (1, 1)])
def test_accuracy_of_float32(seed: int, shape: tuple[int, int], gamma: float) -> None:
    logits = (torch.randn(shape) * 5).requires_grad_()
    targets = torch.randint(-1, shape[1] + 1, shape[:1])
    expected, slope = exact(logits.detach(), targets, gamma, 0.25)
    losses = ops.sigmoid_focal_loss(logits, targets, gamma, 0.25, "none")
    total = ops.sigmoid_focal_loss(logits, targets, gamma, 0.25)
    # Errors of many elements cancel.
    rel = 3e-7 if logits.numel() > 1000 else 3e-6
    assert float(total.detach()) == pytest.approx(float(expected.sum()), rel=rel)
    torch.testing.assert_close(losses.double(), expected, rtol=3e-6, atol=1e-12)
    for loss, factor in ((losses.sum(), 1), (total * 3, 3), ((losses * losses.detach()).sum(), losses)):
        (grad,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(grad.double(), (factor * slope).detach(), rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_kernel_and_reference_agree(seed: int, dtype: torch.dtype) -> None:
    logits, targets = (torch.randn(300, 11) * 3).to(dtype), torch.randint(-1, 12, (300,))
    wide = logits.double() if dtype == torch.float64 else logits.float()
    found = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, "none")
    torch.testing.assert_close(found, reference.sigmoid_focal_loss(wide, targets, 2.0, 0.25))
    grad = torch.rand_like(wide)
    slope = torch.ops.labelenc.focal_loss_backward(grad, logits, targets, 2.0, 0.25)
    expected = grad * reference.sigmoid_focal_loss_slope(wide, targets, 2.0, 0.25)
    torch.testing.assert_close(slope, expected.to(dtype))


def test_stand_in_is_the_definition_in_chunks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FOCAL_LOSS, "STAND_IN_CHUNK", 20)
    logits, targets = torch.randn(17, 4), torch.randint(-1, 5, (17,))
    for total, grad in ((True, torch.tensor(2.0)), (False, torch.rand(17, 4))):
        expected = ops.sigmoid_focal_loss(logits, targets, 1.5, 0.25, "sum" if total else "none")
        torch.testing.assert_close(FOCAL_LOSS._stand_in(logits, targets, 1.5, 0.25, total), expected)
        slope = torch.ops.labelenc.focal_loss_backward(grad, logits, targets, 1.5, 0.25)
        found = FOCAL_LOSS._backward_stand_in(grad, logits, targets, 1.5, 0.25)
        torch.testing.assert_close(found, slope)


def test_ignored_rows_may_hold_anything() -> None:
    logits = torch.tensor([[math.nan, math.inf], [0.5, -0.5]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([-1, 1]), 2.0, 0.25)
    alone = ops.sigmoid_focal_loss(logits.detach()[1:], torch.tensor([1]), 2.0, 0.25)
    assert torch.equal(loss, alone)
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[0], torch.zeros(2))


@pytest.mark.parametrize("target", [0, 1, 2])
def test_nan_is_not_hidden(target: int) -> None:
    logits = torch.tensor([[math.nan, 0.0]])
    assert ops.sigmoid_focal_loss(logits, torch.tensor([target]), 2.0, 0.25).isnan()
    assert ops.sigmoid_focal_loss(logits, torch.tensor([target]), 1.5, 0.25).isnan()


@NEEDS_KERNELS
def test_threads_do_not_change_the_sum(seed: int) -> None:
    logits, targets = torch.randn(9000, 40), torch.randint(-1, 41, (9000,))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(float(ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25)))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1] == results[2]


def test_autocast_changes_nothing(seed: int) -> None:
    logits, targets = torch.randn(20, 4), torch.randint(-1, 5, (20,))
    for x in (logits, logits.bfloat16()):
        expected = ops.sigmoid_focal_loss(x, targets, 2.0, 0.25)
        with torch.autocast("cpu", torch.bfloat16):
            found = ops.sigmoid_focal_loss(x, targets, 2.0, 0.25)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_second_derivative_is_an_error(seed: int) -> None:
    logits = torch.randn(5, 2, requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([0, 1, 2, -1, 0]), 2.0, 0.25)
    (slope,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        slope.sum().backward()


def test_operator_contract(seed: int) -> None:
    targets = torch.randint(-1, 5, (20,))
    for dtype in (torch.float32, torch.float64, torch.float16):
        logits = torch.randn(20, 4).to(dtype)
        grad = torch.rand(20, 4, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        for total in (True, False):
            given = (logits.clone().requires_grad_(), targets, 2.0, 0.25, total)
            torch.library.opcheck(torch.ops.labelenc.focal_loss.default, given)
        for g in (grad, grad[0, 0], grad[:1, :1].expand(20, 4)):
            torch.library.opcheck(
                torch.ops.labelenc.focal_loss_backward.default, (g, logits, targets, 2.0, 0.25)
            )


def test_no_gradient_keeps_nothing_for_it() -> None:
    loss = ops.sigmoid_focal_loss(torch.zeros(2, 2), torch.tensor([0, 1]), 2.0, 0.25)
    assert not loss.requires_grad


def test_compiles_as_one_graph(seed: int) -> None:
    logits, targets = torch.randn(20, 4, requires_grad=True), torch.randint(-1, 5, (20,))
    for reduction in ("sum", "none"):
        compiled = torch.compile(ops.sigmoid_focal_loss, fullgraph=True, backend="aot_eager")
        loss = compiled(logits, targets, 2.0, 0.25, reduction)
        expected = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, reduction)
        torch.testing.assert_close(loss, expected)
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), logits)[0])


@pytest.mark.parametrize(
    ("logits", "targets", "gamma", "reduction", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), 2.0, "sum", r"logits must be \(N, C\)"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), 2.0, "sum", r"targets \(N,\)"),
        (torch.zeros(3, 2), torch.zeros(3), 2.0, "sum", "targets integers"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 3]), 2.0, "sum", r"-1\.\.2"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -2]), 2.0, "sum", r"-1\.\.2"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 2.0, "mean", "'sum' or 'none'"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), -1.0, "sum", "gamma"),
    ],
)
def test_wrong_arguments(logits: Tensor, targets: Tensor, gamma: float, reduction: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.sigmoid_focal_loss(logits, targets, gamma, 0.25, reduction)
