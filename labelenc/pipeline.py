"""Where everything meets: a configuration becomes data, a model, a training run and its evaluation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from labelenc import data, engine, method_pictures, reports, supervision, testing
from labelenc.config import changed_keys, linear_rule_advice, with_num_classes, with_values
from labelenc.description import (
    CONFIG_FILE,
    check_same_classes,
    check_same_heads,
    config_of_weight,
    describe,
    differences,
    record_evaluation,
    record_run,
)
from labelenc.engine import Checkpointer, Process, TrainingState
from labelenc.modeling import Detector, build_detector
from labelenc.modeling.backbone.norm import synchronise_batch_norm
from labelenc.modeling.backbone.pretrained import load_weights
from labelenc.structures import Batch, BoxList
from labelenc.testing import Metrics

logger = logging.getLogger(__name__)

LABEL_ENCODING_FILE = "label_encoding_function.pth"


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


def evaluate(cfg: CfgNode | None, opts: Sequence[str] = ()) -> Metrics:
    """Evaluate a checkpoint of any kind on DATASETS.TEST.

    The weights are MODEL.WEIGHT; where that is empty or a ``catalog://`` name (a start for training), the
    newest checkpoint of OUTPUT_DIR. Without ``cfg`` they carry their configuration, which the ``KEY VALUE``
    pairs ``opts`` override.
    """
    cfg = cfg or config_of_weight(opts)
    with _process(cfg) as process:
        _check_data(cfg, train=False, test=True)
        info = data.read_dataset_info(cfg, cfg.DATASETS.TEST)
        cfg = with_num_classes(cfg, info.num_classes, info.name)
        model = build_detector(cfg)
        weight = engine.weight_to_evaluate(cfg.MODEL.WEIGHT, cfg.OUTPUT_DIR)
        content = engine.load_file(weight)
        load_weights(model, content, weight, complete=True)
        _warn_of_differences(content, weight, cfg)
        check_same_classes(content, weight, info)
        engine.on_main(lambda: record_evaluation(cfg, info))
        metrics = testing.evaluate_sets(cfg, engine.place(model, process.device, cfg.DTYPE), process)
    reports.report_after_run(cfg, process.rank)
    return metrics


@contextlib.contextmanager
def _process(cfg: CfgNode) -> Iterator[Process]:
    process = engine.setup_distributed(cfg.MODEL.DEVICE)
    engine.setup_logging(cfg.OUTPUT_DIR, process.rank)
    with engine.explained_faults(process):
        yield process
    # Not after an error: closing may wait for processes that wait for this one.
    engine.close_distributed()


def _run(cfg: CfgNode, recipe: Recipe, skip_test: bool) -> Metrics:
    with _process(cfg) as process, engine.sole_use(cfg.OUTPUT_DIR):
        tests = bool(cfg.DATASETS.TEST) and not skip_test
        _check_data(cfg, train=True, test=tests)
        info = data.read_dataset_info(cfg, cfg.DATASETS.TRAIN)
        cfg = with_num_classes(cfg, info.num_classes, info.name)
        checkpointer = Checkpointer(cfg.OUTPUT_DIR, recipe.kind)
        model, state = _start(cfg, recipe, checkpointer, process)
        cfg = with_values(cfg, {"SEED": cfg.SEED if cfg.SEED >= 0 else state.extra["seed"]})
        description = checkpointer.description = describe(cfg, recipe.kind, info)
        settings = engine.build_settings(cfg, recipe.extra_iters)
        max_iter = settings.max_iter
        if state.iteration < max_iter:
            engine.on_main(lambda: _announce(cfg, recipe, description, state.iteration, max_iter))
        numbers = (state.iteration, max_iter, cfg.SOLVER.LOG_PERIOD, process.rank)
        parallel = engine.ParallelModel(model, process)
        with engine.MetricsWriter(cfg.OUTPUT_DIR, *numbers) as writer:
            metrics = engine.train(
                state,
                lambda batch, k: parallel(
                    testing.prepare(cfg, batch.images), batch.targets, **model.begin_iteration(k)
                ),
                data.build_train_loader(cfg, process.world_size, process.rank, state.iteration, max_iter),
                settings,
                process=process,
                checkpointer=checkpointer,
                writer=writer,
                evaluate=(lambda _: testing.evaluate_sets(cfg, model, process)) if tests else None,
                show=method_pictures.painter(cfg, model, writer, tests),
                no_sync=parallel.no_sync,
            )
            with engine.average_in_use(state.average):
                if isinstance(model, supervision.LabelEncStep1):
                    path = Path(cfg.OUTPUT_DIR) / LABEL_ENCODING_FILE
                    handed = {**supervision.export_label_encoding(model), engine.DESCRIPTION: description}
                    engine.on_main(lambda: engine.save_atomic(handed, path))
                    logger.info("wrote %s, which step 2 starts from", path)
                if not tests:
                    return {}
                missing = _final_test(cfg, model, process, evaluated=metrics is not None)
            if missing:
                writer.evaluation(state.iteration, missing)
    reports.report_after_run(cfg, process.rank)
    return {**(metrics or {}), **missing}


def _check_data(cfg: CfgNode, train: bool, test: bool) -> None:
    problems = data.check_datasets(cfg, train=train, test=test)
    data.log_problems(problems)
    data.stop_if_unusable(problems)


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
            content = engine.load_file(path)
            load_weights(model, content, path, inputs=cfg.INPUT)
            _warn_of_differences(content, path, cfg)
        if recipe.label_encoding is not None:
            handed = engine.load_file(recipe.label_encoding)
            encoder_only = not cfg.MODEL.LABELENC.START_FROM_STEP1
            if not encoder_only:
                check_same_heads(handed, recipe.label_encoding, cfg)
            supervision.load_label_encoding(model, handed, recipe.label_encoding, encoder_only)
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


def _warn_of_differences(content: Mapping[str, Any], source: str, cfg: CfgNode) -> None:
    for difference in differences(content, source, cfg):
        logger.warning("%s was trained with another configuration: %s", source, difference)


def _announce(
    cfg: CfgNode, recipe: Recipe, description: Mapping[str, Any], start: int, max_iter: int
) -> None:
    written = Path(cfg.OUTPUT_DIR) / CONFIG_FILE
    for change in changed_keys(written, cfg) if start else ():
        logger.warning("this run resumes with another configuration: %s", change)
    record_run(cfg, description, max_iter, recipe.label_encoding)
    images = f"iterations {start + 1} to {max_iter} of {cfg.SOLVER.IMS_PER_BATCH} images"
    logger.info("%s: %s, seed %d, configuration in %s", recipe.kind, images, cfg.SEED, written)
    advice = [linear_rule_advice(cfg)]
    if recipe.kind == "step1":
        advice.append(supervision.step1_advice(cfg.SOLVER.MAX_ITER, recipe.extra_iters))
    elif recipe.kind == "step2":
        advice.append(supervision.step2_advice(max_iter, cfg.MODEL.LABELENC.AUXILIARY_LOSS_ITERS))
    for sentence in filter(None, advice):
        logger.warning(sentence)


def _final_test(cfg: CfgNode, model: Detector, process: Process, evaluated: bool) -> Metrics:
    results = {} if evaluated else testing.evaluate_sets(cfg, model, process)
    if isinstance(model, supervision.LabelEncStep1):

        def reconstruct(batch: Batch) -> list[BoxList]:
            return model.reconstruct(testing.prepare(cfg, batch.images), batch.targets)

        results.update(testing.evaluate_sets(cfg, model, process, reconstruct, "_reconstruction"))
    return results
