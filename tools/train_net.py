"""Train a detector without LabelEnc: the baseline that the two steps are compared with."""

import argparse

from labelenc.config import parse_tool, tool_parser

EXAMPLE = """\
torchrun --nproc_per_node=8 tools/train_net.py \\
  --config-file configs/retinanet/retinanet_R-50-FPN_1x.yaml OUTPUT_DIR exps/baseline"""


def parser() -> argparse.ArgumentParser:
    """The arguments; a test reads the documented commands with it."""
    arguments = tool_parser(
        "Train the plain detector of a config and evaluate it. Resumes where OUTPUT_DIR holds a checkpoint.",
        EXAMPLE,
    )
    arguments.add_argument("--skip-test", action="store_true", help="train only, evaluate nothing")
    return arguments


def main() -> None:
    args, cfg = parse_tool(parser())
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, pipeline

    with errors.readable_errors():
        pipeline.train_baseline(cfg, args.skip_test)


if __name__ == "__main__":
    main()
