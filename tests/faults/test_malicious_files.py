"""Files that hold code, wherever a run reads files: refused, and the code does not run."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from labelenc import pipeline
from labelenc.engine import CheckpointError, load_file


class Touches:
    """Pickles as a call that makes a file."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trap,)


class Evaluates(Touches):
    def __reduce__(self) -> tuple:
        return eval, (f"open({str(self.trap)!r}, 'w')",)


class Builds(Touches):
    """Hides the call in the state of a harmless class."""

    def __reduce__(self) -> tuple:
        return dict, (), None, None, iter([("a", Evaluates(self.trap))])


def as_zip(path: Path, content: object) -> None:
    torch.save(content, path)


def as_legacy(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def as_text_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=0))


def as_exchanged_zip(path: Path, content: object) -> None:
    """A whole checkpoint, in which only the pickle was exchanged for one with code."""
    stream = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(3)}}, stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            exchanged = name.endswith("/data.pkl")
            target.writestr(name, pickle.dumps(content, protocol=2) if exchanged else source.read(name))


FORMS = [as_zip, as_legacy, as_pickle, as_text_pickle, as_exchanged_zip]
PAYLOADS = [Touches, Evaluates, Builds]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_payloads_work(tmp_path, payload) -> None:
    """Else the tests below would prove nothing."""
    content = pickle.dumps({"model": payload(tmp_path / "trap")}, protocol=2)
    assert any(opcode.name == "REDUCE" for opcode, _, _ in pickletools.genops(content))
    pickle.loads(content)
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.safetensors", "a"])
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("write", FORMS)
def test_no_form_runs_code(tmp_path, write, payload, name) -> None:
    trap = tmp_path / "trap"
    for content in ({"model": payload(trap)}, {payload(trap): 1}, payload(trap), [payload(trap)]):
        write(tmp_path / name, content)
        with pytest.raises(CheckpointError, match=str(tmp_path / name)):
            load_file(tmp_path / name)
    assert not trap.exists()


def start_from_weights(tiny_cfg: Callable, path: Path) -> None:
    pipeline.train_baseline(tiny_cfg("MODEL.WEIGHT", path), skip_test=True)


def start_step2(tiny_cfg: Callable, path: Path) -> None:
    pipeline.train_step2(tiny_cfg(), str(path), skip_test=True)


def evaluate(tiny_cfg: Callable, path: Path) -> None:
    pipeline.evaluate(tiny_cfg("MODEL.WEIGHT", path))


def resume(tiny_cfg: Callable, path: Path) -> None:
    cfg = tiny_cfg()
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()
    path.rename(folder / "model_0000003.pth")
    (folder / "last_checkpoint").write_text("model_0000003.pth")
    pipeline.train_baseline(cfg, skip_test=True)


@pytest.mark.parametrize("use", [start_from_weights, start_step2, evaluate, resume])
@pytest.mark.parametrize("write", FORMS)
def test_no_use_runs_code(tiny_cfg, tmp_path, use, write) -> None:
    trap = tmp_path / "trap"
    path = tmp_path / ("weights.pkl" if write is as_pickle else "weights.pth")
    write(path, {"model": Touches(trap), "label_encoding_function": Evaluates(trap)})
    with pytest.raises(CheckpointError, match=r"refused|damaged"):
        use(tiny_cfg, path)
    assert not trap.exists()
    assert not (tmp_path / "run/metrics.jsonl").exists()


def spoil_header(content: bytes) -> bytes:
    return content[:8] + b"{" + bytes(range(32, 60)) + content[37:]


def long_header(content: bytes) -> bytes:
    return struct.pack("<Q", 2**31) + content[8:]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:9],
        lambda content: content + b"more",
        spoil_header,
        long_header,
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_spoilt_safetensors(tmp_path, spoil, name) -> None:
    path = tmp_path / name
    save_file({"x": torch.randn(7, 5)}, path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{name} is damaged or no file of weights"):
        load_file(path)
