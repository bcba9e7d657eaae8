"""The report of one run: what it is, how well it detects, where it fails, how it was trained."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from pathlib import Path

from yacs.config import CfgNode

from labelenc.config import ConfigError, detector_kind
from labelenc.data import DataError
from labelenc.reports.evaluated_set import add_set
from labelenc.reports.method import add_method
from labelenc.reports.page import Page
from labelenc.reports.run_folder import Run, read_run
from labelenc.reports.tables import duration
from labelenc.reports.training import add_training

logger = logging.getLogger(__name__)

REPORT_FOLDER = "report"
_KINDS = {
    "baseline": "baseline",
    "step1": "LabelEnc step 1",
    "step2": "LabelEnc step 2",
    "evaluation": "evaluation of a checkpoint",
    "other": "run",
}


def write_run_report(cfg: CfgNode, output_dir: str | os.PathLike[str]) -> Path:
    """Write ``output_dir/report/index.html``, and its pictures beside it, from the files of a finished run.

    Every set below ``output_dir/inference`` has its part. Where the annotations of a set can't be read any
    more, its part has the numbers of the evaluation alone. Reads no weights; decodes only images that are
    shown.

    Raises:
        ReportError: files of the run that are broken.
    """
    run = read_run(output_dir, cfg=cfg)
    kind = _KINDS.get(run.kind, run.kind)
    page = Page(run.name if kind == run.name else f"{run.name}: {kind}", _summary_line(run))
    page.add_facts(_facts(run))
    for name in sorted(run.sets, key=lambda name: (run.sets[name].is_reconstruction, name)):
        add_set(page, run, run.sets[name])
    if not run.sets:
        page.add_heading("Evaluation").add_text(
            "This run has no evaluation yet. tools/test_net.py makes one and writes this page again."
        )
    add_training(page, [run])
    add_method(page, run)
    page.add_heading("Configuration").add_text("Everything this run was told, defaults included.")
    with page.folded("config.yml"):
        page.add_preformatted(cfg.dump())
    return page.write(run.folder / REPORT_FOLDER / "index.html")


def report_of_folder(folder: str | os.PathLike[str]) -> Path:
    """`write_run_report` with the configuration that the folder holds; returns the page's path."""
    return write_run_report(read_run(folder).cfg, folder)


def report_after_run(cfg: CfgNode, rank: int) -> None:
    """`write_run_report` of OUTPUT_DIR, on rank 0 and unless TEST.REPORT is False.

    Whatever goes wrong is logged: the run itself is finished. Call it after the processes have parted, so
    that none waits for the page.
    """
    if rank != 0 or not cfg.TEST.REPORT:
        return
    try:
        logger.info("report: %s", write_run_report(cfg, cfg.OUTPUT_DIR))
    except (ConfigError, DataError) as error:
        logger.warning("there is no report of this run: %s", error)
    except Exception:
        logger.exception(
            "there is no report of this run, though its weights and numbers are complete; tools/report.py %s "
            "tries again",
            cfg.OUTPUT_DIR,
        )


def _summary_line(run: Run) -> str:
    for name, found in run.sets.items():
        ap = found.summary.numbers["AP"]
        if ap is not None and not found.is_reconstruction:
            return f"AP {100 * ap:.1f} on {name}, {found.summary.num_images:,} images"
    return ""


def _facts(run: Run) -> list[tuple[str, str]]:
    cfg, facts = run.cfg, run.facts
    body = cfg.MODEL.BACKBONE.CONV_BODY
    known = [("Run", f"{_KINDS.get(run.kind, run.kind)} in {run.folder}")]
    if facts.get("config_file"):
        known.append(("Config file", str(facts["config_file"])))
    known.append(("Detector", f"{_detector_name(run)}, {body}"))
    if run.iterations:
        planned = facts.get("iterations")
        of = f" of {planned:,}" if planned and planned != run.iterations else ""
        known.append(
            (
                "Training",
                f"{run.iterations:,}{of} iterations of {run.images_per_iteration} images "
                f"({run.images_seen:,} images, repeats included), on {', '.join(cfg.DATASETS.TRAIN)}",
            )
        )
        known.append(("Training time", duration(run.seconds or 0.0)))
    if facts.get("label_encoding"):
        known.append(("Step 1's file", str(facts["label_encoding"])))
    if cfg.SEED >= 0:
        known.append(("Seed", str(cfg.SEED)))
    known.append(("Device", str(facts.get("device") or cfg.MODEL.DEVICE)))
    if facts.get("version"):
        known.append(("labelenc", str(facts["version"])))
    known.append(("Page made", datetime.now().strftime("%Y-%m-%d %H:%M")))
    return known


def _detector_name(run: Run) -> str:
    names = {"retinanet": "RetinaNet", "fcos": "FCOS", "faster_rcnn": "Faster R-CNN"}
    return names[detector_kind(run.cfg)]
