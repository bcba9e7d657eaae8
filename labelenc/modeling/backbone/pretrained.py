"""Initial weights: the tensors of a file go into a detector, and a report says what happened."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from labelenc.modeling.backbone.layouts import Translation, translate

logger = logging.getLogger(__name__)

# Of the LabelEnc networks, not of the detector that comes out of them.
TRAINING_ONLY = ("label_encoding_function.", "feature_adapt.")
# Averaged weights are what their run was evaluated with, so they come before the last ones.
WRAPPERS = ("model_ema", "model", "blobs", "state_dict")
MAX_WRAPPERS = 4
# The first key of what step 1 hands to step 2.
HANDED_OVER = "label_encoding_function"
ANCHORS = "anchor_generator."
# Layers that have a row, or of the label encoder a column, for every class.
CLASS_ROWS = re.compile(r"rpn\.head\.cls_logits\.|roi_heads\.box\.predictor\.")
CLASS_COLUMNS = re.compile(r"label_encoding_function\.body\.stage1\.")


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message says why."""


@dataclass
class LoadReport:
    """What became of every name: of the file (matched, ignored, unexpected, mismatched) and of the model
    (missing: kept as it was). ``other_classes`` are those mismatched that have another number of classes."""

    source: str
    layout: str
    matched: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    other_classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source} ({self.layout}): {len(self.matched)} tensors loaded"]
        others = [entry for entry in self.mismatched if entry not in self.other_classes]
        for title, names in (
            ("set aside on purpose", self.ignored),
            ("not in the file, kept as initialised", self.missing),
            ("in the file, but unknown to the model", self.unexpected),
            ("of class layers, for another number of classes, kept as initialised", self.other_classes),
            ("of another shape, kept as initialised", others),
        ):
            if names:
                lines.append(f"  {len(names)} {title}: {_shortened(names)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def load_weights(
    model: nn.Module,
    content: Mapping[str, Any],
    source: str,
    complete: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> LoadReport:
    """Copy the tensors of a file into a detector wherever name and shape agree.

    Known layouts: a detector's checkpoint (also of the ancestors: wrapped in ``model``, names prefixed with
    ``module.``), of which the averaged weights ``model_ema`` are taken where there are any; for a ResNet body
    the files of Caffe2/Detectron, detectron2 and torchvision; for a timm body a timm state_dict and
    EfficientNet-Lite. Anchors stay those of the model.

    Args:
        model: the detector; changed in place.
        content: the file's content.
        source: the file's name, for the report.
        complete: the file must hold the whole model, as it must for an evaluation.
        inputs: the configuration's INPUT (TO_BGR255, PIXEL_MEAN, PIXEL_STD), to compare with what the
            weights were trained with.

    Returns:
        The report, which is also logged, as a warning where it has notes.

    Raises:
        WeightsError: no tensor of the file fits the model, or with ``complete`` some are missing.
    """
    if isinstance(content.get(WRAPPERS[0]), Mapping):
        source = f"{source}, {WRAPPERS[0]}"
    state = _unwrap(content)
    if not state and isinstance(content.get(HANDED_OVER), Mapping):
        raise WeightsError(
            f"{source} is for --labelenc of step 2 alone; the detector is step 1's model_final.pth"
        )
    if not state:
        raise WeightsError(f"{source} holds no tensors; is it a checkpoint?")
    wanted = model.state_dict()
    translation = translate(state, wanted)
    report = _compare(translation, wanted, source)
    if not report.matched:
        raise WeightsError(
            f"nothing in {source} fits this model. It has {_shortened(list(state), 3)}; the model has "
            f"{_shortened(list(wanted), 3)}. Check MODEL.WEIGHT and MODEL.BACKBONE.CONV_BODY"
        )
    report.notes += _setting_notes(translation, model, inputs)
    with torch.no_grad():
        for name in report.matched:
            wanted[name].copy_(translation.tensors[name])
    logger.log(logging.WARNING if report.notes else logging.INFO, "%s", report)
    lacking = report.missing + report.mismatched
    if complete and lacking:
        raise WeightsError(
            f"{source} lacks {len(lacking)} tensors of this model: {_shortened(lacking)}. Use the config "
            "that it was trained with, classes included"
        )
    return report


def _unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    for _ in range(MAX_WRAPPERS):
        wrappers = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not wrappers:
            break
        content = content[wrappers[0]]
    return {
        name.removeprefix("module."): tensor
        for name, tensor in content.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }


def _compare(translation: Translation, wanted: Mapping[str, Tensor], source: str) -> LoadReport:
    report = LoadReport(source, translation.layout, ignored=translation.ignored, notes=translation.notes)
    mismatched = set()
    for name, tensor in translation.tensors.items():
        if name not in wanted:
            aside = name.startswith(TRAINING_ONLY) or ANCHORS in name
            (report.ignored if aside else report.unexpected).append(name)
        elif ANCHORS in name and not _same(tensor, wanted[name]):
            report.ignored.append(name)
            report.notes.append(
                f"{name} is {_anchor_sizes(tensor)} in the file and {_anchor_sizes(wanted[name])} by the "
                "configuration, which is used; its heads were trained for the file's"
            )
        elif wanted[name].shape != tensor.shape:
            mismatched.add(name)
            entry = f"{name} {tuple(tensor.shape)} for {tuple(wanted[name].shape)}"
            report.mismatched.append(entry)
            if _other_classes(name, tensor, wanted):
                report.other_classes.append(entry)
        else:
            report.matched.append(name)
    report.missing = [
        name
        for name in wanted
        if name not in translation.tensors and name not in mismatched and ANCHORS not in name
    ]
    return report


def _other_classes(name: str, tensor: Tensor, wanted: Mapping[str, Tensor]) -> bool:
    """Whether the shapes differ in the number of classes alone."""
    given, own = list(tensor.shape), list(wanted[name].shape)
    if CLASS_COLUMNS.match(name):
        return given[:1] + given[2:] == own[:1] + own[2:]
    # The region proposal network of a two-stage detector knows no classes.
    in_rpn = name.startswith("rpn.") and any(other.startswith("roi_heads.") for other in wanted)
    return bool(CLASS_ROWS.match(name)) and not in_rpn and given[1:] == own[1:]


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first.to(second), second, atol=1e-3)


