"""Where does step 2's AP come from on a small real data set: the supervision, the head start, or the time?

Trains, per seed, what tools/run_labelenc.py --equal-budget --controls trains: the baseline; step 1; step 2; a
baseline with the iterations of both steps; step 2 without the auxiliary loss, which leaves the head start
alone; and step 2 without the step-1 start, which leaves the auxiliary loss alone. Prints a table and writes
every number.

    python benchmarks/head_start_or_supervision.py --config-file configs/bccd/bccd_efficientnet_lite0.yaml \\
        --seeds 1 2 --output-dir exps/bccd --results benchmarks/results/FILE.json KEY VALUE …
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shlex
import sys
from pathlib import Path

import torch

import labelenc
from labelenc.config import load_config
from labelenc.errors import readable_errors
from labelenc.study import plan_study, train_study
from labelenc.study.progress import final_evaluation, training_seconds


def run_all(args: argparse.Namespace, seed: int) -> dict[str, dict]:
    """One seed: title of a run -> its numbers."""
    opts = [*args.opts, "OUTPUT_DIR", str(Path(args.output_dir) / f"seed{seed}"), "SEED", str(seed)]
    cfg = load_config(args.config_file, opts)
    study = plan_study(args.config_file, opts, cfg, equal_budget=True, controls=True)
    status = train_study(study)
    if status:
        raise SystemExit(status)
    return {
        stage.title: {
            "iterations": stage.iterations,
            "training_seconds": round(training_seconds(stage)[0], 1),
            "numbers": final_evaluation(stage),
        }
        for stage in study.stages
    }


def table(results: dict[int, dict[str, dict]], dataset: str) -> str:
    lines = [f"{'run':<38} {'iterations':>10}  " + "  ".join(f"AP seed {s}" for s in results) + "   mean"]
    for name, run in next(iter(results.values())).items():
        scores = [100 * runs[name]["numbers"][f"eval/{dataset}/AP"] for runs in results.values()]
        cells = "  ".join(f"{score:>9.1f}" for score in scores)
        lines.append(f"{name:<38} {run['iterations']:>10}  {cells}  {sum(scores) / len(scores):>5.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--results", required=True, help="the JSON file to write")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides for every run")
    args = parser.parse_args()
    with readable_errors():
        results = {seed: run_all(args, seed) for seed in args.seeds}
    cfg = load_config(args.config_file, args.opts)
    print(table(results, cfg.DATASETS.TEST[0]))
    record = {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "config_file": args.config_file,
        "config": cfg.dump(),
        "versions": {"labelenc": labelenc.__version__, "torch": torch.__version__},
        "device": f"{cfg.MODEL.DEVICE}, {platform.machine()}, {torch.get_num_threads()} threads",
        "seeds": results,
    }
    path = Path(args.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
