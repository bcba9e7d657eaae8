"""Data sets, loaders and checks."""

from labelenc.data.annotations import Annotations, DataError, Problem
from labelenc.data.build import (
    build_rescaling,
    build_test_dataset,
    build_test_loaders,
    build_train_loader,
    build_transform,
    check_datasets,
    coco_ground_truth,
    read_dataset_info,
)
from labelenc.data.check import log_problems, stop_if_unusable
from labelenc.data.coco import CocoDataset, Sample
from labelenc.data.samplers import Draw
from labelenc.data.shapes import generate_shapes
from labelenc.data.transforms import Transform

__all__ = [
    "Annotations",
    "CocoDataset",
    "DataError",
    "Draw",
    "Problem",
    "Sample",
    "Transform",
    "build_rescaling",
    "build_test_dataset",
    "build_test_loaders",
    "build_train_loader",
    "build_transform",
    "check_datasets",
    "coco_ground_truth",
    "generate_shapes",
    "log_problems",
    "read_dataset_info",
    "stop_if_unusable",
]