def _anchor_sizes(anchors: Tensor) -> str:
    """``[32 x 32, …]`` pixels of (A, 4) anchors."""
    if anchors.ndim != 2 or anchors.shape[1] != 4:
        return f"of shape {tuple(anchors.shape)}"
    # Corners are inclusive.
    sizes = [f"{width:g} x {height:g}" for width, height in (anchors[:, 2:] - anchors[:, :2] + 1).tolist()]
    return f"[{_shortened(sizes, 3)}]"


def _setting_notes(translation: Translation, model: nn.Module, inputs: Mapping[str, Any] | None) -> list[str]:
    """Where the configuration differs from what the weights were trained with."""
    notes = []
    stride = translation.stride_in_1x1
    if stride is not None and _stride_in_1x1(model) not in (stride, None):
        notes.append(
            f"the file's network has MODEL.RESNETS.STRIDE_IN_1X1 {stride}, which its shapes do not show; "
            f"the configuration has {not stride}"
        )
    for key, value in (translation.inputs or {}).items():
        given = None if inputs is None else inputs[key]
        if given is None or _plain(given) == _plain(value):
            continue
        order = (
            f" (its first convolution takes {'BGR' if value else 'RGB'}; it is loaded as it is)"
            if key == "TO_BGR255"
            else ""
        )
        notes.append(f"the file's network needs INPUT.{key} {value}{order}; the configuration has {given}")
    return notes


def _plain(value: Any) -> Any:
    return [float(number) for number in value] if isinstance(value, list | tuple) else value


def _stride_in_1x1(model: nn.Module) -> bool | None:
    """Where a bottleneck body has its stride; None for other bodies."""
    try:
        block = model.get_submodule("backbone.body.layer2.0")
    except AttributeError:
        return None
    first = getattr(block, "conv1", None)
    if not hasattr(block, "conv3") or not isinstance(first, nn.Conv2d):
        return None
    return first.stride != (1, 1)


def _shortened(names: list[str], shown: int = 6) -> str:
    rest = f" … and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
