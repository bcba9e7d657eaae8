"""Builds the compiled kernels of labelenc.ops; everything else about the package is in pyproject.toml.

Without a C++20 compiler the package installs without kernels and runs the same operations in plain PyTorch.
CUDA kernels are built where PyTorch has CUDA, a toolkit of its major version is found, and a GPU is visible.
FORCE_CUDA=1 demands them (no GPU needed), FORCE_CUDA=0 leaves them out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
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
    """Whether a C++20 compiler works; CXX names one, as everywhere."""
    if sys.platform == "win32":
        return shutil.which("cl") is not None or bool(os.environ.get("VCINSTALLDIR"))
    # The one that the build will call, too.
    command = (os.environ.get("CXX") or "c++").split()
    if shutil.which(command[0]) is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <concepts>\nstatic_assert(std::integral<int>);\n")
        output = ["-o", str(source.with_suffix(".o"))]
        done = subprocess.run(
            [*command, "-std=c++20", "-c", str(source), *output], capture_output=True, check=False
        )
    return done.returncode == 0


def cuda_wish() -> bool | None:
    """What FORCE_CUDA says: kernels for CUDA, none, or None where it says nothing."""
    value = os.environ.get("FORCE_CUDA", "").strip().lower()
    if value in ("1", "true", "on", "yes"):
        return True
    if value in ("0", "false", "off", "no"):
        return False
    if value:
        raise SystemExit(f"FORCE_CUDA is {value!r}: set it to 1 or 0, or not at all.")
    return None


def toolkit_version(cuda_home: str) -> str | None:
    """As ``nvcc`` says it, such as "13.0"; None if it doesn't run."""
    try:
        done = subprocess.run(
            [f"{cuda_home}/bin/nvcc", "--version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    return found[1] if found else None


def wants_cuda(torch_cuda: str | None, gpu_visible: bool, cuda_home: str | None) -> bool:
    """Whether to compile CUDA kernels; a demand that cannot be met is an error, never a quiet CPU build.

    Args:
        torch_cuda: the version of CUDA that PyTorch is built for.
    """
    wish = cuda_wish()
    if wish is False or (wish is None and not gpu_visible):
        return False
    obstacle = what_is_missing(torch_cuda, cuda_home)
    if obstacle is None:
        return True
    if wish:
        raise SystemExit(f"FORCE_CUDA is set, but {obstacle}")
    if torch_cuda is not None:
        print(f"labelenc: a GPU is visible, but {obstacle} Building for the CPU only.", file=sys.stderr)
    return False


def what_is_missing(torch_cuda: str | None, cuda_home: str | None) -> str | None:
    """Why CUDA kernels can't be compiled, and what to do; None if they can."""
    if torch_cuda is None:
        return "this PyTorch is for the CPU only. Install a CUDA PyTorch."
    if cuda_home is None:
        return (
            "no CUDA toolkit was found "
            f"(CUDA_HOME is {os.environ.get('CUDA_HOME', 'not set')}). Set CUDA_HOME to the folder that "
            "holds bin/nvcc, include/ and lib64/."
        )
    version = toolkit_version(cuda_home)
    if version is None or version.split(".")[0] != torch_cuda.split(".")[0]:
        return (
            f"the CUDA toolkit in {cuda_home} is {version or 'broken'} and PyTorch is built for CUDA "
            f"{torch_cuda}: the major versions must agree. Set CUDA_HOME to a toolkit that fits."
        )
    return None


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
    with_cuda = wants_cuda(torch.version.cuda, torch.cuda.is_available(), cuda_home)
    if not has_compiler():
        named = os.environ.get("CXX")
        problem = f"CXX={named} is no C++20 compiler that works" if named else "no C++20 compiler works here"
        if cuda_wish():
            raise SystemExit(f"FORCE_CUDA is set, but {problem}.")
        print(f"labelenc: {problem}, installing without compiled kernels", file=sys.stderr)
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
