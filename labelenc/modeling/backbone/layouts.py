"""The names that programs give to the tensors of a network, translated into the detector's.

A translator gets the tensors of a file and what the detector wants (its state_dict), and returns a
``Translation``, or None where the file has another layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

BODY = "backbone.body."
TIMM_BODY = "backbone.body.model."
# torchvision's and detectron2's normalisation adds it to the variance; FrozenBatchNorm2d adds nothing.
EPSILON = 1e-5

CAFFE2_BRANCHES = {
    "1": ("downsample.0", "downsample.1"),
    "2a": ("conv1", "bn1"),
    "2b": ("conv2", "bn2"),
    "2c": ("conv3", "bn3"),
}
CAFFE2_LEAVES = {"w": "weight", "bn_s": "weight", "bn_b": "bias"}
CAFFE2_BLOCK = re.compile(r"res([2-5])_(\d+)_branch(1|2[abc])_(w|bn_s|bn_b)")
CAFFE2_STEM = {
    "conv1_w": "stem.conv1.weight",
    "res_conv1_bn_s": "stem.bn1.weight",
    "res_conv1_bn_b": "stem.bn1.bias",
}
# Classifiers, the optimizer's memory, and a bias that Detectron does not use either.
CAFFE2_IGNORED = re.compile(r"(fc1000|pred|last_out\w*)_[wb]|.*_momentum|conv1_b")

DETECTRON2_BLOCK = re.compile(r"res([2-5])\.(\d+)\.(conv([1-3])|shortcut)\.(norm\.)?(\w+)")
DETECTRON2_IGNORED = ("stem.fc.", "linear.", "fc.")

EFFICIENTNET_LAYERS = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}
EFFICIENTNET_CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")

# Configuration that the weights were trained with.
MSRA_INPUT = {"TO_BGR255": True, "PIXEL_STD": (1.0, 1.0, 1.0)}
TORCHVISION_INPUT = {
    "TO_BGR255": False,
    "PIXEL_MEAN": (0.485, 0.456, 0.406),
    "PIXEL_STD": (0.229, 0.224, 0.225),
}


@dataclass
class Translation:
    """Tensors under the detector's names.

    ``ignored`` are names of the file that are left out on purpose. ``inputs`` (keys of INPUT) and
    ``stride_in_1x1`` are what the weights were trained with; None where the file does not tell.
    """

    layout: str
    tensors: dict[str, Tensor]
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    inputs: Mapping[str, Any] | None = None
    stride_in_1x1: bool | None = None


def translate(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Translation:
    """The tensors of a file under the names of a detector; those of an unknown layout as they are.

    An ordinary convolution goes into the deformable one that the detector has in its place.
    """
    translations = (translator(state, wanted) for translator in TRANSLATORS)
    found = next((t for t in translations if t is not None), Translation("unknown layout", dict(state)))
    for name in list(found.tensors):
        layer, _, leaf = name.rpartition(".")
        if name not in wanted and f"{layer}.offset.weight" in wanted:
            found.tensors.setdefault(f"{layer}.conv.{leaf}", found.tensors.pop(name))
    return found


def norm_kind(wanted: Mapping[str, Tensor]) -> str:
    """Normalisation of the detector's ResNet body: "frozen", "batch" or "group"."""
    if f"{BODY}stem.bn1.running_var" not in wanted:
        return "group"
    return "batch" if f"{BODY}stem.bn1.num_batches_tracked" in wanted else "frozen"


