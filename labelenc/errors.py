"""What users can mend, and how it is told."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from labelenc.config import ConfigError
from labelenc.data import DataError
from labelenc.engine import CheckpointError, TrainingError
from labelenc.evaluation import EvaluationError
from labelenc.modeling.backbone.pretrained import WeightsError
from labelenc.supervision import HandoverError

USER_ERRORS = (
    CheckpointError,
    ConfigError,
    DataError,
    EvaluationError,
    HandoverError,
    TrainingError,
    WeightsError,
)


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """End the program with one message, not a traceback, where the user can mend the cause."""
    try:
        yield
    except USER_ERRORS as error:
        where = f"process {os.environ['RANK']}: " if os.environ.get("RANK", "0") != "0" else ""
        raise SystemExit(f"error: {where}{error}") from None
