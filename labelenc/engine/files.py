"""Files of tensors: written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file as load_safetensors

from labelenc.engine.arrays import ForbiddenContent, read_array_pickle

# What a checkpoint says about itself: a key of PyTorch's files, in safetensors JSON among the metadata.
DESCRIPTION = "description"

# How torch.save starts a file: a zip archive or, before version 1.6, a pickled magic number.
_TORCH_STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read, or used for this run."""


def save_atomic(obj: Any, path: str | Path) -> None:
    """``torch.save`` to ``path`` such that the file is the old one or the new one at any moment.

    Writes ``<path>.tmp``, flushes it to the disk and renames it. Raises CheckpointError if that fails.
    """
    replace_file(Path(path), lambda stream: torch.save(obj, stream))


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file, flush it to the disk and put it in the place of ``path``."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    # torch.save turns the error of a full disk into a RuntimeError that doesn't tell of it.
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(unwritable(path, error)) from error


def _flush_folder(folder: Path) -> None:
    """Write the names in ``folder`` to the disk, without which a power failure may undo a renaming."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def unwritable(path: Path, error: BaseException) -> str:
    """The message that ``path`` could not be written, with the system's reason."""
    reason = error.__context__ if isinstance(error.__context__, OSError) else error
    return (
        f"cannot write {path}: {reason}. Check free space and permissions, then start again; "
        "training resumes from its last checkpoint."
    )


def load_file(path: str | Path) -> dict[str, Any]:
    """The dictionary in a file of weights, with tensors on the CPU.

    Reads what ``torch.save`` wrote, safetensors, and pickles of NumPy arrays (Caffe2, Detectron, detectron2),
    told apart by their first bytes. Reads tensors, arrays and plain values only; a file that holds other
    objects is refused, not executed.

    Raises:
        CheckpointError: the file is missing, truncated, no checkpoint, or holds something else than data.
    """
    path = Path(path)
    return _checked(path, lambda: _read(path))


def _checked(path: Path, read: Callable[[], Any]) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}; check the path.")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; copy or download it again.")
    try:
        content = read()
    # Damaged files raise nearly anything.
    except Exception as error:
        raise CheckpointError(f"{path} {_reading_failure(error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights.")
    return content


def peek_file(path: Path) -> dict[str, Any]:
    """What `load_file` gives for a file of ``torch.save``; tensors stay on the disk until they are used."""
    return _checked(path, lambda: _peek(path))


def check_file(path: Path) -> None:
    """Raise CheckpointError unless ``path`` is a whole file of ``torch.save`` that `load_file` would read.

    The check sums in the file are compared, too, which PyTorch doesn't do.
    """
    _checked(path, lambda: _compared_with_sums(path))


def _peek(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _compared_with_sums(path: Path) -> Any:
    content = _peek(path)
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the check sum of {damaged} is wrong")
    return content


def _read(path: Path) -> Any:
    with path.open("rb") as stream:
        start = stream.read(16)
    # The length of the header (8 bytes, little-endian, below 4 GiB), then a JSON object.
    if path.suffix == ".safetensors" or start[4:9] == b"\0\0\0\0{":
        return _read_safetensors(path)
    # Pickles of protocol 0 have no mark of their own.
    if not start.startswith(_TORCH_STARTS) and (start[:1] == b"\x80" or path.suffix == ".pkl"):
        return read_array_pickle(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors; where the file describes itself, as ``model`` beside its ``description``."""
    tensors = load_safetensors(path)
    with safe_open(path, "pt") as file:
        description = (file.metadata() or {}).get(DESCRIPTION)
    return tensors if description is None else {"model": tensors, DESCRIPTION: json.loads(description)}


def _reading_failure(error: Exception) -> str:
    # Only the cause: the rest of torch's message recommends ways to run the file's code.
    found = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    forbidden = str(error) if isinstance(error, ForbiddenContent) else found[1] if found else None
    if forbidden is not None:
        return (
            f"holds more than tensors and plain values ({forbidden}). It was refused, because loading "
            "other objects can run code. Save only its tensors, with the program that wrote it."
        )
    cause = (
        "no pickle of tensors" if isinstance(error, pickle.UnpicklingError) else str(error).partition(". ")[0]
    )
    return f"is damaged or no file of weights ({cause}). Copy or download it again."