def _detector(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Translation | None:
    if not any(name.startswith(("backbone.", "rpn.")) for name in state):
        return None
    return Translation("detector checkpoint", dict(state))


def _caffe2(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Translation | None:
    """Detectron's ImageNet files: batch normalisation folded into a scale ``_s`` and a shift ``_b``."""
    if not {"conv1_w", "res_conv1_bn_s"} & set(state):
        return None
    result = Translation("Caffe2", {}, inputs=MSRA_INPUT)
    for name, tensor in state.items():
        if CAFFE2_IGNORED.fullmatch(name):
            result.ignored.append(name)
        else:
            result.tensors[_caffe2_name(name)] = tensor
    unfolded = [name for name in state if name.endswith(("_bn_rm", "_bn_riv"))]
    if unfolded:
        result.notes.append(
            f"it has statistics of its batch normalisation ({unfolded[0]} …), which are not read: only files "
            "where these are folded into scale and shift give the right features"
        )
    _add_folded_statistics(result, wanted)
    # Detectron's ResNeXt (grouped 3x3) has its stride there, its ResNet in the first 1x1.
    middle = state.get("res2_0_branch2b_w")
    result.stride_in_1x1 = middle is None or middle.shape[0] == middle.shape[1]
    return result


def _caffe2_name(name: str) -> str:
    if name in CAFFE2_STEM:
        return BODY + CAFFE2_STEM[name]
    found = CAFFE2_BLOCK.fullmatch(name)
    if found is None:
        return name
    stage, block, branch, leaf = found.groups()
    layer = CAFFE2_BRANCHES[branch][leaf != "w"]
    return f"{BODY}layer{int(stage) - 1}.{block}.{layer}.{CAFFE2_LEAVES[leaf]}"


def _add_folded_statistics(result: Translation, wanted: Mapping[str, Tensor]) -> None:
    """Mean 0 and variance 1 where the body's normalisation is frozen; elsewhere say what it means."""
    if norm_kind(wanted) != "frozen":
        result.notes.append(_folded_note(wanted))
        return
    result.layout += ", with mean 0 and variance 1 for norms that are folded"
    for name in [name for name in result.tensors if re.search(r"(bn\d|downsample\.1)\.weight$", name)]:
        prefix, scale = name.removesuffix("weight"), result.tensors[name]
        result.tensors[f"{prefix}running_mean"] = torch.zeros_like(scale)
        result.tensors[f"{prefix}running_var"] = torch.ones_like(scale)


def _folded_note(wanted: Mapping[str, Tensor]) -> str:
    kind = {"batch": "batch normalisation with statistics", "group": "group normalisation"}[norm_kind(wanted)]
    return (
        "the file's batch normalisation is folded into a scale and a shift, but the body has "
        f"{kind} of its own, so it does not start from the features of ImageNet. For those set "
        "MODEL.RESNETS.STEM_FUNC StemWithFixedBatchNorm and TRANS_FUNC BottleneckWithFixedBatchNorm"
    )


def _torchvision(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Translation | None:
    if not {"conv1.weight", "layer1.0.conv1.weight"} <= set(state) or _is_timm(wanted):
        return None
    result = Translation("torchvision", {}, inputs=TORCHVISION_INPUT)
    for name, tensor in state.items():
        if name.startswith("fc."):
            result.ignored.append(name)
        elif name.startswith(("conv1.", "bn1.")):
            result.tensors[f"{BODY}stem.{name}"] = tensor
        else:
            result.tensors[(BODY if name.startswith("layer") else "") + name] = tensor
    _fit_norms(result, wanted)
    # Basic blocks have no 1x1.
    result.stride_in_1x1 = False if "layer1.0.conv3.weight" in state else None
    return result


def _detectron2(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Translation | None:
    if not {"stem.conv1.weight", "res2.0.conv1.weight"} <= set(state):
        return None
    result = Translation("detectron2", {})
    for name, tensor in state.items():
        if name.startswith(DETECTRON2_IGNORED):
            result.ignored.append(name)
        else:
            result.tensors[_detectron2_name(name)] = tensor
    if _fit_norms(result, wanted):
        # Without statistics of its own it is MSRA's network, else torchvision's.
        result.inputs, result.stride_in_1x1 = MSRA_INPUT, True
    else:
        result.inputs, result.stride_in_1x1 = TORCHVISION_INPUT, False
    if "res2.0.conv3.weight" not in state:
        result.stride_in_1x1 = None
    return result


def _detectron2_name(name: str) -> str:
    if name.startswith("stem.conv1."):
        return BODY + name.replace("conv1.norm.", "bn1.")
    found = DETECTRON2_BLOCK.fullmatch(name)
    if found is None:
        return name
    stage, block, layer, number, norm, leaf = found.groups()
    if number is None:
        layer = "downsample.1" if norm else "downsample.0"
    elif norm:
        layer = f"bn{number}"
    return f"{BODY}layer{int(stage) - 1}.{block}.{layer}.{leaf}"


def _fit_norms(result: Translation, wanted: Mapping[str, Tensor]) -> bool:
    """Turn the file's statistics into those of the body's normalisation; True where they are folded into
    scale and shift already (mean 0, variance 1, or none at all)."""
    means = [tensor for name, tensor in result.tensors.items() if name.endswith(".running_mean")]
    folded = not any(bool(mean.any()) for mean in means)
    kind = norm_kind(wanted)
    if folded:
        _add_folded_statistics(result, wanted)
    elif kind == "group":
        result.notes.append(_group_note())
    for name in list(result.tensors):
        if name not in wanted and name.endswith((".num_batches_tracked", ".running_mean", ".running_var")):
            result.ignored.append(name)
            del result.tensors[name]
        elif kind == "frozen" and not folded and name.endswith(".running_var"):
            result.tensors[name] = result.tensors[name] + EPSILON
    return folded


def _group_note() -> str:
    return (
        "the file's network has batch normalisation, the body group normalisation: its convolutions, scales "
        "and shifts are loaded, but it does not start from the features of ImageNet"
    )


def _is_timm(wanted: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(TIMM_BODY) for name in wanted)


def _timm(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Translation | None:
    renamed = {}
    for name, tensor in state.items():
        # Some models are flattened for their feature maps: stem.0.weight becomes stem_0.weight.
        flattened = TIMM_BODY + name.replace(".", "_", 1)
        renamed[flattened if flattened in wanted else TIMM_BODY + name] = tensor
    return Translation("timm body", renamed) if any(name in wanted for name in renamed) else None


def _efficientnet(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Translation | None:
    """EfficientNet-Lite as converted from TensorFlow: blocks are numbered through, timm numbers by stage."""
    if "_conv_stem.weight" not in state:
        return None
    found = {
        (int(parts[1]), int(parts[2]))
        for parts in (
            name.removeprefix(TIMM_BODY).split(".") for name in wanted if name.startswith(TIMM_BODY)
        )
        if parts[0] == "blocks"
    }
    blocks = dict(enumerate(sorted(found)))
    result = Translation("EfficientNet-Lite", {})
    for name, tensor in state.items():
        if name.startswith(EFFICIENTNET_CLASSIFIER):
            result.ignored.append(name)
        else:
            result.tensors[TIMM_BODY + _efficientnet_name(name, state, blocks)] = tensor
    return result


def _efficientnet_name(name: str, state: Mapping[str, Tensor], blocks: dict[int, tuple[int, int]]) -> str:
    parts = name.split(".")
    if parts[0] != "_blocks":
        return {"_conv_stem": "conv_stem", "_bn0": "bn1"}.get(parts[0], parts[0]) + "." + parts[-1]
    if len(parts) != 4 or int(parts[1]) not in blocks:
        return name
    number, layer, leaf = int(parts[1]), parts[2], parts[3]
    expands = f"_blocks.{number}._expand_conv.weight" in state
    if layer.startswith("_bn"):
        # Without an expansion the first norm is missing, and timm counts from 1 in either case.
        new = f"bn{int(layer.removeprefix('_bn')) + (1 if expands else 0)}"
    elif layer == "_project_conv" and not expands:
        new = "conv_pw"
    else:
        # Squeeze-and-excitation and the like keep their names, and are reported as unknown.
        new = EFFICIENTNET_LAYERS.get(layer, layer)
    stage, block = blocks[number]
    return f"blocks.{stage}.{block}.{new}.{leaf}"


TRANSLATORS: tuple[Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Translation | None], ...] = (
    _detector,
    _caffe2,
    _torchvision,
    _detectron2,
    _efficientnet,
    _timm,
)
