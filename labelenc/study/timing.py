"""How long a study will take, from a few updates of each kind of run and a few test images.

The real tools run in a temporary folder with the study's own configuration and data, so that whatever slows
the study down (loading, several processes, the disk) slows the timing down as well.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelenc.study.foreground import Foreground
from labelenc.study.plan import LABEL_ENCODING_FILE, TOOLS, Stage, Study, StudyError, launched
from labelenc.study.progress import read_rows

# Updates of each phase of a run: until the distance loss sets in, or the auxiliary loss ends, and after.
PHASE_ITERATIONS = 12
# Not measured in each: memory is found, kernels are chosen or compiled.
_UNSETTLED = 4
# Images of three parts of the test data: to warm up, and two that tell images from what is spent besides.
_PARTS = (2, 8, 24)
_SETS = tuple(f"timing_{count}" for count in _PARTS)


@dataclass(frozen=True)
class Rates:
    """What a kind of run takes, in seconds.

    ``fixed`` is spent before and after training; ``first_phase`` and ``second_phase`` are those of an update
    before and after the distance loss sets in or the auxiliary loss ends; ``evaluation`` is that of all test
    sets, ``reconstruction`` step 1's second look at them.
    """

    fixed: float
    first_phase: float
    second_phase: float
    evaluation: float
    reconstruction: float = 0.0

    def remaining(self, stage: Stage, done: int) -> float:
        """Seconds that a stage still takes after ``done`` updates."""
        labelenc, total = stage.cfg.MODEL.LABELENC, stage.iterations
        ends = {"step1": stage.extra_iterations, "step2": labelenc.AUXILIARY_LOSS_ITERS}
        switch = min(ends.get(stage.kind, total), total)
        training = max(switch - done, 0) * self.first_phase
        training += (total - max(done, switch)) * self.second_phase
        period = stage.cfg.TEST.EVAL_PERIOD
        evaluations = total // period - done // period + (total % period > 0) if period else 1
        return self.fixed + training + max(evaluations, 1) * self.evaluation + self.reconstruction


def measure(study: Study, foreground: Foreground) -> dict[str, Rates]:
    """Time each kind of run in the study; leaves nothing behind.

    Raises:
        StudyError: a run that was to be timed failed; the message has what it said.
        Stopped: on request.
    """
    with tempfile.TemporaryDirectory(prefix="labelenc_timing_") as temporary:
        folder = Path(temporary)
        (folder / "config.yml").write_text(study.cfg.dump(), encoding="utf-8")
        images, sets = _test_images(study, folder)
        rates = {}
        for stage in study.stages:
            if stage.kind not in rates:
                rates[stage.kind] = _measure_kind(study, stage.kind, folder, images, sets, foreground)
    return rates


def _measure_kind(
    study: Study,
    kind: str,
    folder: Path,
    images: Sequence[int],
    sets: dict[str, Any],
    foreground: Foreground,
) -> Rates:
    run, phase = folder / kind, PHASE_ITERATIONS
    values = {
        "OUTPUT_DIR": str(run),
        "SOLVER.MAX_ITER": 2 * phase if kind == "step2" else phase,
        "SOLVER.CHECKPOINT_PERIOD": 10 * phase,
        "MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS": phase,
        "MODEL.LABELENC.AUXILIARY_LOSS_ITERS": phase,
        "TEST.EVAL_PERIOD": 0,
        "DATASETS.TEST": _SETS,
        **sets,
    }
    words = ["--config-file", str(folder / "config.yml")]
    if kind == "step2":
        words += ["--labelenc", str(folder / "step1" / LABEL_ENCODING_FILE)]
    words += [word for key, value in values.items() for word in (key, str(value))]
    print(f"timing {kind}: a few updates and test images …", file=sys.stderr, flush=True)
    log = folder / f"{kind}.log"
    started = time.perf_counter()
    with log.open("wb") as stream:
        status = foreground.run(launched(TOOLS[kind], words, study.processes), stream)
    if status:
        raise StudyError(f"timing {kind} ended with status {status}: {_last_words(log)}")
    wall = time.perf_counter() - started
    return _rates(run, kind, wall, images, len(study.cfg.DATASETS.TEST))


def _rates(run: Path, kind: str, wall: float, images: Sequence[int], test_sets: int) -> Rates:
    """What a timed run, which took ``wall`` seconds, tells by its records and the times of its files."""
    first = _mean_time(run, 0)
    second = first if kind == "baseline" else _mean_time(run, PHASE_ITERATIONS)
    trained = PHASE_ITERATIONS * (first if kind == "baseline" else first + second)
    ended_training = (run / "model_final.pth").stat().st_mtime
    evaluation, ended = _evaluation(run, "", images, ended_training)
    reconstruction = 0.0
    if kind == "step1":
        reconstruction, ended = _evaluation(run, "_reconstruction", images, ended)
    page = run / "report" / "index.html"
    # Each set has a part in the report.
    report = page.stat().st_mtime - ended if page.is_file() else 0.0
    fixed = wall - trained - (ended - ended_training) - report + report * test_sets / len(_SETS)
    return Rates(max(fixed, 0.0), first, second, evaluation, reconstruction)


def _evaluation(run: Path, suffix: str, images: Sequence[int], began: float) -> tuple[float, float]:
    """Seconds for all test images, the first ones' delay included, and when the timed evaluation ended."""
    _, fewer, more, total = images
    ends = [(run / "inference" / (name + suffix) / "results.json").stat().st_mtime for name in _SETS]
    warm_up, short, long = (end - start for start, end in zip((began, *ends), ends, strict=False))
    per_image = max(long - short, 0.0) / (more - fewer) if more > fewer else 0.0
    return warm_up + long + (total - more) * per_image, ends[-1]


