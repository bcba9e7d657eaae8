"""What step 1 hands to step 2: the content of ``label_encoding_function.pth``.

``{"label_encoding_function": …, "rpn": …[, "roi_heads": …]}``, each a plain state_dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from labelenc.modeling import Detector
from labelenc.structures import box_ops

ENCODER = "label_encoding_function"
HEADS = ("rpn", "roi_heads")


class HandoverError(ValueError):
    """A step-1 file that does not fit the step-2 model; the message says what differs."""


def export_label_encoding(model: Detector) -> dict[str, dict[str, Tensor]]:
    """The encoder and the heads of a step-1 model, on the CPU."""
    parts = [ENCODER, *(head for head in HEADS if isinstance(getattr(model, head, None), nn.Module))]
    return {
        part: {name: tensor.detach().cpu() for name, tensor in model.get_submodule(part).state_dict().items()}
        for part in parts
    }


def load_label_encoding(
    model: Detector, content: Mapping[str, Any], source: str, encoder_only: bool = False
) -> None:
    """Start a step-2 model from a step-1 file: encoder and heads strictly, the image FPN from the encoder's.

    Args:
        model: a step-2 model; changed in place.
        content: what ``export_label_encoding`` made or a published file holds.
        source: the file's name, for messages.
        encoder_only: take the label encoder alone; heads and image FPN stay as they are.

    Raises:
        HandoverError: parts are missing, or names or shapes differ.
    """
    heads = [head for head in HEADS if isinstance(getattr(model, head, None), nn.Module)]
    parts = [ENCODER] if encoder_only else [ENCODER, *heads]
    missing = [part for part in parts if not isinstance(content.get(part), Mapping)]
    if missing:
        raise HandoverError(
            f"{source} is not a step-1 file for this detector: it lacks {', '.join(missing)} (it has "
            f"{', '.join(map(str, content)) or 'nothing'}). Give --labelenc the label_encoding_function.pth "
            "that step 1 wrote with the same configuration"
        )
    states = {part: _plain(content[part]) for part in parts}
    _check_encoder(model.get_submodule(ENCODER), states[ENCODER], source)
    if not encoder_only:
        _check_anchors(model.rpn, states["rpn"], source)
    for part in parts:
        _load_strictly(model.get_submodule(part), states[part], part, source)
    if encoder_only:
        return
    prefix = "fpn."
    fpn = {k.removeprefix(prefix): v for k, v in states[ENCODER].items() if k.startswith(prefix)}
    _load_strictly(model.get_submodule("backbone.fpn"), fpn, "backbone.fpn", source)


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _stage_channels(state: Mapping[str, Tensor]) -> list[int]:
    names = [f"body.{stage}.con3.weight" for stage in ("stage2", "stage3.0", "stage4.0", "stage5")]
    return [state[name].shape[0] for name in names if name in state]


def _check_encoder(encoder: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """The two mistakes people make, in plain words: another body, other classes."""
    own, given = _stage_channels(encoder.state_dict()), _stage_channels(state)
    if own != given:
        raise HandoverError(
            f"{source} encodes into stages of {given} channels, but this backbone's stages have {own}; run "
            "step 1 with a backbone of the same channels (R-50, R-101 and X-101 share theirs)"
        )
    stem = "body.stage1.weight"
    if stem in state and state[stem].shape[1] != encoder.state_dict()[stem].shape[1]:
        raise HandoverError(
            f"{source} was trained for {state[stem].shape[1]} classes, this model has "
            f"{encoder.state_dict()[stem].shape[1]}; run step 1 on the same classes"
        )


def _check_anchors(head: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """They are buffers, so loading would put step 1's in the place of the configured ones."""
    for name, own in head.named_buffers():
        given = state.get(name)
        if not name.startswith("anchor_generator.") or given is None or given.shape != own.shape:
            continue
        if not torch.allclose(own.cpu(), given.float().cpu(), atol=1e-3):
            raise HandoverError(
                f"{source} was trained with other anchors: {name} has the widths {_widths(given)} there and "
                f"{_widths(own)} here; use the anchor sizes, ratios and strides of step 1"
            )


def _widths(anchors: Tensor) -> list[int]:
    return box_ops.widths_heights(anchors)[0].round().int().tolist()


def _load_strictly(module: nn.Module, state: Mapping[str, Tensor], part: str, source: str) -> None:
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise HandoverError(
            f"{part} of {source} does not fit this model; step 1 and step 2 need the same detector "
            f"configuration. {error}"
        ) from None
