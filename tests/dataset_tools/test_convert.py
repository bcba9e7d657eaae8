"""The conversion by hand: the lines it prints are a config that trains."""

from __future__ import annotations

import subprocess
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


def test_commands(folder, tmp_path):
    def run(*words: object, expect: int = 0) -> str:
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    tool, check = "tools/convert_dataset.py", "tools/check_dataset.py"
    told = run(tool, folder, "--output", tmp_path / "out")
    assert "yolo folder, 2 classes: cat, dog" in told
    # The next command that it names, word for word.
    command = (
        told.split("Next:\n\n")[1].strip().replace("--output dataset_check", f"--output {tmp_path}/page")
    )
    done = subprocess.run(
        ["bash", "-c", command.replace("python", sys.executable, 1)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page/index.html").is_file()
    told = run(tool, folder, "--output", tmp_path / "out", expect=1)
    assert told.count("\n") == 1
    assert "--overwrite" in told
    for words, message in (
        ((tool, folder, "--val-share", "1"), "less than 1"),
        ((tool,), "DIR"),
        ((check,), "give one of --config-file"),
        ((check, "--images", "x"), "belong together"),
        ((check, "--voc", "x", "--split", "train", "--samples", "-1"), "--samples is at least 0"),
        ((check, "--voc", "x", "--split", "train", "--config-file", "y"), "give one of"),
    ):
        assert message in run(*words, expect=2).splitlines()[-1]
    for name in (tool, check):
        assert name in run(name, "--help").splitlines()[-1]
