"""Test-time augmentation from the configuration to the written predictions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import resize

from labelenc import pipeline
from labelenc.config import with_num_classes
from labelenc.modeling import build_detector
from labelenc.structures import ImageBatch

ROOT = Path(__file__).resolve().parents[2]
# Size (width, height) of a file -> its size at MIN_SIZE_TEST 64, at most 120 long, and at the scales 48 and
# 96, at most 140 long; worked out by hand.
SIZES = {
    (80, 64): [(80, 64), (60, 48), (120, 96)],
    (50, 70): [(64, 89), (48, 67), (96, 134)],
    (96, 40): [(120, 50), (115, 48), (139, 58)],
}
VIEWS = ("TEST.BBOX_AUG.ENABLED", True, "TEST.BBOX_AUG.SCALES", "(48, 96)", "TEST.BBOX_AUG.MAX_SIZE", 140)
# Even an untrained model has detections then.
SAYS_MUCH = ("MODEL.RETINANET.INFERENCE_TH", 0.001, "MODEL.RETINANET.PRE_NMS_TOP_N", 20)
MEAN = torch.tensor([102.9801, 115.9465, 122.7717])[:, None, None]
NMS_THRESHOLD, LIMIT = 0.4, 30


@pytest.fixture
def noise(tmp_path, seed):
    """A set of one image of noise per size: what DATASETS.REGISTER needs, and image id -> file."""
    rng = np.random.default_rng(seed)
    files, images = {}, []
    for number, (width, height) in enumerate(SIZES, start=1):
        files[number] = tmp_path / f"{number}.png"
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(files[number]), cv2.blur(pixels, (5, 5)))
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    categories = [{"id": 10 * k, "name": f"class {k}"} for k in (1, 2, 3)]
    content = {"images": images, "annotations": [], "categories": categories}
    (tmp_path / "noise.json").write_text(json.dumps(content))
    return {"noise": {"images": str(tmp_path), "annotations": str(tmp_path / "noise.json")}}, files


@pytest.fixture
def noise_cfg(tiny_cfg, noise, tmp_path):
    """The configuration of a random detector that is tested on the noise, and the detector."""
    words = ("DATASETS.REGISTER", noise[0], "DATASETS.TEST", "('noise',)", "INPUT.MAX_SIZE_TEST", 120)
    words += ("TEST.IMS_PER_BATCH", 1, "TEST.DETECTIONS_PER_IMG", LIMIT, "MODEL.RETINANET.PRE_NMS_TOP_N", 15)
    words += ("MODEL.WEIGHT", tmp_path / "random.pth")

    def make(*more):
        cfg = tiny_cfg(*words, *VIEWS, *more)
        model = build_detector(with_num_classes(cfg, 3, "the test")).eval()
        for parameter in model.rpn.head.parameters():
            torch.nn.init.normal_(parameter, 0, 0.05)
        torch.save({"model": model.state_dict()}, tmp_path / "random.pth")
        return cfg, model

    return make


def candidates_by_hand(model, file, size, mirrored):
    """Boxes as fractions of a view's width and height, scores and labels."""
    width, height = size
    pixels = torch.from_numpy(cv2.imread(str(file))).permute(2, 0, 1)
    if pixels.shape[1:] != (height, width):
        pixels = resize(pixels, [height, width], antialias=True)
    pixels = pixels.float() - MEAN
    if mirrored:
        pixels = pixels.flip(2)
    padded = torch.zeros(1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    padded[0, :, :height, :width] = pixels
    [found] = model.candidates(ImageBatch(padded, [(height, width)]), model.backbone(padded))
    boxes = found.bbox.clone()
    if mirrored:
        boxes[:, 0], boxes[:, 2] = width - 1 - found.bbox[:, 2], width - 1 - found.bbox[:, 0]
    boxes /= torch.tensor([width, height, width, height])
    return boxes, found.get_field("scores"), found.get_field("labels")


@pytest.fixture
def merged_by_hand(clear_nms):
    """What predictions.json must hold for an image: boxes, scores, labels; None where rounding may decide."""

    def merge(model, file, file_size, flips):
        views = [(SIZES[file_size][0], False)]
        views += [(SIZES[file_size][0], True)] if flips[0] else []
        for size in SIZES[file_size][1:]:
            views += [(size, mirrored) for mirrored in (False, True)[: 1 + flips[1]]]
        found = [candidates_by_hand(model, file, *view) for view in views]
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        seen = boxes * torch.tensor(SIZES[file_size][0]).repeat(2)
        keep = clear_nms(seen, scores, labels, NMS_THRESHOLD, LIMIT, gap=0)
        if keep is None:
            return None
        boxes = boxes[keep] * torch.tensor(file_size).repeat(2)
        boxes[:, 2:] += 1 - boxes[:, :2]
        return boxes, scores[keep], labels[keep]

    return merge


@pytest.mark.parametrize("flips", [(True, True), (True, False), (False, True), (False, False)])
@torch.no_grad()
def test_predictions_are_the_merge_by_hand(noise, noise_cfg, merged_by_hand, tmp_path, flips):
    flags = ("TEST.BBOX_AUG.H_FLIP", flips[0], "TEST.BBOX_AUG.SCALE_H_FLIP", flips[1])
    for _ in range(50):
        cfg, model = noise_cfg(*flags)
        expected = {
            number: merged_by_hand(model, noise[1][number], size, flips)
            for number, size in enumerate(SIZES, start=1)
        }
        if all(merged is not None for merged in expected.values()):
            break
    else:
        pytest.fail("no draw in which rounding decides nothing")
    pipeline.evaluate(cfg)
    entries = json.loads((tmp_path / "run/inference/noise/predictions.json").read_text())
    for number, (boxes, scores, labels) in expected.items():
        mine = [entry for entry in entries if entry["image_id"] == number]
        assert [entry["category_id"] for entry in mine] == (10 * labels).tolist()
        assert [entry["score"] for entry in mine] == pytest.approx(scores.tolist(), abs=1e-5)
        torch.testing.assert_close(torch.tensor([entry["bbox"] for entry in mine]), boxes, rtol=0, atol=5e-3)


def test_two_processes_predict_like_one(tiny_root, tiny_cfg, tmp_path, free_port):
    """Six images, so that each process has batches of its own."""
    words = [*VIEWS, "TEST.BBOX_AUG.H_FLIP", True, "TEST.BBOX_AUG.SCALE_H_FLIP", True]
    words += ["TEST.IMS_PER_BATCH", 2, "MODEL.NUM_CLASSES", 10, "MODEL.WEIGHT", tmp_path / "weights.pth"]
    words += SAYS_MUCH
    cfg = tiny_cfg(*words, out="one")
    torch.save({"model": build_detector(cfg).state_dict()}, tmp_path / "weights.pth")
    pipeline.evaluate(tiny_cfg(*words, "TEST.IMS_PER_BATCH", 1, out="one"))
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    tool = [str(ROOT / "tools/test_net.py"), "--config-file", str(tiny_root / "config.yaml")]
    done = subprocess.run(
        [sys.executable, *launch, *tool, *map(str, words), "OUTPUT_DIR", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (tmp_path / run / "inference/tiny_val/predictions.json" for run in ("one", "two"))
    assert one.read_text() == two.read_text()
    assert len(json.loads(one.read_text())) > 0


def test_step1_has_views_of_images_and_none_of_labels(tiny_cfg, tmp_path):
    words = ("SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()", "MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS", 1)
    words += SAYS_MUCH
    results = {}
    for run, more in {"plain": (), "views": (*VIEWS, "TEST.EVAL_PERIOD", 2)}.items():
        cfg = tiny_cfg(*words, *more, out=run)
        results[run] = pipeline.train_step1(cfg)
    texts = {
        (run, name): (tmp_path / run / "inference" / name / "predictions.json").read_text()
        for run in results
        for name in ("tiny_val", "tiny_val_reconstruction")
    }
    assert texts["plain", "tiny_val_reconstruction"] == texts["views", "tiny_val_reconstruction"]
    assert texts["plain", "tiny_val"] != texts["views", "tiny_val"]
    again = tiny_cfg(*words, *VIEWS, "MODEL.WEIGHT", tmp_path / "views/model_final.pth", out="again")
    pipeline.evaluate(again)
    assert (tmp_path / "again/inference/tiny_val/predictions.json").read_text() == texts["views", "tiny_val"]
