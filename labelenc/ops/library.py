"""Loads the compiled kernels, and stands in with plain PyTorch for those that are missing."""

from __future__ import annotations

import ctypes
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import reference

REINSTALL = "Compile it anew with `pip install --no-build-isolation -e .` (INSTALL.md)."
NMS_SCHEMA = "nms_sorted(Tensor boxes, Tensor? groups, float iou_threshold, bool legacy_offset) -> Tensor"

_registrations = torch.library.Library("labelenc", "FRAGMENT")


@dataclass(frozen=True)
class Build:
    """What a compiled library says about itself; ``cuda_architectures`` is "" without CUDA kernels."""

    path: Path
    torch_version: str
    compiler: str
    cuda_architectures: str


def find_library(folder: Path) -> Path | None:
    """The compiled library in a folder: the installed package, or the checkout in a development install."""
    found = [path for path in sorted(folder.glob("_C*")) if path.suffix in (".so", ".pyd", ".dylib")]
    return found[0] if found else None


def load_library(folder: Path) -> Build | None:
    """Registers the compiled kernels; None with one warning where nothing was compiled.

    Raises:
        ImportError: a compiled library is there but doesn't load or is out of date; says why and what to do.
    """
    path = find_library(folder)
    if path is None:
        warnings.warn(
            "labelenc.ops was not compiled, its operations run in plain PyTorch: correct but slow. "
            + REINSTALL,
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise ImportError(f"the compiled part of labelenc.ops doesn't load: {_reason(str(error))}") from error
    describe = getattr(ctypes.CDLL(str(path)), "labelenc_build", None)
    if describe is None or not hasattr(torch.ops.labelenc, "nms_sorted"):
        raise ImportError(f"the compiled part of labelenc.ops is older than its Python part. {REINSTALL}")
    describe.restype = ctypes.c_char_p
    return Build(path, *describe().decode().split("|"))


def _reason(message: str) -> str:
    """What a failed load means for the user."""
    installed = f"PyTorch {torch.__version__}"
    cuda_libraries = ("libcudart", "libtorch_cuda", "libc10_cuda")
    if torch.version.cuda is None and any(name in message for name in cuda_libraries):
        return (
            f"it was built with CUDA kernels, but {installed} is a CPU build. Install a CUDA PyTorch, or "
            f"compile for this one. {REINSTALL} The loader said: {message}"
        )
    if "libcudart" in message:
        return (
            f"it was built for another CUDA major version than {installed} (CUDA {torch.version.cuda}). "
            f"{REINSTALL} The loader said: {message}"
        )
    if "undefined symbol" in message:
        return f"{installed} lacks a symbol (2.11 or newer is needed). {REINSTALL} The loader said: {message}"
    return f"{message}. {REINSTALL}"


def has_kernel(name: str, device: str) -> bool:
    """Whether ``torch.ops.labelenc.<name>`` has a kernel for "CPU" or "CUDA" (a stand-in counts)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"labelenc::{name}", device)


def _nms_through_cpu(
    boxes: Tensor, groups: Tensor | None, iou_threshold: float, legacy_offset: bool
) -> Tensor:
    warn_about_gpu()
    on_cpu = None if groups is None else groups.cpu()
    keep: Tensor = torch.ops.labelenc.nms_sorted(boxes.cpu(), on_cpu, iou_threshold, legacy_offset)
    return keep.to(boxes.device)


def _nms_fake(boxes: Tensor, groups: Tensor | None, iou_threshold: float, legacy_offset: bool) -> Tensor:
    return boxes.new_empty(boxes.shape[0], dtype=torch.bool)


_gpu_warned = False


def warn_about_gpu() -> None:
    """Says once per process that a GPU tensor makes a detour over the CPU."""
    global _gpu_warned
    if _gpu_warned:
        return
    _gpu_warned = True
    warnings.warn(
        "labelenc.ops was compiled without CUDA kernels: tensors on the GPU are copied to the CPU and back. "
        "For kernels on the GPU run `FORCE_CUDA=1 pip install --no-build-isolation -e .` (INSTALL.md).",
        RuntimeWarning,
        stacklevel=2,
    )


def _complete() -> None:
    if build is None:
        _registrations.define(NMS_SCHEMA)
        _registrations.impl("nms_sorted", reference.nms_sorted, "CPU")
    if not has_kernel("nms_sorted", "CUDA"):
        _registrations.impl("nms_sorted", _nms_through_cpu, "CUDA")
    torch.library.register_fake("labelenc::nms_sorted", _nms_fake, lib=_registrations)


build = load_library(Path(__file__).parent)
has_cuda_kernels = build is not None and has_kernel("nms_sorted", "CUDA")
_complete()
