"""Where everything meets: a configuration becomes data, a model, a training run and its evaluation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from yacs.config import CfgNode

from labelenc import data, engine, evaluation, supervision
from labelenc.config import changed_keys, linear_rule_advice, with_num_classes, with_values
from labelenc.engine import Checkpointer, Process, TrainingState
from labelenc.modeling import Detector, build_detector
from labelenc.modeling.backbone.norm import synchronise_batch_norm
from labelenc.modeling.backbone.pretrained import load_weights
from labelenc.modeling.views import detect_views
from labelenc.structures import Batch, BoxList, DatasetInfo, ImageBatch

logger = logging.getLogger(__name__)

LABEL_ENCODING_FILE = "label_encoding_function.pth"
Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Recipe:
    """In what the three kinds of training differ.

    ``extra_iters`` come on top of SOLVER.MAX_ITER; ``label_encoding`` is the step-1 file to start from.
    """

    kind: str
    build: Callable[[CfgNode], Detector]
    extra_iters: int = 0
    label_encoding: str | None = None


def train_baseline(cfg: CfgNode, skip_test: bool = False) -> Metrics:
    """Train the plain detector; returns ``eval/<data set>/<number>`` of the final evaluation."""
    return _run(cfg, Recipe("baseline", build_detector), skip_test)


def train_step1(cfg: CfgNode, skip_test: bool = False) -> Metrics:
    """Train the label encoding function and write ``label_encoding_function.pth`` to OUTPUT_DIR.

    The AP is the auxiliary detector's; ``eval/<data set>_reconstruction/AP`` is that of the head on the
    encodings of the labels themselves.
    """
    warmup = cfg.MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS
    return _run(cfg, Recipe("step1", supervision.LabelEncStep1, extra_iters=warmup), skip_test)


def train_step2(cfg: CfgNode, label_encoding: str, skip_test: bool = False) -> Metrics:
    """Train the final detector from step 1's file ``label_encoding``."""
    return _run(cfg, Recipe("step2", supervision.LabelEncStep2, label_encoding=label_encoding), skip_test)


def evaluate(cfg: CfgNode) -> Metrics:
    """Evaluate a checkpoint of any kind on DATASETS.TEST.

    The weights are MODEL.WEIGHT; where that is empty or a ``catalog://`` name (a start for training), the
    newest checkpoint of OUTPUT_DIR.
    """
    with _process(cfg) as process:
        _check_data(cfg, train=False, test=True)
        cfg = _with_classes_of_data(cfg, cfg.DATASETS.TEST)
        model = build_detector(cfg)
        weight = engine.weight_to_evaluate(cfg.MODEL.WEIGHT, cfg.OUTPUT_DIR)
        load_weights(model, engine.load_file(weight), weight, complete=True)
        return _evaluate_sets(cfg, engine.place(model, process.device, cfg.DTYPE), process)


@contextlib.contextmanager
def _process(cfg: CfgNode) -> Iterator[Process]:
    process = engine.setup_distributed(cfg.MODEL.DEVICE)
    engine.setup_logging(cfg.OUTPUT_DIR, process.rank)
    with engine.explained_faults(process):
        yield process
    # Not after an error: closing may wait for processes that wait for this one.
    engine.close_distributed()


def _run(cfg: CfgNode, recipe: Recipe, skip_test: bool) -> Metrics:
    with _process(cfg) as process:
        tests = bool(cfg.DATASETS.TEST) and not skip_test
        _check_data(cfg, train=True, test=tests)
        cfg = _with_classes_of_data(cfg, cfg.DATASETS.TRAIN)
        checkpointer = Checkpointer(cfg.OUTPUT_DIR, recipe.kind)
        model, state = _start(cfg, recipe, checkpointer, process)
        cfg = with_values(cfg, {"SEED": cfg.SEED if cfg.SEED >= 0 else state.extra["seed"]})
        settings = engine.build_settings(cfg, recipe.extra_iters)
        max_iter = settings.max_iter
        if state.iteration < max_iter:
            engine.on_main(lambda: _announce(cfg, recipe, state.iteration, max_iter))
        numbers = (state.iteration, max_iter, cfg.SOLVER.LOG_PERIOD, process.rank)
        parallel = engine.ParallelModel(model, process)
        with engine.MetricsWriter(cfg.OUTPUT_DIR, *numbers) as writer:
            metrics = engine.train(
                state,
                lambda batch, k: parallel(
                    prepare(cfg, batch.images), batch.targets, **model.begin_iteration(k)
                ),
                data.build_train_loader(cfg, process.world_size, process.rank, state.iteration, max_iter),
                settings,
                process=process,
                checkpointer=checkpointer,
                writer=writer,
                evaluate=(lambda _: _evaluate_sets(cfg, model, process)) if tests else None,
                no_sync=parallel.no_sync,
            )
            with engine.average_in_use(state.average):
                if isinstance(model, supervision.LabelEncStep1):
                    path = Path(cfg.OUTPUT_DIR) / LABEL_ENCODING_FILE
                    engine.on_main(lambda: engine.save_atomic(supervision.export_label_encoding(model), path))
                    logger.info("wrote %s, which step 2 starts from", path)
                if not tests:
                    return {}
                missing = _final_test(cfg, model, process, evaluated=metrics is not None)
            if missing:
                writer.evaluation(state.iteration, missing)
        return {**(metrics or {}), **missing}


