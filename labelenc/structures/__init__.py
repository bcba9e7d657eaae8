"""Boxes, image batches, and what the data layer hands to the training loop."""

from labelenc.structures.batch import Batch, DatasetInfo
from labelenc.structures.boxes import BoxList
from labelenc.structures.image_batch import ImageBatch

__all__ = ["Batch", "BoxList", "DatasetInfo", "ImageBatch"]
