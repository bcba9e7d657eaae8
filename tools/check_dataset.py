"""Report what is wrong with the data sets of a config."""

import argparse

from labelenc.config import parse_tool, tool_parser

EXAMPLE = "python tools/check_dataset.py --full --config-file configs/own_data/own_data.yaml"


def parser() -> argparse.ArgumentParser:
    """The arguments; a test reads the documented commands with it."""
    arguments = tool_parser(
        "Check DATASETS.TRAIN and DATASETS.TEST: annotations, missing and unreadable images, faulty boxes, "
        "each with its id, its file and what will be done about it. The same check runs before training. "
        "Ends with status 1 if a problem stops training.",
        EXAMPLE,
    )
    arguments.add_argument("--full", action="store_true", help="decode every image, not a few dozen")
    return arguments


def main() -> None:
    args, cfg = parse_tool(parser())
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, pipeline

    with errors.readable_errors():
        pipeline.check(cfg, args.full)


if __name__ == "__main__":
    main()
