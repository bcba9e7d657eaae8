"""The part of a run's page on one evaluated set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from labelenc.config import ConfigError
from labelenc.data import DataError, coco_ground_truth
from labelenc.evaluation import Analysis, EvaluationError, analyse
from labelenc.reports.analysis_parts import (
    add_calibration,
    add_confusion,
    add_errors,
    add_precision_recall,
    add_sizes,
)
from labelenc.reports.notes import RunResult
from labelenc.reports.page import Page, Picture
from labelenc.reports.pictures import SetPictures, by_image
from labelenc.reports.run_folder import EvaluatedSet, Run
from labelenc.reports.tables import add_class_table, add_number_table

logger = logging.getLogger(__name__)

_WORST_IMAGES = 8
_RECONSTRUCTION_GUIDE = (
    "No images were looked at here: these are the detections of step 1's head on the encodings of the "
    "labels themselves. They should be nearly perfect (AP above 90), or step 2 has little to learn from; "
    "where they are not, train step 1 longer. Objects that are lost here are lost to step 2, too: look at "
    "which sizes and classes these are."
)
_NUMBERS_GUIDE = (
    "AP is the number to compare detectors by. AP50 far above AP75 means that objects are found but boxes "
    "are loose. A low APs says that small objects are missed: larger input images (INPUT.MIN_SIZE_TEST and "
    "MIN_SIZE_TRAIN) help most. AR is the recall when detections of all scores count; AR far above AP means "
    "that false detections, not missed ones, cost most."
)
_CLASSES_GUIDE = (
    "A class with few objects has an AP that says little. A class with many objects and low AP deserves a "
    "look at its labels and at its row of the confusion matrix. Many more detections than objects are "
    "normal: detections of the lowest scores are counted too."
)
_IMAGES_GUIDE = (
    "The images on which most goes wrong: missed objects, sure false detections, loose boxes. Left the "
    "truth, right the detections above the recommended threshold. Look for what they have in common, and "
    "check the truth first: missing or wrong labels are a frequent cause, and mending them pays twice."
)
_CHANGED = (
    "The annotations of this set have changed since the evaluation. The numbers of AP and recall are those "
    "of the evaluation, all else is what the annotations give now; evaluate again with tools/test_net.py."
)
_UNLABELLED_GUIDE = "Some images with the detections of a score of at least {threshold:.2f}."


def add_set(page: Page, run: Run, found: EvaluatedSet) -> None:
    """Numbers, curves, causes of errors and the worst images of one evaluated set.

    Where the annotations can't be read any more, the numbers alone.
    """
    what = "reconstruction of the labels" if found.is_reconstruction else "evaluation"
    page.add_heading(f"{found.dataset}: {what}")
    if found.is_reconstruction:
        page.add_guide(_RECONSTRUCTION_GUIDE)
    result = RunResult(found.name, "other", found.summary, 0)
    try:
        truth = coco_ground_truth(run.cfg, found.dataset)
        numbers = analyse(truth, found.detections, score_threshold=None)
    except (ConfigError, DataError, EvaluationError, OSError) as error:
        _add_numbers(page, result, None)
        page.add_text(f"Curves and images are left out, because the truth of this set can't be read: {error}")
        return
    page.add_data(f"numbers_{found.name}", numbers.to_dict())
    if not found.agrees_with(numbers.summary):
        page.add_text(_CHANGED)
    if result.ap is None:
        _add_unlabelled(page, found)
    else:
        _add_numbers(page, result, numbers)
    if result.ap is not None and not found.detections:
        page.add_text(
            "There is not a single detection, so there are no curves to show. A detector that was hardly "
            "trained, or whose training went wrong (see the losses), gives such a result; so does an input "
            "that is not prepared as in training (INPUT.PIXEL_MEAN, TO_BGR255)."
        )
    elif result.ap is not None:
        one = {found.name: numbers}
        prefix = found.name
        add_precision_recall(page, one, prefix)
        add_sizes(page, one, prefix)
        if not found.is_reconstruction:
            add_calibration(page, one, prefix)
            add_confusion(page, numbers, prefix)
        add_errors(page, one, prefix)
    _add_images(page, run, found, numbers)


def _add_unlabelled(page: Page, found: EvaluatedSet) -> None:
    page.add_cards([("images", found.summary.num_images), ("detections", len(found.detections))])
    page.add_text(
        "This set has no annotations, so there is nothing to score against: numbers, curves and errors are "
        "left out. The detections are in predictions.json."
    )


def _add_numbers(page: Page, result: RunResult, numbers: Analysis | None) -> None:
    summary = result.summary
    shown: list[tuple[str, Any]] = [(name, summary.numbers[name]) for name in ("AP", "AP50", "AP75", "AR100")]
    shown.append(("images", summary.num_images))
    shown.append(("objects", sum(row.boxes for row in summary.per_class)))
    shown.append(("detections", sum(row.detections for row in summary.per_class)))
    if numbers is not None and numbers.calibration.best is not None:
        shown.append(("score threshold", f"{numbers.calibration.best.threshold:.2f}"))
    page.add_cards(shown).add_heading("AP and recall", 3).add_guide(_NUMBERS_GUIDE)
    add_number_table(page, [result])
    page.add_heading("Classes", 3).add_guide(_CLASSES_GUIDE)
    add_class_table(page, summary)


def _add_images(page: Page, run: Run, found: EvaluatedSet, numbers: Analysis) -> None:
    try:
        pictures = SetPictures(run.cfg, found.dataset)
    except (ConfigError, DataError) as error:
        logger.warning("%s: the report has no pictures: %s", found.name, error)
        return
    quality, entries = numbers.images, by_image(found.detections)
    chosen, captions, left = quality.worst(_WORST_IMAGES), image_captions(numbers), "truth"
    if found.summary.numbers["AP"] is None:
        most_first = sorted(pictures.image_ids, key=lambda i: -len(entries.get(i, ())))
        chosen = most_first[:_WORST_IMAGES]
        captions = {image_id: f"{len(entries.get(image_id, ())):,} of any score" for image_id in chosen}
        left = "no labels"
        page.add_heading("Some images", 3)
        page.add_guide(_UNLABELLED_GUIDE.format(threshold=quality.score_threshold))
    elif chosen:
        page.add_heading("Worst images", 3).add_guide(_IMAGES_GUIDE)
    shown: list[tuple[Picture, str]] = []
    for image_id in chosen:
        runs = {f"detections, {captions[image_id]}": entries}
        shown += pictures.side_by_side(image_id, runs, [quality.score_threshold], left)
    page.add_images(shown, 2, f"{found.name}_worst")


def image_captions(numbers: Analysis) -> Mapping[int, str]:
    """Image id -> how many detections are right, false, and how many objects are missed."""
    images = numbers.images
    counts = zip(
        images.image_ids.tolist(),
        images.true_positives.tolist(),
        images.false_positives.tolist(),
        images.false_negatives.tolist(),
        strict=True,
    )
    return {
        image_id: f"{right} right, {false} false, {missed} missed"
        for image_id, right, false, missed in counts
    }
