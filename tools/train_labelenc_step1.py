"""LabelEnc step 1: learn the label encoding function."""

import argparse

from labelenc.config import parse_tool, tool_parser

EXAMPLE = """\
torchrun --nproc_per_node=8 tools/train_labelenc_step1.py \\
  --config-file configs/retinanet/retinanet_R-50-FPN_1x.yaml OUTPUT_DIR exps/step1"""


def parser() -> argparse.ArgumentParser:
    """The arguments; a test reads the documented commands with it."""
    arguments = tool_parser(
        "Step 1 of LabelEnc: train the label encoding function together with an auxiliary detector. "
        "Writes OUTPUT_DIR/label_encoding_function.pth, which step 2 takes as --labelenc. "
        "MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS iterations come on top of SOLVER.MAX_ITER.",
        EXAMPLE,
    )
    arguments.add_argument("--skip-test", action="store_true", help="train only, evaluate nothing")
    return arguments


def main() -> None:
    args, cfg = parse_tool(parser())
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, pipeline

    with errors.readable_errors():
        pipeline.train_step1(cfg, args.skip_test)


if __name__ == "__main__":
    main()
