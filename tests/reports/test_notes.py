"""The sentences of a comparison say what the numbers say."""

from labelenc.evaluation import COCO_NUMBERS, ClassResult, CocoSummary
from labelenc.reports import RunResult, reading_notes


def run(name: str, role: str, ap: float, iterations: int = 500, **more) -> RunResult:
    numbers = dict.fromkeys(COCO_NUMBERS, ap) | {"APl": None}
    classes = [ClassResult(1, "disc", ap, ap, 12, 3), ClassResult(2, "rod", None, None, 0, 0)]
    return RunResult(name, role, CocoSummary(numbers, classes, "faster", 5), iterations, **more)


RUNS = [
    run("baseline", "baseline", 0.181, seconds=80, colour="#0072B2"),
    run("step 1", "step1", 0.207, 600, seconds=3725),
    run("reconstruction", "reconstruction", 0.953, 600),
    run("step 2", "step2", 0.2534, seconds=9),
]


def test_notes_follow_the_numbers() -> None:
    text = " ".join(reading_notes(RUNS))
    assert "500 iterations each, step 2 reaches an AP of 25.3 and the baseline 18.1" in text
    assert "7.2 points above the baseline" in text
    assert "head and the FPN that step 1 has trained for 600 iterations" in text
    assert "Most of the gain, or all of it, can be that head start" in text
    assert "is not among these runs" in text
    assert "near convergence" in text
    assert "It is 95.3 here. The head reads nearly all labels back" in text

    worse = [run("b", "baseline", 0.3, 700), run("s", "step2", 0.25)]
    text = " ".join(reading_notes(worse))
    assert "5.0 points below the baseline" in text
    assert "Most of the gain" not in text
    assert "500 iterations for step 2 and 700 for the baseline" in text
    level = [run("b", "baseline", 0.30001), run("s", "step2", 0.3)]
    assert "step 2 is level with the baseline" in reading_notes(level)[0]


def test_notes_report_what_was_measured() -> None:
    more = [run("long", "baseline_long", 0.512, 1100), run("head start", "head_start", 0.2601)]
    text = " ".join(reading_notes([*RUNS, *more]))
    assert "not among these runs" not in text
    assert "do not measure" not in text
    assert "1,100 iterations" in text
    assert "reaches 51.2: 25.9 points above step 2" in text
    assert (
        "reaches 26.0: 7.9 points above the baseline. The auxiliary loss changes this by -0.7 points" in text
    )
    assert "only in part" in " ".join(reading_notes([run("r", "reconstruction", 0.4)]))
    assert reading_notes([run("b", "baseline", 0.3)]) == []


def test_notes_say_what_is_fair_to_compare() -> None:
    text = " ".join(reading_notes(RUNS))
    assert "different numbers of images" not in text
    assert "Each row is one training." in text
    more = [run("b", "baseline", 0.3, images=8000), run("s", "step2", 0.4, images=16000)]
    assert "b 8,000, s 16,000. Part of" in " ".join(reading_notes(more))
    long = [run("b", "baseline", 0.3, images=1_440_000), run("s", "step2", 0.4, images=1_440_000)]
    assert "near convergence" not in " ".join(reading_notes(long))


def test_notes_tell_head_start_and_supervision_apart() -> None:
    text = " ".join(reading_notes([*RUNS, run("alone", "no_head_start", 0.2)]))
    assert "reaches 20.0: 1.9 points above the baseline, 5.3 points below the full step 2." in text
