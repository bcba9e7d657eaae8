"""LabelEnc step 2: train the final detector under the supervision of step 1's encodings."""

from labelenc.config import parse_tool, tool_parser


def main() -> None:
    parser = tool_parser(
        "Step 2 of LabelEnc: train the final detector, supervised by the frozen label encoding function. "
        "Its FPN and head start from step 1. The result is a plain detector: test it with tools/test_net.py."
    )
    parser.add_argument(
        "--labelenc", required=True, metavar="FILE", help="the label_encoding_function.pth that step 1 wrote"
    )
    parser.add_argument("--skip-test", action="store_true", help="train only, evaluate nothing")
    args, cfg = parse_tool(parser)
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, pipeline

    with errors.readable_errors():
        pipeline.train_step2(cfg, args.labelenc, args.skip_test)


if __name__ == "__main__":
    main()
