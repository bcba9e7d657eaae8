"""One of several processes of step 1, which notes its memory after every update and its weights at the end.

python long_run.py CONFIG DIR ITERATIONS     writes DIR/rank<n>.pt
"""

import os
import sys
from pathlib import Path

import torch

from labelenc import engine, pipeline
from labelenc.config import load_config
from labelenc.engine import TrainingState

STATM = Path("/proc/self/statm")


def resident() -> float:
    """Resident memory of this process in MiB."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    config, folder, iterations = sys.argv[1:]
    words = ["OUTPUT_DIR", folder, "SOLVER.MAX_ITER", iterations, "SOLVER.IMS_PER_BATCH", "2"]
    cfg = load_config(config, [*words, "SOLVER.CHECKPOINT_PERIOD", "20"])
    memory: list[float] = []
    states: list[TrainingState] = []
    train = engine.train

    def watched(state: TrainingState, *arguments, **options):
        states.append(state)
        state.optimizer.register_step_post_hook(lambda *_: memory.append(resident()))
        return train(state, *arguments, **options)

    engine.train = watched
    pipeline.train_step1(cfg, skip_test=True)
    found = {"memory": memory, "model": states[0].model.state_dict()}
    torch.save(found, Path(folder) / f"rank{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main()