def _mean_time(run: Path, after: int) -> float:
    """Of the updates of the phase that begins after update ``after``, without the unsettled ones."""
    low, high = after + _UNSETTLED, after + PHASE_ITERATIONS
    times = [row["time"] for row in read_rows(run) if "time" in row and low < row["iteration"] <= high]
    if not times:
        raise StudyError(f"timing {run.name}: every update was skipped, since the losses were not finite")
    return sum(times) / len(times)


def _test_images(study: Study, folder: Path) -> tuple[list[int], dict[str, Any]]:
    """Three parts of the test data, written to ``folder``.

    Returns:
        The number of images in each part and in all test sets together; the keys that name the parts.
    """
    # Imports PyTorch, which a plan without timing does not need.
    from labelenc import data
    from labelenc.config import resolve_dataset
    from labelenc.data.voc import image_dir

    cfg = study.cfg
    try:
        total = sum(data.read_dataset_info(cfg, [name]).num_images for name in cfg.DATASETS.TEST)
        truth = data.coco_ground_truth(cfg, cfg.DATASETS.TEST[0])
    except data.DataError as error:
        raise StudyError(str(error)) from None
    source = resolve_dataset(cfg, cfg.DATASETS.TEST[0])
    images = image_dir(source.images) if source.kind == "voc" else source.images
    # Each process is to have its share.
    counts = [min(count * study.processes, len(truth["images"])) for count in _PARTS]
    sets: dict[str, Any] = {}
    for name, count in zip(_SETS, counts, strict=True):
        file = folder / f"{name}.json"
        file.write_text(json.dumps(_part(truth, count)), encoding="utf-8")
        sets[f"DATASETS.REGISTER.{name}"] = {"images": images, "annotations": str(file)}
    return [*counts, total], sets


def _part(truth: dict[str, Any], count: int) -> dict[str, Any]:
    """The ground truth of ``count`` images, spread over the set."""
    images = [truth["images"][i * len(truth["images"]) // count] for i in range(count)]
    ids = {image["id"] for image in images}
    boxes = [box for box in truth["annotations"] if box["image_id"] in ids]
    return {**truth, "images": images, "annotations": boxes}


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")
