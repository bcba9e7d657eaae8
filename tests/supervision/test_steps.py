"""Adapter, distance, schedules, and what the two steps train, freeze and run."""

import numpy as np
import pytest
import torch
from torch import nn

from labelenc.engine import build_optimizer
from labelenc.modeling import build_detector
from labelenc.supervision import LabelEncStep1, LabelEncStep2, step1_advice, step2_advice
from labelenc.supervision.adapter import build_adapter, feature_distance, normalize_level
from labelenc.supervision.schedule import auxiliary_loss_weight, distance_loss_weight

DETECTOR = {"loss_retina_cls", "loss_retina_reg"}
SGD = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 0.001, "SOLVER.WEIGHT_DECAY", 0.1)
ADAMW = ("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 0.001, "SOLVER.WEIGHT_DECAY", 0.1)


def test_recorded_normalisation(shared_dir):
    with np.load(shared_dir / "parity/ops.npz") as arrays:
        given, wanted = (torch.from_numpy(arrays[f"layernorm/{part}"]) for part in ("input", "out"))
    torch.testing.assert_close(normalize_level(given), wanted, rtol=1e-5, atol=1e-5)


def distance_by_hand(features, encodings):
    """Float64 numpy; one image and one level at a time."""

    def normalised(level):
        level = level.detach().double().numpy()
        rows = [(image - image.mean()) / np.sqrt(image.var() + 1e-5) for image in level]
        return np.stack(rows).reshape(len(level), level.shape[1], -1)

    first, second = (
        np.concatenate([normalised(x) for x in levels], axis=2) for levels in (features, encodings)
    )
    return ((first - second) ** 2).mean()


def random_levels(channels=6):
    # Each level of its own scale and offset, to be seen through the normalisation.
    shapes = [(12, 9), (6, 5), (3, 3)]
    return [3**i * torch.randn(2, channels, *shape) + i for i, shape in enumerate(shapes)]


def test_distance_is_the_mean_over_all_numbers(seed):
    features, encodings, adapter = random_levels(), random_levels(), build_adapter(6)
    found = feature_distance(features, encodings, adapter)
    assert found.ndim == 0
    assert found.item() == pytest.approx(
        distance_by_hand([adapter(f) for f in features], encodings), rel=1e-4
    )
    plain = feature_distance(features, encodings, nn.Identity())
    assert plain.item() == pytest.approx(distance_by_hand(features, encodings), rel=1e-4)


def test_distance_of_equal_features_is_zero(seed):
    levels = random_levels()
    assert feature_distance(levels, [2 * level for level in levels], nn.Identity()).item() < 1e-4


def test_distance_gives_the_encodings_no_gradient(seed):
    features, encodings = ([x.requires_grad_() for x in random_levels()] for _ in range(2))
    adapter = build_adapter(6)
    feature_distance(features, encodings, adapter).backward()
    assert all(encoding.grad is None for encoding in encodings)
    assert all(feature.grad.abs().sum() > 0 for feature in features)
    assert all(parameter.grad is not None for parameter in adapter.parameters())


def test_the_adapter_is_three_convolutions():
    adapter = build_adapter(6)
    shapes = {name: tuple(p.shape) for name, p in adapter.named_parameters()}
    assert shapes == {f"{i}.{n}": s for i in (0, 2, 4) for n, s in (("weight", (6, 6, 3, 3)), ("bias", (6,)))}


def test_unusual_schedules_are_commented_on():
    assert step1_advice(90000, 30000) is None
    assert step1_advice(90000, 0) is None
    assert "30000 exceeds" in step1_advice(20000, 30000)
    assert "configs/…_1x.yaml" in step1_advice(180000, 30000)
    assert step2_advice(90000, 80000) is None
    assert step2_advice(90000, 0) is None
    assert "reaches to the end" in step2_advice(80000, 80000)
    assert "configs/…_1x.yaml" in step2_advice(180000, 80000)


def test_schedule_borders():
    assert [distance_loss_weight(k, 3) for k in range(5)] == [0, 0, 0, 1, 1]
    assert [auxiliary_loss_weight(k, 3) for k in range(5)] == [1, 1, 1, 0, 0]
    assert distance_loss_weight(0, 0) == 1
    assert auxiliary_loss_weight(0, 0) == 0
    assert distance_loss_weight(29_999, 30_000) == 0
    assert distance_loss_weight(30_000, 30_000) == 1
    assert auxiliary_loss_weight(79_999, 80_000) == 1
    assert auxiliary_loss_weight(80_000, 80_000) == 0


def train(model, cfg, batch, iterations):
    """Updates as the loop makes them; yields (iteration, losses) after each."""
    optimizer = build_optimizer(cfg, model)
    for iteration in range(iterations):
        optimizer.zero_grad(set_to_none=True)
        losses = model(*batch, **model.begin_iteration(iteration))
        sum(losses.values()).backward()
        optimizer.step()
        yield iteration, losses


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module, before):
    return [torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items()]


