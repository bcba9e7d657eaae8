"""The whole method in one command: baseline, step 1, step 2 and the report that compares them."""

import argparse

from labelenc.config import count, parse_tool, tool_parser

EXAMPLE = """\
example:
  python tools/run_labelenc.py --config-file configs/own_data/own_data.yaml --dry-run OUTPUT_DIR exps/mine
  python tools/run_labelenc.py --config-file configs/own_data/own_data.yaml OUTPUT_DIR exps/mine
The same command again goes on where the study stopped. KEY VALUE pairs override the config file in all runs.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments, see --help."""
    arguments = tool_parser(
        "Train baseline, step 1 and step 2 of LabelEnc one after the other, each in its own folder of "
        "OUTPUT_DIR, and compare them in OUTPUT_DIR/comparison. Finished runs are not trained again, an "
        "interrupted one resumes."
    )
    arguments.epilog = EXAMPLE
    add, switch = arguments.add_argument, argparse.BooleanOptionalAction
    add("--baseline", action=switch, default=True, help="train the plain detector first (default: yes)")
    add("--equal-budget", action="store_true", help="also a baseline with the iterations of steps 1 and 2")
    add(
        "--controls",
        action="store_true",
        help="also step 2 without the auxiliary loss, and step 2 without what step 1 trained",
    )
    add("--nproc-per-node", type=count, default=1, metavar="N", help="processes (GPUs) for each run")
    add("--dry-run", action="store_true", help="print plan, estimated time and commands; train nothing")
    add("--no-timing", action="store_true", help="with --dry-run: at once, without the estimate")
    add("--allow-changes", action="store_true", help="go on although the configuration has changed")
    return arguments


def main() -> None:
    args, cfg = parse_tool(parser())
    # After parsing, so that --help and mistakes answer at once.
    from labelenc.study import run_study

    raise SystemExit(run_study(args, cfg))


if __name__ == "__main__":
    main()
