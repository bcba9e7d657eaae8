"""Learning rates and iterations for other batch sizes: by hand, and as the published configurations say."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from labelenc.config import ConfigError, linear_rule_advice, load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RETINANET = CONFIGS / "retinanet/retinanet_R-50-FPN_1x.yaml"
ALL = sorted(CONFIGS.rglob("*.yaml"))


def scheduled(cfg) -> dict:
    """What a batch size should decide."""
    solver, labelenc = cfg.SOLVER, cfg.MODEL.LABELENC
    return {
        "lr": solver.BASE_LR,
        "iterations": (solver.MAX_ITER, tuple(solver.STEPS), solver.WARMUP_ITERS),
        "labelenc": (labelenc.DISTANCE_LOSS_WARMUP_ITERS, labelenc.AUXILIARY_LOSS_ITERS),
    }


@pytest.mark.parametrize(
    ("of_16", "of_8"),
    [
        ("retinanet/retinanet_R-50-FPN_1x", "retinanet/retinanet_X_101_32x8d_FPN_1x"),
        ("e2e_faster_rcnn_R_50_FPN_1x", "e2e_faster_rcnn_X_101_32x8d_FPN_1x"),
    ],
)
def test_half_the_images_give_what_the_ancestors_wrote_for_them(of_16: str, of_8: str) -> None:
    scaled = load_config(
        CONFIGS / f"{of_16}.yaml", ["SOLVER.IMS_PER_BATCH", "8", "SOLVER.AUTO_SCALE", "True"]
    )
    written = load_config(CONFIGS / f"{of_8}.yaml")
    assert written.SOLVER.IMS_PER_BATCH == 8
    assert scheduled(scaled) == scheduled(written)
    # From there and back.
    back = load_config(CONFIGS / f"{of_8}.yaml", ["SOLVER.IMS_PER_BATCH", "16", "SOLVER.AUTO_SCALE", "True"])
    assert scheduled(back) == scheduled(load_config(CONFIGS / f"{of_16}.yaml"))


def test_rounded_and_never_switched_off() -> None:
    values = {
        "SOLVER": {"IMS_PER_BATCH": 96, "AUTO_SCALE": True, "STEPS": (10, 16), "MAX_ITER": 20},
        "MODEL.LABELENC": {"DISTANCE_LOSS_WARMUP_ITERS": 0, "AUXILIARY_LOSS_ITERS": 1},
    }
    words = [word for key, value in values.items() for word in (key, str(value))]
    cfg = load_config(RETINANET, words)
    assert scheduled(cfg) == {
        "lr": pytest.approx(0.06, rel=1e-12),
        "iterations": (3, (2, 3), 500),
        "labelenc": (0, 1),
    }


def test_a_written_out_configuration_is_not_scaled_twice(tmp_path, caplog) -> None:
    words = ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.AUTO_SCALE", "True"]
    with caplog.at_level(logging.WARNING, "labelenc"):
        once = load_config(RETINANET, words)
    (message,) = caplog.messages
    for part in ("4 images", "16", "SOLVER.BASE_LR 0.0025", "SOLVER.MAX_ITER 360000", "(240000, 320000)"):
        assert part in message
    assert once.SOLVER.AUTO_SCALE is False
    path = tmp_path / "config.yml"
    path.write_text(once.dump())
    for again in (load_config(path), load_config(path, words)):
        assert again == once
    assert "changes nothing" in caplog.messages[-1]
    # Its own batch size is what it is meant for.
    back = load_config(path, ["SOLVER.IMS_PER_BATCH", "16", "SOLVER.AUTO_SCALE", "True"])
    assert scheduled(back) == scheduled(load_config(RETINANET))


def test_only_another_batch_size_with_the_old_learning_rate_is_advised_on() -> None:
    advice = linear_rule_advice(load_config(RETINANET, ["SOLVER.IMS_PER_BATCH", "8"]))
    assert advice is not None
    for part in ("IMS_PER_BATCH is 8", "16 images", "BASE_LR 0.005", "MAX_ITER 180000", "AUTO_SCALE True"):
        assert part in advice
    silent = (
        ["SOLVER.IMS_PER_BATCH", "8", "SOLVER.BASE_LR", "0.01"],
        ["SOLVER.IMS_PER_BATCH", "8", "SOLVER.AUTO_SCALE", "True"],
        ["SOLVER.IMS_PER_BATCH", "8", "SOLVER.OPTIMIZER", "AdamW"],
        ["SOLVER.BASE_LR", "0.3"],
    )
    for words in silent:
        assert linear_rule_advice(load_config(RETINANET, words)) is None, words


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_shipped_configurations_are_meant_for_their_batch_size(path: Path) -> None:
    cfg = load_config(path)
    assert linear_rule_advice(cfg) is None
    assert cfg.SOLVER.REFERENCE_IMS_PER_BATCH == cfg.SOLVER.IMS_PER_BATCH


def test_a_learning_rate_is_meant_for_the_batch_size_beside_it(write_yaml) -> None:
    write_yaml(f"_BASE_: {RETINANET}\nSOLVER: {{IMS_PER_BATCH: 4, BASE_LR: 0.003}}", "own.yaml")
    own = write_yaml("_BASE_: own.yaml\nSOLVER: {MAX_ITER: 700, STEPS: [500, 600]}")
    scale = ["SOLVER.AUTO_SCALE", "True"]
    cfg = load_config(own, ["SOLVER.IMS_PER_BATCH", "8", *scale])
    assert pytest.approx(0.006) == cfg.SOLVER.BASE_LR
    assert (cfg.SOLVER.MAX_ITER, tuple(cfg.SOLVER.STEPS)) == (350, (250, 300))
    # A file that changes the batch size alone keeps a learning rate for another one.
    alone = write_yaml(f"_BASE_: {RETINANET}\nSOLVER: {{IMS_PER_BATCH: 4}}", "alone.yaml")
    advice = linear_rule_advice(load_config(alone))
    assert advice is not None
    assert "0.0025" in advice
    # Who writes both but means the learning rate for 16 can say so.
    both = write_yaml(
        f"_BASE_: {RETINANET}\nSOLVER: {{IMS_PER_BATCH: 4, BASE_LR: 0.02, REFERENCE_IMS_PER_BATCH: 16}}",
        "b.yaml",
    )
    assert pytest.approx(0.005) == load_config(both, scale).SOLVER.BASE_LR


def test_one_process_speaks(monkeypatch, caplog) -> None:
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.WARNING, "labelenc"):
        load_config(RETINANET, ["SOLVER.IMS_PER_BATCH", "8", "SOLVER.AUTO_SCALE", "True"])
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SOLVER.AUTO_SCALE", "True", "SOLVER.OPTIMIZER", "AdamW"], "AUTO_SCALE.*AdamW"),
        (
            ["SOLVER.AUTO_SCALE", "True", "SOLVER.IMS_PER_BATCH", "64", "SOLVER.STEPS", "(6, 8)"],
            r"SOLVER.STEPS \(6, 8\) into \(2, 2\)",
        ),
        (["SOLVER.REFERENCE_IMS_PER_BATCH", "0"], "REFERENCE_IMS_PER_BATCH must be positive"),
        (["SOLVER.ACCUMULATION_STEPS", "0"], "ACCUMULATION_STEPS must be positive"),
        (["SOLVER.EMA_DECAY", "1.0"], "EMA_DECAY must be"),
        (["SOLVER.EMA_DECAY", "-0.1"], "EMA_DECAY must be"),
        (["SOLVER.ON_NONFINITE", "ignore"], "ON_NONFINITE must be one of stop, skip"),
    ],
)
def test_values_that_cannot_work(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(RETINANET, words)
