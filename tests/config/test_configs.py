"""The configurations that come with the package: they load, and say what the ancestors' files said."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from labelenc.config import detector_kind, load_config
from labelenc.config.defaults import default_config
from labelenc.modeling import build_detector

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# The ten published models, and the one that only makes a step-1 file (of fcos_imprv_dcnv2_R_101).
PUBLISHED = (
    "retinanet/retinanet_R-50-FPN_1x",
    "retinanet/retinanet_R-101-FPN_2x",
    "retinanet/retinanet_dcnv2_R-101-FPN_2x",
    "fcos/fcos_R_50_FPN_1x",
    "fcos/fcos_imprv_R_50_FPN_1x",
    "fcos/fcos_imprv_R_101_FPN_2x",
    "fcos/fcos_imprv_dcnv2_R_50_FPN_1x",
    "fcos/fcos_imprv_dcnv2_R_101_FPN_2x",
    "e2e_faster_rcnn_R_50_FPN_1x",
    "e2e_faster_rcnn_R_101_FPN_1x",
    "e2e_faster_rcnn_dcnv2_R_101_FPN_2x",
)
RECORDED = (
    "retinanet/retinanet_R-50-FPN_1x",
    "retinanet/retinanet_dcnv2_R-101-FPN_2x",
    "fcos/fcos_R_50_FPN_1x",
    "fcos/fcos_imprv_R_50_FPN_1x",
    "e2e_faster_rcnn_R_50_FPN_1x",
)
SCHEDULES = {"1x": ((60000, 80000), 90000), "2x": ((120000, 160000), 180000)}
# The records were made on a CPU, and with samplers that take every candidate (recorded in their README).
CHANGED_FOR_THE_RECORD = {
    "MODEL.DEVICE",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
}
# The ancestors' RetinaNet files carry settings of a two-stage detector, which RetinaNet does not read.
NOT_READ = {"retinanet": ("RPN", "ROI_HEADS", "ROI_BOX_HEAD"), "fcos": (), "faster_rcnn": ()}

# What a name says of the body -> the body, its weights, its groups and their width.
BODIES = {
    "R_50": ("R-50", "MSRA/R-50", 1, 64),
    "R_101": ("R-101", "MSRA/R-101", 1, 64),
    "X_101_32x8d": ("R-101", "FAIR/20171220/X-101-32x8d", 32, 8),
    "X_101_64x4d": ("R-101", "FAIR/20171220/X-101-64x4d", 64, 4),
}


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def load(name):
    return load_config(CONFIGS / f"{name}.yaml")


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS).with_suffix(""))
)
def test_every_configuration_loads_as_the_detector_of_its_name(path):
    cfg = load_config(path)
    assert cfg.DATASETS.TRAIN
    assert cfg.DATASETS.TEST
    name = f"{path.parent.name}/{path.stem}".lower()
    named = {kind for kind in ("retinanet", "fcos", "faster_rcnn") if kind in name}
    assert named <= {detector_kind(cfg)}


def named_bodies():
    """(path, key of BODIES) of every configuration that is named after its body."""
    return [
        pytest.param(path, body, id=str(path.relative_to(CONFIGS).with_suffix("")))
        for path in sorted(CONFIGS.rglob("*.yaml"))
        for body in BODIES
        if f"_{body}_" in path.stem.replace("R-", "R_").replace("-FPN", "_FPN")
    ]


@pytest.mark.parametrize(("path", "body"), named_bodies())
def test_the_body_is_the_one_in_the_name(path, body):
    depth, weights, groups, width = BODIES[body]
    resnext, deformable = body.startswith("X"), "dcnv2" in path.stem
    expected = {
        "BACKBONE.CONV_BODY": depth + ("-FPN" if "faster_rcnn" in path.stem else "-FPN-RETINANET"),
        "WEIGHT": f"catalog://ImageNetPretrained/{weights}",
        "RESNETS.NUM_GROUPS": groups,
        "RESNETS.WIDTH_PER_GROUP": width,
        # The ResNeXt weights were trained with the stride in the 3x3 convolution.
        "RESNETS.STRIDE_IN_1X1": not resnext,
        # Of a ResNeXt body the last two stages deform.
        "RESNETS.STAGE_WITH_DCN": [False, deformable and not resnext, deformable, deformable],
        "RESNETS.WITH_MODULATED_DCN": deformable,
        "RESNETS.DEFORMABLE_GROUPS": 1,
        "FCOS.USE_DCN_IN_TOWER": deformable and "fcos" in path.stem,
    }
    loaded = dict(leaves(load_config(path).MODEL))
    assert {key: loaded[key] for key in expected} == expected


def test_only_these_configurations_are_not_named_after_a_body():
    checked = {case.values[0] for case in named_bodies()}
    others = {path.stem for path in CONFIGS.rglob("*.yaml") if path not in checked}
    timm = {name for name in others if "efficientnet" in name}
    assert others - timm == {"Base-FCOS", "own_data", "own_data_cpu", "shapes_R-18_small"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_models_have_the_schedule_of_their_name(name):
    solver = load(name).SOLVER
    assert (tuple(solver.STEPS), solver.MAX_ITER) == SCHEDULES[name[-2:]]
    assert solver.IMS_PER_BATCH == 16


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith("2x")])
def test_the_twin_for_labelenc_differs_in_its_schedule_alone(name):
    twin, longer = load(name.replace("_2x", "_1x")), dict(leaves(load(name)))
    assert (tuple(twin.SOLVER.STEPS), twin.SOLVER.MAX_ITER) == SCHEDULES["1x"]
    changed = {key for key, value in leaves(twin) if longer[key] != value}
    assert changed == {"SOLVER.STEPS", "SOLVER.MAX_ITER"}


@pytest.mark.parametrize("name", RECORDED)
def test_a_configuration_says_what_the_recorded_one_said(shared_dir, name):
    record = json.loads((shared_dir / "parity" / f"{Path(name).name}.json").read_text())
    recorded = dict(leaves(yaml.safe_load(record["cfg_yaml"])))
    cfg = load(name)
    loaded = dict(leaves(cfg))
    left_out = tuple(f"MODEL.{group}." for group in NOT_READ[detector_kind(cfg)])
    differing = {
        key: (loaded[key], value)
        for key, value in recorded.items()
        if loaded[key] != value and key not in CHANGED_FOR_THE_RECORD and not key.startswith(left_out)
    }
    assert differing == {}
    # What the recorded tree does not know stays at its default, which is the ancestors' behaviour.
    defaults = dict(leaves(default_config()))
    assert {k for k in defaults if k not in recorded and loaded[k] != defaults[k]} <= {"MODEL.NUM_CLASSES"}
    for key in CHANGED_FOR_THE_RECORD:
        assert loaded[key] == defaults[key]


@pytest.mark.parametrize("kind", [kind for kind in NOT_READ if NOT_READ[kind]])
def test_what_was_left_out_is_not_read(kind):
    cfg = load(next(name for name in RECORDED if kind in name)).clone()
    cfg.defrost()
    for group in NOT_READ[kind]:
        del cfg.MODEL[group]
    with torch.device("meta"):
        build_detector(cfg)
