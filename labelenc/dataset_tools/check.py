"""The check of a data set by hand: its problems, its numbers, and a page that shows both."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from yacs.config import CfgNode

from labelenc import data, engine
from labelenc.config import detector_kind
from labelenc.data import Annotations, NamedSet, Problem, SetStatistics
from labelenc.data import voc as voc_folder
from labelenc.data.parse import load_coco
from labelenc.dataset_tools.page import Findings, Sizes, write_page

logger = logging.getLogger(__name__)

PAGE_FOLDER = "dataset_check"
# What the configs of COCO train and test at.
_USUAL_SIZES = Sizes(train=(800, 1333), test=(800, 1333))


def check_config(cfg: CfgNode, full: bool = False, output: str | None = None, samples: int = 24) -> None:
    """Check DATASETS.TRAIN and DATASETS.TEST.

    Logs every problem, the numbers of each set and advice, and writes ``index.html`` with pictures.

    Args:
        cfg: the configuration.
        full: decode every image, not a few dozen of each set.
        output: folder of the page; None: OUTPUT_DIR/dataset_check, or no page where OUTPUT_DIR is not set.
        samples: images on each set's contact sheet, more where a class would not be seen; 0: no sheet.

    Raises:
        DataError: a problem stops training; the page is written before.
    """
    if output is None and cfg.OUTPUT_DIR != ".":
        output = str(Path(cfg.OUTPUT_DIR, PAGE_FOLDER))
    smallest, reason = _smallest_box(cfg)
    low, high = cfg.INPUT.MIN_SIZE_RANGE_TRAIN
    largest = max(cfg.INPUT.MIN_SIZE_TRAIN) if low == -1 else high
    sizes = Sizes(
        train=(largest, cfg.INPUT.MAX_SIZE_TRAIN),
        test=(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
        smallest_box=smallest,
        reason=reason,
    )
    _check(data.named_sets(cfg), sizes, full, output, samples)


def check_coco_file(
    images: str, annotations: str, full: bool = False, output: str | None = None, samples: int = 24
) -> None:
    """Check a COCO file and its image folder as a training set; as `check_config`, but without a config."""
    name = Path(annotations).stem
    part = NamedSet(name, annotations, images, partial(load_coco, annotations, name), True, True)
    _check([part], _USUAL_SIZES, full, output, samples)


def check_voc_folder(
    root: str, split: str, full: bool = False, output: str | None = None, samples: int = 24
) -> None:
    """Check a split of a Pascal VOC folder as a training set; as `check_config`, but without a config."""
    read = partial(voc_folder.load_voc, root, split, split)
    part = NamedSet(split, root, voc_folder.image_dir(root), read, True, True)
    _check([part], _USUAL_SIZES, full, output, samples)


def _check(sets: Sequence[NamedSet], sizes: Sizes, full: bool, output: str | None, samples: int) -> None:
    engine.setup_logging(None)
    problems = data.check_sets(sets, full)
    data.log_problems(problems, show=len(problems))
    unreadable = {problem.dataset for problem in problems if problem.kind == "unusable annotations"}
    readable = [(part, part.read()) for part in sets if part.name not in unreadable]
    if readable:
        _describe(readable, problems, sizes, output, samples)
    data.stop_if_unusable(problems)
    logger.info("%d problems, none of which stops training", len(problems))


def _describe(
    readable: Sequence[tuple[NamedSet, Annotations]],
    problems: Sequence[Problem],
    sizes: Sizes,
    output: str | None,
    samples: int,
) -> None:
    statistics = [data.set_statistics(annotations, part.training) for part, annotations in readable]
    found = Findings(readable, statistics, problems, _advice(readable, statistics, sizes))
    for part in statistics:
        logger.info(_summary(part, sizes))
    for sentence in found.advice:
        logger.warning(sentence)
    if output is None:
        logger.info("--output DIR writes a page with charts and pictures")
    else:
        logger.info("page with pictures: %s", write_page(found, sizes, Path(output), samples))


def _advice(
    readable: Sequence[tuple[NamedSet, Annotations]], statistics: Sequence[SetStatistics], sizes: Sizes
) -> list[str]:
    advice = data.dataset_advice(statistics)
    if sizes.smallest_box is not None:
        advice += [
            sentence
            for part in statistics
            if part.training
            and (sentence := data.small_box_advice(part, sizes.train, sizes.smallest_box, sizes.reason))
        ]
    both = [part.name for part, _ in readable if part.training and part.tested and len(readable) > 1]
    advice += [
        f"{name} is trained on and tested on: its AP says nothing about other images." for name in both
    ]
    training = [(found, part.image_dir) for part, found in readable if part.training]
    testing = [(found, part.image_dir) for part, found in readable if not part.training]
    shared = data.shared_images(training, testing) if training and testing else []
    if shared:
        cases = "".join(f"\n  {one} = {other}" for one, other in shared[:3])
        rest = f"\n  … and {len(shared) - 3} more" if len(shared) > 3 else ""
        advice.append(
            f"{len(shared)} test images are among the training images, so their AP is too good. Take them "
            f"out of one of the two:{cases}{rest}"
        )
    return advice


def _smallest_box(cfg: CfgNode) -> tuple[float, str]:
    """Square root of the area in pixels below which a box suits no reference of the detector, and why."""
    kind = detector_kind(cfg)
    if kind == "fcos":
        return float(cfg.MODEL.FCOS.FPN_STRIDES[0]), "the stride of FCOS's finest level"
    settings = cfg.MODEL.RETINANET if kind == "retinanet" else cfg.MODEL.RPN
    anchor, overlap = min(settings.ANCHOR_SIZES), settings.FG_IOU_THRESHOLD
    # The overlap of a box with a larger anchor is at most the quotient of the areas.
    return anchor * overlap**0.5, f"no anchor, of {anchor} pixels or more, reaches an IoU of {overlap:g}"


def _summary(part: SetStatistics, sizes: Sizes) -> str:
    """A few lines for the console."""
    small, medium, large = part.size_counts
    per_image = part.num_boxes / max(part.num_images, 1)
    lines = [
        f"{part.name}: {part.num_images} images ({part.num_empty} without a box), {part.num_boxes} boxes, "
        f"{per_image:.1f} an image, {len(part.class_names)} classes; {part.num_crowd} crowd boxes"
        + (f", {part.num_dropped} faulty boxes" if part.num_dropped else "")
    ]
    if part.num_boxes:
        ordered = sorted(part.resized_sides(*sizes.test))
        lines.append(
            f"  small {small}, medium {medium}, large {large} (COCO's borders 32 and 96); at the test size "
            f"of {sizes.test[0]}: smallest {ordered[0]:.0f}, median {ordered[len(ordered) // 2]:.0f}, "
            f"largest {ordered[-1]:.0f} pixels"
        )
        order = sorted(range(len(part.class_names)), key=lambda i: -part.class_boxes[i])
        names = [f"{part.class_names[i]} {part.class_boxes[i]}" for i in order]
        lines.append(
            "  " + ", ".join(names[:12]) + (f", … {len(names) - 12} more" if len(names) > 12 else "")
        )
    return "\n".join(lines)
