"""Where does step 2's AP come from on a small real data set: the supervision, the head start, or the time?

Trains, per seed: the baseline; a baseline with the iterations of both steps; step 1; step 2; and step 2
without the auxiliary loss, which leaves the head start alone. Prints a table and writes every number.

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
from labelenc import pipeline
from labelenc.config import load_config
from labelenc.errors import readable_errors
from labelenc.visualization import read_metrics

RUNS = ("baseline", "baseline, iterations of both steps", "step 1", "step 2", "step 2 without auxiliary loss")


def run_all(args: argparse.Namespace, seed: int) -> dict[str, dict]:
    """One seed: run name -> its numbers."""
    folder = Path(args.output_dir) / f"seed{seed}"

    def config(name: str, *words: object):
        opts = ["OUTPUT_DIR", str(folder / name), "SEED", str(seed), *args.opts, *map(str, words)]
        return load_config(args.config_file, opts)

    plain = config("baseline")
    step1_iterations = plain.SOLVER.MAX_ITER + plain.MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS
    both = step1_iterations + plain.SOLVER.MAX_ITER
    handed = str(folder / "step1" / pipeline.LABEL_ENCODING_FILE)
    no_loss = ("MODEL.LABELENC.AUXILIARY_LOSS_ITERS", 0)
    tasks = {
        RUNS[0]: (plain, pipeline.train_baseline, ()),
        RUNS[1]: (config("baseline_long", "SOLVER.MAX_ITER", both), pipeline.train_baseline, ()),
        RUNS[2]: (config("step1"), pipeline.train_step1, ()),
        RUNS[3]: (config("step2"), pipeline.train_step2, (handed,)),
        RUNS[4]: (config("step2_head_start", *no_loss), pipeline.train_step2, (handed,)),
    }
    results = {}
    for name, (cfg, train, extra) in tasks.items():
        numbers = train(cfg, *extra)
        rows = read_metrics(Path(cfg.OUTPUT_DIR) / "metrics.jsonl")
        results[name] = {
            "iterations": rows[-1]["iteration"],
            "training_seconds": round(sum(row.get("time", 0.0) for row in rows), 1),
            "numbers": numbers,
        }
    return results


def table(results: dict[int, dict[str, dict]], dataset: str) -> str:
    lines = [f"{'run':<38} {'iterations':>10}  " + "  ".join(f"AP seed {s}" for s in results) + "   mean"]
    for name in RUNS:
        scores = [100 * results[seed][name]["numbers"][f"eval/{dataset}/AP"] for seed in results]
        iterations = next(iter(results.values()))[name]["iterations"]
        cells = "  ".join(f"{score:>9.1f}" for score in scores)
        lines.append(f"{name:<38} {iterations:>10}  {cells}  {sum(scores) / len(scores):>5.1f}")
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
