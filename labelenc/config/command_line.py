"""The arguments that every tool takes."""

from __future__ import annotations

import argparse
import os
import textwrap
from typing import NoReturn

from yacs.config import CfgNode

from labelenc.config.errors import ConfigError
from labelenc.config.load import load_config

EPILOG = """\
KEY VALUE pairs override the config file, for example:
  OUTPUT_DIR exps/run SOLVER.BASE_LR 0.005 DATASETS.TRAIN "('my_train',)" MODEL.DEVICE cpu
labelenc/config/defaults.py lists every key. Several processes:
  torchrun --nproc_per_node=8 tools/<tool>.py --config-file FILE …
"""


class ToolParser(argparse.ArgumentParser):
    """The parser of every tool: a wrong argument is answered with one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def tool_parser(description: str, example: str = "", needs_config: bool = True) -> ToolParser:
    """A parser with ``--config-file`` and the trailing ``KEY VALUE`` pairs; tools may add their own.

    ``example`` is a command line, which ends the help. Without ``needs_config`` a tool has to see to it that
    there is a config file before it calls `parse_tool`.
    """
    parser = ToolParser(
        description=textwrap.fill(description, 100),
        epilog=EPILOG + (f"Example:\n{textwrap.indent(example, '  ')}\n" if example else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", required=needs_config, metavar="FILE", help="yaml file, see configs/"
    )
    # Set by torch.distributed.launch, in the spelling of the PyTorch version.
    parser.add_argument("--local-rank", "--local_rank", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of config keys"
    )
    return parser


def parse_tool(
    parser: argparse.ArgumentParser, words: list[str] | None = None
) -> tuple[argparse.Namespace, CfgNode | None]:
    """Arguments and configuration; a wrong configuration ends the program with one message.

    Without ``--config-file``, where the tool can do without, there is no configuration.
    """
    args = parser.parse_args(words)
    late = [word for word in args.opts if word.startswith("--")]
    if late:
        parser.error(f"{late[0]} must stand before the KEY VALUE pairs")
    if args.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if args.config_file is None:
        return args, None
    try:
        return args, load_config(args.config_file, args.opts)
    except ConfigError as error:
        # All processes read the same words; one message is enough.
        parser.exit(2, f"error: {error}\n" if os.environ.get("RANK", "0") == "0" else None)


def count(word: str) -> int:
    """The type of an argument that is a whole number from 1."""
    if not word.isdecimal() or (number := int(word)) < 1:
        raise argparse.ArgumentTypeError(f"{word} is no whole number from 1 up")
    return number


def fraction(word: str) -> float:
    """The type of an argument from 0 to 1."""
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{word} is not between 0 and 1")
    return number
