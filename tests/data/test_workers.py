"""How many workers a process gets."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labelenc.data import build_test_loaders, build_train_loader, loading
from labelenc.data.loading import available_cores, fitting_workers


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    fitting_workers.cache_clear()
    yield
    fitting_workers.cache_clear()


# Wanted, on a GPU, cores, processes: workers.
CASES = [
    ((4, True, 16, 1), 4),
    ((16, True, 16, 2), 8),
    ((4, True, 16, 8), 2),
    ((4, True, 4, 8), 1),
    ((0, True, 16, 1), 0),
    ((4, False, 16, 1), 4),
    ((4, False, 4, 1), 2),
    ((4, False, 2, 1), 1),
    ((4, False, 1, 1), 0),
    ((4, False, 8, 4), 1),
]


@pytest.mark.parametrize(("case", "expected"), CASES)
def test_at_most_what_the_cores_suit(monkeypatch, caplog, case, expected):
    wanted, on_gpu, cores, processes = case
    monkeypatch.setattr(loading, "available_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with caplog.at_level(logging.INFO, logger="labelenc"):
        assert [fitting_workers(wanted, on_gpu) for _ in range(3)] == [expected] * 3
    assert len(caplog.records) == 1
    assert f"{expected} data workers in each process (DATALOADER.NUM_WORKERS is {wanted}" in caplog.text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_cores_are_those_of_this_process():
    everything = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everything)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, everything)


@pytest.mark.parametrize(
    ("text", "limit"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("", None)]
)
def test_quota_of_a_container(monkeypatch, tmp_path: Path, text, limit):
    monkeypatch.setattr(loading, "_CPU_QUOTA", tmp_path / "cpu.max")
    unlimited = available_cores()
    (tmp_path / "cpu.max").write_text(text)
    assert available_cores() == (unlimited if limit is None else limit)


def test_loaders_have_the_fitting_number(monkeypatch, coco_dict, write_set, make_cfg):
    monkeypatch.setattr(loading, "available_cores", lambda: 3)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    cfg = make_cfg("DATALOADER.NUM_WORKERS", "5", one=write_set(coco_dict))
    assert build_train_loader(cfg, 1, 0, 0, 1).num_workers == 1
    assert [loader.num_workers for _, loader in build_test_loaders(cfg, 1, 0)] == [1]
