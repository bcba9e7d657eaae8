"""tools/predict.py as a program, and reading ahead."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from labelenc.prediction.frames import Frame, Unreadable, in_order, read_frames
from labelenc.prediction.sources import find_sources

TOOL = Path(__file__).resolve().parents[2] / "tools/predict.py"


def test_reading_ahead_keeps_the_order(tmp_path, trained, seed, write_video):
    write_video(tmp_path / "a.avi", 7)
    words = [str(tmp_path / "a.avi"), str(trained / "val"), str(trained / "train")]
    frames = list(read_frames(find_sources(words), ahead=3))
    assert all(isinstance(frame, Frame) for frame in frames)
    assert [frame.number for frame in frames] == [*range(7), *[None] * 14]
    assert [Path(frame.source.place).parent.name for frame in frames[7:]] == ["val"] * 6 + ["train"] * 8
    pauses = np.random.default_rng(seed).uniform(0, 0.02, 20)
    done = in_order((lambda i=i: time.sleep(pauses[i]) or i for i in range(20)), 4, 6)
    assert list(done) == list(range(20))
    # Left in the middle, and a missing file among others.
    some = read_frames(find_sources(words), ahead=3)
    assert next(some).number == 0
    some.close()
    (tmp_path / "list.txt").write_text("gone.jpg\na.avi\n")
    assert isinstance(next(read_frames(find_sources([str(tmp_path / "list.txt")]))), Unreadable)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupted_runs_keep_what_is_done(tmp_path, trained, results, write_video, read_video):
    write_video(tmp_path / "long.avi", 4000)
    command = [sys.executable, str(TOOL), str(trained / "run/model_final.pth"), str(tmp_path / "long.avi")]
    output = tmp_path / "out"
    words = ["--output", str(output), "--device", "cpu", "--score-threshold", "0.15"]
    with subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        begun = output / "long.part.mp4"
        while process.poll() is None and not (begun.exists() and begun.stat().st_size > 0):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    content, rows = results(output)
    assert 0 < len(content["images"]) < 4000
    assert len(rows) == len(content["annotations"])
    assert len(read_video(output / "long.mp4")[0]) == len(content["images"])
    assert out.startswith(f"{len(content['images'])} images")
    assert not list(output.glob("*.part*"))


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["a.jpg", "--score-threshold", "1.5"], 2, "argument --score-threshold: 1.5 is not between 0 and 1"),
        (["a.jpg", "--every", "0"], 2, "argument --every: 0 is no whole number from 1 up"),
        (["a.jpg", "--batch-size", "x"], 2, "argument --batch-size: x is no whole number from 1 up"),
        (["a.jpg", "--set", "KEY"], 2, "argument --set: expected 2 arguments"),
        ([], 2, "the following arguments are required: INPUT"),
        (["none.jpg"], 1, "there is no none.jpg: an input is"),
    ],
)
def test_mistakes_are_told_in_one_line(words, status, line, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict.py", "model.pth", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    (told,) = (capsys.readouterr().err if status == 2 else str(ended.value)).splitlines()
    assert ended.value.code == (2 if status == 2 else told)
    assert told.removeprefix("error: ").startswith(line)


def test_options_reach_the_program(trained, tmp_path, monkeypatch, results, write_video):
    write_video(tmp_path / "in/deep/clip.avi", 12)
    words = [
        *("--output", str(tmp_path / "out"), "--score-threshold", "0.15", "--no-pictures", "--recursive"),
        *("--every", "2", "--max-frames", "3", "--batch-size", "2", "--device", "cpu"),
        *("--config-file", str(trained / "config.yaml"), "--set", "INPUT.MIN_SIZE_TEST", "48"),
    ]
    monkeypatch.setattr(
        sys, "argv", ["predict.py", str(trained / "run/model_final.pth"), str(tmp_path / "in"), *words]
    )
    runpy.run_path(str(TOOL), run_name="__main__")
    content, rows = results(tmp_path / "out")
    assert [image["frame"] for image in content["images"]] == [0, 2, 4]
    assert rows
    assert not list((tmp_path / "out").glob("**/*.mp4"))
