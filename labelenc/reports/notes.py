"""What a comparison of baseline, step 1 and step 2 shows, and how far it carries, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from labelenc.evaluation import CocoSummary, format_percent

Role = Literal[
    "baseline",
    "baseline_long",
    "step1",
    "reconstruction",
    "step2",
    "head_start",
    "no_head_start",
    "other",
]

# Our own reading of "near saturation", which is what step 1 is for.
_SATURATED_RECONSTRUCTION = 0.9
# The shortest schedule of the publication is 90,000 iterations of 16 images.
_LONG_TRAINING = 1_000_000
_SEEDS_NOTE = (
    "Each row is one training. Trained again with another seed, a run ends with another AP: the spread is "
    "some tenths of a point on COCO and can be several points on a few hundred images. Train each run with "
    "a few seeds before you rely on a small difference."
)


@dataclass(frozen=True)
class RunResult:
    """One row of the comparison.

    ``role`` tells what the run is: "baseline", "baseline_long" (a baseline with the iterations of both
    steps), "step1" (its auxiliary detector), "reconstruction" (step 1's head on encodings of the validation
    labels), "step2", "head_start" (step 2 with the auxiliary loss off), "no_head_start" (step 2 whose
    head and FPN don't start from step 1) or "other". ``iterations`` counts the
    run's own training iterations, ``images`` the training images seen in these, repeats included; ``seconds``
    is its training time. Both are None where they are not known. ``colour`` is a CSS colour, the one of the
    run's curves.
    """

    name: str
    role: Role
    summary: CocoSummary
    iterations: int
    images: int | None = None
    seconds: float | None = None
    colour: str | None = None

    @property
    def ap(self) -> float | None:
        return self.summary.numbers["AP"]


def reading_notes(runs: Sequence[RunResult]) -> list[str]:
    """What the numbers show and what they do not, in sentences that follow from ``runs``.

    The first run of each role counts. Nothing is said of a role that no run has.
    """
    first: dict[str, RunResult] = {}
    for run in runs:
        if run.ap is not None:
            first.setdefault(run.role, run)
    notes = []
    baseline, step2 = first.get("baseline"), first.get("step2")
    if baseline and step2:
        notes.append(_gain_note(baseline, step2))
        notes.append(_head_start_note(baseline, first.get("step1"), step2, first.get("head_start")))
        if "no_head_start" in first:
            notes.append(_no_head_start_note(baseline, step2, first["no_head_start"]))
        notes.append(_long_baseline_note(step2, first.get("baseline_long")))
        if (step2.images or 0) < _LONG_TRAINING:
            notes.append(
                "The published gains of LabelEnc are over baselines trained until they are near convergence, "
                "where further iterations hardly help. A short run is not such a case: it shows that both "
                "steps work from end to end, and neither confirms nor refutes the published gains."
            )
    if "step1" in first:
        notes.append(
            f'The row "{first["step1"].name}" is the auxiliary detector of step 1: images go through it, '
            "and it shares its head with the label encodings."
        )
    if "reconstruction" in first:
        notes.append(_reconstruction_note(first["reconstruction"]))
    detectors = [run for run in runs if run.role != "reconstruction"]
    if len(detectors) > 1:
        notes += [*_effort_notes(detectors), _SEEDS_NOTE]
    return notes


def _effort_notes(runs: Sequence[RunResult]) -> list[str]:
    seen = {run.name: run.images for run in runs if run.images}
    if len(set(seen.values())) < 2:
        return []
    counts = ", ".join(f"{name} {images:,}" for name, images in seen.items())
    return [
        f"The runs were trained on different numbers of images (repeats included): {counts}. Part of what "
        "sets them apart can be that."
    ]


def _gain_note(baseline: RunResult, step2: RunResult) -> str:
    if baseline.iterations == step2.iterations:
        effort = f"With {step2.iterations:,} iterations each"
    else:
        effort = (
            f"With {step2.iterations:,} iterations for step 2 and {baseline.iterations:,} for the baseline"
        )
    return (
        f"{effort}, step 2 reaches an AP of {_percent(step2)} and the baseline {_percent(baseline)}: "
        f"step 2 is {_compared(step2, baseline)}."
    )


def _head_start_note(
    baseline: RunResult, step1: RunResult | None, step2: RunResult, head_start: RunResult | None
) -> str:
    trained = f" trained for {step1.iterations:,} iterations" if step1 else " trained"
    note = (
        f"The two do not start alike. Step 2 begins with the head and the FPN that step 1 has{trained}; "
        "the baseline's begin from scratch."
    )
    if head_start:
        return (
            f"{note} With the auxiliary loss switched off, so with that head start alone, step 2 reaches "
            f"{_percent(head_start)}: {_compared(head_start, baseline)}. The auxiliary loss changes this by "
            f"{_points(step2, head_start):+.1f} points."
        )
    if _points(step2, baseline) > 0:
        return (
            f"{note} Most of the gain, or all of it, can be that head start rather than the auxiliary loss; "
            "these runs do not measure the two apart (a step 2 with MODEL.LABELENC.AUXILIARY_LOSS_ITERS 0 "
            "would). In short trainings on real photos (the BCCD studies in benchmarks/results) step 2 did "
            "better than the head start alone with FCOS, worse with RetinaNet."
        )
    return f"{note} Even so there is no gain here."


def _no_head_start_note(baseline: RunResult, step2: RunResult, alone: RunResult) -> str:
    return (
        "With the auxiliary loss but without the head start, so with head and FPN from scratch, "
        f"step 2 reaches {_percent(alone)}: {_compared(alone, baseline)}, "
        f"{_compared(alone, step2, 'the full step 2')}."
    )


def _long_baseline_note(step2: RunResult, long: RunResult | None) -> str:
    if long is None:
        return (
            "Step 1 costs training time that the baseline was not given. A baseline trained for as many "
            "iterations as step 1 and step 2 together is not among these runs; in short trainings (the BCCD "
            "studies in benchmarks/results) it was better than step 2 with RetinaNet and Faster R-CNN, worse "
            "with FCOS."
        )
    return (
        f"A baseline trained for {long.iterations:,} iterations, as many as step 1 and step 2 together, "
        f"reaches {_percent(long)}: {_compared(long, step2, 'step 2')}."
    )


def _reconstruction_note(run: RunResult) -> str:
    assert run.ap is not None
    if run.ap >= _SATURATED_RECONSTRUCTION:
        verdict = "The head reads nearly all labels back, which is what step 1 is for."
    else:
        verdict = (
            "Labels are read back only in part, so the encodings teach step 2 less than they could; a longer "
            "step 1 brings this number closer to 100."
        )
    return (
        f'The row "{run.name}" is no detector: it is the AP of step 1\'s head on the encodings of the '
        f"validation labels themselves, a check of the encodings. It is {_percent(run)} here. {verdict}"
    )


def _percent(run: RunResult) -> str:
    return format_percent(run.ap)


def _points(run: RunResult, other: RunResult) -> float:
    # The difference of the rounded figures, so that a reader who subtracts finds the same.
    return float(_percent(run)) - float(_percent(other))


def _compared(run: RunResult, other: RunResult, name: str = "the baseline") -> str:
    points = _points(run, other)
    if abs(points) < 0.05:
        return f"level with {name}"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {name}"
