"""The command line, and what cannot be exported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from labelenc.export import ExportError, Request, export_checkpoint, formats
from labelenc.export.agreement import Agreement, _add
from labelenc.structures import BoxList

TOOL = Path(__file__).resolve().parents[2] / "tools/export.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True, check=False)


def test_help_ends_with_examples():
    done = run("--help")
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert "docs/run_onnx.py" in done.stdout


def test_wrong_words_are_answered_in_one_line():
    done = run("model.pth", "--format", "tflite")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "invalid choice: 'tflite'" in done.stderr.splitlines()[-1]


def test_a_slim_file_from_the_command_line(checkpoint, tmp_path):
    output = tmp_path / "slim.safetensors"
    done = run(str(checkpoint("retinanet")), "--format", "safetensors", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert output.is_file()
    done = run(str(tmp_path / "absent.pth"), "--format", "pth")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_missing_packages_are_named(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "ONNX_PACKAGES", ("onnx", "package_that_is_absent"))
    with pytest.raises(ExportError, match="pip install onnx package_that_is_absent"):
        export_checkpoint(str(checkpoint("fcos")), Request("onnx", str(tmp_path / "detector.onnx")))


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"format": "pth", "output": "detector.onnx"}, "must end with .pth"),
        ({"format": "pt2", "images": ["."]}, "holds no pictures"),
        ({"format": "pt2", "size": (100, 96)}, "multiple of 32; take 128"),
    ],
)
def test_wishes_that_cannot_be_met(wishes, message, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wishes = {"output": "detector.pt2", **wishes}
    with pytest.raises(ExportError, match=message):
        export_checkpoint(str(checkpoint("fcos")), Request(**wishes))
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_is_not_overwritten(checkpoint):
    file = str(checkpoint("fcos"))
    with pytest.raises(ExportError, match="is the checkpoint itself"):
        export_checkpoint(file, Request("pth", file))


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> BoxList:
    result = BoxList(torch.tensor(boxes).reshape(-1, 4), (100, 100))
    result.add_field("scores", torch.tensor(scores))
    result.add_field("labels", torch.tensor(labels))
    return result


BOXES = [[0.0, 0, 10, 10], [0, 0, 10, 10.02], [50, 50, 60, 60]]


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "lonely"),
    [
        (BOXES, [0.9, 0.8999, 0.3], [1, 1, 2], 0),
        # Near-equal scores in the other order.
        ([BOXES[1], BOXES[0], BOXES[2]], [0.9, 0.8999, 0.3], [1, 1, 2], 0),
        (BOXES, [0.9, 0.8999, 0.302], [1, 1, 2], 2),
        (BOXES, [0.9, 0.8999, 0.3], [1, 1, 3], 2),
        ([*BOXES[:2], [50, 50, 60, 60.1]], [0.9, 0.8999, 0.3], [1, 1, 2], 2),
        (BOXES[:2], [0.9, 0.8999], [1, 1], 1),
        # One cannot be the partner of two.
        ([BOXES[0], BOXES[2], BOXES[2]], [0.9, 0.3, 0.3], [1, 2, 2], 2),
    ],
)
def test_partners(boxes, scores, labels, lonely):
    result = Agreement()
    _add(result, found(BOXES, [0.9, 0.8999, 0.3], [1, 1, 2]), found(boxes, scores, labels))
    assert result.lonely == lonely
    assert result.sorted
    assert result.holds == (lonely == 0)


def test_wrong_order_is_noticed():
    result = Agreement()
    _add(result, found(BOXES, [0.9, 0.8999, 0.3], [1, 1, 2]), found(BOXES, [0.8999, 0.9, 0.3], [1, 1, 2]))
    assert result.lonely == 0
    assert not result.holds
