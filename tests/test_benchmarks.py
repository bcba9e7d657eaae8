"""That the benchmark of the operations runs and writes what its README says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_ops_on_the_cpu(tmp_path: Path) -> None:
    output = tmp_path / "ops.json"
    command = [
        "benchmarks/ops.py",
        "--threads",
        "1",
        "--repeats",
        "1",
        "--only",
        "nms",
        "--output",
        str(output),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(output.read_text())
    assert {"date", "command", "device", "threads", "dtype", "versions"} <= set(written)
    rows = written["results"]
    assert [row["op"] for row in rows] == ["nms", "batched_nms"] * 3
    for row in rows:
        assert row["ratio"] > 0
        assert row["share_of_floor"] > 0
        assert row["size"] in done.stdout
