"""Data sets, loaders and checks."""

from labelenc.data.advice import dataset_advice, small_box_advice
from labelenc.data.annotations import Annotations, DataError, Problem
from labelenc.data.build import (
    build_rescaling,
    build_test_dataset,
    build_test_loaders,
    build_train_loader,
    build_transform,
    check_datasets,
    coco_ground_truth,
    named_sets,
    read_dataset_info,
    read_examples,
)
from labelenc.data.check import NamedSet, check_sets, log_problems, stop_if_unusable
from labelenc.data.coco import CocoDataset, Sample
from labelenc.data.overlap import shared_images
from labelenc.data.samplers import Draw
from labelenc.data.shapes import generate_shapes
from labelenc.data.statistics import SetStatistics, choose_images, set_statistics
from labelenc.data.transforms import Transform

__all__ = [
    "Annotations",
    "CocoDataset",
    "DataError",
    "Draw",
    "NamedSet",
    "Problem",
    "Sample",
    "SetStatistics",
    "Transform",
    "build_rescaling",
    "build_test_dataset",
    "build_test_loaders",
    "build_train_loader",
    "build_transform",
    "check_datasets",
    "check_sets",
    "choose_images",
    "coco_ground_truth",
    "dataset_advice",
    "generate_shapes",
    "log_problems",
    "named_sets",
    "read_dataset_info",
    "read_examples",
    "set_statistics",
    "shared_images",
    "small_box_advice",
    "stop_if_unusable",
]
