"""Write the report of a finished run again."""

import argparse

from labelenc.config import ToolParser

EXAMPLE = """\
example:
  python tools/report.py exps/step2
"""


def parser() -> argparse.ArgumentParser:
    """The arguments, see --help."""
    arguments = ToolParser(
        description="Write RUN/report/index.html again, the report that training and tools/test_net.py end\n"
        "with. It needs the run's folder and the data set, no weights.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("run", metavar="RUN", help="folder of a run, its OUTPUT_DIR")
    return arguments


def main() -> None:
    args = parser().parse_args()
    # After parsing, so that --help and mistakes answer at once.
    from labelenc.errors import readable_errors
    from labelenc.reports import report_of_folder

    with readable_errors():
        print(f"report: {report_of_folder(args.run)}")


if __name__ == "__main__":
    main()
