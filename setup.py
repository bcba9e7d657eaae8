"""Builds the compiled kernels of labelenc.ops; everything else about the package is in pyproject.toml.

Without a C++ compiler the package installs without kernels and runs the same operations in plain PyTorch.
CUDA kernels are built where PyTorch has CUDA, a toolkit is found, and a GPU is visible or FORCE_CUDA=1.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup

CSRC = Path("labelenc/ops/csrc")
CACHE_TAG = "cp310"
OLDEST_TORCH = (2, 11)
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"


def find_cuda_home() -> str | None:
    """Folder with include/ and lib64/ (or lib/) of a toolkit: CUDA_HOME, else the one behind ``nvcc``."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return named if is_toolkit(Path(named)) else None
    nvcc = shutil.which("nvcc")
    candidates = [*homes_behind(Path(nvcc)), Path("/usr/local/cuda")] if nvcc else [Path("/usr/local/cuda")]
    return next((str(home) for home in candidates if is_toolkit(home)), None)


def is_toolkit(home: Path) -> bool:
    has_libraries = (home / "lib64").is_dir() or (home / "lib").is_dir()
    return (home / "bin/nvcc").is_file() and (home / "include/cuda_runtime.h").is_file() and has_libraries


def homes_behind(nvcc: Path) -> list[Path]:
    """Toolkit folders an ``nvcc`` may belong to, through links and shell scripts that run another nvcc."""
    homes: list[Path] = []
    for _ in range(5):
        nvcc = nvcc.resolve()
        homes.append(nvcc.parent.parent)
        with nvcc.open("rb") as file:
            start = file.read(4096)
        if not start.startswith(b"#!"):
            break
        target = re.search(rb"(/[^\s\"']*/nvcc)\b", start.split(b"\n", 1)[-1])
        if target is None or not Path(os.fsdecode(target[1])).is_file():
            break
        nvcc = Path(os.fsdecode(target[1]))
    return homes


def has_compiler() -> bool:
    """Whether a C++ compiler can be called; CXX names one, as everywhere."""
    if sys.platform == "win32":
        return shutil.which("cl") is not None or bool(os.environ.get("VCINSTALLDIR"))
    names = os.environ["CXX"].split()[:1] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return any(shutil.which(name) for name in names)


def wants_cuda(torch_has_cuda: bool, gpu_visible: bool, cuda_home: str | None) -> bool:
    """Whether to compile CUDA kernels; a demand that cannot be met is an error, never a quiet CPU build."""
    if os.environ.get("FORCE_CUDA", "0") not in ("", "0"):
        if not torch_has_cuda:
            raise SystemExit(
                "FORCE_CUDA is set, but this PyTorch is for the CPU only. Install a CUDA PyTorch."
            )
        if cuda_home is None:
            raise SystemExit(
                "FORCE_CUDA is set, but no CUDA toolkit was found "
                f"(CUDA_HOME is {os.environ.get('CUDA_HOME', 'not set')}). Set CUDA_HOME to the folder that "
                "holds bin/nvcc, include/ and lib64/."
            )
        return True
    return torch_has_cuda and gpu_visible and cuda_home is not None


def build_settings() -> dict[str, object]:
    """Arguments of ``setup`` that concern the extension; none where nothing can be compiled."""
    try:
        import torch
    except ImportError:
        raise SystemExit(
            "labelenc is compiled against the PyTorch that it will run with: install torch and torchvision "
            "first, then this package with --no-build-isolation."
        ) from None
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < OLDEST_TORCH:
        raise SystemExit(f"labelenc needs PyTorch 2.11 or newer, found {torch.__version__}.")
    cuda_home = find_cuda_home()
    with_cuda = wants_cuda(torch.version.cuda is not None, torch.cuda.is_available(), cuda_home)
    if not has_compiler():
        if with_cuda and os.environ.get("FORCE_CUDA", "0") not in ("", "0"):
            raise SystemExit("FORCE_CUDA is set, but no C++ compiler was found.")
        print("labelenc: no C++ compiler found, installing without compiled kernels", file=sys.stderr)
        return {}
    if with_cuda and cuda_home is not None:
        os.environ["CUDA_HOME"] = cuda_home
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
    return extension_settings(torch.__version__, with_cuda)


def extension_settings(torch_version: str, with_cuda: bool) -> dict[str, object]:
    # Imported only now: the module looks for the toolkit when it is imported.
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    sources = ["registration.cpp", "cpu/*.cpp"] + (["cuda/*.cu"] if with_cuda else [])
    paths = sorted(path.as_posix() for pattern in sources for path in CSRC.glob(pattern))
    architectures = os.environ["TORCH_CUDA_ARCH_LIST"] if with_cuda else ""
    extension: Extension = (CUDAExtension if with_cuda else CppExtension)(
        "labelenc.ops._C",
        paths,
        depends=sorted(path.as_posix() for path in CSRC.rglob("*.h")),
        define_macros=[
            ("TORCH_TARGET_VERSION", "0x020b000000000000"),
            ("LABELENC_TORCH_VERSION", f'"{torch_version}"'),
            ("LABELENC_CUDA_ARCHITECTURES", f'"{architectures}"'),
            *([("USE_CUDA", None)] if with_cuda else []),
        ],
        extra_compile_args=compile_flags(),
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": CACHE_TAG}},
    }


def compile_flags() -> dict[str, list[str]]:
    if sys.platform == "win32":
        return {"cxx": ["/O2"], "nvcc": ["-O3"]}
    # The rounding flags keep CPU and GPU results equal (see iou.h) without giving up vectorised comparisons.
    rounding = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    return {
        "cxx": ["-O3", *rounding, "-fopenmp-simd", "-fvisibility=hidden"],
        "nvcc": ["-O3"],
    }


if __name__ == "__main__":
    setup(**build_settings())
