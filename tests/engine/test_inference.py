"""Inference in one process; two processes are in test_distributed.py."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from labelenc.engine import run_inference
from labelenc.structures import Batch, BoxList


def test_boxes_return_in_the_coordinates_of_the_files(tiny: ModuleType) -> None:
    model = tiny.Echo()
    predictions = run_inference(model, tiny.loader(0, 3), tiny.ALONE, tiny.on_images(model), num_images=6)
    assert sorted(predictions) == [0, 1, 10, 11, 20, 21]
    assert model.training
    for boxes in predictions.values():
        # Images of 16 x 24 were resized to 8 x 8.
        assert boxes.size == (16, 24)
        assert boxes.bbox.tolist() == [[2.0, 3.0, 10.0, 18.0]]


def test_detecting_happens_in_eval_mode_without_gradients(tiny: ModuleType) -> None:
    seen = []
    model = nn.Identity()

    def detect(batch: Batch) -> list[BoxList]:
        seen.append((model.training, torch.is_grad_enabled()))
        return batch.targets

    for training in (True, False):
        predictions = run_inference(model.train(training), tiny.loader(0, 1), tiny.ALONE, detect)
        assert len(predictions) == 2
        assert model.training == training
    assert seen == [(False, False)] * 2


def test_missing_and_repeated_images_are_errors(tiny: ModuleType) -> None:
    model = tiny.Echo()
    detect = tiny.on_images(model)
    with pytest.raises(RuntimeError, match="4 of 5 images"):
        run_inference(model, tiny.loader(0, 2), tiny.ALONE, detect, num_images=5)
    twice = [tiny.Batches()[3], tiny.Batches()[3]]
    with pytest.raises(RuntimeError, match=r"2 images were evaluated more than once \(ids \[30, 31\]\)"):
        run_inference(model, twice, tiny.ALONE, detect)


def test_mode_is_restored_after_an_error(tiny: ModuleType) -> None:
    model = tiny.Echo()
    with pytest.raises(ZeroDivisionError):
        run_inference(model, tiny.loader(0, 1), tiny.ALONE, lambda batch: 1 / 0)
    assert model.training


def test_no_images(tiny: ModuleType) -> None:
    model = tiny.Echo()
    assert run_inference(model, [], tiny.ALONE, tiny.on_images(model)) == {}
