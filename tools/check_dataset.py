"""Report what is wrong with data sets, and show what they are made of."""

import argparse

from labelenc.config import parse_tool, tool_parser

EXAMPLES = """\
python tools/check_dataset.py --output exps/check --config-file my_config.yaml
python tools/check_dataset.py --output exps/check --images data/images --annotations data/train.json
python tools/check_dataset.py --full --voc data/VOC2012 --split train"""


def parser() -> argparse.ArgumentParser:
    arguments = tool_parser(
        "Check DATASETS.TRAIN and DATASETS.TEST of a config, or one set without a config: every problem with "
        "its id, its file and what will be done about it, as before training; then numbers, advice, and a "
        "page with charts and pictures. Ends with status 1 if a problem stops training.",
        EXAMPLES,
        needs_config=False,
    )
    add = arguments.add_argument
    add("--images", metavar="DIR", help="image folder of a set in COCO format")
    add("--annotations", metavar="FILE", help="its JSON file")
    add("--voc", metavar="DIR", help="Pascal VOC folder")
    add("--split", metavar="NAME", help="its split: ImageSets/Main/NAME.txt")
    add("--full", action="store_true", help="decode every image, not a few dozen")
    add("--output", metavar="DIR", help="folder of the page (default: OUTPUT_DIR/dataset_check)")
    add("--samples", type=int, default=24, metavar="N", help="pictures on the contact sheet (default: 24)")
    return arguments


def main() -> None:
    arguments = parser()
    args = arguments.parse_args()
    pairs = {
        "--images and --annotations": (args.images, args.annotations),
        "--voc and --split": (args.voc, args.split),
    }
    if any(bool(one) != bool(other) for one, other in pairs.values()) or args.samples < 0:
        arguments.error(f"{', '.join(pairs)} belong together; --samples is at least 0")
    if bool(args.config_file) + bool(args.images) + bool(args.voc) != 1:
        arguments.error(f"give one of --config-file, {', '.join(pairs)}")
    if args.opts and not args.config_file:
        arguments.error(f"{args.opts[0]}: KEY VALUE pairs override a --config-file, and there is none")
    cfg = parse_tool(arguments)[1] if args.config_file else None
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import dataset_tools, errors

    options = (args.full, args.output, args.samples)
    with errors.readable_errors():
        if cfg is not None:
            dataset_tools.check_config(cfg, *options)
        elif args.voc:
            dataset_tools.check_voc_folder(args.voc, args.split, *options)
        else:
            dataset_tools.check_coco_file(args.images, args.annotations, *options)


if __name__ == "__main__":
    main()
