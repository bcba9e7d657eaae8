"""Detections of batches as a configuration asks for them, and their evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from yacs.config import CfgNode

from labelenc import data, engine, evaluation
from labelenc.engine import Process
from labelenc.modeling import Detector
from labelenc.modeling.views import detect_views
from labelenc.structures import Batch, BoxList, DatasetInfo, ImageBatch

logger = logging.getLogger(__name__)

Metrics = dict[str, float | None]


def prepare(cfg: CfgNode, images: ImageBatch) -> ImageBatch:
    """The model's input: pixels normalised on the device, in the units that INPUT.TO_BGR255 chooses."""
    unit = 1.0 if cfg.INPUT.TO_BGR255 else 255.0
    mean, std = ([value * unit for value in values] for values in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
    return images.normalize(mean, std)


def evaluate_sets(
    cfg: CfgNode,
    model: Detector,
    process: Process,
    detect: Callable[[Batch], list[BoxList]] | None = None,
    suffix: str = "",
) -> Metrics:
    """AP on every set of DATASETS.TEST; ``detect`` takes the place of the model's own detections."""
    metrics: Metrics = {}
    rescaled = detect is None and cfg.TEST.BBOX_AUG.ENABLED
    detect = detect or partial(detect_batch, cfg, model)
    for info, loader in data.build_test_loaders(cfg, process.world_size, process.rank, rescaled):
        name = info.name + suffix
        found = engine.run_inference(model, loader, process, detect, name, info.num_images)
        numbers = engine.on_main(partial(_score, cfg, info, name, found))
        metrics.update({f"eval/{name}/{number}": value for number, value in numbers.items()})
    return metrics


def detect_batch(cfg: CfgNode, model: Detector, batch: Batch) -> list[BoxList]:
    """Detections from the images and, with TEST.BBOX_AUG, from their other views."""
    settings = cfg.TEST.BBOX_AUG
    views = [(batch.images, settings.ENABLED and settings.H_FLIP)]
    views += [(images, settings.SCALE_H_FLIP) for images in batch.rescaled or ()]
    return detect_views(model, ((prepare(cfg, images), mirrored) for images, mirrored in views))


def _score(cfg: CfgNode, info: DatasetInfo, name: str, found: dict[int, BoxList] | None) -> Metrics:
    assert found is not None  # rank 0 has them
    results = evaluation.to_coco_results(found, info.category_ids)
    summary = evaluation.evaluate_coco(data.coco_ground_truth(cfg, info.name), results)
    folder = evaluation.write_evaluation(cfg.OUTPUT_DIR, name, results, summary)
    logger.info("%s, %d images, written to %s\n%s", name, summary.num_images, folder, summary.table())
    return summary.numbers
