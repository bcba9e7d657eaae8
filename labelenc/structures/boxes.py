"""BoxList: the boxes of one image with per-box fields such as labels and scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labelenc.structures import box_ops

MODES = ("xyxy", "xywh")


class BoxList:
    """Boxes of one image.

    Args:
        bbox: (N, 4) tensor or nested list, converted to float32 unless it is floating point already.
        image_size: ``(width, height)`` in pixels of the image that the coordinates refer to.
        mode: ``"xyxy"`` corners or ``"xywh"`` corner and inclusive size.

    Fields are tensors with N rows; ``labels`` (int64, 1..C, 0 is background) and ``scores`` (float32) are
    the usual ones. Methods return new lists; nothing is changed in place but by ``add_field``.
    """

    def __init__(self, bbox: Tensor | Sequence, image_size: tuple[int, int], mode: str = "xyxy") -> None:
        bbox = torch.as_tensor(bbox)
        if not bbox.is_floating_point():
            bbox = bbox.to(torch.float32)
        if bbox.numel() == 0:
            bbox = bbox.reshape(0, 4)
        if bbox.ndim != 2 or bbox.shape[1] != 4:
            raise ValueError(f"bbox must have shape (N, 4), got {tuple(bbox.shape)}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        self.bbox = bbox
        self.size = (int(image_size[0]), int(image_size[1]))
        self.mode = mode
        self._fields: dict[str, Tensor] = {}
        self._on_cpu: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return self.bbox.shape[0]

    def __repr__(self) -> str:
        return f"BoxList({len(self)} boxes, size={self.size}, mode={self.mode}, fields={self.fields()})"

    def add_field(self, name: str, values: Tensor) -> None:
        """Attach ``values`` (N rows) under ``name``; ValueError if the number of rows differs."""
        if len(values) != len(self):
            raise ValueError(f"field {name!r} has {len(values)} rows for {len(self)} boxes")
        self._fields[name] = values
        self._on_cpu.pop(name, None)

    def get_field(self, name: str) -> Tensor:
        """The field ``name``; KeyError with the known names otherwise."""
        if name not in self._fields:
            raise KeyError(f"no field {name!r}; this BoxList has {self.fields()}")
        return self._fields[name]

    def cpu_field(self, name: str) -> Tensor:
        """The field ``name`` on the CPU. Of a list that ``to`` made from one on the CPU, and that was not
        indexed since, this is the original: nobody waits for a GPU to learn it."""
        return self._on_cpu[name] if name in self._on_cpu else self.get_field(name).cpu()

    def has_field(self, name: str) -> bool:
        return name in self._fields

    def fields(self) -> list[str]:
        return list(self._fields)

    def _like(self, bbox: Tensor, size: tuple[int, int] | None = None, mode: str | None = None) -> BoxList:
        new = BoxList(bbox, size or self.size, mode or self.mode)
        new._fields = dict(self._fields)
        new._on_cpu = dict(self._on_cpu)
        return new

    def to(self, device: torch.device | str, non_blocking: bool = False) -> BoxList:
        new = self._like(self.bbox.to(device, non_blocking=non_blocking))
        new._fields = {k: v.to(device, non_blocking=non_blocking) for k, v in self._fields.items()}
        new._on_cpu = {k: v for k, v in self._fields.items() if v.device.type == "cpu"}
        return new

    def pin_memory(self) -> BoxList:
        new = self._like(self.bbox.pin_memory())
        new._fields = {k: v.pin_memory() for k, v in self._fields.items()}
        return new

    def __getitem__(self, index: Tensor | slice | list[int]) -> BoxList:
        """Rows picked by a slice, an index tensor or a boolean mask."""
        new = BoxList(self.bbox[index], self.size, self.mode)
        new._fields = {k: v[index] for k, v in self._fields.items()}
        return new

    @classmethod
    def cat(cls, lists: Sequence[BoxList]) -> BoxList:
        """The boxes of several lists of one image, one after the other.

        ValueError unless all have the same image size, mode and fields.
        """
        kinds = {(boxes.size, boxes.mode, tuple(sorted(boxes.fields()))) for boxes in lists}
        if len(kinds) != 1:
            raise ValueError(f"lists to join must agree in image size, mode and fields, not {kinds}")
        joined = cls(torch.cat([boxes.bbox for boxes in lists]), lists[0].size, lists[0].mode)
        for name in lists[0].fields():
            joined.add_field(name, torch.cat([boxes.get_field(name) for boxes in lists]))
        return joined

    def convert(self, mode: str) -> BoxList:
        if mode == self.mode:
            return self
        change = box_ops.xyxy_to_xywh if mode == "xywh" else box_ops.xywh_to_xyxy
        return self._like(change(self.bbox), mode=mode)

    def resize(self, size: tuple[int, int]) -> BoxList:
        """Scale the coordinates by the ratio of the sizes; ``size`` is the new (width, height)."""
        ratio_x, ratio_y = size[0] / self.size[0], size[1] / self.size[1]
        xyxy = self.convert("xyxy").bbox
        scaled = xyxy * xyxy.new_tensor([ratio_x, ratio_y, ratio_x, ratio_y])
        return self._like(scaled, size=size, mode="xyxy").convert(self.mode)

    def flip_left_right(self) -> BoxList:
        """Mirror: ``x -> width - 1 - x``."""
        x0, y0, x1, y1 = self.convert("xyxy").bbox.unbind(dim=1)
        right = self.size[0] - box_ops.LEGACY_OFFSET
        flipped = torch.stack([right - x1, y0, right - x0, y1], dim=1)
        return self._like(flipped, mode="xyxy").convert(self.mode)

    def clip_to_image(self, remove_empty: bool = True) -> BoxList:
        """Clip to the image; with ``remove_empty``, drop boxes whose corners then coincide on an axis."""
        clipped = self._like(box_ops.clip(self.convert("xyxy").bbox, self.size), mode="xyxy")
        if remove_empty:
            x0, y0, x1, y1 = clipped.bbox.unbind(dim=1)
            clipped = clipped[(x1 > x0) & (y1 > y0)]
        return clipped.convert(self.mode)

    def area(self) -> Tensor:
        """Inclusive areas, shape (N,)."""
        return box_ops.area(self.convert("xyxy").bbox)
