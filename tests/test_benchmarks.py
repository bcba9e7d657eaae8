"""That the benchmarks run and write what their README says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(output: Path, *command: str) -> tuple[dict, str]:
    """What a benchmark wrote and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, "--output", str(output)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(output.read_text())
    assert {"date", "command", "device", "threads", "dtype", "versions"} <= set(written)
    return written, done.stdout


def test_ops_on_the_cpu(tmp_path: Path) -> None:
    options = ("--threads", "1", "--repeats", "1", "--only", "nms")
    written, printed = run(tmp_path / "ops.json", "benchmarks/ops.py", *options)
    rows = written["results"]
    assert [row["op"] for row in rows] == ["nms", "batched_nms"] * 3
    for row in rows:
        assert row["ratio"] > 0
        assert row["share_of_floor"] > 0
        assert row["size"] in printed


def test_data_loading(tmp_path: Path) -> None:
    options = ("--sizes", "64", "--workers", "0", "1", "--batch", "2", "--batches", "2", "--repeats", "1")
    written, printed = run(tmp_path / "data.json", "benchmarks/data_loading.py", *options, "--pictures", "8")
    rows = written["results"]
    assert [(row["short_side"], row["workers"]) for row in rows] == [(64, 0), (64, 1)]
    for row in rows:
        ours, reference = (row[f"{side}_images_per_second_and_core"] for side in ("ours", "reference"))
        assert row["ratio"] == pytest.approx(ours / reference)
        assert f"{row['ratio']:.2f}x" in printed
        assert row["decode_ms"] > 0
