"""Files of weights that other programs wrote, and files that try to run code."""

import builtins
import os
import pickle
import struct
from collections import OrderedDict
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from labelenc.engine import CheckpointError, load_file

TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", ">f4", ">i8")


class Python2Pickler(pickle._Pickler):
    """Writes arrays as Python 2 and NumPy 1 did: bytes as plain strings, the old name of the package."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj):
        self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)
        self.memoize(obj)

    def save_global(self, obj, name=None):
        if getattr(obj, "__module__", "").startswith("numpy._core"):
            self.write(f"cnumpy.core.multiarray\n{obj.__name__}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    dispatch[bytes] = save_bytes


def arrays(seed):
    generator = np.random.default_rng(seed)
    values = {code: generator.integers(0, 2, (3, 4)).astype(code) for code in TYPES}
    values["weights"] = generator.normal(size=(5, 3, 7, 7)).astype(np.float32)
    values["fortran"] = np.asfortranarray(generator.normal(size=(4, 6)))
    values["part"] = generator.normal(size=(6, 6)).astype(np.float32)[::2, 1:5]
    values["empty"] = np.zeros((0, 4), np.float32)
    values["single"] = np.array(3.5, np.float32)
    return values


def write_pickle(path, value, protocol):
    if protocol == "Python 2":
        with path.open("wb") as stream:
            Python2Pickler(stream, protocol=2, fix_imports=True).dump(value)
    else:
        path.write_bytes(pickle.dumps(value, protocol=protocol))


@pytest.mark.parametrize("protocol", ["Python 2", 0, 1, 2, 3, 4, 5])
def test_pickles_of_arrays(seed, tmp_path, protocol):
    values = arrays(seed)
    path = tmp_path / "R-50.pkl"
    scalars = {"lr": np.float32(0.25), "steps": np.int64(7)}
    write_pickle(path, {"blobs": values, "cfg": "A: 1", "more": OrderedDict(scalars)}, protocol)
    content = load_file(path)
    assert content["cfg"] == "A: 1"
    assert content["more"] == {"lr": 0.25, "steps": 7}
    assert content["blobs"].keys() == values.keys()
    for name, expected in values.items():
        found = content["blobs"][name]
        assert found.is_contiguous(), name
        assert tuple(found.shape) == expected.shape, name
        native = expected.astype(expected.dtype.newbyteorder("="))
        assert found.numpy().dtype == native.dtype, name
        assert np.array_equal(found.numpy(), native), name
        found.zero_()


def test_arrays_that_share_their_memory_become_tensors(tmp_path):
    array = np.arange(4, dtype=np.float32)
    write_pickle(tmp_path / "a.pkl", {"a": array, "b": array, "c": [array, (array,)]}, 2)
    content = load_file(tmp_path / "a.pkl")
    for tensor in (content["a"], content["b"], content["c"][0], content["c"][1][0]):
        assert torch.equal(tensor, torch.arange(4.0))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_safetensors(seed, tmp_path, name):
    state = {"x.weight": torch.randn(3, 4), "x.count": torch.tensor(3)}
    save_file(state, tmp_path / name, metadata={"format": "pt"})
    content = load_file(tmp_path / name)
    assert content.keys() == state.keys()
    assert all(torch.equal(content[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.part"])
@pytest.mark.parametrize("archive", [True, False])
def test_torch_files_whatever_their_name(seed, tmp_path, name, archive):
    state = {"model": {"x.weight": torch.randn(3, 4)}}
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=archive)
    assert torch.equal(load_file(tmp_path / name)["model"]["x.weight"], state["model"]["x.weight"])


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Sets:
    """Pickles as an array whose state is set to anything."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), self.state


HARMFUL = {
    "a command": Calls(os.system, "echo this must never run > pwned"),
    "eval": Calls(eval, "open('pwned', 'w')"),
    "exec": Calls(exec, "open('pwned', 'w')"),
    "opens a file": Calls(open, "pwned", "w"),
    "getattr": Calls(getattr, "text", "upper"),
    "import": Calls(builtins.__import__, "os"),
    "array of objects": np.array([1, "a", None], dtype=object),
    "array of commands": np.array([Calls(os.system, "echo > pwned")], dtype=object),
    "array of texts": np.array(["a", "bc"]),
    "array of records": np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
    "dates": np.zeros(2, dtype="M8[s]"),
    "another function of NumPy": Calls(np.load, "file.npy"),
    "a class": int,
    "a type": np.float32,
    "a tensor": torch.zeros(2),
    "another encoding": Calls(__import__("codecs").encode, "text", "rot13"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", HARMFUL)
def test_pickles_of_more_than_arrays_are_refused(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": HARMFUL[name]}}, protocol=protocol))
    with pytest.raises(CheckpointError, match=r"R-50\.pkl holds more than tensors .*\. It was refused"):
        load_file(path)
    assert os.listdir(tmp_path) == ["R-50.pkl"]  # noqa: PTH208


def test_the_message_names_what_was_refused(tmp_path):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"a": HARMFUL["a command"]}))
    with pytest.raises(CheckpointError, match=r"\((posix|nt)\.system\)"):
        load_file(path)


