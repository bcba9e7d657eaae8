"""Write a trained detector as ONNX, torch.export or slim weights, and check it against PyTorch."""

import argparse

from labelenc.config import ToolParser, count

DESCRIPTION = """\
Write the detector of a checkpoint for use elsewhere, and check the file against PyTorch on images.
  onnx         the whole detector, from pixels to boxes after NMS, for onnxruntime and others
  pt2          the same for torch.export.load, after "import labelenc.export"
  safetensors  the weights for inference and their configuration, for labelenc.load_detector
  pth          the same as a PyTorch file
A file that fails its check is not kept, and the status is 1. Heights and widths are multiples of 32. Writing
ONNX needs onnx, onnxruntime and onnxscript. To run a file:
  labelenc.export.ExportedDetector("detector.onnx").predict(["a.jpg"])
or without labelenc, by onnxruntime and OpenCV alone, as docs/run_onnx.py shows."""
EPILOG = """\
examples:
  python tools/export.py exps/run/model_final.pth --format onnx --images photos/
  python tools/export.py exps/run/model_final.pth --format onnx --size 800 1344 --batch 1
  python tools/export.py exps/run/model_final.pth --format safetensors --output detector.safetensors
  python tools/export.py old.pth --format pt2 --config-file configs/retinanet/retinanet_R-50-FPN_1x.yaml"""


def parser() -> argparse.ArgumentParser:
    """The arguments; a test reads the documented commands with it."""
    arguments = ToolParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = arguments.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="trained weights, such as exps/run/model_final.pth")
    add("--format", required=True, choices=("onnx", "pt2", "safetensors", "pth"))
    add("--output", metavar="FILE", help="default: beside the checkpoint, <name>_inference.<format>")
    add(
        "--images",
        nargs="+",
        default=[],
        metavar="FILE",
        help="to check with; default: of the test set",
    )
    add("--size", nargs=2, type=count, metavar=("H", "W"), help="fix the input's size; default: free")
    add("--batch", type=count, metavar="N", help="fix the number of images; default: free")
    add("--config-file", metavar="FILE", help="for weights without a configuration")
    add("--set", nargs=2, action="extend", default=[], metavar=("KEY", "VALUE"), help="override a config key")
    return arguments


def main() -> None:
    args = parser().parse_args()
    # After parsing, so that --help and mistakes answer at once.
    from labelenc import errors, export

    with errors.readable_errors():
        size = tuple(args.size) if args.size else None
        request = export.Request(args.format, args.output, args.images, size, args.batch)
        export.export_checkpoint(args.checkpoint, request, args.config_file, args.set)


if __name__ == "__main__":
    main()
