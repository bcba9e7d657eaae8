"""Two processes over 200 iterations of step 1: memory stays where it is, and so do the weights' copies."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
import torch

PROGRAM = Path(__file__).with_name("long_run.py")


@pytest.mark.slow
def test_memory_is_flat_and_weights_agree(start_pair, tiny_root, tmp_path) -> None:
    programs = start_pair(PROGRAM, tiny_root / "config.yaml", tmp_path, 200)
    assert [program.wait(300) for program in programs] == [0, 0], programs[1].told()
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first["model"][name], tensor) for name, tensor in second["model"].items())
    for rank, found in enumerate((first, second)):
        memory = found["memory"]
        assert len(memory) == 200 + 3  # DISTANCE_LOSS_WARMUP_ITERS come on top
        early, late = median(memory[60:90]), median(memory[-30:])
        print(f"process {rank}: {early:.1f} MiB after warm-up, {late:.1f} MiB at the end")
        # 0.05 MiB per update would be 6 MiB here, and 5 GiB over a real run.
        assert late - early < 4
