"""Causes of errors by hand, and every gain against the evaluator's AP50 of a data set really so mended."""

from collections.abc import Callable

import numpy as np
import pytest
from pycocotools import mask

from labelenc.evaluation import ERROR_KINDS, analyse, evaluate_coco
from labelenc.evaluation.error_breakdown import ErrorBreakdown

Case = Callable[..., tuple[dict, list[dict]]]

A, B, FAR = [0, 0, 10, 10], [50, 0, 10, 10], [200, 200, 10, 10]
NEAR_A, NEAR_B = [0, 0, 10, 3], [50, 0, 10, 3]  # IoU 0.3
HALF = 51 / 101  # one of two truths found, without a false positive before it


def breakdown(case: tuple[dict, list[dict]]) -> ErrorBreakdown:
    errors = analyse(*case).errors
    assert errors.counts == dict(zip(ERROR_KINDS, errors.counts_per_class.sum(axis=1).tolist(), strict=True))
    assert list(errors.gain) == [*ERROR_KINDS, "false_positive", "false_negative"]
    return errors


def check(case: tuple[dict, list[dict]], ap50: float, counts: dict[str, int], **gain: float) -> None:
    """``gain`` names those that are not 0."""
    errors = breakdown(case)
    assert errors.counts == {**dict.fromkeys(ERROR_KINDS, 0), **counts}
    assert errors.ap50 == pytest.approx(ap50, abs=1e-12)
    assert errors.gain == pytest.approx({**dict.fromkeys(errors.gain, 0.0), **gain}, abs=1e-12)


def test_class_alone(scene: Case) -> None:
    case = scene([(1, 1, A), (1, 2, B)], [(1, 1, A, 0.9), (1, 1, B, 0.8)], categories=2)
    # B is not missed: the class error would find it. Without B class 2 has nothing to find and finds nothing.
    check(case, 0.5, {"class": 1}, **{"class": 0.5}, false_negative=0.5)
    assert breakdown(case).counts_per_class[0].tolist() == [1, 0], "counted by the class of the detection"


def test_location_alone(scene: Case) -> None:
    case = scene([(1, 1, A), (1, 1, B)], [(1, 1, NEAR_B, 0.9), (1, 1, A, 0.8)])
    ap50 = HALF / 2
    check(case, ap50, {"location": 1}, location=1 - ap50, false_positive=ap50, false_negative=0.5 - ap50)


def test_both_alone(scene: Case) -> None:
    case = scene([(1, 1, A), (1, 2, B)], [(1, 2, NEAR_A, 0.9), (1, 1, A, 0.8), (1, 2, B, 0.7)], categories=2)
    check(case, 0.75, {"both": 1}, both=0.25, false_positive=0.25)


@pytest.mark.parametrize(("kind", "box"), [("duplicate", A), ("background", FAR)])
def test_duplicate_and_background_alone(scene: Case, kind: str, box: list[int]) -> None:
    case = scene([(1, 1, A), (1, 1, B)], [(1, 1, A, 0.9), (1, 1, box, 0.8), (1, 1, B, 0.7)])
    ap50 = (51 + 50 * 2 / 3) / 101
    check(case, ap50, {kind: 1}, **{kind: 1 - ap50}, false_positive=1 - ap50)


def test_missed_alone(scene: Case) -> None:
    case = scene([(1, 1, A), (1, 2, B), (2, 2, B)], [(1, 1, A, 0.9), (1, 2, B, 0.9)], 2, 2)
    gain = (1 - HALF) / 2
    check(case, 1 - gain, {"missed": 1}, missed=gain, false_negative=gain)
    assert breakdown(case).counts_per_class[5].tolist() == [0, 1]


def test_nothing_detected(scene: Case) -> None:
    check(scene([(1, 1, A)], []), 0, {"missed": 1}, missed=1, false_negative=1)
    # With a false positive there is still no precision where nothing is left to find.
    check(scene([(1, 1, A)], [(1, 1, FAR, 0.5)]), 0, {"missed": 1, "background": 1})


def test_two_errors_at_one_truth(scene: Case) -> None:
    found = [(1, 1, A, 0.9), (1, 1, NEAR_B, 0.8), (1, 1, [50, 0, 10, 4], 0.7)]
    # The better one becomes right although the other lies better, the other goes: nothing wrong is left.
    case = scene([(1, 1, A), (1, 1, B)], found)
    check(case, HALF, {"location": 2}, location=1 - HALF, false_negative=1 - HALF)
    # In front of a truth that has a match they both go, even with a higher score.
    case = scene([(1, 1, A), (1, 1, B)], [*found[1:], (1, 1, A, 0.6), (1, 1, B, 0.5)])
    check(case, 0.5, {"location": 2}, location=0.5, false_positive=0.5)


def test_class_errors_at_a_found_truth_go(scene: Case) -> None:
    case = scene([(1, 1, A), (1, 2, B)], [(1, 1, B, 0.9), (1, 1, A, 0.8), (1, 2, B, 0.7)], categories=2)
    check(case, 0.75, {"class": 1}, **{"class": 0.25}, false_positive=0.25)


