"""The published models: a stranger's file evaluates, and step 1 -> file -> step 2 -> evaluation runs.

The schedule is two iterations and the images are small; weights come from the parity recipe, because a
ResNet-101 with frozen normalisation explodes from random ones.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from labelenc import pipeline
from labelenc.config import load_config
from labelenc.modeling import build_detector
from labelenc.modeling.backbone.pretrained import load_weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# family -> [(the config whose step 1 it takes, the config)]; the table of published models.
TABLE = {
    "retinanet": [
        ("retinanet/retinanet_R-50-FPN_1x", "retinanet/retinanet_R-50-FPN_1x"),
        ("retinanet/retinanet_R-50-FPN_1x", "retinanet/retinanet_R-101-FPN_2x"),
        ("retinanet/retinanet_R-50-FPN_1x", "retinanet/retinanet_dcnv2_R-101-FPN_2x"),
    ],
    "fcos": [
        ("fcos/fcos_R_50_FPN_1x", "fcos/fcos_R_50_FPN_1x"),
        ("fcos/fcos_imprv_R_50_FPN_1x", "fcos/fcos_imprv_R_50_FPN_1x"),
        ("fcos/fcos_imprv_R_50_FPN_1x", "fcos/fcos_imprv_R_101_FPN_2x"),
        ("fcos/fcos_imprv_dcnv2_R_50_FPN_1x", "fcos/fcos_imprv_dcnv2_R_101_FPN_2x"),
    ],
    "faster_rcnn": [
        ("e2e_faster_rcnn_R_50_FPN_1x", "e2e_faster_rcnn_R_50_FPN_1x"),
        ("e2e_faster_rcnn_R_50_FPN_1x", "e2e_faster_rcnn_R_101_FPN_1x"),
        ("e2e_faster_rcnn_R_50_FPN_1x", "e2e_faster_rcnn_dcnv2_R_101_FPN_2x"),
    ],
}


@pytest.fixture(scope="module")
def few_images(shared_dir, tmp_path_factory):
    """Four images of coco_mini80, one with a crowd box, with all 80 categories."""
    data = shared_dir / "data/coco_mini80"
    content = json.loads((data / "annotations/train.json").read_text())
    crowded = [a["image_id"] for a in content["annotations"] if a["iscrowd"]][:1]
    chosen = crowded + [i["id"] for i in content["images"] if i["id"] not in crowded][:3]
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    path = tmp_path_factory.mktemp("few") / "annotations.json"
    path.write_text(json.dumps(content))
    return {"few": {"images": str(data / "images"), "annotations": str(path)}}


@pytest.fixture
def load(few_images, tmp_path):
    def make(config, out, *opts):
        words = {
            "MODEL.DEVICE": "cpu",
            "MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS": 1,
            "MODEL.LABELENC.AUXILIARY_LOSS_ITERS": 1,
            "DATASETS.REGISTER": few_images,
            "DATASETS.TRAIN": ("few",),
            "DATASETS.TEST": ("few",),
            "INPUT.MIN_SIZE_TRAIN": (96,),
            "INPUT.MAX_SIZE_TRAIN": 128,
            "INPUT.MIN_SIZE_TEST": 96,
            "INPUT.MAX_SIZE_TEST": 128,
            "INPUT.PIXEL_STD": [57.0, 57.0, 57.0],
            "DATALOADER.NUM_WORKERS": 0,
            "SOLVER.IMS_PER_BATCH": 2,
            "SOLVER.BASE_LR": 1e-5,
            "SOLVER.MAX_ITER": 2,
            "SOLVER.STEPS": (),
            "OUTPUT_DIR": tmp_path / out,
            "TEST.METHOD_IMAGES": 0,
            "TEST.REPORT": False,
            "SEED": 1,
        }
        flat = [str(word) for pair in words.items() for word in pair]
        return load_config(CONFIGS / f"{config}.yaml", [*flat, *map(str, opts)])

    return make


@pytest.fixture
def stranger(recipe, tmp_path):
    """Write a detector's weights as the ancestors do: wrapped, named as under DistributedDataParallel."""

    def write(cfg):
        state = recipe.deterministic_weights(build_detector(cfg).state_dict())
        path = tmp_path / "stranger.pth"
        model = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"model": model, "optimizer": {"state": {}, "param_groups": []}, "iteration": 90000}, path)
        return path

    return write


@pytest.fixture
def evaluate(monkeypatch):
    """Evaluate; every tensor of the model must come from the file, which holds none that is unknown."""

    def run(cfg):
        reports = []
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "load_weights", lambda *a, **k: reports.append(load_weights(*a, **k)))
            numbers = pipeline.evaluate(cfg)
        [report] = reports
        assert report.missing == report.unexpected == report.mismatched == []
        return numbers["eval/few/AP"], report

    return run


def iterations_with(loss, folder):
    """Per iteration of a run whether it had this loss."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [loss in row for row in rows if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("family", TABLE)
def test_the_published_models_go_through_the_method(load, stranger, evaluate, tmp_path, family):
    encodings = {}
    step1, step2 = tmp_path / "step1", tmp_path / "step2"
    for source, config in TABLE[family]:
        if source not in encodings:
            pipeline.train_step1(load(source, "step1", "MODEL.WEIGHT", stranger(load(source, "none"))))
            assert iterations_with("loss_distance", step1) == [False, True, True]
            assert evaluate(load(source, "test", "MODEL.WEIGHT", step1 / "model_final.pth"))[0] >= 0
            encodings[source] = tmp_path / f"{len(encodings)}.pth"
            (step1 / "label_encoding_function.pth").rename(encodings[source])
            shutil.rmtree(step1)
        weights = stranger(load(config, "none"))
        precision, report = evaluate(load(config, "test", "MODEL.WEIGHT", weights))
        assert precision >= 0
        assert report.ignored == report.notes == []
        pipeline.train_step2(load(config, "step2", "MODEL.WEIGHT", weights), str(encodings[source]))
        assert iterations_with("loss_auxiliary", step2) == [True, False]
        assert evaluate(load(config, "test", "MODEL.WEIGHT", step2 / "model_final.pth"))[0] >= 0
        shutil.rmtree(step2)
