"""Evaluate a checkpoint: COCO AP, predictions.json and results.json per data set."""

import argparse

from labelenc.config import parse_tool, tool_parser

EXAMPLE = """\
python tools/test_net.py MODEL.WEIGHT exps/step2/model_final.pth OUTPUT_DIR exps/test
python tools/test_net.py --config-file configs/retinanet/retinanet_R-50-FPN_1x.yaml \\
  MODEL.WEIGHT published.pth OUTPUT_DIR exps/test"""


def parser() -> argparse.ArgumentParser:
    """The arguments; a test reads the documented commands with it."""
    return tool_parser(
        "Evaluate a baseline, step-1 or step-2 checkpoint on DATASETS.TEST. The weights are MODEL.WEIGHT, or "
        "the newest checkpoint in OUTPUT_DIR where MODEL.WEIGHT is empty or a catalog:// name. Results go to "
        "OUTPUT_DIR/inference/<data set>/. Checkpoints of this program carry their configuration: for them "
        "MODEL.WEIGHT model_final.pth is enough, and OUTPUT_DIR is the file's folder.",
        EXAMPLE,
        needs_config=False,
    )


def main() -> None:
    args, cfg = parse_tool(parser())
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, pipeline

    with errors.readable_errors():
        pipeline.evaluate(cfg, args.opts)


if __name__ == "__main__":
    main()
