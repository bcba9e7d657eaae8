"""From a checkpoint to a file that runs elsewhere, checked against the detector before it gets its name."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from yacs.config import CfgNode

from labelenc import data, engine
from labelenc.config import detector_kind
from labelenc.description import describe, description_of
from labelenc.export.agreement import Agreement, compare
from labelenc.export.errors import ExportError
from labelenc.export.formats import require_onnx, write_onnx, write_pt2
from labelenc.export.interface import describe_interface
from labelenc.export.program import BODY_STRIDE, ExportableDetector, Layout, trace
from labelenc.export.runtime import ExportedDetector
from labelenc.modeling.dense.rpn import RPN
from labelenc.prediction import Predictor, load_detector
from labelenc.prediction.predictor import read_picture
from labelenc.structures import BoxList, DatasetInfo, ImageBatch
from labelenc.testing import prepare

logger = logging.getLogger(__name__)

PROGRAMS: dict[str, Callable] = {"onnx": write_onnx, "pt2": write_pt2}
SLIM = ("safetensors", "pth")
FORMATS = (*PROGRAMS, *SLIM)
# Of a data set or generated; those the user names are all taken.
CHECKED_IMAGES = 6
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Request:
    """What to write.

    Attributes:
        format: one of FORMATS.
        output: the file; None puts it beside the checkpoint.
        images: files and folders to check with; empty takes some of the configuration's test set, or
            generated ones.
        size: (height, width) of the input; None leaves it free.
        batch: images in the input; None leaves it free.
    """

    format: str
    output: str | None = None
    images: Sequence[str] = ()
    size: tuple[int, int] | None = None
    batch: int | None = None


def export_checkpoint(
    checkpoint: str, request: Request, config_file: str | None = None, opts: Sequence[str] = ()
) -> tuple[Path, Agreement | None]:
    """Write a checkpoint's detector as ``request`` says; the file appears once it has passed its check.

    Args:
        checkpoint: as `load_detector` takes it; averaged weights are preferred where there are any.
        config_file: for checkpoints without a configuration.
        opts: overrides of config keys.

    Returns:
        The file, and for programs (not for slim files, which are compared bit by bit) how they agree.

    Raises:
        ExportError: it cannot be written, or does not find what the detector finds.
    """
    engine.setup_logging(None)
    path = _output(checkpoint, request)
    if request.format == "onnx":
        require_onnx()
    predictor = load_detector(checkpoint, config_file, opts, device="cpu")
    with _renamed_when_done(path) as temporary:
        if request.format in SLIM:
            agreement = None
            _write_slim(predictor, checkpoint, temporary)
        else:
            agreement = _write_program(predictor, request, temporary)
    logger.info("wrote %s, %.1f MB", path, path.stat().st_size / 1e6)
    return path, agreement


def _output(checkpoint: str, request: Request) -> Path:
    if request.format not in FORMATS:
        raise ExportError(f"there is no format {request.format!r}; choose one of {', '.join(FORMATS)}")
    suffix = f".{request.format}"
    beside = Path(checkpoint)
    path = Path(request.output) if request.output else beside.with_name(f"{beside.stem}_inference{suffix}")
    if path.suffix != suffix:
        raise ExportError(f"{path} must end with {suffix}, which tells programs what it is")
    if path.exists() and beside.exists() and path.samefile(beside):
        raise ExportError(f"{path} is the checkpoint itself; choose another --output")
    return path


@contextmanager
def _renamed_when_done(path: Path) -> Iterator[Path]:
    """A path of the same suffix, in the same folder, whose file takes the place of ``path`` in the end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error}") from error


