"""The whole method in one command: baseline, step 1, step 2 and the report that compares them."""

import argparse

from labelenc.config import parse_tool, tool_parser

EXAMPLE = """\
example:
  python tools/run_labelenc.py --config-file configs/own_data/own_data.yaml --dry-run OUTPUT_DIR exps/mine
  python tools/run_labelenc.py --config-file configs/own_data/own_data.yaml OUTPUT_DIR exps/mine
The same command again goes on where the study stopped.
"""


def main() -> None:
    parser = tool_parser(
        "Train baseline, step 1 and step 2 of LabelEnc one after the other, each in its own folder of "
        "OUTPUT_DIR, and compare them in OUTPUT_DIR/comparison. Finished runs are not trained again, an "
        "interrupted one resumes."
    )
    parser.epilog = EXAMPLE
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--baseline", action=flag, default=True, help="train the plain detector first")
    parser.add_argument(
        "--equal-budget", action="store_true", help="a baseline with the iterations of step 1 and step 2, too"
    )
    parser.add_argument(
        "--controls", action="store_true", help="step 2 without auxiliary loss, and without step-1 start, too"
    )
    parser.add_argument("--nproc-per-node", type=_processes, default=1, metavar="N", help="processes per run")
    parser.add_argument(
        "--dry-run", action="store_true", help="print plan, estimated time and commands; train nothing"
    )
    parser.add_argument("--no-timing", action="store_true", help="with --dry-run: no estimate, at once")
    parser.add_argument(
        "--allow-changes", action="store_true", help="go on although the configuration has changed"
    )
    args, cfg = parse_tool(parser)
    # After parsing, so that --help and mistakes answer at once.
    from labelenc.study import run_study

    raise SystemExit(run_study(args, cfg))


def _processes(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"write a number of processes, 1 or more, not {word!r}")
    return int(word)


if __name__ == "__main__":
    main()
