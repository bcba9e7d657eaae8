"""Loads the compiled kernels, and stands in with plain PyTorch for those that are missing."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

REINSTALL = "Compile it anew with `pip install --no-build-isolation -e .` (INSTALL.md)."

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
    if describe is None:
        raise _outdated()
    describe.restype = ctypes.c_char_p
    return Build(path, *describe().decode().split("|"))


def _outdated() -> ImportError:
    return ImportError(f"the compiled part of labelenc.ops is older than its Python part. {REINSTALL}")


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


def complete(schema: str, stand_in: Callable, fake: Callable, on_gpu: Callable | None = None) -> None:
    """Make ``torch.ops.labelenc.<name>`` whole, whatever was compiled.

    Args:
        schema: as in csrc/registration.cpp, ``name(Tensor x, …) -> Tensor``.
        stand_in: the operation in plain PyTorch, where it was not compiled at all.
        fake: shapes and types of the results, for torch.compile.
        on_gpu: stands in for missing GPU kernels; None is ``stand_in``.

    Raises:
        ImportError: the compiled library lacks the operation, so it is older than this file.
    """
    name = schema.split("(")[0]
    if build is None:
        _registrations.define(schema)
        _registrations.impl(name, _without_autocast(stand_in, "CPU"), "CPU")
    elif not hasattr(torch.ops.labelenc, name):
        raise _outdated()
    if not has_kernel(name, "CUDA"):
        _registrations.impl(name, _warning_first(_without_autocast(on_gpu or stand_in, "CUDA")), "CUDA")
    torch.library.register_fake(f"labelenc::{name}", fake, lib=_registrations)


def compose(schema: str, call: Callable, stand_in: Callable, fake: Callable, kernels: Sequence[str]) -> None:
    """Like :func:`complete` for an operation that Python puts together around compiled ones.

    Args:
        call: the operation where all of ``kernels`` were compiled for the device.
        stand_in: the same in plain PyTorch.
        kernels: names of operations of csrc/registration.cpp.
    """
    name = schema.split("(")[0]
    if build is not None and not all(hasattr(torch.ops.labelenc, kernel) for kernel in kernels):
        raise _outdated()
    _registrations.define(schema)
    for device, replacement in (("CPU", stand_in), ("CUDA", _warning_first(stand_in))):
        compiled = build is not None and all(has_kernel(kernel, device) for kernel in kernels)
        _registrations.impl(name, _without_autocast(call if compiled else replacement, device), device)
    torch.library.register_fake(f"labelenc::{name}", fake, lib=_registrations)


def once_differentiable(backward: str, public: str) -> None:
    """Makes the second derivative of ``labelenc.ops.<public>`` an error, where PyTorch would give zeros.

    Args:
        backward: name of the operation that computes the gradient.
    """

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"{public} can be differentiated only once")

    torch.library.register_autograd(f"labelenc::{backward}", refuse, lib=_registrations)


@contextlib.contextmanager
def autograd_inside() -> Iterator[None]:
    """Lets the implementation of an operation differentiate, which is off while PyTorch runs it."""
    keys = torch._C.DispatchKey
    with contextlib.ExitStack() as stack:
        for key in (keys.AutogradFunctionality, keys.ADInplaceOrView):
            stack.enter_context(torch._C._SetExcludeDispatchKeyGuard(key, False))
        stack.enter_context(torch.enable_grad())
        yield


def alert_not_deterministic(name: str) -> None:
    """What ``torch.use_deterministic_algorithms`` asks of an operation whose sums come in any order.

    Raises:
        RuntimeError: unless only warnings are asked for.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        f"{name} does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True"
    )
    if torch.is_deterministic_algorithms_warn_only_enabled():
        warnings.warn(f"{message}, warn_only=True)'.", UserWarning, stacklevel=2)
        return
    raise RuntimeError(
        f"{message})'. You can turn off determinism just for this operation, or you can use the "
        "'warn_only=True' option, if that's acceptable for your application."
    )


def _without_autocast(call: Callable, device: str) -> Callable:
    """Types are chosen before an operation is called: what it is made of must not choose again."""

    @functools.wraps(call)
    def run(*args: Any) -> Any:
        with torch.autocast(device.lower(), enabled=False):
            return call(*args)

    return run


def _warning_first(call: Callable) -> Callable:
    @functools.wraps(call)
    def warn_and_call(*args: Any) -> Any:
        warn_about_gpu()
        return call(*args)

    return warn_and_call


_gpu_warned = False


def warn_about_gpu() -> None:
    """Says once per process that an operation on GPU tensors has no kernel there."""
    global _gpu_warned
    if _gpu_warned or build is None:
        return
    _gpu_warned = True
    warnings.warn(
        "labelenc.ops was compiled without CUDA kernels: operations on GPU tensors run in plain PyTorch or "
        "on the CPU. For kernels on the GPU run `FORCE_CUDA=1 pip install --no-build-isolation -e .` "
        "(INSTALL.md).",
        RuntimeWarning,
        stacklevel=3,
    )


build = load_library(Path(__file__).parent)
has_cuda_kernels = build is not None and build.cuda_architectures != ""
