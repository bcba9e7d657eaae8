"""The label encoding function: shapes, arithmetic, initialisation."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from labelenc import ops
from labelenc.config import load_config
from labelenc.modeling.backbone.build import build_backbone
from labelenc.structures import BoxList
from labelenc.supervision import LabelEncStep1
from labelenc.supervision.build import build_supervision
from labelenc.supervision.label_encoder import LabelEncoderBody, random_box_scales

ROOT = Path(__file__).resolve().parents[2]
FIXED = ("MODEL.RESNETS.STEM_FUNC", "StemWithFixedBatchNorm")
FIXED += ("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithFixedBatchNorm")
R50 = (*FIXED, "MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET", "MODEL.RESNETS.RES2_OUT_CHANNELS", 256)
R50 += ("MODEL.RESNETS.STEM_OUT_CHANNELS", 64)
R18 = (*FIXED, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
SIZES = "(8, 16, 32, 64, 128)"
P7 = ("MODEL.RETINANET.ANCHOR_STRIDES", SIZES, "MODEL.RETINANET.ANCHOR_SIZES", SIZES)


def timm_words(name, kwargs=None):
    words = (*FIXED, "MODEL.BACKBONE.CONV_BODY", f"timm/{name}-FPN-RETINANET")
    return (*words, "MODEL.TIMM.KWARGS", kwargs) if kwargs else words


LITE0 = timm_words("efficientnet_lite0", {"pad_type": "same"})
# Three stages of equal channels.
VGG = timm_words("vgg11")


def target(boxes, labels):
    result = BoxList(boxes, (96, 64))
    result.add_field("labels", torch.tensor(labels, dtype=torch.int64))
    return result


@pytest.mark.parametrize(
    ("words", "width", "size"),
    [
        ((), 1, (64, 96)),
        ((), 2, (61, 99)),
        ((), 4, (33, 127)),
        ((), 0.5, (65, 31)),
        (P7, 4, (97, 130)),
        ((*P7, "MODEL.RETINANET.USE_C5", False), 1, (129, 66)),
        (R18, 0.5, (61, 99)),
        (R18, 1, (64, 64)),
        (R18, 4, (33, 70)),
        (R50, 0.5, (61, 99)),
        (R50, 1, (64, 64)),
        (LITE0, 1, (61, 99)),
        (LITE0, 4, (75, 64)),
        (VGG, 0.5, (64, 96)),
    ],
)
@torch.no_grad()
def test_encodings_are_shaped_like_the_image_features(small_cfg, words, width, size):
    cfg = small_cfg(*words, "MODEL.LABELENC.ENCODER_WIDTH", float(width))
    backbone = build_backbone(cfg)
    encoder, _ = build_supervision(cfg, backbone.body.out_channels)
    pixels = torch.randn(2, 3, *size)
    targets = [target([[2.0, 3, 30, 20]], [1]), target([], [])]
    of_images, of_labels = backbone.body(pixels), encoder.body(targets, size, None)
    assert [level.shape for level in of_labels] == [level.shape for level in of_images]
    of_images, of_labels = backbone.fpn(of_images), encoder(targets, size)
    assert [level.shape for level in of_labels] == [level.shape for level in of_images]
    assert all(level.isfinite().all() for level in of_labels)


@pytest.mark.parametrize(
    ("channels", "width", "stem", "inner"),
    [
        ((256, 512, 1024, 2048), 1.0, 128, (64, 128, 256, 512)),
        ((256, 512, 1024, 2048), 0.5, 64, (32, 64, 128, 256)),
        ((64, 128, 256, 512), 1.0, 32, (16, 32, 64, 128)),
        ((24, 40, 112, 320), 4.0, 48, (24, 40, 112, 320)),
        ((4, 4, 4, 4), 0.01, 1, (1, 1, 1, 1)),
    ],
)
def test_widths(channels, width, stem, inner):
    with torch.device("meta"):
        body = LabelEncoderBody(5, channels, width)
    assert body.stage1.weight.shape == (stem, 5, 7, 7)
    blocks = [body.stage2, body.stage3[0], body.stage4[0], body.stage5]
    assert tuple(block.con1.out_channels for block in blocks) == inner
    assert tuple(block.con3.out_channels for block in blocks) == channels
    assert [len(body.stage3), len(body.stage4)] == [2, 2]


def map_by_hand(boxes, labels, classes, size):
    ys, xs = np.mgrid[: size[0], : size[1]].astype(np.float64)
    drawn = np.zeros((classes, *size))
    for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
        value = 1 - np.maximum(abs(xs - (x0 + x1) / 2) / (x1 - x0), abs(ys - (y0 + y1) / 2) / (y1 - y0))
        drawn[label - 1] = np.maximum(drawn[label - 1], np.where(value >= 0.5, value, 0))
    return torch.from_numpy(drawn)


def body_by_hand(state, x):
    """Stages 2 to 5 from a label map, by the description of the paper's network."""

    def conv(x, name, **how):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **how)

    def block(x, name, stride):
        out = conv(x, f"{name}.con1").relu()
        out = conv(out, f"{name}.con2", stride=stride, padding=1).relu()
        shortcut = conv(x, f"{name}.downsample.0", stride=stride) if stride == 2 else x
        return (conv(out, f"{name}.con3") + shortcut).relu()

    e2 = block(conv(x, "stage1", stride=2, padding=3), "stage2", 2)
    e3 = block(block(e2, "stage3.0", 2), "stage3.1", 1)
    e4 = block(block(e3, "stage4.0", 2), "stage4.1", 1)
    return [e2, e3, e4, block(e4, "stage5", 2)]


