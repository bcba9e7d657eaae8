"""LabelEnc step 2: train the final detector under the supervision of step 1's encodings."""

import argparse

from labelenc.config import parse_tool, tool_parser

EXAMPLE = """\
torchrun --nproc_per_node=8 tools/train_labelenc_step2.py \\
  --config-file configs/retinanet/retinanet_R-50-FPN_1x.yaml \\
  --labelenc exps/step1/label_encoding_function.pth OUTPUT_DIR exps/step2"""


def parser() -> argparse.ArgumentParser:
    """The arguments; a test reads the documented commands with it."""
    arguments = tool_parser(
        "Step 2 of LabelEnc: train the final detector, supervised by the frozen label encoding function. "
        "Its FPN and head start from step 1. The result is a plain detector: test it with tools/test_net.py.",
        EXAMPLE,
    )
    arguments.add_argument(
        "--labelenc", required=True, metavar="FILE", help="the label_encoding_function.pth that step 1 wrote"
    )
    arguments.add_argument("--skip-test", action="store_true", help="train only, evaluate nothing")
    return arguments


def main() -> None:
    args, cfg = parse_tool(parser())
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, pipeline

    with errors.readable_errors():
        pipeline.train_step2(cfg, args.labelenc, args.skip_test)


if __name__ == "__main__":
    main()