@pytest.mark.parametrize(
    ("make", "key", "argument", "weights"),
    [
        (LabelEncStep1, "DISTANCE_LOSS_WARMUP_ITERS", "distance_loss_weight", {0: 0, 1: 0, 2: 1, 9: 1}),
        (LabelEncStep2, "AUXILIARY_LOSS_ITERS", "auxiliary_loss_weight", {0: 1, 1: 1, 2: 0, 9: 0}),
    ],
)
def test_the_adapter_is_frozen_while_its_loss_is_off(small_cfg, make, key, argument, weights):
    # Data-parallel training waits for the gradient of every parameter that asks for one.
    model = make(small_cfg(f"MODEL.LABELENC.{key}", 2))
    for iteration, weight in [*weights.items(), (1, weights[1])]:
        assert model.begin_iteration(iteration) == {argument: weight}
        assert {p.requires_grad for p in model.feature_adapt.parameters()} == {bool(weight)}


@pytest.mark.parametrize("solver", [SGD, ADAMW], ids=["SGD", "AdamW"])
def test_step1_leaves_the_adapter_alone_during_the_warm_up(seed, small_cfg, batch, solver):
    cfg = small_cfg(*solver, "MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS", 3)
    model = LabelEncStep1(cfg)
    before, encoder = snapshot(model.feature_adapt), snapshot(model.label_encoding_function)
    for iteration, losses in train(model, cfg, batch, 5):
        assert ("loss_distance" in losses) == (iteration >= 3)
        if iteration < 3:
            assert all(unchanged(model.feature_adapt, before))
            assert all(p.grad is None for p in model.feature_adapt.parameters())
        else:
            assert not any(unchanged(model.feature_adapt, before))
    assert not any(unchanged(model.label_encoding_function, encoder))


@pytest.mark.parametrize("solver", [SGD, ADAMW], ids=["SGD", "AdamW"])
def test_step2_leaves_the_adapter_alone_at_the_end_and_the_encoder_always(seed, small_cfg, batch, solver):
    cfg = small_cfg(*solver, "MODEL.LABELENC.AUXILIARY_LOSS_ITERS", 2)
    model = LabelEncStep2(cfg)
    encoder, last = snapshot(model.label_encoding_function), snapshot(model.feature_adapt)
    for iteration, losses in train(model, cfg, batch, 5):
        assert ("loss_auxiliary" in losses) == (iteration < 2)
        if iteration < 2:
            assert not any(unchanged(model.feature_adapt, last))
            last = snapshot(model.feature_adapt)
        else:
            # Momentum of the earlier updates and weight decay would both move it.
            assert all(unchanged(model.feature_adapt, last))
        assert all(unchanged(model.label_encoding_function, encoder))
        assert all(p.grad is None for p in model.label_encoding_function.parameters())
        assert not any(p.requires_grad for p in model.label_encoding_function.parameters())


def count_calls(model):
    calls = {"label_encoding_function": 0, "feature_adapt": 0}

    def counter(name):
        def hook(_module, _inputs, _output):
            calls[name] += 1

        return hook

    for name in calls:
        model.get_submodule(name).register_forward_hook(counter(name))
    return calls


def test_step2_runs_no_supervision_at_weight_zero(seed, small_cfg, batch):
    model = LabelEncStep2(small_cfg())
    calls = count_calls(model)
    assert set(model(*batch, auxiliary_loss_weight=0.0)) == DETECTOR
    with torch.no_grad():
        model.eval()(batch[0])
    assert calls == {"label_encoding_function": 0, "feature_adapt": 0}
    assert set(model.train()(*batch)) == {*DETECTOR, "loss_auxiliary"}
    assert calls == {"label_encoding_function": 1, "feature_adapt": 3}


