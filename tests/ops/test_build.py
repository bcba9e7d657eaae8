"""The build script's decisions, and that the CUDA sources compile where there is a compiler for them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[2]
CUDA_SOURCES = sorted((ROOT / "labelenc/ops/csrc/cuda").glob("*.cu"))


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("labelenc_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_toolkit(home: Path) -> Path:
    for folder in ("bin", "include", "lib64"):
        (home / folder).mkdir(parents=True)
    (home / "include/cuda_runtime.h").touch()
    (home / "bin/nvcc").write_bytes(b"\x7fELF")
    (home / "bin/nvcc").chmod(0o755)
    return home


def test_toolkit_is_found_behind_links_and_wrapper_scripts(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_toolkit(tmp_path / "cuda-99")
    (tmp_path / "outer").mkdir()
    wrapper = tmp_path / "inner-nvcc"
    wrapper.write_text(f'#!/bin/sh\n# calls another one\nexec "{home}/bin/nvcc" "$@"\n')
    wrapper.chmod(0o755)
    (tmp_path / "outer/nvcc").symlink_to(wrapper)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "outer"))
    assert build.find_cuda_home() == str(home)


def test_cuda_home_is_taken_at_its_word(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nothing"))
    assert build.find_cuda_home() is None
    home = make_toolkit(tmp_path / "cuda")
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert build.find_cuda_home() == str(home)


def make_program(path: Path, prints: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("force", "torch_cuda", "gpu", "release", "expected"),
    [
        ("", "13.2", True, "13.0", True),
        ("", "13.2", True, "12.8", False),
        ("", "13.2", True, None, False),
        ("", "13.2", False, "13.0", False),
        ("", None, True, "13.0", False),
        ("0", "13.2", True, "13.0", False),
        ("false", "13.2", True, "13.0", False),
        ("OFF", "13.2", True, "13.0", False),
        ("1", "13.2", False, "13.0", True),
        ("true", "13.2", False, "13.0", True),
    ],
)
def test_when_cuda_kernels_are_built(
    build: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    force: str,
    torch_cuda: str | None,
    gpu: bool,
    release: str | None,
    expected: bool,
) -> None:
    monkeypatch.setenv("FORCE_CUDA", force)
    home = None
    if release is not None:
        home = str(make_toolkit(tmp_path / "cuda"))
        make_program(tmp_path / "cuda/bin/nvcc", f"Cuda compilation tools, release {release}, V{release}.1")
    assert build.wants_cuda(torch_cuda, gpu, home) is expected


@pytest.mark.parametrize(
    ("torch_cuda", "release", "message"),
    [
        (None, "13.0", "CPU only"),
        ("13.2", None, "CUDA_HOME"),
        ("13.2", "12.8", r"is 12.8 and PyTorch is built for CUDA 13.2"),
        ("13.2", "", "is broken and PyTorch"),
    ],
)
def test_a_demand_for_cuda_that_cannot_be_met_stops_the_build(
    build: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    torch_cuda: str | None,
    release: str | None,
    message: str,
) -> None:
    monkeypatch.setenv("FORCE_CUDA", "1")
    home = None
    if release is not None:
        home = str(make_toolkit(tmp_path / "cuda"))
        make_program(tmp_path / "cuda/bin/nvcc", f"release {release}, V1")
    with pytest.raises(SystemExit, match=message):
        build.wants_cuda(torch_cuda, True, home)


def test_a_wish_that_is_neither_yes_nor_no_stops_the_build(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_CUDA", "maybe")
    with pytest.raises(SystemExit, match="set it to 1 or 0"):
        build.wants_cuda("13.2", True, None)


def test_without_a_compiler_nothing_is_built_unless_cuda_is_demanded(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = make_toolkit(tmp_path / "cuda")
    make_program(home / "bin/nvcc", f"release {torch.version.cuda}, V1")
    monkeypatch.setenv("CUDA_HOME", str(home))
    (tmp_path / "path").mkdir()
    (tmp_path / "path/fails").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "path/fails").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    for compiler in (None, str(tmp_path / "path/fails"), str(tmp_path / "path/none")):
        monkeypatch.delenv("CXX", raising=False)
        if compiler is not None:
            monkeypatch.setenv("CXX", compiler)
        monkeypatch.setenv("FORCE_CUDA", "0")
        assert build.build_settings() == {}
        monkeypatch.setenv("FORCE_CUDA", "1")
        with pytest.raises(SystemExit, match=r"C\+\+20 compiler" if torch.version.cuda else "CPU only"):
            build.build_settings()


def test_a_compiler_is_one_that_compiles(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which("c++")
    if real is None:
        pytest.skip("needs a C++ compiler")
    monkeypatch.setenv("CXX", f"{real} -O1")
    assert build.has_compiler()


@pytest.mark.parametrize("source", CUDA_SOURCES, ids=lambda path: path.name)
def test_cuda_sources_compile(build: ModuleType, source: Path, tmp_path: Path) -> None:
    home = build.find_cuda_home()
    if home is None or shutil.which("c++") is None:
        pytest.skip("needs nvcc and a C++ compiler")
    includes = [f"-I{path}" for path in cpp_extension.include_paths()]
    definitions = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-DPy_LIMITED_API=0x030A0000"]
    architectures = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in (80, 90)]
    command = [f"{home}/bin/nvcc", "-std=c++20", "-c", str(source), "-o", str(tmp_path / "out.o")]
    done = subprocess.run(
        [*command, *architectures, *definitions, *includes], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
