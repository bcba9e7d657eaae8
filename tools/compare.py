"""Put finished runs beside one another: a page, and a table for the terminal."""

import argparse

from labelenc.config import ToolParser

EXAMPLE = """\
example:
  python tools/compare.py exps/baseline exps/step1 exps/step2 --output exps/comparison
"""


def parser() -> argparse.ArgumentParser:
    """The arguments, see --help."""
    arguments = ToolParser(
        description="Put finished runs beside one another: AP with differences to the first run and\n"
        "intervals over images, curves, causes of errors, and the images on which they differ most.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders of runs (OUTPUT_DIR); the first is the reference")
    add("--names", nargs="+", metavar="NAME", help="what to call the runs; their folders' names if left out")
    add("--output", default="comparison", metavar="PATH", help="folder or .html file (default: %(default)s)")
    add("--dataset", metavar="SET", help="the set to compare on; the first common one if left out")
    add(
        "--samples",
        type=_count,
        default=1000,
        metavar="N",
        help="resamples of the images for the intervals; 0 for none (default: %(default)s)",
    )
    return arguments


def _count(word: str) -> int:
    number = int(word)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def main() -> None:
    args = parser().parse_args()
    # After parsing, so that --help and mistakes answer at once.
    from labelenc.errors import readable_errors
    from labelenc.reports import write_comparison

    options = {"names": args.names, "dataset": args.dataset, "samples": args.samples}
    with readable_errors():
        comparison = write_comparison(args.runs, args.output, **options)
        print(f"{comparison.table()}\n\nreport: {comparison.path}")


if __name__ == "__main__":
    main()