def test_precedence(scene: Case) -> None:
    overlapping = [6, 0, 10, 10]  # IoU 0.25 with A

    def kinds(truths: list, found: list) -> dict[str, int]:
        counts = breakdown(scene(truths, found, categories=3)).counts
        return {kind: count for kind, count in counts.items() if count}

    right = (1, 1, A, 0.9)
    # Location comes before class: 0.25 with its own class, 1 with another.
    assert kinds([(1, 1, A), (1, 2, overlapping)], [right, (1, 1, overlapping, 0.8)]) == {
        "location": 1,
        "missed": 1,
    }
    # Class before duplicate: 1 with its own class, which is taken, and 1 with another.
    assert kinds([(1, 1, A), (1, 2, A)], [right, (1, 1, A, 0.8)]) == {"class": 1}
    # A duplicate is no location error, whatever else of its class it touches.
    assert kinds([(1, 1, A), (1, 1, overlapping)], [right, (1, 1, A, 0.8)]) == {"duplicate": 1, "missed": 1}
    # Background means no truth at all, both a truth of another class only.
    assert kinds([(1, 1, A)], [right, (1, 2, [0, 0, 10, 0.9], 0.8)]) == {"background": 1}
    assert kinds([(1, 1, A)], [right, (1, 2, [0, 0, 10, 1.1], 0.8)]) == {"both": 1}
    # Limits: 0.1 is a location error, 0.5 a match, and with another class a class error.
    assert kinds([(1, 1, A)], [(1, 1, [0, 0, 10, 1], 0.8)]) == {"location": 1}
    assert kinds([(1, 1, A)], [(1, 1, [0, 0, 10, 5], 0.8)]) == {}
    assert kinds([(1, 1, A)], [right, (1, 2, [0, 0, 10, 5], 0.8)]) == {"class": 1}


def test_crowds_are_no_truths_and_cause_no_errors(scene: Case) -> None:
    crowd = (1, 1, [300, 300, 100, 100], "crowd")
    found = [(1, 1, A, 0.9), (1, 1, [310, 310, 20, 20], 0.95), (1, 2, [310, 310, 20, 20], 0.5)]
    check(scene([(1, 1, A), (1, 2, B), crowd], [*found, (1, 2, B, 0.6)], categories=2), 1, {"background": 1})


def kinds_by_loop(truth: dict, results: list[dict]) -> tuple[dict[int, tuple[str, int]], set[int]]:
    """Place in the results -> kind of error and the truth it points at; and the truths that were found."""
    kinds, found = {}, set()
    truths = truth["annotations"]
    for place in sorted(range(len(results)), key=lambda i: (-results[i]["score"], results[i]["image_id"], i)):
        result = results[place]
        same, other, crowded = (0.0, -1), (0.0, -1), False
        free: tuple[float, int] = (0.0, -1)
        for i, entry in enumerate(truths):
            if entry["image_id"] != result["image_id"]:
                continue
            iou = float(mask.iou([result["bbox"]], [entry["bbox"]], [entry["iscrowd"]])[0, 0])
            equal = entry["category_id"] == result["category_id"]
            if entry["iscrowd"]:
                crowded |= equal and iou >= 0.5
            elif equal:
                same = max(same, (iou, i))
                free = max(free, (iou, i)) if i not in found else free
            else:
                other = max(other, (iou, i))
        if free[0] >= 0.5:
            found.add(free[1])
        elif crowded:
            continue
        elif 0.1 <= same[0] < 0.5:
            kinds[place] = ("location", same[1])
        elif other[0] >= 0.5:
            kinds[place] = ("class", other[1])
        elif same[0] >= 0.5:
            kinds[place] = ("duplicate", same[1])
        else:
            kinds[place] = ("background" if other[0] < 0.1 else "both", other[1])
    return kinds, found


def mend(
    truth: dict, results: list[dict], kinds: dict, found: set[int], error: str
) -> tuple[dict, list[dict]]:
    """The data set after what the oracle for one kind of error does to it."""
    truths = truth["annotations"]
    lost = {i for i, entry in enumerate(truths) if not entry["iscrowd"]} - found
    if error == "missed":
        lost -= {i for kind, i in kinds.values() if kind in ("class", "location")}
    if error in ("missed", "false_negative"):
        return dict(truth, annotations=[entry for i, entry in enumerate(truths) if i not in lost]), results
    mended = []
    for place in sorted(range(len(results)), key=lambda i: (-results[i]["score"], results[i]["image_id"], i)):
        kind, target = kinds.get(place, ("", -1))
        if kind == error and error in ("class", "location") and target in lost:
            lost.remove(target)
            entry = truths[target]
            mended.append({**results[place], "bbox": entry["bbox"], "category_id": entry["category_id"]})
        elif kind == "" or (kind != error and error != "false_positive"):
            mended.append(results[place])
    return dict(truth), mended


def test_gains_are_those_of_a_mended_data_set(seed: int, random_case: Case) -> None:
    truth, results = random_case(images=40, categories=4)
    # Some of another class; no image of over 100 detections, of which COCO would drop some.
    generator = np.random.default_rng(seed)
    results = [r for r in results if r["image_id"] != 1]
    for result in results:
        if generator.random() < 0.25:
            result["category_id"] = int(generator.integers(1, 4))
        # No equal scores: mending one kind of error moves detections between classes.
        result["score"] = float(generator.random())
    errors = breakdown((truth, results))
    kinds, found = kinds_by_loop(truth, results)
    before = evaluate_coco(truth, results).numbers["AP50"]
    assert errors.ap50 == pytest.approx(before, abs=1e-12)
    for kind in ERROR_KINDS[:-1]:
        assert errors.counts[kind] == sum(entry[0] == kind for entry in kinds.values()) > 0
    for error, gain in errors.gain.items():
        case = mend(truth, results, kinds, found, error)
        assert gain == pytest.approx(evaluate_coco(*case).numbers["AP50"] - before, abs=1e-12), error
