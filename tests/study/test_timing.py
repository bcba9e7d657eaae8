"""Estimates: the arithmetic by hand, and a timing of the real tools that leaves nothing behind."""

from __future__ import annotations

import tempfile

import pytest

from labelenc.study import run_study
from labelenc.study.foreground import passing_signals_on
from labelenc.study.timing import Rates, measure

RATES = Rates(fixed=100.0, first_phase=1.0, second_phase=10.0, evaluation=1000.0, reconstruction=5000.0)
PLAIN = Rates(fixed=100.0, first_phase=1.0, second_phase=1.0, evaluation=1000.0)


def test_time_left_of_each_kind(plan):
    """8 iterations, in step 1 3 more before the distance loss; the auxiliary loss ends after 6."""
    baseline, step1, step2, longer, no_loss, no_start = plan(equal_budget=True, controls=True).stages
    assert PLAIN.remaining(baseline, 0) == 100 + 8 + 1000
    assert PLAIN.remaining(longer, 0) == 100 + 19 + 1000
    assert PLAIN.remaining(baseline, 8) == 100 + 1000
    assert RATES.remaining(step1, 0) == 100 + 3 + 80 + 1000 + 5000
    assert RATES.remaining(step1, 5) == 100 + 60 + 1000 + 5000
    assert RATES.remaining(step2, 0) == RATES.remaining(no_start, 0) == 100 + 6 + 20 + 6000
    assert RATES.remaining(step2, 5) == 100 + 1 + 20 + 6000
    assert RATES.remaining(no_loss, 0) == 100 + 80 + 6000


@pytest.mark.parametrize(
    ("period", "done", "evaluations"), [(3, 0, 3), (3, 3, 2), (4, 0, 2), (9, 0, 1), (3, 8, 1)]
)
def test_evaluations_on_the_way(plan, period, done, evaluations):
    """After 3, 6 and 8 iterations; after 4 and 8; after 8."""
    [baseline, *_] = plan("TEST.EVAL_PERIOD", period).stages
    assert PLAIN.remaining(baseline, done) == 100 + (8 - done) + 1000 * evaluations


@pytest.mark.slow
def test_measured_rates(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    study = plan("MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS", 0)
    with passing_signals_on() as foreground:
        rates = measure(study, foreground)
    assert set(rates) == {"baseline", "step1", "step2"}
    for kind, rate in rates.items():
        assert 0 < rate.first_phase < 5
        assert 0 < rate.second_phase < 5
        assert 0 < rate.evaluation < 60
        assert (rate.reconstruction > 0) == (kind == "step1")
        # Python alone takes longer.
        assert 0.1 < rate.fixed < 120
    assert [*tmp_path.rglob("*")] == [tmp_path / "temporary"]


def test_data_that_are_missing(arguments, tmp_path, capsys):
    words = ("--dry-run", "DATASETS.REGISTER.tiny_val.annotations", tmp_path / "nowhere.json")
    args, cfg = arguments(*words)
    assert run_study(args, cfg) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "nowhere.json" in told
    assert not (tmp_path / "study").exists()
