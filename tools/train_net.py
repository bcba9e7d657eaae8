"""Train a detector without LabelEnc: the baseline that the two steps are compared with."""

from labelenc.config import parse_tool, tool_parser


def main() -> None:
    parser = tool_parser(
        "Train the plain detector of a config and evaluate it. Resumes where OUTPUT_DIR holds a checkpoint."
    )
    parser.add_argument("--skip-test", action="store_true", help="train only, evaluate nothing")
    args, cfg = parse_tool(parser)
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, pipeline

    with errors.readable_errors():
        pipeline.train_baseline(cfg, args.skip_test)


if __name__ == "__main__":
    main()
