"""LabelEnc step 1: learn the label encoding function."""

from labelenc.config import parse_tool, tool_parser


def main() -> None:
    parser = tool_parser(
        "Step 1 of LabelEnc: train the label encoding function together with an auxiliary detector. "
        "Writes OUTPUT_DIR/label_encoding_function.pth, which step 2 takes as --labelenc. "
        "MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS iterations come on top of SOLVER.MAX_ITER."
    )
    parser.add_argument("--skip-test", action="store_true", help="train only, evaluate nothing")
    args, cfg = parse_tool(parser)
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, pipeline

    with errors.readable_errors():
        pipeline.train_step1(cfg, args.skip_test)


if __name__ == "__main__":
    main()
