"""Which runs a study consists of: their configurations, folders and the commands that train them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

import labelenc
from labelenc.config import load_config, with_values

TOOLS = {
    "baseline": "train_net.py",
    "step1": "train_labelenc_step1.py",
    "step2": "train_labelenc_step2.py",
}
# What step 1 hands over, in its folder.
LABEL_ENCODING_FILE = "label_encoding_function.pth"
COMPARISON = "comparison"
_SCALED_ONCE = ("BASE_LR", "AUTO_SCALE", "REFERENCE_IMS_PER_BATCH")


class StudyError(ValueError):
    """A study that cannot be planned, timed or gone on with; the message says why and what to do."""


@dataclass(frozen=True)
class Stage:
    """One training run.

    ``name`` is that of its folder, ``title`` is for readers; ``kind`` is "baseline", "step1" or "step2";
    ``command`` trains it, resumes it or, once it is finished, only evaluates it.
    """

    name: str
    title: str
    kind: str
    cfg: CfgNode
    command: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def iterations(self) -> int:
        """Updates in all; step 1's warm-up iterations come on top of SOLVER.MAX_ITER."""
        return self.cfg.SOLVER.MAX_ITER + self.extra_iterations

    @property
    def extra_iterations(self) -> int:
        return self.cfg.MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS if self.kind == "step1" else 0

    @property
    def images(self) -> int:
        return self.iterations * self.cfg.SOLVER.IMS_PER_BATCH


@dataclass(frozen=True)
class Study:
    """The runs of a study in order, and the command that compares them; its folder is OUTPUT_DIR."""

    cfg: CfgNode
    processes: int
    stages: tuple[Stage, ...]
    comparison: tuple[str, ...]


def plan_study(
    config_file: str,
    opts: Sequence[str],
    cfg: CfgNode,
    *,
    baseline: bool = True,
    equal_budget: bool = False,
    controls: bool = False,
    processes: int = 1,
) -> Study:
    """The runs that are asked for; touches no file.

    Args:
        config_file: the yaml file of all runs.
        opts: KEY VALUE overrides of all runs.
        cfg: what both make together; the runs' folders lie in its OUTPUT_DIR.
        baseline: train the plain detector first.
        equal_budget: also a baseline with the iterations of step 1 and step 2 together.
        controls: also step 2 without the auxiliary loss, and step 2 without what step 1 trained.
        processes: per run, on this machine.
    """
    if not cfg.DATASETS.TEST:
        raise StudyError("DATASETS.TEST is empty, so nothing could be compared; name a data set to test on")
    root = Path(cfg.OUTPUT_DIR)
    common = _without_output_dir(opts)
    handed = ("--labelenc", str(root / "step1" / LABEL_ENCODING_FILE))

    def stage(name: str, title: str, kind: str, values: dict[str, Any]) -> Stage:
        values = {"OUTPUT_DIR": str(root / name), **values}
        words = ["--config-file", config_file, *(handed if kind == "step2" else ()), *common]
        words += [word for key, value in values.items() for word in (key, str(value))]
        command = launched(TOOLS[kind], words, processes)
        return Stage(name, title, kind, with_values(cfg, values), tuple(command))

    stages = [stage("baseline", "baseline", "baseline", {})] if baseline else []
    stages.append(stage("step1", "step 1", "step1", {}))
    stages.append(stage("step2", "step 2", "step2", {}))
    if equal_budget:
        title = "baseline, iterations of both steps"
        as_written = load_config(config_file, [*opts, "SOLVER.AUTO_SCALE", "False"])
        stages.append(stage("baseline_equal_budget", title, "baseline", _both_steps(cfg, as_written)))
    if controls:
        key = "MODEL.LABELENC."
        no_loss, no_start = {f"{key}AUXILIARY_LOSS_ITERS": 0}, {f"{key}START_FROM_STEP1": False}
        stages.append(stage("step2_no_auxiliary_loss", "step 2 without auxiliary loss", "step2", no_loss))
        stages.append(stage("step2_no_step1_start", "step 2 without step-1 start", "step2", no_start))
    folders = [str(each.folder) for each in stages]
    words = [tool_path("compare.py"), "--output", str(root / COMPARISON), *folders]
    return Study(cfg, processes, tuple(stages), (sys.executable, *words))


def launched(tool: str, words: Sequence[str], processes: int) -> list[str]:
    """The command that runs a tool in one process or, by torchrun, in several on this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [sys.executable, *(launcher if processes > 1 else ()), tool_path(tool), *words]


def tool_path(tool: str) -> str:
    """The file of a tool, as short as it can be written from here.

    Raises:
        StudyError: the package was installed without its checkout, so without the tools.
    """
    path = Path(labelenc.__file__).resolve().parents[1] / "tools" / tool
    if not path.is_file():
        raise StudyError(f"{path} does not exist; run a study from a checkout of labelenc, which has tools/")
    here = Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)


def shown(command: Sequence[str]) -> str:
    """A command as it can be pasted into a shell."""
    return shlex.join(command)


def _without_output_dir(opts: Sequence[str]) -> list[str]:
    pairs = zip(opts[::2], opts[1::2], strict=True)
    return [word for key, value in pairs if key != "OUTPUT_DIR" for word in (key, value)]


def _both_steps(cfg: CfgNode, as_written: CfgNode) -> dict[str, Any]:
    """The schedule of a baseline that has the iterations of step 1 and step 2 together."""
    old = cfg.SOLVER.MAX_ITER
    new = 2 * old + cfg.MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS
    values = {
        "SOLVER.MAX_ITER": new,
        "SOLVER.STEPS": tuple(round(step * new / old) for step in cfg.SOLVER.STEPS),
    }
    if cfg.SOLVER != as_written.SOLVER:
        # SOLVER.AUTO_SCALE has scaled these numbers already, and must not do it once more.
        values |= {f"SOLVER.{key}": cfg.SOLVER[key] for key in _SCALED_ONCE}
    return values
