"""Every recorded configuration, plain and in both steps, against numbers of the original implementation."""

import json

import pytest
import torch

from labelenc.engine import build_optimizer, build_scheduler
from labelenc.modeling import build_detector
from labelenc.modeling.dense.fcos import FCOS
from labelenc.ops import reference
from labelenc.structures import ImageBatch
from labelenc.supervision import LabelEncStep1, LabelEncStep2

RECORDED = (
    "retinanet/retinanet_R-50-FPN_1x",
    "retinanet/retinanet_dcnv2_R-101-FPN_2x",
    "fcos/fcos_R_50_FPN_1x",
    "fcos/fcos_imprv_R_50_FPN_1x",
    "e2e_faster_rcnn_R_50_FPN_1x",
)
NAMES = {"distance loss": "loss_distance", "auxiliary loss": "loss_auxiliary"}
RECORDS = {"plain": "train", "step1": "train_aug_false", "step2": "train"}


@pytest.fixture(scope="module", params=RECORDED)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def record(shared_dir, config):
    return json.loads((shared_dir / "parity" / f"{config.split('/')[-1]}.json").read_text())


@pytest.fixture(scope="module")
def cfg(config, parity_cfg):
    return parity_cfg(config)


def build(kind, cfg, recipe, record):
    if kind == "plain":
        model = build_detector(cfg)
    else:
        model = LabelEncStep1(cfg, augment=False) if kind == "step1" else LabelEncStep2(cfg)
    expected = record["models"][kind]
    state = model.state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == expected["state_dict"]
    model.load_state_dict(recipe.deterministic_weights(state), strict=True)
    tensors = [tensor.double() for tensor in model.state_dict().values()]
    assert sum(t.sum().item() for t in tensors) == pytest.approx(expected["weights_checksum"], rel=1e-6)
    assert sum(t.abs().sum().item() for t in tensors) == pytest.approx(
        expected["weights_abs_checksum"], rel=1e-6
    )
    return model


@pytest.fixture(scope="module", params=["plain", "step1", "step2"])
def trained(request, cfg, recipe, record, inputs):
    """(kind, model after one backward pass, its losses, what forward hooks saw, the record)."""
    assert inputs[0].tensors.double().sum().item() == record["batch_checksum"]
    model = build(request.param, cfg, recipe, record)
    seen = watch(model)
    losses = model(*inputs)
    sum(losses.values()).backward()
    return request.param, model, losses, seen, record["models"][request.param]


def watch(model):
    """Keep the outputs of the parts that the records describe; a hook must return None."""
    seen = {"rpn_head_outputs": [], "roi_predictor_outputs": []}
    parts = {"backbone_body": "backbone.body", "backbone_fpn": "backbone.fpn"}
    if hasattr(model, "label_encoding_function"):
        parts["label_encoding_body"] = "label_encoding_function.body"
        parts["label_encoding_fpn"] = "label_encoding_function.fpn"

    def keep(name):
        def hook(_module, _inputs, output):
            seen[name] = [level.detach() for level in output]

        return hook

    def keep_head(_module, _inputs, output):
        seen["rpn_head_outputs"].append([level.detach() for part in output for level in part])

    def keep_predictor(_module, _inputs, output):
        seen["roi_predictor_outputs"].append([part.detach() for part in output])

    for name, path in parts.items():
        model.get_submodule(path).register_forward_hook(keep(name))
    model.rpn.head.register_forward_hook(keep_head)
    if model.roi_heads is not None:
        model.roi_heads.box.predictor.register_forward_hook(keep_predictor)
    return seen


def test_losses(trained):
    kind, _, losses, _, expected = trained
    wanted = {NAMES.get(name, name): value for name, value in expected[RECORDS[kind]]["losses"].items()}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(wanted, rel=1e-5)


def test_features_and_head_outputs(trained, assert_statistics):
    kind, _, _, seen, expected = trained
    features = expected[RECORDS[kind]]["features"]
    for name, levels in features.items():
        for level, statistics in zip(seen[name], levels, strict=True):
            assert_statistics(level, statistics)
    for part in ("rpn_head_outputs", "roi_predictor_outputs"):
        recorded = expected[RECORDS[kind]].get(part, [])
        for call, statistics in zip(calls_of(seen[part], recorded), recorded, strict=True):
            for level, wanted in zip(call, statistics, strict=True):
                assert_statistics(level, wanted)


def calls_of(seen, recorded):
    """The outputs of each call of the original, which ran the heads on images and encodings in turn."""
    rows = [call[0]["shape"][0] for call in recorded]
    outputs = [torch.cat(parts).split(rows) for parts in zip(*seen, strict=True)]
    return list(zip(*outputs, strict=True))


def exact_gradient_norms(kind, cfg, recipe, record, inputs):
    """Of the same model and inputs in float64, with the deformable convolution of reference.py."""
    model = build(kind, cfg, recipe, record).double()
    images = ImageBatch(inputs[0].tensors.double(), inputs[0].image_sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops.labelenc, "deform_conv2d", reference.deform_conv2d)
        sum(model(images, inputs[1]).values()).backward()
    return {name: p.grad.norm().item() for name, p in model.named_parameters() if p.requires_grad}


def test_gradient_norms(trained, cfg, recipe, record, inputs):
    kind, model, _, _, expected = trained
    wanted = expected[RECORDS[kind]]["grad_norm"]
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(wanted) == set(trainable)
    found = {name: parameter.grad.double().norm().item() for name, parameter in trainable.items()}
    others = [name for name in wanted if found[name] != pytest.approx(wanted[name], rel=2e-3)]
    if others:
        # The gradient has steps: at the border of a pixel that a deformable convolution reads, and at each
        # ReLU. Where rounding put the record beyond one, exact arithmetic decides.
        assert any(".offset." in name for name in trainable), others
        exact = exact_gradient_norms(kind, cfg, recipe, record, inputs)
        for name in others:
            assert found[name] == pytest.approx(exact[name], rel=2e-3), name


