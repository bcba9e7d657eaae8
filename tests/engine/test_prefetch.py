"""The order of prefetched batches and of the errors among them; tests/gpu has what needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from labelenc.engine.prefetch import one_ahead, prefetched
from labelenc.structures import Batch


def test_nothing_happens_on_the_cpu(tiny: ModuleType) -> None:
    batches = iter(tiny.loader(0, 3))
    assert prefetched(batches, torch.device("cpu")) is batches


def test_one_more_is_fetched_than_handed_out() -> None:
    fetched: list[int] = []

    def source() -> Iterator[int]:
        for number in range(4):
            fetched.append(number)
            yield number

    stream = one_ahead(source())
    assert fetched == []
    for number in range(4):
        assert next(stream) == number
        assert fetched == list(range(min(number + 2, 4)))
    assert list(stream) == []
    assert list(one_ahead(iter(()))) == []


@pytest.mark.parametrize("good", [0, 1, 3])
def test_an_error_waits_for_its_turn(good: int) -> None:
    def source() -> Iterator[int]:
        yield from range(good)
        raise ValueError("broken")

    stream = one_ahead(source())
    assert [next(stream) for _ in range(good)] == list(range(good))
    with pytest.raises(ValueError, match="broken"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


def test_an_interrupt_waits_for_nothing() -> None:
    def source() -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(one_ahead(source()))


def test_training_does_the_updates_before_a_broken_batch(tiny: ModuleType, tmp_path: Path) -> None:
    done: list[int] = []

    def losses(model, batch: Batch, k: int):
        done.append(k)
        return tiny.model_losses(model, batch, k)

    def data() -> Iterator[Batch]:
        yield from tiny.loader(0, 5)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        tiny.run(tmp_path, 8, data=data(), losses=losses)
    assert done == [0, 1, 2, 3, 4]
    assert (tmp_path / "model_0000004.pth").is_file()
