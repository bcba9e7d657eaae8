"""The training engine: loop, optimizer, checkpoints, processes, logging, inference."""

from labelenc.engine.average import WeightAverage, average_in_use, build_average
from labelenc.engine.checkpoint import Checkpointer, TrainingState, weight_to_evaluate
from labelenc.engine.distributed import (
    ParallelModel,
    Process,
    broadcast_object,
    close_distributed,
    is_main,
    on_main,
    reduce_mean,
    setup_distributed,
)
from labelenc.engine.download import DownloadError, fetch_weight
from labelenc.engine.execution import compile_parts, place
from labelenc.engine.faults import FaultError, explained_faults
from labelenc.engine.files import DESCRIPTION, CheckpointError, load_file, replace_file, save_atomic
from labelenc.engine.folder_lock import sole_use
from labelenc.engine.inference import evaluating, run_inference
from labelenc.engine.logging import METRICS_FILE, MetricsWriter, setup_logging
from labelenc.engine.loop import make_scaler, train
from labelenc.engine.optim import GradientClip, build_clip, build_optimizer, build_scheduler
from labelenc.engine.settings import LoopSettings, build_settings
from labelenc.engine.signals import Interrupted
from labelenc.engine.update import TrainingError

__all__ = [
    "DESCRIPTION",
    "METRICS_FILE",
    "CheckpointError",
    "Checkpointer",
    "DownloadError",
    "FaultError",
    "GradientClip",
    "Interrupted",
    "LoopSettings",
    "MetricsWriter",
    "ParallelModel",
    "Process",
    "TrainingError",
    "TrainingState",
    "WeightAverage",
    "average_in_use",
    "broadcast_object",
    "build_average",
    "build_clip",
    "build_optimizer",
    "build_scheduler",
    "build_settings",
    "close_distributed",
    "compile_parts",
    "evaluating",
    "explained_faults",
    "fetch_weight",
    "is_main",
    "load_file",
    "make_scaler",
    "on_main",
    "place",
    "reduce_mean",
    "replace_file",
    "run_inference",
    "save_atomic",
    "setup_distributed",
    "setup_logging",
    "sole_use",
    "train",
    "weight_to_evaluate",
]