def test_frozen_parameters_and_anchor_buffers(trained):
    _, model, _, _, expected = trained
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == set(expected["frozen_parameters"])
    buffers = dict(model.named_buffers())
    for name, values in dict(expected["buffers"]).items():
        torch.testing.assert_close(buffers[name], torch.tensor(values), rtol=0, atol=1e-4)


def dense_targets(model, images, targets, features):
    """Labels and regression targets of the dense head, a pair per entry of a record: per image, for FCOS
    per level with the images together."""
    if isinstance(model.rpn, FCOS):
        locations = model.rpn.locations(features)
        labels, wanted = model.rpn.assign(locations, targets)
        sizes = [len(level) for level in locations]
        levels = zip(labels.split(sizes, dim=1), wanted.split(sizes, dim=1), strict=True)
        return [(of_level.flatten(), sides.flatten(0, 1)) for of_level, sides in levels]
    anchors = torch.cat(model.rpn.anchor_generator(features))
    return list(zip(*model.rpn.assign(anchors, images.image_sizes, targets), strict=True))


def test_dense_targets(trained, inputs):
    kind, model, _, seen, expected = trained
    found = dense_targets(model, *inputs, seen["backbone_fpn"])
    calls = [call for call in expected[RECORDS[kind]]["targets"] if call["what"].startswith("rpn/dense")]
    assert len(calls) == (2 if kind == "step1" else 1)
    for call in calls:
        assert [int((labels > 0).sum()) for labels, _ in found] == call["positive"]
        assert [int((labels == 0).sum()) for labels, _ in found] == call["zero"]
        assert [int((labels < 0).sum()) for labels, _ in found] == call["ignored"]
        sums = [float(wanted[labels > 0].double().sum()) for labels, wanted in found]
        assert sums == pytest.approx(call["reg_target_sum_over_positive"], rel=1e-4)


def test_optimizer_groups_and_learning_rates(trained, cfg, record):
    kind, model, _, _, expected = trained
    optimizer = build_optimizer(cfg, model)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {
        names[id(p)]: [group["lr"], group["weight_decay"]]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert groups == expected["optimizer"]["groups"]
    assert {group["momentum"] for group in optimizer.param_groups} == {expected["optimizer"]["momentum"]}
    extra = cfg.MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS if kind == "step1" else 0
    factor = build_scheduler(cfg, optimizer, extra).lr_lambdas[0]
    schedule = record["lr_schedule"]["step1_steps_shifted_by_30000" if extra else "plain_and_step2"]
    for iteration, (weights, biases) in schedule.items():
        lr = cfg.SOLVER.BASE_LR * factor(int(iteration))
        assert [lr, lr * cfg.SOLVER.BIAS_LR_FACTOR] == pytest.approx([weights, biases], rel=1e-9)


def test_step1_draws_the_recorded_augmentation(cfg, recipe, record, inputs):
    model = build("step1", cfg, recipe, record)
    model.augment = True
    torch.manual_seed(123)
    with torch.no_grad():
        losses = model(*inputs)
    wanted = record["models"]["step1"]["train_aug_true_manual_seed_123"]["losses"]
    wanted = {NAMES.get(name, name): value for name, value in wanted.items()}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "entry", "argument"),
    [
        ("step1", "train_aug_false_distance_loss_weight_0", "distance_loss_weight"),
        ("step2", "train_auxiliary_loss_weight_0", "auxiliary_loss_weight"),
    ],
)
def test_no_supervision_at_weight_zero(cfg, recipe, record, inputs, kind, entry, argument):
    model = build(kind, cfg, recipe, record)
    losses = model(*inputs, **{argument: 0.0})
    sum(losses.values()).backward()
    wanted = record["models"][kind][entry]
    assert sum(losses.values()).item() == pytest.approx(wanted["total"], rel=1e-5)
    for name, norm in wanted["grad_norm"].items():
        parameter = model.get_parameter(name)
        if name.startswith("feature_adapt."):
            assert parameter.grad is None
        else:
            assert parameter.grad.double().norm().item() == pytest.approx(norm, rel=2e-3), name


@pytest.mark.parametrize("kind", ["plain", "step1", "step2"])
def test_detections(cfg, recipe, record, inputs, kind):
    model = build(kind, cfg, recipe, record).eval()
    with torch.no_grad():
        detections = model(inputs[0])
    for found, wanted in zip(detections, record["models"]["plain"]["eval"]["images"], strict=True):
        assert list(found.size) == wanted["size"]
        assert len(found) == wanted["count"]
        scores, labels = found.get_field("scores"), found.get_field("labels")
        best = torch.tensor(wanted["top10_x0_y0_x1_y1_label_score"])
        torch.testing.assert_close(found.bbox[:10], best[:, :4], rtol=0, atol=1e-2)
        torch.testing.assert_close(scores[:10], best[:, 5], rtol=0, atol=1e-4)
        assert labels[:10].tolist() == best[:, 4].long().tolist()
        assert scores.double().sum().item() == pytest.approx(wanted["sum_scores"], rel=1e-5)
        values, counts = labels.unique(return_counts=True)
        histogram = {str(label): count for label, count in zip(values.tolist(), counts.tolist(), strict=True)}
        assert histogram == wanted["label_histogram"]
