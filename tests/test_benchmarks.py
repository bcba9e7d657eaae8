"""That the benchmarks run and write what their README says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(tmp_path: Path, *command: str) -> tuple[dict, str]:
    """What a benchmark writes and prints."""
    output = tmp_path / "results.json"
    common = ["--repeats", "1", "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, *common],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text()), done.stdout


def test_ops_on_the_cpu(tmp_path: Path) -> None:
    written, shown = run(tmp_path, "benchmarks/ops.py", "--threads", "1", "--only", "nms")
    assert {"date", "command", "device", "threads", "dtype", "versions"} <= set(written)
    rows = written["results"]
    assert [row["op"] for row in rows] == ["nms", "batched_nms"] * 3
    for row in rows:
        assert row["ratio"] > 0
        assert row["share_of_floor"] > 0
        assert row["size"] in shown


def test_data_loading(tmp_path: Path) -> None:
    options = ("--sizes", "64", "--workers", "0", "1", "--batch", "2", "--batches", "2")
    written, printed = run(tmp_path, "benchmarks/data_loading.py", *options, "--pictures", "8")
    rows = written["results"]
    assert [(row["short_side"], row["workers"]) for row in rows] == [(64, 0), (64, 1)]
    for row in rows:
        ours, reference = (row[f"{side}_images_per_second_and_core"] for side in ("ours", "reference"))
        assert row["ratio"] == pytest.approx(ours / reference)
        assert f"{row['ratio']:.2f}x" in printed
        assert row["decode_ms"] > 0


def test_training_steps_on_the_cpu(tmp_path: Path) -> None:
    sides = ["torchvision", "torchvision float32", "baseline", "step 2", "step 2, dense"]
    written, shown = run(
        tmp_path,
        *(
            "benchmarks/train_step.py",
            "--threads",
            "1",
            "--detectors",
            "retinanet",
            "--size",
            "64x96",
            "--batch",
            "1",
        ),
        *("--dtype", "bfloat16", "--warmup", "1", "--encoder-size", "64x96", "--contenders", *sides),
    )
    assert (written["size"], written["batch"], written["dtype"]) == ("64x96", 1, "bfloat16")
    rows = {row["contender"]: row for row in written["results"]["retinanet"]}
    assert list(rows) == sides
    for name, row in rows.items():
        assert f"\n{name} " in shown
        assert row["images_per_second"] * row["seconds"] == pytest.approx(1)
        assert sum(row["share"].values()) == pytest.approx(1)
        # R-50 detectors have more than 30 million weights of 4 bytes.
        assert 120e6 < row["peak_bytes"] < 2e9
    assert rows["baseline"]["time_to"]["baseline"] == 1
    assert set(rows["step 2"]["time_to"]) == {"torchvision", "torchvision_float32", "baseline", "dense"}
    assert [row["passes"] for row in written["first_convolution"]] == ["forward", "forward+backward"]
