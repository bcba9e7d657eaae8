"""The bootstrap against resampled data sets that are really evaluated, and against numpy."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labelenc.evaluation import Bootstrap, EvaluationError, bootstrap, bootstrap_ap, evaluate_coco

Case = Callable[..., tuple[dict, list[dict]]]


def resampled(truth: dict, results: list[dict], weights: np.ndarray) -> tuple[dict, list[dict]]:
    """The data set with each image as often as its weight says, under new ids."""
    images, annotations, found = [], [], []
    for image, weight in zip(sorted(truth["images"], key=lambda image: image["id"]), weights, strict=True):
        for _ in range(weight):
            new = {"image_id": len(images) + 1}
            images.append({"id": new["image_id"]})
            annotations += [{**a, **new} for a in truth["annotations"] if a["image_id"] == image["id"]]
            found += [{**r, **new} for r in results if r["image_id"] == image["id"]]
    return {"images": images, "annotations": annotations, "categories": truth["categories"]}, found


def known(values: list[float | None]) -> np.ndarray:
    return np.array([value for value in values if value is not None])


def check_interval(interval, values: list[float | None], whole: float | None, least: float = 0.0) -> None:
    if whole is None:
        assert interval is None
        return
    # Centred on the value of the whole set.
    low, high = (np.percentile(known(values), [10, 90]) + whole - known(values).mean()).clip(least, 1)
    assert (interval.value, interval.low, interval.high) == pytest.approx((whole, low, high), abs=1e-9)


def test_each_resample_has_its_exact_ap(
    seed: int, random_case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, results = random_case(images=12, categories=3)
    # Equal scores in different images only: in one image their order among the copies is arbitrary.
    for place, result in enumerate(results):
        result["score"] += 1e-6 * sum(r["image_id"] == result["image_id"] for r in results[:place])
    # A rare class is absent from some resamples.
    truth["annotations"].append(
        {"id": 10_000, "image_id": 2, "category_id": 3, "bbox": [5, 5, 50, 50], "area": 2500.0, "iscrowd": 0}
    )
    results.append({"image_id": 2, "category_id": 3, "bbox": [5, 5, 50, 60], "score": 0.9})
    worse = [{**r, "score": r["score"] * 0.9} for i, r in enumerate(results) if i % 4]
    runs = {"first": results, "second": worse}
    for chunk in (8_000_000, 500):
        monkeypatch.setattr(bootstrap, "_CHUNK", chunk)
        found = bootstrap_ap(truth, runs, samples=12, seed=seed, confidence=0.8)
    weights = bootstrap._weights(12, 12, seed)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 12).all()
    summaries = {
        name: [evaluate_coco(*resampled(truth, run, row), "pycocotools") for row in weights]
        for name, run in runs.items()
    }
    for name, intervals in found.runs.items():
        ours, base = summaries[name], summaries["first"]
        for number in ("AP", "AP50", "AP75"):
            values = [summary.numbers[number] for summary in ours]
            check_interval(intervals.numbers[number], values[1:], values[0])
        for i, interval in enumerate(intervals.class_ap):
            values = [summary.per_class[i].ap for summary in ours]
            check_interval(interval, values[1:], values[0])
        if name == "first":
            assert intervals.differences is intervals.class_differences is None
            continue
        gains = [a.numbers["AP"] - b.numbers["AP"] for a, b in zip(ours, base, strict=True)]
        check_interval(intervals.differences["AP"], gains[1:], gains[0], -1)
        centred = np.array(gains[1:]) + gains[0] - np.mean(gains[1:])
        assert intervals.differences["AP"].better == np.mean(centred > 0)
        pairs = [(a.per_class[0].ap, b.per_class[0].ap) for a, b in zip(ours, base, strict=True)]
        gains = [None if a is None else a - b for a, b in pairs]
        check_interval(intervals.class_differences[0], gains[1:], gains[0], -1)


def test_the_whole_set_has_the_evaluators_ap(shared_dir: Path) -> None:
    folder = shared_dir / "data/eval_fixture"
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    path = folder / "instances_val2014_100.json"
    found = bootstrap_ap(path, {"run": results}, samples=200)
    summary = evaluate_coco(path, results)
    for number, interval in found.runs["run"].numbers.items():
        assert interval is not None
        assert interval.value == pytest.approx(summary.numbers[number], abs=1e-12)
        assert interval.low < interval.value < interval.high
    for interval, row in zip(found.runs["run"].class_ap, summary.per_class, strict=True):
        assert (None if interval is None else interval.value) == pytest.approx(row.ap, abs=1e-12)
    again = bootstrap_ap(path, {"run": results}, samples=200)
    other = bootstrap_ap(path, {"run": results}, samples=200, seed=1)
    assert again == found
    assert other.runs["run"].numbers["AP"].low != found.runs["run"].numbers["AP"].low
    assert json.loads(json.dumps(found.to_dict()))["runs"]["run"]["numbers"]["AP"]["low"] > 0


def test_interval_of_a_share_is_the_percentiles_of_its_resamples(seed: int, scene: Case) -> None:
    """One box an image and sure detections: AP50 follows from the share of boxes found, p."""
    generator = np.random.default_rng(seed)
    box = [10, 10, 50, 50]
    images = 200
    hit = generator.random(images) < 0.7
    found = [(i + 1, 1, box, 0.9) for i in np.flatnonzero(hit).tolist()]
    truth, results = scene([(i + 1, 1, box) for i in range(images)], found, images)
    interval = bootstrap_ap(truth, {"run": results}, samples=4000, seed=seed).runs["run"].numbers["AP50"]
    assert interval is not None
    # Precision is 1 up to recall p: so many of the 101 recalls are reached.
    shares = generator.choice(hit, (4000, images)).mean(axis=1)
    expected = np.percentile((np.floor(100 * shares + 1e-9) + 1) / 101, [2.5, 97.5])
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.0151)
    spread = np.sqrt(hit.mean() * (1 - hit.mean()) / images)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * spread, rel=0.2)


def test_intervals_cover_the_true_value_as_often_as_they_say(seed: int, scene: Case) -> None:
    generator = np.random.default_rng(seed)
    box, images, trials = [10, 10, 50, 50], 100, 100
    covered = 0
    for _ in range(trials):
        found = [(i + 1, 1, box, 0.9) for i in np.flatnonzero(generator.random(images) < 0.6).tolist()]
        case = scene([(i + 1, 1, box) for i in range(images)], found, images)
        run = bootstrap_ap(case[0], {"run": case[1]}, samples=300, confidence=0.8).runs["run"]
        assert run.numbers["AP50"] is not None
        covered += run.numbers["AP50"].low <= 61 / 101 <= run.numbers["AP50"].high
    # Binomial with mean 80 and deviation 4, and AP50 goes in steps.
    assert 64 <= covered <= 96


def weak_detector(generator: np.random.Generator, scene: Case, images: int) -> tuple[dict, list[dict]]:
    """Half of the boxes found, loosely, among many false detections of nearly the same scores."""
    truths, found = [], []
    for image in range(1, images + 1):
        for x in range(0, 300, 100):
            label, place = int(generator.integers(1, 5)), np.array([x, 0, 60, 60])
            truths.append((image, label, place.tolist()))
            if generator.random() < 0.5:
                moved = place + generator.normal(0, 6, 4)
                found.append((image, label, moved.tolist(), float(generator.beta(2, 3))))
        found += [
            (image, int(generator.integers(1, 5)), [0, 500, 60, 60], float(generator.beta(1, 3)))
            for _ in range(8)
        ]
    return scene(truths, found, images, 4)


def test_intervals_of_weak_detectors_lie_about_what_other_images_give(seed: int, scene: Case) -> None:
    generator = np.random.default_rng(seed)
    intervals = []
    for _ in range(60):
        truth, results = weak_detector(generator, scene, 40)
        run = bootstrap_ap(truth, {"run": results}, samples=100, confidence=0.9).runs["run"]
        intervals.append(run.numbers["AP"])
    values = np.array([interval.value for interval in intervals])
    middles = np.array([(interval.low + interval.high) / 2 for interval in intervals])
    # Plain percentiles would be off by more than half a deviation.
    assert abs((middles - values).mean()) < 0.35 * values.std()
    covered = sum(interval.low <= values.mean() <= interval.high for interval in intervals)
    # Binomial with mean 54 and deviation 2.3.
    assert covered >= 45


def test_intervals_of_ap_stay_between_0_and_1(seed: int, random_case: Case) -> None:
    truth, results = random_case(images=4, categories=3)
    few = [result for result in results if result["image_id"] in (1, 2)]
    found = bootstrap_ap(truth, {"all": results, "few": few}, samples=50)
    known = [i for run in found.runs.values() for i in (*run.class_ap, *run.numbers.values()) if i]
    assert known
    assert all(0 <= interval.low <= interval.high <= 1 for interval in known)


def test_equal_runs_differ_by_nothing(seed: int, scene: Case) -> None:
    truth, results = weak_detector(np.random.default_rng(seed), scene, 40)
    found = bootstrap_ap(truth, {"a": results, "b": results, "none": []}, samples=20)
    same, none = found.runs["b"].differences, found.runs["none"].differences
    assert same is not None
    assert none is not None
    assert all((d.value, d.low, d.high, d.better) == (0, 0, 0, 0) for d in same.values() if d)
    assert none["AP"].high < 0
    assert none["AP"].better == 0
    assert list(found.runs) == ["a", "b", "none"]


@pytest.mark.parametrize("images", [0, 2])
def test_nothing_to_find(scene: Case, images: int) -> None:
    truth, results = scene([], [(1, 1, [0, 0, 9, 9], 0.5)] if images else [], images, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_ap(truth, {"a": results, "b": []}, samples=5)
    assert isinstance(found, Bootstrap)
    assert found.runs["b"].numbers == found.runs["b"].differences == dict.fromkeys(("AP", "AP50", "AP75"))
    assert found.runs["a"].class_ap == (None, None)
    assert (found.num_images, found.samples, found.class_names) == (images, 5, ("class 1", "class 2"))


def test_faults_are_named(scene: Case) -> None:
    truth, results = scene([], [(3, 1, [0, 0, 9, 9], 0.5)])
    with pytest.raises(EvaluationError, match="second: 1 values of image_id"):
        bootstrap_ap(truth, {"first": [], "second": results})
    for wrong in ({"samples": 0}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match="a bootstrap needs"):
            bootstrap_ap(truth, {"first": []}, **wrong)
    with pytest.raises(ValueError, match="0 runs"):
        bootstrap_ap(truth, {})
