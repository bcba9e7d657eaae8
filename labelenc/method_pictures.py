"""See the method: what steps 1 and 2 compare, drawn for a few images before, while and after training."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor
from yacs.config import CfgNode

from labelenc import data, engine, ops, testing, visualization
from labelenc.engine import MetricsWriter
from labelenc.modeling import Detector
from labelenc.structures import Batch, BoxList, DatasetInfo
from labelenc.supervision import LabelEncStep1, LabelEncStep2, compared_levels
from labelenc.visualization import Scene, boxes_panel, distance_panel, label_map_panel, map_panel, strip

logger = logging.getLogger(__name__)

FOLDER = "method"
# One fine level and one coarse; every level would be many pictures of the same.
SHOWN_LEVELS = ("P3", "P5")
SHOWN_SCORE = 0.3

StepModel = LabelEncStep1 | LabelEncStep2


@dataclass(frozen=True)
class Level:
    """One pyramid level of one image, on the CPU: what is compared, (C, h, w), and how far apart, (h, w)."""

    features: Tensor
    encodings: Tensor
    distance: Tensor


@dataclass(frozen=True)
class View:
    """What there is to see of one image.

    ``label_map`` has the channels of the classes ``labels`` alone; ``found`` are step 1's detections from
    the encodings and step 2's from the image. ``levels`` has those of SHOWN_LEVELS, ``distances`` the mean
    distance of every level.
    """

    image_id: int
    scene: Scene
    label_map: Tensor
    labels: list[int]
    found: BoxList
    levels: dict[str, Level]
    distances: dict[str, float]
    mean_distance: float


@dataclass(frozen=True)
class When:
    """Which weights are seen; as text, for titles and captions. ``run`` is "step1" or "step2"."""

    run: str
    iteration: int
    averaged: bool

    def __str__(self) -> str:
        step = "step 1" if self.run == "step1" else "step 2"
        passed = f"after {self.iteration} iterations" if self.iteration else "before training"
        return f"{step} {passed}" + (", averaged weights" if self.averaged and self.iteration else "")


@dataclass(frozen=True)
class Strip:
    """A picture with what is to be said about it; ``level`` is None for what belongs to no level."""

    picture: np.ndarray
    caption: str
    level: str | None


def painter(cfg: CfgNode, model: Detector, writer: MetricsWriter, test: bool) -> Callable[[int], None] | None:
    """``paint(updates done)`` for a run of step 1 or 2; None where TEST.METHOD_IMAGES or the model has none.

    Call it on all processes; rank 0 draws, the others wait. It writes the folder ``method/iteration_<n>`` of
    OUTPUT_DIR: strips of pictures, ``pictures.json``, which lists them, and ``summary.json``, the distances.
    TensorBoard gets a picture per image. Model and gradients are left as they are.

    Args:
        cfg: of the run, with the classes of the data.
        model: as it is trained.
        writer: receives the pictures for TensorBoard.
        test: choose the images from DATASETS.TEST, not DATASETS.TRAIN.
    """
    if not isinstance(model, LabelEncStep1 | LabelEncStep2) or not cfg.TEST.METHOD_IMAGES:
        return None
    names = (*(cfg.DATASETS.TEST if test else ()), *cfg.DATASETS.TRAIN)
    examples: list[tuple[DatasetInfo, list[Batch]]] = []

    def paint(iteration: int) -> None:
        if not examples:
            examples.append(data.read_examples(cfg, names, cfg.TEST.METHOD_IMAGES))
        [(info, batches)] = examples
        with engine.evaluating(model):
            views = [view(cfg, model, batch) for batch in batches]
        folder = Path(cfg.OUTPUT_DIR) / FOLDER / f"iteration_{iteration:07d}"
        _drop_later(folder)
        run = "step1" if isinstance(model, LabelEncStep1) else "step2"
        sheets = write_views(folder, views, info, When(run, iteration, cfg.SOLVER.EMA_DECAY > 0))
        writer.images(iteration, sheets)
        means = ", ".join(f"{one.mean_distance:.3f}" for one in views)
        logger.info("drew %s (distance of each image: %s)", folder, means)

    return lambda iteration: engine.on_main(partial(paint, iteration))


def view(cfg: CfgNode, model: StepModel, batch: Batch) -> View:
    """See one image, the only one of ``batch`` (uint8, on the CPU), with a model in eval mode."""
    device = next(model.parameters()).device
    images, target = testing.prepare(cfg, batch.images.to(device)), batch.targets[0].to(device)
    height, width = images.tensors.shape[-2:]
    features = model.backbone(images.tensors)
    encodings = model.label_encoding_function([target], (height, width))
    [found] = model.detect(images, encodings if isinstance(model, LabelEncStep1) else features)
    levels, distances, total = {}, {}, 0.0
    finest = round(math.log2(height / features[0].shape[-2]))
    pairs = compared_levels(features, encodings, model.feature_adapt)
    for number, (adapted, encoding) in enumerate(pairs, start=finest):
        distance = (adapted - encoding).square().mean(dim=1)[0].cpu()
        name = f"P{number}"
        if name in SHOWN_LEVELS:
            levels[name] = Level(_finite(adapted[0]), _finite(encoding[0]), distance)
        distances[name] = float(distance.mean())
        total += float(distance.sum())
    cells = sum(feature.shape[-2] * feature.shape[-1] for feature in features)
    labels = target.cpu_field("labels")
    drawn, _, channels = ops.compact_label_map(
        [target.bbox], [labels], model.label_encoding_function.body.num_classes, height, width
    )
    rows, columns = images.image_sizes[0]
    pixels = batch.images.tensors[0, :, :rows, :columns].permute(1, 2, 0).numpy()
    pixels = np.ascontiguousarray(pixels if cfg.INPUT.TO_BGR255 else pixels[..., ::-1])
    found = found.to("cpu")
    scene = Scene(pixels, batch.targets[0], (width, height))
    return View(
        batch.image_ids[0],
        scene,
        drawn.cpu(),
        (channels + 1).tolist(),
        found[found.get_field("scores") >= SHOWN_SCORE],
        levels,
        distances,
        total / cells,
    )


def _finite(level: Tensor) -> Tensor:
    # Untrained or diverging networks may overflow, and colours of nothing are no reason to end a run.
    return level.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).cpu()


def write_views(folder: Path, views: Sequence[View], info: DatasetInfo, when: When) -> dict[str, np.ndarray]:
    """Write the strips of all views, and the lists of them; gives a sheet of the strips of each image."""
    pictures: list[dict[str, Any]] = []
    sheets = {}
    colours = _colours(views)
    for one in views:
        strips = [_labels_strip(one, info, when)]
        strips += [_features_strip(one, name, colours[name].pop(0), when) for name in one.levels]
        for found in strips:
            file = f"image_{one.image_id}_{found.level or 'labels'}.png"
            _write_file(folder / file, cv2.imencode(".png", found.picture)[1].tobytes())
            kind = "features" if found.level else "labels"
            entry = {"file": file, "caption": found.caption, "image_id": one.image_id}
            pictures.append({**entry, "level": found.level, "kind": kind})
        sheets[f"{FOLDER}/image_{one.image_id}"] = np.concatenate([found.picture for found in strips])
    distances = [
        {"image_id": one.image_id, "level": level, "distance": _number(distance)}
        for one in views
        for level, distance in one.distances.items()
    ]
    mean = {str(one.image_id): _number(one.mean_distance) for one in views}
    summary = {"iteration": when.iteration, "run": when.run, "dataset": info.name}
    _write_json(folder / "summary.json", {**summary, "distances": distances, "mean": mean})
    # The last: who finds it finds everything that it lists.
    _write_json(folder / "pictures.json", pictures)
    return sheets


def _colours(views: Sequence[View]) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Of each level and view the encodings and features as colours, on the basis of all views' encodings."""
    found = {}
    for name in views[0].levels:
        encodings = [one.levels[name].encodings for one in views]
        features = [one.levels[name].features for one in views]
        images = visualization.features_to_images([*encodings, *features], encodings)
        found[name] = list(zip(images[: len(views)], images[len(views) :], strict=True))
    return found


