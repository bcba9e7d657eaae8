"""Exported files find what the detector finds, whatever the batch and the size, or they are not kept."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import labelenc
from labelenc.export import ExportedDetector, ExportError, Request, export_checkpoint, postprocess
from labelenc.prediction import Detections
from labelenc.structures import BoxList
from tests.export.conftest import CATEGORIES, KINDS, NAMES, save_lively

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def onnx():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnx")


def share_found(ours: Detections | BoxList, theirs: Detections | BoxList, pixels: float) -> float:
    """The share of our boxes that are among theirs, with the same label and nearly the same score."""
    ours, theirs = (found.box_list() if isinstance(found, Detections) else found for found in (ours, theirs))
    near = (ours.bbox[:, None] - theirs.bbox).abs().amax(dim=2) <= pixels
    near &= ours.get_field("labels")[:, None] == theirs.get_field("labels")
    near &= (ours.get_field("scores")[:, None] - theirs.get_field("scores")).abs() <= 1e-3
    return float(near.any(dim=1).float().mean())


def save_pictures(folder: Path, pictures: list[np.ndarray]) -> list[str]:
    import cv2

    names = [str(folder / f"{index}.png") for index in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        assert cv2.imwrite(name, picture)
    return names


def export(checkpoint: Path, folder: Path, kind: str, pictures: list[np.ndarray], **wishes) -> Path:
    output = str(folder / f"detector.{kind}")
    request = Request(kind, output, save_pictures(folder, pictures), **wishes)
    path, agreement = export_checkpoint(str(checkpoint), request)
    assert agreement is not None
    assert agreement.holds
    assert agreement.detections > 100
    assert agreement.box < 0.01
    assert agreement.score < 1e-4
    return path


def check_batches(exported: ExportedDetector, checkpoint: Path, pictures: list[np.ndarray]) -> None:
    """Batches of 1, 2 and 3, and sizes, through one file; the detector looks at each picture by itself."""
    detector = labelenc.load_detector(checkpoint, device="cpu")
    for count in (1, 2, 3):
        for image, picture in enumerate(pictures[:count]):
            # All in this one's size, so that the padding is the same as for one.
            batch = exported.batch([np.ascontiguousarray(np.roll(picture, k, 0)) for k in range(count)])
            assert batch.tensors.shape[0] == count
            found = exported.run(batch)[0].resize((picture.shape[1], picture.shape[0]))
            assert share_found(found, detector.predict(picture)[0], 0.05) > 0.97, (count, image)


def test_onnx_of_any_batch_and_size(onnx, checkpoint, pictures, tmp_path):
    file = export(checkpoint("retinanet"), tmp_path, "onnx", pictures)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".onnx"] + [".png"] * len(pictures)
    exported = ExportedDetector(file)
    check_batches(exported, checkpoint("retinanet"), pictures)

    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    inputs = {
        i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input
    }
    assert inputs == {"images": ["batch", 3, "height", "width"], "image_sizes": ["batch", 2]}
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(texts["class_names"]) == list(NAMES)
    assert json.loads(texts["category_ids"]) == [number for number, _ in CATEGORIES]
    assert texts["labelenc_version"] == labelenc.__version__
    assert "uint8 (N, 3, H, W)" in model.doc_string

    [found, *_] = exported.predict([str(tmp_path / "0.png")])
    assert found.class_names == NAMES
    assert found.to_coco(7)[0]["category_id"] in dict(CATEGORIES)
    check_example(file, pictures, exported)


def check_example(file: Path, pictures: list[np.ndarray], exported: ExportedDetector) -> None:
    """The script of the documentation, whose scaling is OpenCV's, finds nearly the same."""
    import onnxruntime

    spec = importlib.util.spec_from_file_location("run_onnx", ROOT / "docs/run_onnx.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for picture, own in zip(pictures, exported.predict(pictures), strict=True):
        boxes, scores, names = example.detect(session, picture)
        apart = (torch.from_numpy(boxes)[:10, None] - own.boxes).abs().amax(dim=2)
        same = torch.tensor([[name == other for other in own.names] for name in names[:10]])
        assert float(((apart < 8) & same).any(dim=1).float().mean()) >= 0.6
        assert abs(float(scores[0]) - float(own.scores[0])) < 0.1


@pytest.mark.parametrize("kind", [pytest.param("fcos", marks=pytest.mark.slow), "faster_rcnn"])
def test_onnx_of_fixed_batch_and_size(onnx, kind, checkpoint, pictures, tmp_path):
    """Pictures that are too large are scaled down; missing ones of a batch are blank."""
    file = export(checkpoint(kind), tmp_path, "onnx", pictures[:3], size=(64, 96), batch=2)
    exported = ExportedDetector(file)
    batch = exported.batch(pictures[:1])
    assert batch.tensors.shape == (2, 3, 64, 96)
    height, width = batch.image_sizes[0]
    assert width / height == pytest.approx(pictures[0].shape[1] / pictures[0].shape[0], rel=0.05)
    assert max(height / 64, width / 96) > 0.9


def test_pt2_is_loaded_by_pytorch(checkpoint, pictures, tmp_path):
    file = export(checkpoint("retinanet"), tmp_path, "pt2", pictures)
    check_batches(ExportedDetector(file), checkpoint("retinanet"), pictures)
    program = (
        "import sys, torch, labelenc.export\n"
        "found = torch.export.load(sys.argv[1]).module()(torch.zeros(1, 3, 96, 64, dtype=torch.uint8), "
        "torch.tensor([[90, 60]]))\n"
        "print(found[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, check=False)
    assert "torch.Size([1, 100, 4])" in done.stdout, done.stderr


def test_a_file_that_fails_its_check_is_not_kept(checkpoint, pictures, tmp_path, monkeypatch):
    right = postprocess.box_ops.clip_each
    monkeypatch.setattr(postprocess.box_ops, "clip_each", lambda *given: right(*given) + 0.2)
    images = save_pictures(tmp_path, pictures[:2])
    (tmp_path / "out").mkdir()
    request = Request("pt2", str(tmp_path / "out/detector.pt2"), images, (96, 96), batch=1)
    with pytest.raises(ExportError, match="does not find what the detector finds"):
        export_checkpoint(str(checkpoint("retinanet")), request)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_slim_files(suffix, checkpoint, pictures, tmp_path):
    """Of averaged weights; without what training alone needs."""
    content = torch.load(checkpoint("fcos"), weights_only=True)
    averaged = {**content["model"], "feature_adapt.0.weight": torch.zeros(256, 256, 3, 3)}
    wrong = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    optimizer = {"state": {0: {"momentum": torch.randn(10**6)}}}
    trained = tmp_path / "model_final.pth"
    torch.save({**content, "model": wrong, "model_ema": averaged, "optimizer": optimizer}, trained)
    path, agreement = export_checkpoint(str(trained), Request(suffix))
    assert agreement is None
    assert path == tmp_path / f"model_final_inference.{suffix}"
    assert path.stat().st_size < trained.stat().st_size / 3
    slim, own = (labelenc.load_detector(file, device="cpu") for file in (path, checkpoint("fcos")))
    assert slim.class_names == NAMES
    assert slim.cfg.dump() == own.cfg.dump()
    for mine, theirs in zip(slim.predict(pictures), own.predict(pictures), strict=True):
        assert len(mine) > 5
        assert torch.equal(mine.boxes, theirs.boxes)
        assert torch.equal(mine.scores, theirs.scores)
        assert torch.equal(mine.labels, theirs.labels)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_real_images(onnx, kind: str, shared_dir: Path, tmp_path: Path, seed: int):
    """COCO's classes on pictures of COCO: ONNX of free batch and size, and pt2 of fixed ones."""
    name = {"retinanet": "", "fcos": "fcos_", "faster_rcnn": "faster_rcnn_"}[kind]
    config = ROOT / f"configs/bccd/bccd_{name}efficientnet_lite0.yaml"
    file = save_lively(config, tmp_path / "lively.pth", ("MODEL.NUM_CLASSES", "80"))
    images = [str(path) for path in sorted((shared_dir / "data/coco_mini80/images").iterdir())[:20]]
    for suffix, size, batch in (("onnx", None, None), ("pt2", (192, 256), 3)):
        request = Request(suffix, str(tmp_path / f"detector.{suffix}"), images, size, batch)
        _, agreement = export_checkpoint(str(file), request)
        assert agreement is not None
        print(f"{kind} {suffix}\n{agreement}")
        assert agreement.images == 20
        assert agreement.detections > 2000
        assert agreement.holds