def _write_slim(predictor: Predictor, checkpoint: str, path: Path) -> None:
    """The tensors of the detector alone, and its description."""
    tensors = predictor.model.state_dict()
    content = engine.load_file(engine.fetch_weight(checkpoint))
    found = description_of(content, checkpoint)
    kind = "baseline" if found is None else found["kind"]
    info = DatasetInfo("", predictor.categories, None, 0)
    description = describe(predictor.cfg, kind, info)
    if path.suffix == ".safetensors":
        plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(plain, path, metadata={"format": "pt", engine.DESCRIPTION: json.dumps(description)})
    else:
        torch.save({"model": tensors, engine.DESCRIPTION: description}, path)
    written = engine.load_file(path)
    if not _equal(written["model"], tensors) or description_of(written, str(path)) is None:
        raise ExportError(f"{path.name} does not hold what was written to it; is the disk sound?")


def _equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _write_program(predictor: Predictor, request: Request, path: Path) -> Agreement:
    cfg = predictor.cfg
    if cfg.TEST.BBOX_AUG.ENABLED:
        logger.warning("TEST.BBOX_AUG is left out: an exported detector looks at every image once")
    pictures = [read_picture(file) for file in _files(request.images)] or _pictures_of_data(cfg)
    divisor = math.lcm(BODY_STRIDE, max(cfg.DATALOADER.SIZE_DIVISIBILITY, 1))
    height, width = request.size or (None, None)
    layout = Layout(request.batch, height, width, divisor)
    unit = 1.0 if cfg.INPUT.TO_BGR255 else 255.0
    mean, std = ([value * unit for value in values] for values in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
    start = time.perf_counter()
    program = trace(ExportableDetector(predictor.model, mean, std, cfg.INPUT.TO_BGR255), layout)
    interface = describe_interface(cfg, predictor.categories, layout, _score_threshold(predictor))
    PROGRAMS[request.format](program, interface, path)
    logger.info("%s exported in %.0f s", detector_kind(cfg), time.perf_counter() - start)
    agreement = compare(ExportedDetector(path), lambda batch: _detect(predictor, batch), pictures)
    logger.info("%s", agreement)
    if not agreement.holds:
        raise ExportError(
            f"the exported file does not find what the detector finds, so it was not kept:\n{agreement}"
        )
    return agreement


def _score_threshold(predictor: Predictor) -> float:
    rpn, heads = predictor.model.rpn, predictor.model.roi_heads
    if isinstance(rpn, RPN):
        assert heads is not None
        return heads.score_threshold
    return rpn.detect_settings.score_threshold


def _detect(predictor: Predictor, batch: ImageBatch) -> list[BoxList]:
    """The detector's own detections of a uint8 BGR batch."""
    pixels = batch.tensors if predictor.cfg.INPUT.TO_BGR255 else batch.tensors.flip(1)
    found: Any = predictor.model(prepare(predictor.cfg, ImageBatch(pixels, batch.image_sizes)))
    return found


def _files(named: Sequence[str]) -> list[Path]:
    """Files as they are, and the pictures of folders."""
    files: list[Path] = []
    for name in map(Path, named):
        found = [name]
        if name.is_dir():
            found = sorted(file for file in name.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise ExportError(f"the folder {name} holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
        files += found
    return files


def _pictures_of_data(cfg: CfgNode) -> list[np.ndarray]:
    """Some of the test set, evenly spread; generated ones where it isn't here."""
    for part in data.named_sets(cfg, train=False) if cfg.DATASETS.TEST else ():
        try:
            annotations = part.read()
        except data.DataError:
            continue
        files = [Path(part.image_dir, annotations.file_name(index)) for index in range(len(annotations))]
        here = [file for file in files[:: max(len(files) // CHECKED_IMAGES, 1)] if file.is_file()]
        if here:
            logger.info("checked with images of %s", part.name)
            return [read_picture(file) for file in here[:CHECKED_IMAGES]]
    logger.warning("no images were given and no test set is here: checked with generated ones")
    with tempfile.TemporaryDirectory() as folder:
        data.generate_shapes(folder, "check", CHECKED_IMAGES, 256, 0)
        return [read_picture(file) for file in sorted(Path(folder, "check").iterdir())]
