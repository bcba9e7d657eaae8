"""The demo: baseline, step 1 and step 2 on generated images, and the report that compares them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from yacs.config import CfgNode

from labelenc import data, engine, evaluation, ops, pipeline, testing, visualization
from labelenc.config import ConfigError, load_config, with_num_classes
from labelenc.evaluation import CocoSummary, RunResult
from labelenc.structures import Batch, BoxList, DatasetInfo, ImageBatch
from labelenc.supervision import LabelEncStep1

logger = logging.getLogger(__name__)

TRAIN_IMAGES, VAL_IMAGES, IMAGE_SIZE, DATA_SEED = 1000, 200, 128, 1
SHOWN_IMAGES, SHOWN_SCORE, MAGNIFY = 6, 0.3, 3
BASELINE, STEP1, STEP2 = "baseline", "step 1 (auxiliary detector)", "step 2"
RECONSTRUCTION = "step 1 (reconstruction)"


def run_demo(config_file: str, output_dir: str = "exps/demo") -> Path:
    """Generate the images, train and evaluate the three runs below ``output_dir``, and write the report.

    Runs that are finished already are not trained again. Returns the report's path.
    """
    folder = Path(output_dir)
    configs = {
        name: load_config(config_file, ["OUTPUT_DIR", str(folder / name)])
        for name in ("baseline", "step1", "step2")
    }
    root = _shapes_root(configs["baseline"])
    data.generate_shapes(root, "train", TRAIN_IMAGES, IMAGE_SIZE, DATA_SEED)
    data.generate_shapes(root, "val", VAL_IMAGES, IMAGE_SIZE, DATA_SEED)
    started = time.perf_counter()
    pipeline.train_baseline(configs["baseline"])
    pipeline.train_step1(configs["step1"])
    label_encoding = folder / "step1" / pipeline.LABEL_ENCODING_FILE
    pipeline.train_step2(configs["step2"], str(label_encoding))
    logger.info("trained and evaluated in %.0f s", time.perf_counter() - started)
    report = write_report(configs, folder / "report.html")
    table = ap_table(configs)
    print(f"\n{table}\n\nreport: {report}")
    return report


def _shapes_root(cfg: CfgNode) -> str:
    name = cfg.DATASETS.TRAIN[0]
    if name not in cfg.DATASETS.REGISTER:
        raise ConfigError(
            f"the demo draws its data where DATASETS.REGISTER.{name} says; add it to the config"
        )
    return str(Path(cfg.DATASETS.REGISTER[name]["annotations"]).parent)


def ap_table(configs: Mapping[str, CfgNode]) -> str:
    """The AP of the runs as text."""
    lines = [f"{'run':<28} {'AP':>5} {'AP50':>5} {'AP75':>5}"]
    for run in _results(configs, {}):
        numbers = (evaluation.format_percent(run.summary.numbers[name]) for name in ("AP", "AP50", "AP75"))
        lines.append(f"{run.name:<28} " + " ".join(f"{number:>5}" for number in numbers))
    return "\n".join(lines)


def write_report(configs: Mapping[str, CfgNode], path: Path) -> Path:
    """The report of three finished runs: tables, curves, detections, label maps and encodings."""
    names = dict(zip(configs, (BASELINE, STEP1, STEP2), strict=True))
    colours = visualization.run_colours(names.values())
    rows = {
        names[key]: visualization.read_metrics(Path(cfg.OUTPUT_DIR) / "metrics.jsonl")
        for key, cfg in configs.items()
    }
    test_set = configs["baseline"].DATASETS.TEST[0]
    loss_names = ("loss_retina_cls", "loss_retina_reg", "loss_distance", "loss_auxiliary")
    curves = [
        (
            visualization.figure_png(visualization.plot_ap(rows, test_set, ("AP", "AP50"), colours)),
            "Average precision while training, on the validation images.",
        ),
        (
            visualization.figure_png(visualization.plot_losses(rows, loss_names, colours, window=15)),
            "The detection losses, step 1's distance loss, which sets in after its warm-up, and step 2's "
            "auxiliary loss, which ends before the training does; running means over 15 iterations.",
        ),
    ]
    info, batch = _some_images(configs["baseline"])
    report = evaluation.comparison_report(
        "LabelEnc demo: baseline, step 1, step 2",
        _results(configs, colours),
        introduction=_introduction(configs),
        curves=curves,
        detections=_detection_pictures(configs, info, batch),
        label_maps=_encoding_pictures(configs["step1"], info, batch),
        label_map_columns=4,
    )
    return report.write(path)


def _introduction(configs: Mapping[str, CfgNode]) -> list[str]:
    cfg = configs["step1"]
    warmup = cfg.MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS
    return [
        "Generated shapes, a small RetinaNet trained from scratch, a few minutes on a CPU.",
        f"{TRAIN_IMAGES} training and {VAL_IMAGES} validation images of {IMAGE_SIZE} pixels with "
        f"{len(data.shapes.SHAPE_NAMES)} classes of shapes. Baseline and step 2 train for "
        f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images; step 1 for {warmup} "
        "iterations more, during which its distance loss is off. All three share one configuration and one "
        "seed.",
    ]


def _results(configs: Mapping[str, CfgNode], colours: Mapping[str, str]) -> list[RunResult]:
    test_set = configs["baseline"].DATASETS.TEST[0]
    iterations = configs["baseline"].SOLVER.MAX_ITER
    longer = iterations + configs["step1"].MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS

    def summary(run: str, suffix: str = "") -> CocoSummary:
        path = Path(configs[run].OUTPUT_DIR) / "inference" / (test_set + suffix) / "results.json"
        return CocoSummary.from_dict(json.loads(path.read_text(encoding="utf-8")))

    def seconds(run: str) -> float:
        rows = visualization.read_metrics(Path(configs[run].OUTPUT_DIR) / "metrics.jsonl")
        return sum(row.get("time", 0.0) for row in rows)

    return [
        RunResult(
            BASELINE, "baseline", summary("baseline"), iterations, seconds("baseline"), colours.get(BASELINE)
        ),
        RunResult(STEP1, "step1", summary("step1"), longer, seconds("step1"), colours.get(STEP1)),
        RunResult(RECONSTRUCTION, "reconstruction", summary("step1", "_reconstruction"), longer),
        RunResult(STEP2, "step2", summary("step2"), iterations, seconds("step2"), colours.get(STEP2)),
    ]


def _some_images(cfg: CfgNode) -> tuple[DatasetInfo, Batch]:
    """The first test images with at least two objects."""
    info, loader = data.build_test_loaders(cfg, 1, 0)[0]
    chosen: list[tuple[torch.Tensor, BoxList, int, tuple[int, int]]] = []
    for batch in loader:
        entries = zip(batch.images.tensors, batch.targets, batch.image_ids, batch.original_sizes, strict=True)
        chosen += [entry for entry in entries if len(entry[1]) >= 2]
        if len(chosen) >= SHOWN_IMAGES:
            break
    pixels, targets, ids, sizes = zip(*chosen[:SHOWN_IMAGES], strict=True)
    images = ImageBatch.from_tensors(pixels)
    return info, Batch(images, list(targets), list(ids), list(sizes))


def _pixels(batch: Batch, index: int) -> np.ndarray:
    return np.ascontiguousarray(batch.images.tensors[index].permute(1, 2, 0).numpy())


def _detection_pictures(
    configs: Mapping[str, CfgNode], info: DatasetInfo, batch: Batch
) -> list[tuple[np.ndarray, str]]:
    found = {run: _read_predictions(configs[run], info, batch) for run in ("baseline", "step2")}
    pictures = []
    for index, target in enumerate(batch.targets):
        for boxes, caption in (
            (target, "ground truth"),
            (found["baseline"][index], BASELINE),
            (found["step2"][index], STEP2),
        ):
            picture = visualization.draw_boxes(
                _pixels(batch, index), boxes, info.class_names, score_threshold=SHOWN_SCORE, magnify=MAGNIFY
            )
            pictures.append((picture, f"image {batch.image_ids[index]}: {caption}"))
    return pictures


def _read_predictions(cfg: CfgNode, info: DatasetInfo, batch: Batch) -> list[BoxList]:
    path = Path(cfg.OUTPUT_DIR) / "inference" / info.name / "predictions.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    found = []
    for image_id, size in zip(batch.image_ids, batch.original_sizes, strict=True):
        mine = [entry for entry in entries if entry["image_id"] == image_id]
        boxes = BoxList([entry["bbox"] for entry in mine], size, mode="xywh")
        labels = [info.category_ids.index(entry["category_id"]) + 1 for entry in mine]
        boxes.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        boxes.add_field("scores", torch.tensor([entry["score"] for entry in mine]))
        found.append(boxes)
    return found


@torch.no_grad()
def _encoding_pictures(cfg: CfgNode, info: DatasetInfo, batch: Batch) -> list[tuple[np.ndarray, str]]:
    """Per image: the image, its label map, and P3 of its encoding and of its image features."""
    cfg = with_num_classes(cfg, info.num_classes, info.name)
    model = LabelEncStep1(cfg).eval()
    saved = engine.load_file(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    model.load_state_dict(saved["model_ema"] or saved["model"])
    images = testing.prepare(cfg, batch.images)
    size = images.tensors.shape[-2:]
    labels = [target.get_field("labels") for target in batch.targets]
    maps = ops.label_map([target.bbox for target in batch.targets], labels, info.num_classes, *size)
    encodings = model.encode(images, batch.targets)[0]
    features = model.feature_adapt(model.backbone(images.tensors)[0])
    pictures: list[tuple[np.ndarray, str]] = []
    for index in range(min(3, len(batch.targets))):
        colours = visualization.features_to_images(_normalised(encodings[index], features[index]))
        pictures += [
            (_enlarged(_pixels(batch, index)), f"image {batch.image_ids[index]}"),
            (_enlarged(visualization.label_map_image(maps[index])), "label map"),
            (_enlarged(colours[0]), "encoding of the labels, P3"),
            (_enlarged(colours[1]), "adapted image features, P3"),
        ]
    return pictures


def _normalised(*levels: torch.Tensor) -> Sequence[torch.Tensor]:
    # As the distance loss compares them.
    return [(level - level.mean()) / level.std() for level in levels]


def _enlarged(picture: np.ndarray) -> np.ndarray:
    factor = max(MAGNIFY * IMAGE_SIZE // picture.shape[0], 1)
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)