FLOAT = np.dtype("f4")
TAMPERED = {
    "fewer bytes than the shape needs": Sets((1, (1000, 1000), FLOAT, False, b"1234")),
    "more bytes than the shape needs": Sets((1, (1,), FLOAT, False, b"12345678")),
    "negative shape": Sets((1, (-1, -1), FLOAT, False, b"1234")),
    "shape of no numbers": Sets((1, ("a",), FLOAT, False, b"1234")),
    "bytes of another kind": Sets((1, (1,), FLOAT, False, 4)),
    "no type": Sets((1, (1,), None, False, b"1234")),
    "state of another form": Sets({"value": 1}),
    "state that sets attributes": Sets((None, {"value": "text"})),
    "no state": Calls(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b"),
    "bytes by their number": Calls(bytes, 10**12),
    "constructor of arrays": Calls(np.ndarray, (10**12,)),
    "a type as value": FLOAT,
    "a class as value": np.ndarray,
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_arrays_are_damaged_files(tmp_path, name):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": TAMPERED[name]}, protocol=2))
    with pytest.raises(CheckpointError, match=r"R-50\.pkl is damaged or no file of weights"):
        load_file(path)


@pytest.mark.parametrize("target", ["cnumpy\nndarray\n", "cnumpy\ndtype\n", "c_codecs\nencode\n"])
def test_no_attribute_of_a_known_name_can_be_set(tmp_path, target):
    path = tmp_path / "R-50.pkl"
    # BUILD with a pair sets attributes where the object has no __setstate__ of its own.
    attributes = pickle.dumps((None, {"__init__": None, "__new__": None, "mark": 1}), protocol=2)[2:-1]
    path.write_bytes(b"\x80\x02" + target.encode() + attributes + b"b.")
    with pytest.raises(CheckpointError, match="damaged"):
        load_file(path)
    good = {"a": np.ones(3, np.float32)}
    for protocol in (2, 5):
        write_pickle(path, good, protocol)
        assert torch.equal(load_file(path)["a"], torch.ones(3))


@pytest.mark.parametrize("kind", ["pickle", "safetensors"])
def test_every_cut_is_noticed(seed, tmp_path, kind):
    path = tmp_path / ("a.pkl" if kind == "pickle" else "a.safetensors")
    if kind == "pickle":
        write_pickle(path, arrays(seed), 2)
    else:
        save_file({"a": torch.randn(10, 10), "b": torch.randn(4)}, path)
    whole = path.read_bytes()
    for length in [0, 1, 2, 9, len(whole) - 1, *torch.randint(1, len(whole), (40,)).tolist()]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=f"{path.name} is (damaged|empty)"):
            load_file(path)


def test_changed_bytes_give_an_error_or_tensors(seed, tmp_path):
    path = tmp_path / "a.pkl"
    write_pickle(path, arrays(seed), "Python 2")
    whole = path.read_bytes()
    for position, byte in zip(
        torch.randint(0, len(whole), (300,)).tolist(), torch.randint(0, 256, (300,)).tolist(), strict=True
    ):
        path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
        try:
            content = load_file(path)
        except CheckpointError:
            continue
        assert isinstance(content, dict)


def test_a_pickle_that_contains_itself(tmp_path):
    endless = {}
    endless["a"] = endless
    write_pickle(tmp_path / "a.pkl", endless, 2)
    with pytest.raises(CheckpointError, match="referred to twice"):
        load_file(tmp_path / "a.pkl")


@pytest.mark.parametrize("value", [[1, 2], np.zeros(3), 7])
def test_a_pickle_of_something_else(tmp_path, value):
    write_pickle(tmp_path / "a.pkl", value, 2)
    with pytest.raises(CheckpointError, match="not a dictionary"):
        load_file(tmp_path / "a.pkl")
