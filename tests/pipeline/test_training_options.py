"""Averaged weights, micro-batches and other batch sizes through the whole pipeline."""

from __future__ import annotations

import logging

import pytest
import torch

from labelenc import pipeline
from labelenc.config import ConfigError
from labelenc.engine import load_file


def test_the_average_is_evaluated_and_handed_over(tiny_cfg, tmp_path) -> None:
    options = ("SOLVER.EMA_DECAY", "0.9", "SOLVER.ACCUMULATION_STEPS", "2")
    metrics = pipeline.train_step1(tiny_cfg(*options, out="step1"))
    final = load_file(tmp_path / "step1/model_final.pth")
    handed = load_file(tmp_path / "step1/label_encoding_function.pth")
    assert handed.pop("description")["kind"] == "step1"
    for part, state in handed.items():
        averages = {name: final["model_ema"][f"{part}.{name}"] for name in state}
        torch.testing.assert_close(state, averages, rtol=0, atol=0)
    name = "label_encoding_function.body.stage1.weight"
    assert not torch.equal(final["model"][name], final["model_ema"][name])
    # From the file, which holds both.
    again = pipeline.evaluate(tiny_cfg("MODEL.WEIGHT", tmp_path / "step1/model_final.pth"))
    assert again == {key: value for key, value in metrics.items() if "_reconstruction" not in key}
    averaged = tiny_cfg(*options, out="step2")
    pipeline.train_step2(averaged, str(tmp_path / "step1/label_encoding_function.pth"))
    final = load_file(tmp_path / "step2/model_final.pth")
    frozen = [key for key in final["model"] if key.startswith("label_encoding_function.")]
    assert all(torch.equal(final["model"][key], final["model_ema"][key]) for key in frozen)


def test_resuming_with_average_and_micro_batches(tiny_cfg, tmp_path) -> None:
    options = ("SOLVER.EMA_DECAY", "0.9", "SOLVER.ACCUMULATION_STEPS", "2", "DATASETS.TEST", "()")
    for stop in (3, 8):
        pipeline.train_step1(tiny_cfg(*options, "SOLVER.MAX_ITER", stop, out="stopped"))
    pipeline.train_step1(tiny_cfg(*options, out="through"))
    through, stopped = (load_file(tmp_path / name / "model_final.pth") for name in ("through", "stopped"))
    for part in ("model", "model_ema"):
        torch.testing.assert_close(through[part], stopped[part], rtol=0, atol=0)


def test_another_batch_size_is_advised_on(tiny_cfg, tmp_path, caplog) -> None:
    options = ("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()")
    with caplog.at_level(logging.WARNING, "labelenc"):
        pipeline.train_baseline(tiny_cfg(*options, out="unscaled"))
    assert any("SOLVER.BASE_LR 0.005" in message and "AUTO_SCALE" in message for message in caplog.messages)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "labelenc"):
        pipeline.train_baseline(tiny_cfg(*options, "SOLVER.AUTO_SCALE", "True", out="scaled"))
    assert not any("meant for" in message for message in caplog.messages)
    assert load_file(tmp_path / "scaled/model_final.pth")["iteration"] == 4
    assert "AUTO_SCALE: false" in (tmp_path / "scaled/config.yml").read_text()


def test_a_batch_that_micro_batches_cannot_share(tiny_cfg) -> None:
    with pytest.raises(ConfigError, match=r"IMS_PER_BATCH is 4, .* 1 processes times .*ACCUMULATION_STEPS 3"):
        pipeline.train_baseline(tiny_cfg("SOLVER.ACCUMULATION_STEPS", "3"))
