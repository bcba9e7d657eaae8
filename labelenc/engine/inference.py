"""Detections of a whole data set, over all processes."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn
from tqdm import tqdm

from labelenc.engine.distributed import Process, broadcast_batch_norm, broadcast_object, gather_objects
from labelenc.engine.execution import eager
from labelenc.engine.prefetch import prefetched
from labelenc.structures import Batch, BoxList


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` is in eval mode, keeps no gradients and nothing is compiled.

    Afterwards each of its modules is in the mode that it was in.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), eager():
            yield
    finally:
        for module, training in modes:
            module.training = training


def run_inference(
    model: nn.Module,
    loader: Iterable[Batch],
    process: Process,
    detect: Callable[[Batch], list[BoxList]],
    description: str = "inference",
    num_images: int | None = None,
) -> dict[int, BoxList] | None:
    """Detect on every image of ``loader``; each process passes its own share of the images.

    Args:
        model: the bare model that ``detect`` uses; put into eval mode for the run and back afterwards.
        loader: batches of uint8 images; shares may differ in length and may be empty.
        process: this process.
        detect: detections of a batch that is on the device already, in the coordinates of its ``images``.
        description: label of the progress bar, shown on a terminal only.
        num_images: how many images all processes together must deliver; None skips the check.

    Returns:
        On rank 0: image id -> detections (on the CPU) in the coordinates of the image file; None elsewhere.

    Raises:
        RuntimeError: on every process, if an image came twice or images are missing.
    """
    broadcast_batch_norm(model)
    found: list[tuple[int, BoxList]] = []
    with evaluating(model):
        hidden = process.rank != 0 or not sys.stderr.isatty()
        progress = tqdm(loader, desc=description, disable=hidden, leave=False)
        for batch in prefetched(iter(progress), process.device):
            described = zip(batch.image_ids, batch.original_sizes, detect(batch), strict=True)
            found += [(image_id, boxes.resize(size).to("cpu")) for image_id, size, boxes in described]
    shares = gather_objects(found)
    pairs = None if shares is None else [pair for share in shares for pair in share]
    # Every process has to hear of it: a lone error would leave the others waiting.
    complaint = broadcast_object(None if pairs is None else _complaint(pairs, num_images))
    if complaint is not None:
        raise RuntimeError(complaint)
    return None if pairs is None else dict(pairs)


def _complaint(pairs: list[tuple[int, BoxList]], num_images: int | None) -> str | None:
    counts = Counter(image_id for image_id, _ in pairs)
    twice = sorted(image_id for image_id, count in counts.items() if count > 1)
    if twice:
        listed = f"{twice[:5]}{' …' if len(twice) > 5 else ''}"
        return (
            f"{len(twice)} images were evaluated more than once (ids {listed}); the shares of the processes "
            "must not overlap, and image ids must be unique in the annotation file."
        )
    if num_images is not None and len(counts) != num_images:
        return f"{len(counts)} of {num_images} images were evaluated; the processes' shares must cover all."
    return None
