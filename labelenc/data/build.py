"""Configuration to data sets and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from yacs.config import CfgNode

from labelenc.config import ConfigError, resolve_dataset
from labelenc.data import voc
from labelenc.data.annotations import Annotations, DataError, Problem
from labelenc.data.check import NamedSet, category_difference, check_sets
from labelenc.data.coco import CocoDataset, ConcatenatedDataset, Sample
from labelenc.data.loading import fitting_workers, make_loader
from labelenc.data.parse import load_coco, read_json
from labelenc.data.samplers import TestBatchSampler, TrainBatchSampler
from labelenc.data.transforms import Transform
from labelenc.structures import Batch, DatasetInfo, ImageBatch

_FLIP_PROBABILITY = 0.5


def read_dataset_info(cfg: CfgNode, names: Sequence[str]) -> DatasetInfo:
    """What several sets have in common: their categories, and how many images they list together.

    Raises:
        DataError: a file can't be read, has a fault that stops training, or the sets differ in their
        categories.
    """
    if not names:
        raise ConfigError("no data set is named; write one in DATASETS.TRAIN or DATASETS.TEST")
    sets = [_load(cfg, name).require_sound() for name in names]
    for other in sets[1:]:
        difference = category_difference(sets[0], other)
        if difference is not None:
            raise DataError(f"{difference}. Sets used together must have the same categories")
    return DatasetInfo(
        name="+".join(names),
        categories=sets[0].categories,
        annotation_file=_annotation_file(cfg, names[0]),
        num_images=sum(len(part) for part in sets),
    )


def build_train_loader(
    cfg: CfgNode, num_replicas: int, rank: int, start_iteration: int, max_iter: int
) -> DataLoader[Batch]:
    """The batches of iterations `start_iteration` to `max_iter`, this process's share of each.

    `cfg.SEED` must be resolved (>= 0). For each iteration there are SOLVER.ACCUMULATION_STEPS micro-batches,
    which together hold SOLVER.IMS_PER_BATCH // num_replicas images.
    """
    if cfg.SEED < 0:
        raise ConfigError(f"SEED is {cfg.SEED}; draw one before the loaders are built")
    read_dataset_info(cfg, cfg.DATASETS.TRAIN)
    parts = [_dataset(cfg, name, training=True) for name in cfg.DATASETS.TRAIN]
    dataset = ConcatenatedDataset(parts)
    sampler = TrainBatchSampler(
        dataset.aspect_groups() if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
        len(dataset),
        _divisible_batch(cfg, num_replicas),
        cfg.SEED,
        start_iteration,
        max_iter,
        num_replicas,
        rank,
        cfg.SOLVER.ACCUMULATION_STEPS,
    )
    return _loader(cfg, dataset, sampler)


def build_test_loaders(
    cfg: CfgNode, num_replicas: int, rank: int, rescaled: bool = False
) -> list[tuple[DatasetInfo, DataLoader[Batch]]]:
    """One loader for each set of DATASETS.TEST; over all processes every image comes exactly once.

    Processes may have different numbers of batches. Each batch holds at most TEST.IMS_PER_BATCH //
    num_replicas images (at least one). With `rescaled` it also has the images at the sizes of
    TEST.BBOX_AUG.SCALES, if there are any.
    """
    loaders: list[tuple[DatasetInfo, DataLoader[Batch]]] = []
    for name in cfg.DATASETS.TEST:
        dataset = _dataset(cfg, name, training=False, rescaled=rescaled)
        groups = dataset.aspect_groups() if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
        batch_size = max(cfg.TEST.IMS_PER_BATCH // num_replicas, 1)
        sampler = TestBatchSampler(groups, len(dataset), batch_size, num_replicas, rank)
        loaders.append((dataset.info, _loader(cfg, dataset, sampler)))
    return loaders


def build_test_dataset(cfg: CfgNode, name: str) -> CocoDataset:
    """The images of one set, at the size for testing; every image is in it."""
    return _dataset(cfg, name, training=False)


def read_examples(cfg: CfgNode, names: Sequence[str], count: int) -> tuple[DatasetInfo, list[Batch]]:
    """The first images with at least two boxes, or with one where there are too few, at their test size.

    Returns:
        About the first of the sets `names` that has boxes, and at most `count` batches of one image of it.
    """
    for name in names:
        dataset = _dataset(cfg, name, training=False)
        boxes = dataset.box_counts()
        fullest_first = np.argsort(-np.minimum(boxes, 2), kind="stable")
        chosen = fullest_first[boxes[fullest_first] > 0][:count]
        if len(chosen):
            break
    samples = [dataset[int(index)] for index in chosen]
    batches = [
        Batch(
            ImageBatch.from_tensors([sample.image], cfg.DATALOADER.SIZE_DIVISIBILITY),
            [sample.target],
            [sample.image_id],
            [sample.original_size],
        )
        for sample in samples
    ]
    return dataset.info, batches


def check_datasets(cfg: CfgNode, full: bool = False, train: bool = True, test: bool = True) -> list[Problem]:
    """All problems of the sets in DATASETS.TRAIN and DATASETS.TEST; see `stop_if_unusable`.

    Args:
        full: decode every image; otherwise a few dozen of each set.
        train: look at DATASETS.TRAIN.
        test: look at DATASETS.TEST.
    """
    return check_sets(named_sets(cfg, train, test), full)


def named_sets(cfg: CfgNode, train: bool = True, test: bool = True) -> list[NamedSet]:
    """The sets of DATASETS.TRAIN and DATASETS.TEST, each once; nothing is read yet."""
    names = list(cfg.DATASETS.TRAIN if train else ())
    names += [name for name in (cfg.DATASETS.TEST if test else ()) if name not in names]
    if not names:
        raise ConfigError("no data set is named; write one in DATASETS.TRAIN or DATASETS.TEST")
    return [
        NamedSet(
            name=name,
            source=_source_file(cfg, name),
            image_dir=_image_dir(cfg, name),
            read=partial(_load, cfg, name),
            training=train and name in cfg.DATASETS.TRAIN,
            tested=test and name in cfg.DATASETS.TEST,
        )
        for name in names
    ]


def coco_ground_truth(cfg: CfgNode, name: str) -> dict[str, Any]:
    """The ground truth of a set as a COCO dictionary, for the evaluator.

    Faulty boxes stay as the file has them, so that results on COCO equal those of COCO's own evaluation. A
    set without annotations gets an empty list of them: it can be predicted on.
    """
    _load(cfg, name).require_sound()
    source = resolve_dataset(cfg, name)
    if source.kind == "voc":
        return voc.coco_form(source.images, str(source.split), source.classes)
    return {"annotations": [], **read_json(str(source.annotations), name)}


def _load(cfg: CfgNode, name: str) -> Annotations:
    source = resolve_dataset(cfg, name)
    if source.kind == "voc":
        return voc.load_voc(source.images, str(source.split), name, source.classes)
    return load_coco(str(source.annotations), name)


def _image_dir(cfg: CfgNode, name: str) -> str:
    source = resolve_dataset(cfg, name)
    return voc.image_dir(source.images) if source.kind == "voc" else source.images


def _annotation_file(cfg: CfgNode, name: str) -> str | None:
    return resolve_dataset(cfg, name).annotations


def _source_file(cfg: CfgNode, name: str) -> str:
    source = resolve_dataset(cfg, name)
    return source.annotations or source.images


def _dataset(cfg: CfgNode, name: str, training: bool, rescaled: bool = False) -> CocoDataset:
    return CocoDataset(
        _load(cfg, name),
        _image_dir(cfg, name),
        build_transform(cfg, training),
        training,
        _annotation_file(cfg, name),
        build_rescaling(cfg) if rescaled else None,
    )


def build_transform(cfg: CfgNode, training: bool) -> Transform:
    """What is done to the images of INPUT, for training or for testing."""
    if not training:
        return Transform((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST, bgr=cfg.INPUT.TO_BGR255)
    low, high = cfg.INPUT.MIN_SIZE_RANGE_TRAIN
    sizes = tuple(cfg.INPUT.MIN_SIZE_TRAIN) if low == -1 else tuple(range(low, high + 1))
    return Transform(sizes, cfg.INPUT.MAX_SIZE_TRAIN, _FLIP_PROBABILITY, cfg.INPUT.TO_BGR255)


def build_rescaling(cfg: CfgNode) -> list[Transform] | None:
    """To the further sizes of TEST.BBOX_AUG; None if there are none."""
    longest, bgr = cfg.TEST.BBOX_AUG.MAX_SIZE, cfg.INPUT.TO_BGR255
    return [Transform((size,), longest, bgr=bgr) for size in cfg.TEST.BBOX_AUG.SCALES] or None


def _divisible_batch(cfg: CfgNode, num_replicas: int) -> int:
    """SOLVER.IMS_PER_BATCH, if every process and micro-batch can have the same number of images."""
    images, steps = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS
    if images % (num_replicas * steps):
        each = f" times SOLVER.ACCUMULATION_STEPS {steps}" if steps > 1 else ""
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {images}, which cannot be split over {num_replicas} processes{each}; "
            f"use a multiple of {num_replicas * steps}"
        )
    return images


def _loader(cfg: CfgNode, dataset: Dataset[Sample], sampler: Sampler) -> DataLoader[Batch]:
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available()
    return make_loader(
        dataset,
        sampler,
        fitting_workers(cfg.DATALOADER.NUM_WORKERS, on_gpu),
        cfg.DATALOADER.SIZE_DIVISIBILITY,
        pin_memory=on_gpu,
    )
