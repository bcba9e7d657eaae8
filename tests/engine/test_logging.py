"""metrics.jsonl, TensorBoard and the console as a reader finds them."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from labelenc.engine import MetricsWriter, setup_logging


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder: Path, start: int, stop: int, rank: int = 0) -> None:
    with MetricsWriter(folder, start, 10, log_period=2, rank=rank) as writer:
        for iteration in range(start + 1, stop + 1):
            writer.update(iteration, {"loss_a": iteration * 1.0, "loss_b": 0.5}, 0.1 / iteration, 0.2, 0.05)
            if iteration % 3 == 0:
                writer.evaluation(iteration, {"eval/shapes/AP": iteration / 10, "eval/shapes/APs": None})


def test_rows_hold_every_update_and_evaluation(tmp_path: Path) -> None:
    write(tmp_path, 0, 3)
    *updates, evaluation = rows(tmp_path)
    assert [row["iteration"] for row in updates] == [1, 2, 3]
    assert {key: value for key, value in updates[1].items() if key != "max_mem"} == {
        "iteration": 2,
        "loss": 2.5,
        "loss_a": 2.0,
        "loss_b": 0.5,
        "lr": 0.05,
        "time": 0.2,
        "data_time": 0.05,
    }
    assert 10 < updates[1]["max_mem"] < 1e6
    assert evaluation == {"iteration": 3, "eval/shapes/AP": 0.3, "eval/shapes/APs": None}


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 0, 7)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"iteration": 8, "lo')
    write(tmp_path, 4, 10)
    found = rows(tmp_path)
    assert [row["iteration"] for row in found if "loss" in row] == list(range(1, 11))
    assert [row["iteration"] for row in found if "eval/shapes/AP" in row] == [3, 6, 9]
    assert not list(tmp_path.glob("*.tmp"))


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    write(tmp_path, 0, 7)
    # TensorBoard orders files by the second of their start, then by a number read as text.
    time.sleep(1.1)
    write(tmp_path, 4, 10)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert {"losses/loss_a", "losses/loss_b", "loss", "lr", "time", "data_time", "max_mem"} <= set(
        board.Tags()["scalars"]
    )
    points = [(event.step, event.value) for event in board.Scalars("losses/loss_a")]
    assert points == [(step, float(step)) for step in (2, 4, 6, 8, 10)]
    assert [event.step for event in board.Scalars("eval/shapes/AP")] == [3, 6, 9]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, 4, rank=1)
    assert not list(tmp_path.iterdir())


def test_console_line_has_medians_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture, restored_logger: logging.Logger
) -> None:
    setup_logging(tmp_path)
    setup_logging(tmp_path)
    write(tmp_path, 0, 4)
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if "iteration" in line]
    # Medians of 1 … 4 and of a constant; six updates of 0.2 s are left.
    assert len(lines) == 2
    for part in (
        "iteration 4/10",
        "eta 0:00:01",
        "loss 3.0000",
        "loss_a 2.5000",
        "lr 2.500e-02",
        "data 0.050 s",
    ):
        assert part in lines[1]
    assert printed.err == "", "no progress bar but on a terminal"
    assert "loss_a 2.5000" in (tmp_path / "log.txt").read_text()


def test_other_ranks_log_to_their_own_file(
    tmp_path: Path, capsys: pytest.CaptureFixture, restored_logger: logging.Logger
) -> None:
    setup_logging(tmp_path, rank=3)
    logging.getLogger("labelenc.data").warning("a warning")
    logging.getLogger("labelenc.data").error("an error")
    printed = capsys.readouterr().out
    assert "a warning" not in printed
    assert "an error" in printed
    assert "a warning" in (tmp_path / "log_rank3.txt").read_text()
