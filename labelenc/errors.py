"""What users can mend, and how it is told."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from labelenc.config import ConfigError
from labelenc.data import DataError
from labelenc.engine import CheckpointError, FaultError, Interrupted, TrainingError
from labelenc.evaluation import EvaluationError
from labelenc.export.errors import ExportError
from labelenc.modeling.backbone.pretrained import WeightsError
from labelenc.prediction import PredictionError
from labelenc.reports import ReportError
from labelenc.study import StudyError
from labelenc.supervision import HandoverError

USER_ERRORS = (
    CheckpointError,
    ConfigError,
    DataError,
    EvaluationError,
    ExportError,
    FaultError,
    HandoverError,
    ReportError,
    PredictionError,
    StudyError,
    TrainingError,
    WeightsError,
)


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """End the program with one message, not a traceback, where the user can mend the cause or asked for it.

    The exit status is 1 after an error, and 128 + the number of the signal that asked the program to end.
    """
    try:
        yield
    except Interrupted as stop:
        # Logged already.
        raise SystemExit(128 + stop.signum) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except USER_ERRORS as error:
        where = f"process {os.environ['RANK']}: " if os.environ.get("RANK", "0") != "0" else ""
        raise SystemExit(f"error: {where}{error}") from None
