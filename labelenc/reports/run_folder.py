"""What a run left in its folder: configuration, facts, metrics, evaluated sets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from labelenc.config import load_config
from labelenc.evaluation import CocoSummary
from labelenc.visualization import read_metrics

RECONSTRUCTION = "_reconstruction"


class ReportError(ValueError):
    """A folder that no report can be made of, or runs that cannot be compared; the message says why."""


@dataclass(frozen=True)
class EvaluatedSet:
    """One folder below ``inference/``.

    ``name`` is the folder's, ``dataset`` the data set's: they differ for the reconstruction of labels in
    step 1 (``is_reconstruction``).
    """

    name: str
    folder: Path
    summary: CocoSummary

    @property
    def is_reconstruction(self) -> bool:
        return self.name.endswith(RECONSTRUCTION)

    @property
    def dataset(self) -> str:
        return self.name.removesuffix(RECONSTRUCTION)

    def agrees_with(self, summary: CocoSummary) -> bool:
        """Whether ``summary``, of the same detections, has the AP that the evaluation found."""
        found, now = self.summary.numbers["AP"], summary.numbers["AP"]
        return found == now if found is None or now is None else abs(found - now) < 1e-6

    @cached_property
    def detections(self) -> list[dict[str, Any]]:
        """The entries of predictions.json, in COCO's format."""
        return read_json(self.folder / "predictions.json")


@dataclass(frozen=True)
class Run:
    """One OUTPUT_DIR.

    ``kind`` is "baseline", "step1", "step2", "evaluation", or "other" where run.json does not tell;
    ``facts`` the content of run.json, empty without one; ``rows`` those of metrics.jsonl.
    """

    name: str
    folder: Path
    cfg: CfgNode
    kind: str
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    sets: Mapping[str, EvaluatedSet] = field(default_factory=dict)

    @property
    def iterations(self) -> int:
        """Updates done; 0 where nothing was trained here."""
        return max((row["iteration"] for row in self.rows if "loss" in row), default=0)

    @property
    def images_per_iteration(self) -> int:
        return int(self.facts.get("images_per_iteration") or self.cfg.SOLVER.IMS_PER_BATCH)

    @property
    def images_seen(self) -> int:
        return self.iterations * self.images_per_iteration

    @property
    def seconds(self) -> float | None:
        """Training time, without evaluations and checkpoints; None where nothing was trained here."""
        return sum(row.get("time", 0.0) for row in self.rows) if self.iterations else None


def read_run(folder: str | os.PathLike[str], name: str | None = None, cfg: CfgNode | None = None) -> Run:
    """Read a run's folder.

    Args:
        folder: the OUTPUT_DIR.
        name: what reports call the run; None takes the folder's name.
        cfg: the configuration; None reads the folder's config.yml.

    Raises:
        ReportError: no such folder, no config.yml, a file that is no JSON.
        ConfigError: a config.yml that cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ReportError(f"there is no folder {folder}; name the OUTPUT_DIR of a run")
    if cfg is None:
        if not (folder / "config.yml").is_file():
            raise ReportError(f"{folder} has no config.yml, so it is no run's folder; name an OUTPUT_DIR")
        cfg = load_config(folder / "config.yml")
    facts = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    metrics = folder / "metrics.jsonl"
    sets = {path.parent.name: path.parent for path in sorted(folder.glob("inference/*/results.json"))}
    return Run(
        name=name or folder.resolve().name,
        folder=folder,
        cfg=cfg,
        kind=facts.get("kind") or "other",
        facts=facts,
        rows=_rows(metrics) if metrics.is_file() else [],
        sets={name: EvaluatedSet(name, path, _summary(path)) for name, path in sets.items()},
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return read_metrics(path)
    except ValueError as error:
        raise ReportError(f"{error}; take the line out to make the report") from error


def _summary(folder: Path) -> CocoSummary:
    path = folder / "results.json"
    content = read_json(path)
    try:
        return CocoSummary.from_dict(content)
    except (KeyError, TypeError) as error:
        raise ReportError(f"{path} is not what an evaluation writes ({error!r}); evaluate again") from error


def read_json(path: Path, remedy: str = "evaluate again") -> Any:
    """The content of a file of the run; `ReportError` with the ``remedy`` where it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ReportError(f"{path} is missing; evaluate again with tools/test_net.py") from error
    except ValueError as error:
        raise ReportError(f"{path} is not valid JSON ({error}); {remedy}") from error
