"""Make COCO files of a Pascal VOC or YOLO folder."""

import argparse
import textwrap

from labelenc.config import ToolParser, fraction

DESCRIPTION = """Write annotations/<split>.json in COCO format for a Pascal VOC or YOLO folder. Images are
neither decoded nor copied. Splits of the folder are kept; a folder without them is divided into train and
val, each class with its share in both. Then the lines for the config are printed."""
EXAMPLES = """\
Examples:
  python tools/convert_dataset.py data/my_yolo_folder
  python tools/convert_dataset.py data/VOC2012 --format voc --output data/voc_coco
  python tools/convert_dataset.py data/photos --val-share 0.1 --seed 1 --overwrite
"""


def share(text: str) -> float:
    if (value := fraction(text)) == 1:
        raise argparse.ArgumentTypeError(f"{text} is not less than 1")
    return value


def parser() -> argparse.ArgumentParser:
    arguments = ToolParser(
        description=textwrap.fill(" ".join(DESCRIPTION.split()), 100),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add("folder", metavar="DIR", help="the folder to convert")
    add("--output", metavar="DIR", help="write DIR/annotations/<split>.json (default: the folder itself)")
    add("--format", choices=("auto", "voc", "yolo"), default="auto", help="of the folder (default: auto)")
    add("--val-share", type=share, default=0.2, metavar="X", help="part of the images for val (default: 0.2)")
    add("--seed", type=int, default=0, metavar="N", help="of the division into train and val (default: 0)")
    add("--overwrite", action="store_true", help="replace files of an earlier conversion")
    add("--skip-faulty", action="store_true", help="leave out unreadable images and malformed labels")
    exif = "what YOLO labels of photos with an EXIF rotation refer to: the picture as shown, or as stored"
    add("--exif", choices=("shown", "stored"), default="shown", help=f"{exif} (default: shown)")
    return arguments


def main() -> None:
    args = parser().parse_args()
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import dataset_tools, errors

    with errors.readable_errors():
        places = (args.folder, args.output, args.format)
        options = (args.val_share, args.seed, args.overwrite, args.skip_faulty)
        dataset_tools.convert(*places, *options, displayed=args.exif == "shown")


if __name__ == "__main__":
    main()
