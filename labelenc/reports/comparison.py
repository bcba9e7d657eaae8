"""Runs beside one another: numbers with intervals, curves, causes of errors, images on which they differ."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labelenc.data import coco_ground_truth
from labelenc.evaluation import Analysis, Bootstrap, analyse, bootstrap_ap
from labelenc.reports.analysis_parts import add_calibration, add_errors, add_precision_recall, add_sizes
from labelenc.reports.comparison_parts import (
    add_class_intervals,
    add_differing_images,
    add_intervals,
    add_runs,
    comparison_table,
)
from labelenc.reports.method import add_method
from labelenc.reports.notes import Role, RunResult, reading_notes
from labelenc.reports.page import Page
from labelenc.reports.run_folder import RECONSTRUCTION, ReportError, Run, read_run
from labelenc.reports.tables import add_class_comparison, add_number_table
from labelenc.reports.training import add_training
from labelenc.visualization import run_colours

_NUMBERS_GUIDE = (
    "In small print the difference to {first}, in points. A difference counts only as far as its interval "
    "allows: see below."
)
_CLASSES_GUIDE = (
    "A class with few objects moves by many points when one or two of them are found or lost. Trust a "
    "change that many classes share, or whose interval leaves out 0."
)


@dataclass(frozen=True)
class Comparison:
    """What `write_comparison` found out.

    ``results`` holds one entry for each run in the order given, and one for each reconstruction of labels
    after that of its run; ``bootstrap`` is None without resampling; ``path`` is that of the page.
    """

    dataset: str
    results: list[RunResult]
    bootstrap: Bootstrap | None
    path: Path

    def table(self) -> str:
        """The 12 numbers, intervals and differences as text for a terminal."""
        return comparison_table(self.dataset, self.results, self.bootstrap)


def write_comparison(
    runs: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    dataset: str | None = None,
    samples: int = 1000,
) -> Comparison:
    """Compare finished runs, from their folders, on a set that all were evaluated on.

    Args:
        runs: OUTPUT_DIRs; differences are to the first.
        path: of the page: an .html file, or the folder of an index.html. Its pictures are written beside it.
        names: what the page calls the runs; None takes the folders' names.
        dataset: the set to compare on; None takes the first that all were evaluated on.
        samples: resamples of the images for the intervals; 0 leaves intervals out.

    Raises:
        ReportError: no run's folder, names that are not as many as runs or not distinct, no common set.
        DataError, ConfigError, EvaluationError: annotations that can't be read or don't belong to the runs.
    """
    folders = [Path(run) for run in runs]
    found = [read_run(folder, name) for folder, name in zip(folders, _names(folders, names), strict=True)]
    dataset = _common_set(found, dataset)
    _check_same_truth(found, dataset)
    truth = coco_ground_truth(found[0].cfg, dataset)
    detections = {run.name: run.sets[dataset].detections for run in found}
    analyses = {name: analyse(truth, entries, score_threshold=None) for name, entries in detections.items()}
    _check_same_numbers(found, dataset, analyses)
    bootstrap = bootstrap_ap(truth, detections, samples) if samples else None
    path = Path(path) if str(path).endswith(".html") else Path(path) / "index.html"
    comparison = Comparison(dataset, _results(found, dataset), bootstrap, path)
    subtitle = (
        f"{dataset}, {comparison.results[0].summary.num_images:,} images; differences to {found[0].name}"
    )
    page = Page(" / ".join(run.name for run in found), subtitle)
    _fill(page, comparison, found, analyses)
    if bootstrap is not None:
        page.add_data("intervals", bootstrap.to_dict())
    page.write(path)
    return comparison


def _fill(page: Page, comparison: Comparison, runs: Sequence[Run], analyses: Mapping[str, Analysis]) -> None:
    results, bootstrap = comparison.results, comparison.bootstrap
    reference = results[0]
    page.add_heading(f"Average precision on {comparison.dataset}")
    page.add_guide(_NUMBERS_GUIDE.format(first=reference.name))
    add_number_table(page, results, reference)
    if bootstrap is not None:
        add_intervals(page, bootstrap)
    notes = reading_notes(results)
    if notes:
        page.add_heading("How to read these numbers").add_list(notes)
    add_runs(page, runs)
    page.add_heading("Classes").add_guide(_CLASSES_GUIDE)
    add_class_comparison(page, results)
    if bootstrap is not None:
        add_class_intervals(page, bootstrap, reference.summary)
    if reference.ap is not None:
        page.add_heading("Where they differ")
        for add in (add_precision_recall, add_sizes, add_errors, add_calibration):
            add(page, analyses, "compared")
        add_differing_images(page, runs, comparison.dataset, analyses)
    add_training(page, runs)
    for run in runs:
        add_method(page, run)


def _names(folders: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    if len(folders) < 2:
        raise ReportError("a comparison needs two runs or more; name their folders")
    if names is not None and len(names) != len(folders):
        raise ReportError(f"there are {len(names)} names for {len(folders)} runs; give one for each")
    chosen = list(names) if names is not None else [folder.resolve().name for folder in folders]
    if len(set(chosen)) < len(chosen) and names is None:
        # The usual case: runs of one name below folders of different studies.
        chosen = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    twice = sorted({name for name in chosen if chosen.count(name) > 1})
    if twice:
        raise ReportError(f"two runs have the name {twice[0]!r}; give each its own with --names")
    return chosen


def _common_set(runs: Sequence[Run], wanted: str | None) -> str:
    evaluated = [[name for name, found in run.sets.items() if not found.is_reconstruction] for run in runs]
    common = [name for name in evaluated[0] if all(name in others for others in evaluated)]
    if wanted in common or (wanted is None and common):
        return wanted or common[0]
    which = "a common set" if wanted is None else wanted
    each = "; ".join(
        f"{run.name} on {', '.join(names) or 'nothing'}" for run, names in zip(runs, evaluated, strict=True)
    )
    raise ReportError(
        f"these runs were not all evaluated on {which} ({each}); evaluate them with tools/test_net.py"
    )


def _check_same_truth(runs: Sequence[Run], dataset: str) -> None:
    """Sets of one name need not be the same files in every run."""

    def counts(run: Run) -> tuple[int, dict[str, int]]:
        summary = run.sets[dataset].summary
        return summary.num_images, {row.name: row.boxes for row in summary.per_class}

    for run in runs[1:]:
        if counts(run) != counts(runs[0]):
            raise ReportError(
                f"{runs[0].name} and {run.name} were evaluated on different annotations, both called "
                f"{dataset}: images, classes or objects differ in number; evaluate both with the same file"
            )


def _check_same_numbers(runs: Sequence[Run], dataset: str, analyses: Mapping[str, Analysis]) -> None:
    """Annotations can differ, or change after an evaluation, and have as many objects all the same."""
    for run in runs:
        if not run.sets[dataset].agrees_with(analyses[run.name].summary):
            raise ReportError(
                f"{run.name} had another AP when it was evaluated than with the annotations of {dataset} "
                f"that {runs[0].name} names: they differ or have changed; evaluate all with the same file"
            )


def _results(runs: Sequence[Run], dataset: str) -> list[RunResult]:
    colours = run_colours(run.name for run in runs)
    results = []
    for run in runs:
        numbers = (run.iterations, run.images_seen or None, run.seconds)
        summary = run.sets[dataset].summary
        results.append(RunResult(run.name, _role(run, runs), summary, *numbers, colours[run.name]))
        reconstruction = run.sets.get(dataset + RECONSTRUCTION)
        if reconstruction is not None:
            name = f"{run.name} (reconstruction)"
            results.append(RunResult(name, "reconstruction", reconstruction.summary, run.iterations))
    return results


def _role(run: Run, runs: Sequence[Run]) -> Role:
    first = {other.kind: other for other in reversed(runs)}
    if run.kind == "baseline":
        if run is first["baseline"]:
            return "baseline"
        both = sum(first[kind].iterations for kind in ("step1", "step2") if kind in first)
        return "baseline_long" if run.iterations == both else "other"
    if run.kind == "step2":
        settings = run.cfg.MODEL.LABELENC
        if settings.AUXILIARY_LOSS_ITERS == 0:
            return "head_start"
        return "step2" if settings.START_FROM_STEP1 else "no_head_start"
    return "step1" if run.kind == "step1" else "other"