@torch.no_grad()
def test_the_body_is_the_papers_network(seed):
    body = LabelEncoderBody(3, (8, 16, 32, 64), 2.0)
    boxes, labels = [[2.25, 3.5, 50, 60], [30, 10, 90, 40.75]], [1, 3]
    drawn = map_by_hand(boxes, labels, 3, (61, 99))[None]
    expected = body_by_hand({k: v.double() for k, v in body.state_dict().items()}, drawn)
    for level, wanted in zip(body([target(boxes, labels)], (61, 99), None), expected, strict=True):
        torch.testing.assert_close(level.double(), wanted, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_an_image_without_boxes_is_an_empty_map(seed):
    body = LabelEncoderBody(3, (8, 16, 32, 64))
    targets = [target([[2.0, 3, 50, 60]], [2]), target([], []), target([], [])]
    state = body.state_dict()
    expected = body_by_hand(state, torch.zeros(1, 3, 64, 96))
    for found in (body(targets, (64, 96), None), body(targets[1:], (64, 96), None)):
        for level, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(level[-1:], wanted, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_strength_of_zero_removes_a_box(seed):
    body = LabelEncoderBody(3, (8, 16, 32, 64))
    two = target([[2.0, 3, 50, 60], [30, 10, 90, 40]], [1, 3])
    found = body([two], (64, 96), [torch.tensor([1.0, 0.0])])
    for level, wanted in zip(found, body([two[:1]], (64, 96), None), strict=True):
        torch.testing.assert_close(level, wanted)


def test_the_recorded_strengths(shared_dir):
    with np.load(shared_dir / "parity/ops.npz") as arrays:
        expected = arrays["box_encode/aug_factors_seed77"]
        boxes = [arrays[f"box_encode/boxes_image{i}"] for i in (0, 1)]
    torch.manual_seed(77)
    scales = random_box_scales([BoxList(torch.from_numpy(b), (40, 32)) for b in boxes])
    assert [len(s) for s in scales] == [5, 1]
    assert np.array_equal(torch.cat(scales).numpy(), expected)


def test_strengths_are_min_of_2u_and_1(seed):
    many = random_box_scales([BoxList(torch.zeros(4000, 4), (40, 32)), BoxList([], (40, 32))])
    assert len(many[1]) == 0
    values = many[0]
    assert values.min() >= 0
    assert values.max() == 1
    # Half are 1, the rest uniform: 6 standard deviations.
    assert (values == 1).float().mean().item() == pytest.approx(0.5, abs=6 * 0.5 / math.sqrt(4000))
    assert values[values < 1].mean().item() == pytest.approx(0.5, abs=6 * 0.29 / math.sqrt(1900))


def test_initialisation_has_the_recorded_statistics(shared_dir, seed):
    record = json.loads((shared_dir / "parity/init_stats.json").read_text())["configs"]
    expected = record["retinanet_R-50-FPN_1x"]
    model = LabelEncStep1(load_config(ROOT / "configs/retinanet/retinanet_R-50-FPN_1x.yaml"))
    parameters = dict(model.named_parameters())
    assert set(expected) == set(parameters)
    for name, wanted in expected.items():
        values = parameters[name].detach().double()
        count = values.numel()
        if wanted["std"] == 0:
            assert values.std(unbiased=False) == 0, name
            assert values.mean().item() == pytest.approx(wanted["mean"], rel=1e-6), name
            continue
        assert values.std().item() == pytest.approx(wanted["std"], rel=0.01 + 4 / math.sqrt(count)), name
        assert abs(values.mean().item()) < 6 * wanted["std"] / math.sqrt(count), name
        if count > 10_000:
            # A uniform distribution ends at a sharp bound, a normal one's largest value wavers.
            uniform = wanted["max_abs"] < 2 * wanted["std"]
            assert values.abs().max().item() == pytest.approx(wanted["max_abs"], rel=0.01 if uniform else 0.3)


def test_the_recorded_drawing_feeds_the_first_convolution(shared_dir, monkeypatch):
    spec = importlib.util.spec_from_file_location("recipe", shared_dir / "parity/recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    record = json.loads((shared_dir / "parity/retinanet_R-50-FPN_1x.json").read_text())
    plane = record["models"]["step2"]["train"]["label_map"]
    body = LabelEncoderBody(80, (8, 16, 32, 64))
    targets = []
    for entry in recipe.make_targets():
        boxes = BoxList(entry["boxes"], entry["size"])
        boxes.add_field("labels", entry["labels"])
        targets.append(boxes)
    drawn = []

    def watch(*arguments):
        drawn.append(compact_label_map(*arguments))
        return drawn[-1]

    compact_label_map = ops.compact_label_map
    monkeypatch.setattr(ops, "compact_label_map", watch)
    with torch.no_grad():
        body(targets, (192, 224), None)
    assert drawn[0][0].double().sum().item() == pytest.approx(plane["sum"], rel=1e-6)