def test_step1_runs_no_adapter_at_weight_zero(seed, small_cfg, batch):
    model = LabelEncStep1(small_cfg())
    calls = count_calls(model)
    names = {*DETECTOR, *(f"ae_{name}" for name in DETECTOR)}
    of_head = []
    model.rpn.head.register_forward_hook(lambda *_: of_head.append(1))
    assert set(model(*batch, distance_loss_weight=0.0)) == names
    assert calls == {"label_encoding_function": 1, "feature_adapt": 0}
    # On images and encodings together.
    assert len(of_head) == 1
    assert set(model(*batch)) == {*names, "loss_distance"}
    assert calls == {"label_encoding_function": 2, "feature_adapt": 3}
    with torch.no_grad():
        model.eval()(batch[0])
    assert calls["label_encoding_function"] == 2


def test_weights_scale_their_loss(seed, small_cfg, batch):
    step1, step2 = LabelEncStep1(small_cfg(), augment=False), LabelEncStep2(small_cfg())
    with torch.no_grad():
        full, half = step1(*batch), step1(*batch, distance_loss_weight=0.5)
        assert half["loss_distance"].item() == pytest.approx(full["loss_distance"].item() / 2, rel=1e-5)
        full, half = step2(*batch), step2(*batch, auxiliary_loss_weight=0.5)
        assert half["loss_auxiliary"].item() == pytest.approx(full["loss_auxiliary"].item() / 2, rel=1e-5)


def test_the_distance_loss_trains_no_encoder(seed, small_cfg, batch):
    model = LabelEncStep1(small_cfg())
    model(*batch)["loss_distance"].backward()
    assert all(p.grad is None for p in model.label_encoding_function.parameters())
    assert all(p.grad is None for p in model.rpn.parameters())
    assert model.backbone.fpn.fpn_layer2.weight.grad.abs().sum() > 0
    assert model.feature_adapt[4].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("make", [LabelEncStep1, LabelEncStep2])
def test_a_batch_without_boxes_trains(seed, small_cfg, empty_batch, make):
    model = make(small_cfg())
    losses = model(*empty_batch)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_the_strengths_of_boxes_are_drawn_in_step1_only(seed, small_cfg, batch):
    def name(step):
        return "ae_loss_retina_cls" if step is LabelEncStep1 else "loss_auxiliary"

    def values(model, step):
        with torch.no_grad():
            return {model(*batch)[name(step)].item() for _ in range(10)}

    # Each box keeps its full strength in half of the draws.
    assert len(values(LabelEncStep1(small_cfg()), LabelEncStep1)) > 1
    assert len(values(LabelEncStep1(small_cfg(), augment=False), LabelEncStep1)) == 1
    assert len(values(LabelEncStep2(small_cfg()), LabelEncStep2)) == 1


@pytest.mark.parametrize("make", [LabelEncStep1, LabelEncStep2])
@torch.no_grad()
def test_detecting_is_the_plain_detectors(seed, small_cfg, batch, make):
    words = ("MODEL.RETINANET.PRIOR_PROB", 0.4)
    model, plain = make(small_cfg(*words)).eval(), build_detector(small_cfg(*words)).eval()
    state = model.state_dict()
    plain.load_state_dict({k: state[k] for k in plain.state_dict()})
    for found, wanted in zip(model(batch[0]), plain(batch[0]), strict=True):
        assert len(wanted) > 0
        assert torch.equal(found.bbox, wanted.bbox)
        assert torch.equal(found.get_field("scores"), wanted.get_field("scores"))


@torch.no_grad()
def test_reconstruction_sees_the_labels_only(seed, small_cfg, batch):
    model = LabelEncStep1(small_cfg("MODEL.RETINANET.PRIOR_PROB", 0.4)).eval()
    images, targets = batch
    found = model.reconstruct(images, targets)
    images.tensors.normal_()
    again = model.reconstruct(images, targets)
    assert [boxes.size for boxes in found] == [(96, 64), (70, 60)]
    for first, second in zip(found, again, strict=True):
        assert len(first) > 0
        assert torch.equal(first.bbox, second.bbox)
    other = model.reconstruct(images, [targets[0][:1], targets[1]])
    assert not torch.equal(other[0].get_field("scores"), found[0].get_field("scores"))
    assert torch.equal(other[1].get_field("scores"), found[1].get_field("scores"))
