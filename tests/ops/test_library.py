"""What a user sees where kernels are missing, broken or present: each in a process of its own."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from labelenc.ops import library

# The package has a function of the same name.
NMS = importlib.import_module("labelenc.ops.nms")
ROOT = Path(__file__).resolve().parents[2]

USE_NMS_TWICE = """
import warnings, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from labelenc import ops
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]])
    for _ in range(2):
        print(ops.nms(boxes, torch.tensor([0.7, 0.9, 0.8]), 0.5).tolist())
print(len([w for w in caught if "not compiled" in str(w.message)]))
torch.library.opcheck(torch.ops.labelenc.nms_sorted.default, (boxes, None, 0.5, False))
"""


def copy_without_kernels(target: Path) -> Path:
    shutil.copytree(
        ROOT / "labelenc/ops",
        target / "labelenc/ops",
        ignore=shutil.ignore_patterns("_C*", "csrc", "__pycache__"),
    )
    (target / "labelenc/__init__.py").write_text("")
    return target


def python(code: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_without_kernels_one_warning_and_right_results(tmp_path: Path) -> None:
    done = python(["-c", USE_NMS_TWICE], copy_without_kernels(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["[1, 2]", "[1, 2]", "1"]


def test_broken_kernels_are_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    copy_without_kernels(tmp_path)
    (tmp_path / "labelenc/ops/_C.abi3.so").write_bytes(b"not a library")
    done = python(["-c", "from labelenc import ops"], tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().split("\n")[-1]
    assert "doesn't load" in last
    assert "pip install --no-build-isolation -e ." in last


def test_kernels_older_than_the_python_part_are_an_error(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    copy_without_kernels(tmp_path)
    library_file = tmp_path / "labelenc/ops/_C.abi3.so"
    subprocess.run([compiler, "-shared", "-x", "c", "/dev/null", "-o", str(library_file)], check=True)
    done = python(["-c", "from labelenc import ops"], tmp_path)
    assert done.returncode != 0
    assert "older than its Python part" in done.stderr.strip().split("\n")[-1]


@pytest.mark.slow
def test_without_kernels_the_tests_of_the_operations_pass_too(tmp_path: Path) -> None:
    """Some of them, which depend on layouts, types, autocast and autograd inside of an operation."""
    copy_without_kernels(tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/conftest.py", tmp_path / "tests")
    shutil.copytree(
        ROOT / "tests/ops",
        tmp_path / "tests/ops",
        ignore=shutil.ignore_patterns("test_library.py", "test_build.py", "__pycache__"),
    )
    chosen = "opcheck or contract or autocast or layout or compiles or derivative or finite or gradcheck"
    done = python(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops", "-k", chosen], tmp_path)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "passed" in done.stdout.strip().split("\n")[-1]


@pytest.mark.parametrize(
    ("message", "torch_cuda", "expected"),
    [
        ("libtorch_cuda.so: cannot open shared object file", None, "is a CPU build"),
        ("libcudart.so.12: cannot open shared object file", "13.0", "another CUDA major version"),
        ("_C.abi3.so: undefined symbol: torch_parallel_for", "13.0", "2.11 or newer"),
        ("file too short", None, "file too short"),
    ],
)
def test_reason_of_a_failed_load(
    monkeypatch: pytest.MonkeyPatch, message: str, torch_cuda: str | None, expected: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    reason = library._reason(message)
    assert expected in reason
    assert "pip install --no-build-isolation" in reason


def test_gpu_tensors_without_gpu_kernels_take_a_detour_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Needs no GPU: what is registered for CUDA is called directly."""
    if library.build is None:
        pytest.skip("needs compiled kernels")
    monkeypatch.setattr(library, "_gpu_warned", False)
    detour = library._warning_first(NMS._through_cpu)
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]])
    with pytest.warns(RuntimeWarning, match="FORCE_CUDA=1"):
        assert detour(boxes, None, 0.5, False).tolist() == [True, False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert detour(boxes, torch.tensor([0, 1, 0]), 0.5, False).tolist() == [True, True, True]


def test_self_test_passes_and_says_what_is_built() -> None:
    done = python(["-m", "labelenc.ops"], ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compiled kernels" in done.stdout
    assert done.stdout.count(" ok") == 9 * (2 if torch.cuda.is_available() else 1)


USE_DEFORM_CONV = """
import warnings, torch
warnings.simplefilter("ignore")
from labelenc import ops
x = torch.arange(16.0).reshape(1, 1, 4, 4).requires_grad_()
weight = torch.ones(1, 1, 1, 1, requires_grad=True)
offset = torch.full((1, 2, 4, 4), 0.5).requires_grad_()
out = ops.deform_conv2d(x, offset, None, weight, None)
out.sum().backward()
print(out[0, 0, 0, 0].item(), x.grad[0, 0, 1, 1].item(), weight.grad.item(), offset.grad[0, :, 0, 0].tolist())
"""


def test_without_kernels_gradients_come_from_the_reference(tmp_path: Path) -> None:
    done = python(["-c", USE_DEFORM_CONV], copy_without_kernels(tmp_path))
    assert done.returncode == 0, done.stderr
    with_kernels = python(["-c", USE_DEFORM_CONV], ROOT)
    assert done.stdout == with_kernels.stdout
    assert done.stdout.startswith("2.5 1.0 ")
    assert done.stdout.endswith("[4.0, 1.0]\n")


def test_what_deterministic_algorithms_ask_of_an_operation_without() -> None:
    library.alert_not_deterministic("one")
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(
            RuntimeError, match="one does not have a deterministic implementation, but you set"
        ):
            library.alert_not_deterministic("one")
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="two does not have a deterministic implementation"):
            library.alert_not_deterministic("two")
    finally:
        torch.use_deterministic_algorithms(False)
