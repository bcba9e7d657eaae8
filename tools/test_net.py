"""Evaluate a checkpoint: COCO AP, predictions.json and results.json per data set."""

from labelenc.config import parse_tool, tool_parser


def main() -> None:
    parser = tool_parser(
        "Evaluate a baseline, step-1 or step-2 checkpoint on DATASETS.TEST. The weights are MODEL.WEIGHT, or "
        "the newest checkpoint in OUTPUT_DIR where MODEL.WEIGHT is empty or a catalog:// name. Results go to "
        "OUTPUT_DIR/inference/<data set>/. Checkpoints of this program carry their configuration: for them "
        "MODEL.WEIGHT model_final.pth is enough, and OUTPUT_DIR is the file's folder.",
        needs_config=False,
    )
    args, cfg = parse_tool(parser)
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, pipeline

    with errors.readable_errors():
        pipeline.evaluate(cfg, args.opts)


if __name__ == "__main__":
    main()
