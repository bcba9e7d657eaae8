"""Copies to the GPU ahead of the computation; skips without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from labelenc.engine.prefetch import prefetched
from labelenc.structures import Batch, BoxList, ImageBatch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
# About 50 ms and half a second at the clocks of today's GPUs.
SHORT, LONG = 10**8, 10**9


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def make_batch(number: int) -> Batch:
    images = ImageBatch(torch.randint(0, 256, (2, 3, 800, 1088), dtype=torch.uint8), [(800, 1088)] * 2)
    # One image without boxes: a tensor without memory has a stream to record, too.
    targets = [BoxList(torch.rand(n, 4), (1088, 800)) for n in (number % 5, 0)]
    for target in targets:
        target.add_field("labels", torch.randint(1, 9, (len(target),)))
    rescaled = [ImageBatch(images.tensors[:, :, :64, :64].clone(), [(64, 64)] * 2)]
    return Batch(images, targets, [number, -number], [(1088, 800)] * 2, rescaled)


def test_batches_arrive_whole_while_the_gpu_lags_behind(seed: int, device: torch.device) -> None:
    originals = [make_batch(number) for number in range(12)]
    # What each batch holds by the time that the computation gets to it; the host is far ahead then.
    seen = []
    pinned = [batch.pin_memory() for batch in originals]
    for batch in prefetched(iter(pinned), device):
        torch.cuda._sleep(SHORT)
        labels = [target.get_field("labels").clone() for target in batch.targets]
        boxes = [target.bbox.clone() for target in batch.targets]
        seen.append((batch.images.tensors.clone(), batch.rescaled[0].tensors.clone(), boxes, labels))
        assert batch.images.tensors.device == device
    assert len(seen) == len(originals)
    for original, (pixels, rescaled, boxes, labels) in zip(originals, seen, strict=True):
        assert torch.equal(pixels.cpu(), original.images.tensors)
        assert torch.equal(rescaled.cpu(), original.rescaled[0].tensors)
        for target, box, label in zip(original.targets, boxes, labels, strict=True):
            assert torch.equal(box.cpu(), target.bbox)
            assert torch.equal(label.cpu(), target.get_field("labels"))


def test_the_next_copy_does_not_wait_for_the_computation(seed: int, device: torch.device) -> None:
    copied: list[torch.cuda.Event] = []

    class Noting(Batch):
        def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
            moved = super().to(device, non_blocking)
            copied.append(torch.cuda.current_stream().record_event())
            return moved

    pinned = [make_batch(number).pin_memory() for number in range(3)]
    stream = prefetched((Noting(**vars(batch)) for batch in pinned), device)
    next(stream)
    torch.cuda._sleep(LONG)
    computed = torch.cuda.current_stream().record_event()
    next(stream)
    assert len(copied) == 3
    copied[-1].synchronize()
    assert not computed.query(), "the copy of the third batch waited for the computation on the first"
    torch.cuda.synchronize()


def test_the_host_waits_for_no_copy(seed: int, device: torch.device) -> None:
    batches = [make_batch(number).pin_memory() for number in range(4)]
    stream = prefetched(iter(batches), device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert [batch.image_ids[0] for batch in stream] == [0, 1, 2, 3]
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_error_waits_for_its_turn(seed: int, device: torch.device) -> None:
    def source() -> Iterator[Batch]:
        yield make_batch(0).pin_memory()
        raise ValueError("broken")

    stream = prefetched(source(), device)
    assert next(stream).image_ids == [0, 0]
    with pytest.raises(ValueError, match="broken"):
        next(stream)
