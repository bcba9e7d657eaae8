"""Train baseline, step 1 and step 2 on generated images and write a report: what `make demo` runs."""

import argparse

from labelenc.config import ToolParser

EPILOG = "Example:\n  python tools/demo.py --output-dir exps/demo"


def parser() -> argparse.ArgumentParser:
    """The arguments; a test reads the documented commands with it."""
    arguments = ToolParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--config-file", default="configs/demo/shapes_R-18_small.yaml", metavar="FILE")
    arguments.add_argument("--output-dir", default="exps/demo", metavar="DIR")
    return arguments


def main() -> None:
    args = parser().parse_args()
    # After parsing, so that --help answers at once.
    from labelenc.demo import run_demo
    from labelenc.errors import readable_errors

    with readable_errors():
        raise SystemExit(run_demo(args.config_file, args.output_dir))


if __name__ == "__main__":
    main()
