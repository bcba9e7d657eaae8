"""The arguments that every tool takes."""

import argparse
import os

import pytest

from labelenc.config.command_line import count, fraction, parse_tool, tool_parser


@pytest.fixture
def path(write_yaml):
    return str(
        write_yaml(
            """
            MODEL:
              RETINANET_ON: True
              BACKBONE: {CONV_BODY: R-50-FPN-RETINANET}
            """
        )
    )


def test_config_file_and_pairs(path):
    args, cfg = parse_tool(
        tool_parser("x"), ["--config-file", path, "OUTPUT_DIR", "exps/x", "SOLVER.BASE_LR", "0.005"]
    )
    assert args.local_rank is None
    assert (cfg.OUTPUT_DIR, cfg.SOLVER.BASE_LR) == ("exps/x", 0.005)


@pytest.mark.parametrize("words", [["--local-rank=1"], ["--local_rank=1"], ["--local-rank", "1"]])
def test_both_spellings_of_the_local_rank(path, monkeypatch, words):
    # monkeypatch restores what parse_tool sets.
    monkeypatch.setenv("LOCAL_RANK", "unset")
    monkeypatch.delenv("LOCAL_RANK")
    args, cfg = parse_tool(tool_parser("x"), [*words, "--config-file", path, "MODEL.DEVICE", "cpu"])
    assert args.local_rank == 1
    assert os.environ["LOCAL_RANK"] == "1"
    assert cfg.MODEL.DEVICE == "cpu"


def test_the_launchers_environment_wins(path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    parse_tool(tool_parser("x"), ["--local-rank=1", "--config-file", path])
    assert os.environ["LOCAL_RANK"] == "3"


def test_own_flags_of_a_tool_go_before_the_pairs(path):
    parser = tool_parser("x")
    parser.add_argument("--labelenc")
    args, cfg = parse_tool(parser, ["--config-file", path, "--labelenc", "f.pth", "SEED", "4"])
    assert (args.labelenc, cfg.SEED) == ("f.pth", 4)


@pytest.mark.parametrize("words", [["SOLVER.BASE_LRR", "1"], ["OUTPUT_DIR"]])
def test_a_wrong_configuration_ends_with_one_message(path, capsys, words):
    with pytest.raises(SystemExit) as caught:
        parse_tool(tool_parser("x"), ["--config-file", path, *words])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_help_teaches_the_pairs(capsys):
    with pytest.raises(SystemExit) as caught:
        tool_parser("What it does.").parse_args(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for words in ("What it does.", "--config-file", "SOLVER.BASE_LR 0.005", "torchrun"):
        assert words in text


def test_options_after_the_pairs_are_an_error_that_says_so(capsys):
    with pytest.raises(SystemExit):
        parse_tool(tool_parser("A tool."), ["--config-file", "f.yaml", "SEED", "1", "--skip-test"])
    assert "--skip-test must stand before the KEY VALUE pairs" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [count, fraction])
@pytest.mark.parametrize("word", ["", "x", "-1", "nan", "inf", "1e9"])
def test_numbers_that_are_refused(kind, word):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is no whole number|is not between"):
        kind(word)


def test_numbers_that_are_taken():
    assert [count("1"), count("12")] == [1, 12]
    assert [fraction("0"), fraction("0.25"), fraction("1")] == [0, 0.25, 1]
    for kind, word in ((count, "0"), (count, "1.5"), (fraction, "1.01")):
        with pytest.raises(argparse.ArgumentTypeError):
            kind(word)
