"""A detector from a file of weights, and what it finds in images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from labelenc import data, engine, testing
from labelenc.config import ConfigError, known_categories, load_config, num_classes, with_num_classes
from labelenc.data.coco import decode_image
from labelenc.description import config_in, description_of, differences
from labelenc.modeling import Detector, build_detector
from labelenc.modeling.backbone.pretrained import load_weights
from labelenc.prediction.detections import Detections, from_box_list
from labelenc.structures import Batch, BoxList, ImageBatch

logger = logging.getLogger(__name__)

Picture = str | os.PathLike[str] | np.ndarray
Categories = tuple[tuple[int, str], ...]


class PredictionError(ValueError):
    """An input that nothing can be detected in; the message says which one and why."""


def load_detector(
    path: str | os.PathLike[str],
    config_file: str | os.PathLike[str] | None = None,
    opts: Sequence[str] = (),
    device: str | None = None,
) -> Predictor:
    """The detector in a checkpoint, ready to predict.

    Args:
        path: ``model_final.pth`` of a baseline, step 1 or step 2 run, what ``tools/export.py`` made of it
            (``.pth``, ``.safetensors``), or, with ``config_file``, a published checkpoint.
        config_file: the configuration; None takes the one that the checkpoint carries.
        opts: ``["KEY", "VALUE", …]`` overrides, such as ``["INPUT.MIN_SIZE_TEST", "640"]``.
        device: such as "cpu" or "cuda:1"; None takes a GPU where there is one.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else than data.
        ConfigError: there is no configuration, or a wrong one; there is no such device.
        WeightsError: the file lacks tensors of this detector.
    """
    source = str(path)
    place = _usable_device(device)
    content = engine.load_file(engine.fetch_weight(source))
    cfg = load_config(config_file, opts) if config_file is not None else config_in(content, source, opts)
    cfg, categories = _with_classes(cfg, content, source)
    model = build_detector(cfg)
    load_weights(model, content, source, complete=True)
    for difference in differences(content, source, cfg):
        logger.warning("%s was trained with another configuration: %s", source, difference)
    return Predictor(model, cfg, categories, place)


def _usable_device(name: str | None) -> str:
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    # PyTorch's ways to say that it has no such device.
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"the device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return name


class Predictor:
    """A detector with all that lies between it and image files.

    Args:
        model: the detector; put on ``device`` and into eval mode.
        cfg: its configuration; INPUT says how images are prepared, TEST.IMS_PER_BATCH how many go through
            at a time.
        categories: (category id, name) in the order of the labels.
        device: such as "cpu" or "cuda".
    """

    def __init__(self, model: Detector, cfg: CfgNode, categories: Categories, device: str) -> None:
        self.device = torch.device(device)
        self.model = engine.place(model, self.device, cfg.DTYPE).eval()
        self.cfg = cfg
        self.categories = categories
        self._transform = data.build_transform(cfg, training=False)
        self._rescaling = (data.build_rescaling(cfg) or []) if cfg.TEST.BBOX_AUG.ENABLED else []

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.categories)

    @property
    def category_ids(self) -> tuple[int, ...]:
        return tuple(category_id for category_id, _ in self.categories)

    def predict(
        self, images: Picture | Iterable[Picture], score_threshold: float = 0.0, batch_size: int | None = None
    ) -> list[Detections]:
        """Detections of every image, in the pixels of the original.

        Args:
            images: paths, or uint8 arrays (H, W, 3) in BGR order as OpenCV reads them (``rgb[..., ::-1]`` of
                others); or a single one.
                Files are turned upright where their EXIF data say so.
            score_threshold: lower scores are left out. The detector itself has none below about 0.05.
            batch_size: images that go through the network together, padded to the largest of them; None
                takes TEST.IMS_PER_BATCH.

        Raises:
            PredictionError: a file that cannot be read, or an array of another shape or type.
        """
        single = isinstance(images, str | os.PathLike | np.ndarray)
        return list(self.stream([images] if single else images, score_threshold, batch_size))  # type: ignore[list-item, arg-type]

    def stream(
        self, images: Iterable[Picture], score_threshold: float = 0.0, batch_size: int | None = None
    ) -> Iterator[Detections]:
        """As `predict`, one after the other; of the images only a batch is in memory at a time."""
        size = self.cfg.TEST.IMS_PER_BATCH if batch_size is None else batch_size
        if size < 1:
            raise PredictionError(f"batch_size must be 1 or more, not {size}")
        numbered = enumerate(images, start=1)
        while chunk := list(islice(numbered, size)):
            pictures = [read_picture(image) for _, image in chunk]
            for found, picture, (number, image) in zip(self._detect(pictures), pictures, chunk, strict=True):
                kept = found[found.get_field("scores") >= score_threshold]
                path = None if isinstance(image, np.ndarray) else str(image)
                yield from_box_list(kept, self.categories, picture, path, number)

    def preprocess(self, picture: np.ndarray) -> Tensor:
        """A uint8 (H, W, 3) BGR array at the test size, in the channel order of INPUT; uint8 (3, h, w)."""
        return _apply(self._transform, picture)

    @torch.no_grad()
    def _detect(self, pictures: Sequence[np.ndarray]) -> list[BoxList]:
        divisibility = self.cfg.DATALOADER.SIZE_DIVISIBILITY
        views = [self._transform, *self._rescaling]
        batches = [
            ImageBatch.from_tensors([_apply(view, picture) for picture in pictures], divisibility)
            for view in views
        ]
        sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
        ids = list(range(len(pictures)))
        batch = Batch(batches[0], [], ids, sizes, batches[1:] or None).to(self.device)
        found = testing.detect_batch(self.cfg, self.model, batch)
        return [boxes.resize(size) for boxes, size in zip(found, sizes, strict=True)]


def read_picture(image: Picture) -> np.ndarray:
    """uint8 (H, W, 3), BGR, from a file, upright, or from an array, which is checked.

    Raises:
        PredictionError: unreadable, or of another shape or type.
    """
    if not isinstance(image, np.ndarray):
        return _read(str(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise PredictionError(
            f"an image must be a uint8 array (H, W, 3) in BGR order, not {image.dtype} {image.shape}; "
            "cv2.imread gives such arrays"
        )
    # Swapped colours make negative strides, and Pillow's arrays are read-only; PyTorch takes neither.
    return np.require(image, requirements=("C", "W"))


def _read(path: str) -> np.ndarray:
    try:
        picture = decode_image(path, upright=True)
    except FileNotFoundError:
        raise PredictionError(f"there is no image {path}; check the path") from None
    except OSError as error:
        raise PredictionError(f"the image {path} cannot be read: {error}") from error
    if picture is None:
        raise PredictionError(f"{path} cannot be decoded as an image; is it one?")
    return picture


def _apply(transform: data.Transform, picture: np.ndarray) -> Tensor:
    nothing = BoxList(torch.zeros(0, 4), (picture.shape[1], picture.shape[0]))
    return transform(torch.from_numpy(picture).permute(2, 0, 1), nothing, None)[0]


def _with_classes(cfg: CfgNode, content: Mapping[str, Any], source: str) -> tuple[CfgNode, Categories]:
    """The configuration with its number of classes, and their ids and names: those that the checkpoint
    carries, else those of the configuration's data sets (COCO and VOC need not be here), else numbers."""
    found = description_of(content, source)
    if found is not None:
        categories = tuple(zip(found["category_ids"], found["class_names"], strict=True))
        return with_num_classes(cfg, len(categories), source), categories
    for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST):
        try:
            info = data.read_dataset_info(cfg, names)
        except (ConfigError, data.DataError):
            continue
        return with_num_classes(cfg, info.num_classes, info.name), info.categories
    number = num_classes(cfg)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        known = known_categories(name, number)
        if known is not None:
            return with_num_classes(cfg, number, name), known
    logger.warning(
        "%s does not tell its classes, and no data set of the configuration is here to tell them: they are "
        "called by their numbers",
        source,
    )
    return with_num_classes(cfg, number, source), tuple((k, str(k)) for k in range(1, number + 1))