def _labels_strip(one: View, info: DatasetInfo, when: When) -> Strip:
    step1 = when.run == "step1"
    finder = "the head on the encodings" if step1 else "the detector on the image"
    scene, names = one.scene, info.class_names
    panels = [
        boxes_panel(scene, scene.boxes, names, "image and labels"),
        label_map_panel(scene, one.label_map, one.labels, names, "label map"),
        boxes_panel(scene, one.found, names, f"{finder}, scores >= {SHOWN_SCORE}"),
    ]
    finds = (
        "what the head detects from the encodings of the labels, without the image"
        if step1
        else "what the detector finds in the image"
    )
    caption = (
        f"Image {one.image_id} of {info.name}, {when}: the image with its labels; its label map, where the "
        f"colour is the class and its strength the value; {finds} (scores of at least {SHOWN_SCORE})."
    )
    return Strip(strip(f"image {one.image_id}, {when}", panels), caption, None)


def _features_strip(one: View, name: str, colours: tuple[np.ndarray, np.ndarray], when: When) -> Strip:
    scene, distance = one.scene, one.distances[name]
    panels = [
        map_panel(scene, colours[0], f"{name}: encodings of the labels"),
        map_panel(scene, colours[1], f"{name}: adapted image features"),
        distance_panel(scene, one.levels[name].distance, "distance"),
    ]
    basis = (
        "other iterations have other colours, because the encoder learns"
        if when.run == "step1"
        else "the same at every iteration, because the encoder is frozen"
    )
    caption = (
        f"Image {one.image_id}, level {name}, {when}. Encodings of the labels and adapted image features, "
        "normalised as the distance loss does it, in the colours of the three main directions of the "
        f"encodings of all pictured images ({basis}); equal colours are equal projections. Right: the "
        "squared difference at each position, averaged over the channels; 0 is equal, about 2 unrelated. Its "
        f"mean over this level is {distance:.3f}."
    )
    title = f"image {one.image_id}, {when}: distance {distance:.3f} at {name}"
    return Strip(strip(title, panels), caption, name)


def _drop_later(folder: Path) -> None:
    """Pictures of iterations that this run has not reached are of one that was lost, as in metrics.jsonl."""
    for other in folder.parent.glob("iteration_" + 7 * "[0-9]"):
        if other.name > folder.name:
            shutil.rmtree(other, ignore_errors=True)


def _write_file(path: Path, content: bytes) -> None:
    engine.replace_file(path, lambda stream: stream.write(content))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_json(path: Path, content: Any) -> None:
    _write_file(path, (json.dumps(content, indent=1) + "\n").encode())
