"""The conversion by hand: the lines it prints are a config that trains."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from labelenc.config import load_config
from labelenc.data import build_train_loader, check_datasets
from labelenc.dataset_tools import convert

ROOT = Path(__file__).resolve().parents[2]
MODEL = 'MODEL: {RETINANET_ON: True, BACKBONE: {CONV_BODY: "R-50-FPN-RETINANET"}}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # A name that YAML and shells would stumble over.
    root = tmp_path / "my data: v1.2"
    for number in range(8):
        path = root / f"images/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(path)
        labels = root / f"labels/{number}.txt"
        labels.parent.mkdir(exist_ok=True)
        labels.write_text(f"{number % 2} 0.5 0.5 0.25 0.25\n")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def test_the_printed_lines_are_a_config(folder, tmp_path, capsys):
    convert(str(folder), val_share=0.25)
    printed = capsys.readouterr().out
    lines = printed[printed.index("DATASETS:") : printed.index("Next:")]
    (tmp_path / "config.yaml").write_text(f"{MODEL}\n{lines}\nSEED: 1\nSOLVER: {{IMS_PER_BATCH: 2}}\n")
    cfg = load_config(str(tmp_path / "config.yaml"), ["DATALOADER.NUM_WORKERS", "0"])
    assert cfg.DATASETS.TRAIN == ("my_data_v1_2_train",)
    assert cfg.DATASETS.TEST == ("my_data_v1_2_val",)
    assert check_datasets(cfg) == []
    (batch,) = build_train_loader(cfg, 1, 0, 0, 1)
    # 16 x 12 in the middle of 64 x 48, which becomes 1066 x 800; inclusive corners end a pixel earlier.
    assert batch.targets[0].bbox[0].tolist() == pytest.approx([400, 300, 650, 483.3], abs=20)


@pytest.fixture
def run(monkeypatch, capsys):
    """run(tool, word, …) -> exit status (0 if it returns) and what it printed, in this process."""

    def start(*words: object) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        monkeypatch.chdir(ROOT)
        status: object = 0
        try:
            runpy.run_path(str(ROOT / str(words[0])), run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        return status, "".join(capsys.readouterr())

    return start


CONVERT, CHECK = "tools/convert_dataset.py", "tools/check_dataset.py"


def test_commands(folder, tmp_path, run):
    status, told = run(CONVERT, folder, "--output", tmp_path / "out")
    assert status == 0
    assert "yolo folder, 2 classes: cat, dog" in told
    # The next command that it names, word for word but for the place of the page.
    _, *words = shlex.split(told.split("Next:\n\n")[1].strip())
    assert words[-1] == "dataset_check"
    status, _ = run(*words[:-1], tmp_path / "page")
    assert status == 0
    assert (tmp_path / "page/index.html").is_file()
    message, _ = run(CONVERT, folder, "--output", tmp_path / "out")
    assert "--overwrite" in str(message)
    assert "\n" not in str(message)


WRONG = [
    ((CONVERT, "x", "--val-share", "1"), "less than 1"),
    ((CONVERT, "x", "--format", "coco"), "invalid choice: 'coco'"),
    ((CONVERT,), "DIR"),
    ((CHECK,), "give one of --config-file"),
    ((CHECK, "--images", "x"), "belong together"),
    (
        (CHECK, "--images", "x", "--annotations", "y", "OUTPUT_DIR", "z"),
        "OUTPUT_DIR: KEY VALUE pairs",
    ),
    ((CHECK, "--voc", "x", "--split", "train", "--samples", "-1"), "--samples is at least 0"),
    ((CHECK, "--voc", "x", "--split", "train", "--config-file", "y"), "give one of"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_arguments(run, words, message):
    status, told = run(*words)
    assert status == 2
    (line,) = told.splitlines()
    assert message in line


@pytest.mark.parametrize("tool", [CONVERT, CHECK])
def test_help_ends_with_an_example(run, tool):
    status, told = run(tool, "--help")
    assert status == 0
    assert told.splitlines()[-1].startswith(f"  python {tool} ")