def _check_data(cfg: CfgNode, train: bool, test: bool) -> None:
    problems = data.check_datasets(cfg, train=train, test=test)
    data.log_problems(problems)
    data.stop_if_unusable(problems)


def _with_classes_of_data(cfg: CfgNode, names: tuple[str, ...]) -> CfgNode:
    info = data.read_dataset_info(cfg, names)
    return with_num_classes(cfg, info.num_classes, info.name)


def _start(
    cfg: CfgNode, recipe: Recipe, checkpointer: Checkpointer, process: Process
) -> tuple[Detector, TrainingState]:
    """Model and state to train from: with initial weights, or those of the newest checkpoint."""
    seed = cfg.SEED if cfg.SEED >= 0 else engine.broadcast_object(torch.seed() % 2**31)
    torch.manual_seed(seed)
    model = recipe.build(cfg)
    if engine.on_main(checkpointer.last_path) is None:
        if cfg.MODEL.WEIGHT:
            path = engine.fetch_weight(cfg.MODEL.WEIGHT)
            load_weights(model, engine.load_file(path), path, inputs=cfg.INPUT)
        if recipe.label_encoding is not None:
            encoder_only = not cfg.MODEL.LABELENC.START_FROM_STEP1
            content = engine.load_file(recipe.label_encoding)
            supervision.load_label_encoding(model, content, recipe.label_encoding, encoder_only)
    if cfg.MODEL.USE_SYNCBN and process.world_size > 1:
        synchronise_batch_norm(model)
    engine.place(model, process.device, cfg.DTYPE)
    engine.compile_parts(model, supervision.COMPILED_PARTS if cfg.SOLVER.COMPILE else ())
    optimizer = engine.build_optimizer(cfg, model)
    scheduler = engine.build_scheduler(cfg, optimizer, recipe.extra_iters)
    scaler = engine.make_scaler(cfg.DTYPE, process.device)
    average = engine.build_average(cfg, model)
    state = TrainingState(model, optimizer, scheduler, scaler, extra={"seed": seed}, average=average)
    torch.manual_seed(seed + process.rank)
    checkpointer.load_latest(state)
    return model, state


def _announce(cfg: CfgNode, recipe: Recipe, start: int, max_iter: int) -> None:
    written = Path(cfg.OUTPUT_DIR) / "config.yml"
    for change in changed_keys(written, cfg) if start else ():
        logger.warning("this run resumes with another configuration: %s", change)
    engine.replace_file(written, lambda stream: stream.write(cfg.dump().encode()))
    images = f"iterations {start + 1} to {max_iter} of {cfg.SOLVER.IMS_PER_BATCH} images"
    logger.info("%s: %s, seed %d, configuration in %s", recipe.kind, images, cfg.SEED, written)
    advice = [linear_rule_advice(cfg)]
    if recipe.kind == "step1":
        advice.append(supervision.step1_advice(cfg.SOLVER.MAX_ITER, recipe.extra_iters))
    elif recipe.kind == "step2":
        advice.append(supervision.step2_advice(max_iter, cfg.MODEL.LABELENC.AUXILIARY_LOSS_ITERS))
    for sentence in filter(None, advice):
        logger.warning(sentence)


def prepare(cfg: CfgNode, images: ImageBatch) -> ImageBatch:
    """The model's input: pixels normalised on the device, in the units that INPUT.TO_BGR255 chooses."""
    unit = 1.0 if cfg.INPUT.TO_BGR255 else 255.0
    mean, std = ([value * unit for value in values] for values in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
    return images.normalize(mean, std)


def _final_test(cfg: CfgNode, model: Detector, process: Process, evaluated: bool) -> Metrics:
    results = {} if evaluated else _evaluate_sets(cfg, model, process)
    if isinstance(model, supervision.LabelEncStep1):

        def reconstruct(batch: Batch) -> list[BoxList]:
            return model.reconstruct(prepare(cfg, batch.images), batch.targets)

        results.update(_evaluate_sets(cfg, model, process, reconstruct, "_reconstruction"))
    return results


def check(cfg: CfgNode, full: bool = False) -> None:
    """Log every problem of DATASETS.TRAIN and DATASETS.TEST; raises DataError if one stops training.

    ``full`` decodes every image, not a few dozen of each set.
    """
    engine.setup_logging(None)
    problems = data.check_datasets(cfg, full=full)
    data.log_problems(problems, show=len(problems))
    data.stop_if_unusable(problems)
    logger.info("%d problems, none of which stops training", len(problems))


def _evaluate_sets(
    cfg: CfgNode,
    model: Detector,
    process: Process,
    detect: Callable[[Batch], list[BoxList]] | None = None,
    suffix: str = "",
) -> Metrics:
    """AP on every set of DATASETS.TEST; ``detect`` takes the place of the model's own detections."""
    metrics: Metrics = {}
    rescaled = detect is None and cfg.TEST.BBOX_AUG.ENABLED
    detect = detect or partial(_detect, cfg, model)
    for info, loader in data.build_test_loaders(cfg, process.world_size, process.rank, rescaled):
        name = info.name + suffix
        found = engine.run_inference(model, loader, process, detect, name, info.num_images)
        numbers = engine.on_main(partial(_score, cfg, info, name, found))
        metrics.update({f"eval/{name}/{number}": value for number, value in numbers.items()})
    return metrics


def _detect(cfg: CfgNode, model: Detector, batch: Batch) -> list[BoxList]:
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
