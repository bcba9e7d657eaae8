"""Initial weights: which layout a file has, where its tensors go, and a report of what happened."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Of the LabelEnc networks, not of the detector that comes out of them.
TRAINING_ONLY = ("label_encoding_function.", "feature_adapt.")
EFFICIENTNET_LAYERS = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}
EFFICIENTNET_CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message says why."""


@dataclass
class LoadReport:
    """What became of every name: of the file (matched, ignored, unexpected, mismatched) and of the model
    (missing: kept as it was)."""

    source: str
    layout: str
    matched: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source} ({self.layout}): {len(self.matched)} tensors loaded"]
        for title, names in (
            ("set aside on purpose", self.ignored),
            ("not in the file, kept as initialised", self.missing),
            ("in the file, but unknown to the model", self.unexpected),
            ("of another shape, kept as initialised", self.mismatched),
        ):
            if names:
                lines.append(f"  {len(names)} {title}: {_shortened(names)}")
        return "\n".join(lines)


def _shortened(names: list[str], shown: int = 6) -> str:
    rest = f" … and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def load_weights(
    model: nn.Module, content: Mapping[str, Any], source: str, complete: bool = False
) -> LoadReport:
    """Copy the tensors of a file into a detector wherever name and shape agree.

    Known layouts: a detector's checkpoint (also of the ancestors: wrapped in ``model``, names prefixed with
    ``module.``), a timm state_dict and EfficientNet-Lite weights for a timm body.

    Args:
        model: the detector; changed in place.
        content: the file's content.
        source: the file's name, for the report.
        complete: the file must hold the whole model, as it must for an evaluation.

    Returns:
        The report, which is also logged.

    Raises:
        WeightsError: no tensor of the file fits the model, or with ``complete`` some are missing.
    """
    state = _unwrap(content)
    if not state:
        raise WeightsError(f"{source} holds no tensors; is it a checkpoint?")
    wanted = model.state_dict()
    layout, renamed, ignored = _translate(state, wanted)
    report = LoadReport(source, layout, ignored=ignored)
    for name, tensor in renamed.items():
        if name not in wanted:
            aside = name.startswith(TRAINING_ONLY)
            (report.ignored if aside else report.unexpected).append(name)
        elif wanted[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)} for {tuple(wanted[name].shape)}"
            report.mismatched.append(f"{name} {shapes}")
        else:
            report.matched.append(name)
    mismatched = {entry.split(" ", 1)[0] for entry in report.mismatched}
    report.missing = [name for name in wanted if name not in renamed and name not in mismatched]
    if not report.matched:
        raise WeightsError(
            f"nothing in {source} fits this model. It has {_shortened(list(state), 3)}; the model has "
            f"{_shortened(list(wanted), 3)}. Check MODEL.WEIGHT and MODEL.BACKBONE.CONV_BODY"
        )
    with torch.no_grad():
        for name in report.matched:
            wanted[name].copy_(renamed[name])
    logger.info("%s", report)
    lacking = report.missing + report.mismatched
    if complete and lacking:
        raise WeightsError(
            f"{source} lacks {len(lacking)} tensors of this model: {_shortened(lacking)}. Use the config "
            "that it was trained with, classes included"
        )
    return report


def _unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    while isinstance(content.get("model"), Mapping):
        content = content["model"]
    return {k.removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}


def _translate(
    state: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor], list[str]]:
    """Layout, tensors under the detector's names, names ignored on purpose."""
    if any(name.startswith(("backbone.", "rpn.")) for name in state):
        return "detector checkpoint", state, []
    if "_conv_stem.weight" in state:
        return _efficientnet(state, wanted)
    timm_names = {name: f"backbone.body.model.{name}" for name in state}
    if any(new in wanted for new in timm_names.values()):
        return "timm body", {timm_names[name]: tensor for name, tensor in state.items()}, []
    return "unknown layout", state, []


def _efficientnet(
    state: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor], list[str]]:
    """EfficientNet-Lite as converted from TensorFlow: blocks are numbered through, timm numbers by stage."""
    prefix = "backbone.body.model."
    found = {
        (int(parts[1]), int(parts[2]))
        for parts in (name.removeprefix(prefix).split(".") for name in wanted if name.startswith(prefix))
        if parts[0] == "blocks"
    }
    blocks = dict(enumerate(sorted(found)))
    renamed: dict[str, Tensor] = {}
    ignored: list[str] = []
    for name, tensor in state.items():
        if name.startswith(EFFICIENTNET_CLASSIFIER):
            ignored.append(name)
            continue
        renamed[prefix + _efficientnet_name(name, state, blocks)] = tensor
    return "EfficientNet-Lite", renamed, ignored


def _efficientnet_name(name: str, state: Mapping[str, Tensor], blocks: dict[int, tuple[int, int]]) -> str:
    parts = name.split(".")
    if parts[0] != "_blocks":
        return {"_conv_stem": "conv_stem", "_bn0": "bn1"}.get(parts[0], parts[0]) + "." + parts[-1]
    number, layer, leaf = int(parts[1]), parts[2], parts[3]
    if number not in blocks:
        return name
    expands = f"_blocks.{number}._expand_conv.weight" in state
    if layer.startswith("_bn"):
        # Without an expansion the first norm is missing, and timm counts from 1 in either case.
        new = f"bn{int(layer.removeprefix('_bn')) + (1 if expands else 0)}"
    elif layer == "_project_conv" and not expands:
        new = "conv_pw"
    else:
        new = EFFICIENTNET_LAYERS[layer]
    stage, block = blocks[number]
    return f"blocks.{stage}.{block}.{new}.{leaf}"
