"""Detect in pictures, folders, videos and cameras."""

import argparse

from labelenc.config import ToolParser, count, fraction

DESCRIPTION = """\
Detect in pictures and videos. The output folder gets annotated pictures and videos named as the inputs,
predictions.json (a COCO file with scores) and predictions.csv. Ctrl-C ends it and keeps what is done so far.
Status 1 tells that inputs could not be read."""
EPILOG = """\
examples:
  python tools/predict.py exps/run/model_final.pth photos/ --output found
  python tools/predict.py exps/run/model_final.pth "photos/**/*.jpg" clip.mp4 --score-threshold 0.5
  python tools/predict.py exps/run/model_final.pth webcam --max-frames 500
  python tools/predict.py published.pth photos/ --config-file configs/retinanet/retinanet_R-50-FPN_1x.yaml"""
INPUTS = 'picture, video, folder, quoted glob pattern, .txt file of paths, URL, or "webcam", "webcam:1" …'


def parser() -> argparse.ArgumentParser:
    """The arguments; a test reads the documented commands with it."""
    arguments = ToolParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = arguments.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="trained weights, such as exps/run/model_final.pth")
    add("inputs", metavar="INPUT", nargs="+", help=INPUTS)
    add("--output", default="predictions", metavar="DIR", help="default: %(default)s")
    add("--score-threshold", type=fraction, default=0.3, metavar="S", help="0 to 1, default: %(default)s")
    add("--no-pictures", action="store_true", help="write predictions.json and predictions.csv only")
    add("--recursive", action="store_true", help="look into the subfolders of folders, too")
    add("--every", type=count, default=1, metavar="N", help="take each N-th frame of a video")
    add("--max-frames", type=count, metavar="N", help="take at most N frames of each video or camera")
    add("--batch-size", type=count, metavar="N", help="images at a time, default: 8 on a GPU, else 1")
    add("--device", help='such as "cpu" or "cuda:1", default: a GPU where there is one')
    add("--config-file", metavar="FILE", help="for weights without a configuration")
    add("--set", nargs=2, action="extend", default=[], metavar=("KEY", "VALUE"), help="override a config key")
    return arguments


def main() -> None:
    args = parser().parse_args()
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, prediction

    pictures, limit = not args.no_pictures, args.max_frames
    settings = prediction.Settings(
        args.score_threshold, args.batch_size, pictures, args.recursive, args.every, limit
    )
    with errors.readable_errors():
        prediction.predict_files(
            args.checkpoint, args.inputs, args.output, settings, args.config_file, args.set, args.device
        )


if __name__ == "__main__":
    main()
