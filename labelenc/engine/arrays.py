"""Pickles of NumPy arrays (weights of Caffe2, Detectron, detectron2), read without running their code.

A pickle may name any function of any module and have it called. Here the few names that arrays need stand
for small classes of this file, which check what they are given; every other name is refused. NumPy itself
sees only bytes whose number fits the shape.
"""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Anything that torch has a type for; no objects, texts or records.
_NUMBERS = re.compile(r"[<>=|]?(f[248]|[iu][1248]|b1)")


class ForbiddenContent(pickle.UnpicklingError):
    """The pickle holds something else than arrays and plain values; the message names it."""


class _StandIn:
    """Without this method the BUILD opcode would set any attribute of an object, or of the class."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"{type(self).__name__.strip('_')} with a state")


class _Dtype(_StandIn):
    """``numpy.dtype('f4', …)``, whose byte order comes as state."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or _NUMBERS.fullmatch(code) is None:
            raise ForbiddenContent(f"an array of type {code!r:.40}")
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1])
        if order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"byte order {order!r:.10}")
        self.value = np.dtype(order + self.value.str[1:])


class _Array(_StandIn):
    """``numpy.ndarray``, filled by its state (version, shape, dtype, Fortran order, bytes)."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _array(content, dtype, shape, "F" if fortran else "C")


class _Reconstruct(_StandIn):
    """``numpy.core.multiarray._reconstruct``: an array whose content follows."""

    def __new__(cls, *_: Any) -> Any:
        return _Array()


class _FromBuffer(_StandIn):
    """``numpy.core.numeric._frombuffer``, by which protocol 5 writes arrays."""

    def __new__(cls, content: Any, dtype: Any, shape: Any, order: Any) -> Any:
        array = _Array()
        array.value = _array(content, dtype, shape, _text(order))
        return array


class _Scalar(_StandIn):
    """``numpy.core.multiarray.scalar``: one number."""

    def __new__(cls, dtype: Any, content: Any) -> Any:
        return _array(content, dtype, (), "C").item()


class _Encode(_StandIn):
    """``_codecs.encode(text, 'latin1')``, by which Python 3 writes bytes for protocol 2."""

    def __new__(cls, text: Any, encoding: Any) -> Any:
        if encoding != "latin1":
            raise ForbiddenContent(f"text encoded as {encoding!r:.20}")
        return text.encode("latin1")


class _NoBytes(_StandIn):
    """``bytes()``, by which Python 3 writes empty ones for protocol 2. A number would make that many."""

    def __new__(cls) -> Any:
        return b""


_KNOWN: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _Encode,
    ("__builtin__", "bytes"): _NoBytes,
    ("builtins", "bytes"): _NoBytes,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    # The package core became _core in NumPy 2.
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise ForbiddenContent(f"{module}.{name}")
        return _KNOWN[module, name]


def read_array_pickle(path: Path) -> Any:
    """The content of a pickle of containers, texts, numbers and arrays; arrays become tensors.

    Files of Python 2 are read too (their byte strings become text, character by character).

    Raises:
        ForbiddenContent: it holds anything else; nothing of it was called.
        Exception: of nearly any kind, where the file is damaged.
    """
    with path.open("rb") as stream:
        content = _ArrayUnpickler(stream, encoding="latin1").load()
    return _plain(content, set())


def _plain(value: Any, seen: set[int]) -> Any:
    """Stand-ins turned into tensors. A container that comes twice is refused: few bytes of nested references
    could otherwise unfold without end."""
    if isinstance(value, dict | list) and value:
        if id(value) in seen:
            raise ForbiddenContent("a container that is referred to twice")
        seen.add(id(value))
    if isinstance(value, _Array):
        if value.value is None:
            raise pickle.UnpicklingError("an array without content")
        return torch.from_numpy(value.value)
    if isinstance(value, dict):
        return {_plain(key, seen): _plain(item, seen) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, seen) for item in value)
    if isinstance(value, type | _StandIn):
        raise pickle.UnpicklingError(f"{getattr(value, '__name__', 'a type')} in the place of a value")
    return value


def _array(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """A new, writable array of this machine's byte order."""
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array without type")
    if isinstance(content, list):
        raise ForbiddenContent("an array of objects")
    data = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError(f"an array made of {type(data).__name__}")
    sizes = tuple(shape)
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise pickle.UnpicklingError(f"an array of shape {sizes!r:.40}")
    if math.prod(sizes) * dtype.value.itemsize != len(data):
        raise pickle.UnpicklingError(f"{len(data)} bytes for an array of shape {sizes}")
    array = np.frombuffer(data, dtype.value).reshape(sizes, order="F" if order == "F" else "C")
    return np.array(array, dtype.value.newbyteorder("="), order="C")


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
