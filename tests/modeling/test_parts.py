"""Anchors, matching, box coding and smooth L1 against the recorded numbers and closed forms."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from labelenc.modeling.box_coder import BoxCoder
from labelenc.modeling.dense.anchors import AnchorGenerator, cell_anchors, inside_image
from labelenc.modeling.losses import mean_over_processes, smooth_l1_sum
from labelenc.modeling.matching import BELOW_LOW, BETWEEN, Matcher

RATIOS = (0.5, 1.0, 2.0)
RETINANET_SIZES = [[size * 2 ** (k / 3) for k in range(3)] for size in (32, 64, 128, 256, 512)]
RETINANET_STRIDES = (8, 16, 32, 64, 128)
RPN_SIZES = [[size] for size in (32, 64, 128, 256, 512)]
RPN_STRIDES = (4, 8, 16, 32, 64)
KINDS = {"retinanet": (RETINANET_SIZES, RETINANET_STRIDES), "rpn": (RPN_SIZES, RPN_STRIDES)}
# Of the recorded batch: 192 x 224, images of (height, width).
BATCH, IMAGES = (192, 224), ((160, 224), (192, 160))


def grid_anchors(kind, height, width):
    sizes, strides = KINDS[kind]
    levels = [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in strides]
    return AnchorGenerator(sizes, RATIOS, strides)(levels)


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_anchors(ops_record, kind):
    sizes, strides = KINDS[kind]
    generator = AnchorGenerator(sizes, RATIOS, strides)
    assert generator.per_cell == len(sizes[0]) * 3
    grids = generator([torch.zeros(2, 7, 2, 3) for _ in strides])
    for level, (cell, grid) in enumerate(zip(generator.cell_anchors, grids, strict=True)):
        torch.testing.assert_close(cell, ops_record[f"anchors/{kind}_cell_level{level}"], rtol=0, atol=1e-4)
        torch.testing.assert_close(
            grid, ops_record[f"anchors/{kind}_grid2x3_level{level}"], rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_anchors_are_saved_by_position(kind):
    sizes, strides = KINDS[kind]
    names = list(AnchorGenerator(sizes, RATIOS, strides).state_dict())
    assert names == [f"cell_anchors.{level}" for level in range(5)]


def test_anchor_shapes_follow_size_and_ratio():
    anchors = cell_anchors(16, [64.0], [0.25, 1.0, 4.0])
    widths, heights = anchors[:, 2] - anchors[:, 0] + 1, anchors[:, 3] - anchors[:, 1] + 1
    # 16 x 16 is even at these ratios: 32 x 8, 16 x 16, 8 x 32, and four times that.
    assert widths.tolist() == [128.0, 64.0, 32.0]
    assert heights.tolist() == [32.0, 64.0, 128.0]
    assert ((anchors[:, 0] + anchors[:, 2]) / 2 == 7.5).all()


@pytest.mark.parametrize("image", [0, 1])
def test_recorded_matches(ops_record, shared_dir, image):
    truth = recipe_boxes(shared_dir, image)
    for kind, high, low in (("retinanet", 0.5, 0.4), ("rpn", 0.7, 0.3)):
        anchors = torch.cat(grid_anchors(kind, *BATCH))
        valid = torch.ones(1, len(truth), dtype=torch.bool)
        [matches] = Matcher(high, low, allow_low_quality=True)(truth[None], valid, anchors)
        assert matches.dtype == torch.int64
        assert torch.equal(matches, ops_record[f"matcher/{kind}_image{image}"].long())
        grown = torch.tensor([0.0, 0, 1, 1])
        best = box_iou(truth + grown, anchors + grown).max(dim=1).values
        torch.testing.assert_close(best, ops_record[f"matcher/{kind}_max_iou_image{image}"])


def recipe_boxes(shared_dir, image):
    import importlib.util

    spec = importlib.util.spec_from_file_location("parity_recipe", shared_dir / "parity/recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe.make_targets()[image]["boxes"]


@pytest.mark.parametrize("image", [0, 1])
def test_recorded_visibility(ops_record, image):
    anchors = torch.cat(grid_anchors("rpn", *BATCH))
    expected = ops_record[f"matcher/rpn_visibility_image{image}"].bool()
    assert torch.equal(inside_image(anchors, IMAGES[image], 0), expected)
    assert inside_image(anchors, IMAGES[image], -1).all()


def test_straddling_by_some_pixels():
    anchors = torch.tensor(
        [[-3.0, 0, 5, 5], [-2.9, 0, 5, 5], [0, 0, 22.9, 5], [0, 0, 5, 13.0], [0, -4, 5, 5], [0, 0, 23, 5]]
    )
    # An image 20 wide and 10 high; 3 pixels over are accepted, more are not.
    assert inside_image(anchors, (10, 20), 3).tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("high", "low", "low_quality", "name"),
    [(0.7, 0.3, True, "0.7_0.3_low"), (0.95, 0.9, True, "0.95_0.9_low"), (0.5, 0.5, False, "0.5_0.5_nolow")],
)
def test_recorded_matches_of_a_matrix(ops_record, high, low, low_quality, name):
    matches = Matcher(high, low, low_quality).match_quality(ops_record["matcher/quality"])
    assert torch.equal(matches, ops_record[f"matcher/match_{name}"])


def test_matching_by_hand():
    quality = torch.tensor([[0.1, 0.45, 0.5, 0.3, 0.3], [0.2, 0.1, 0.6, 0.0, 0.39]])
    assert Matcher(0.5, 0.4, False).match_quality(quality).tolist() == [BELOW_LOW, BETWEEN, 1, -1, -1]
    # Both truths have their best at reference 2; it keeps its own best.
    assert Matcher(0.5, 0.4, True).match_quality(quality).tolist() == [BELOW_LOW, BETWEEN, 1, -1, -1]
    # A tie for a truth's best is kept twice; a best below every threshold is restored.
    tie = torch.tensor([[0.2, 0.2, 0.1]])
    assert Matcher(0.5, 0.4, True).match_quality(tie).tolist() == [0, 0, BELOW_LOW]


def test_a_truth_that_overlaps_nothing_rescues_nothing():
    quality = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.6, 0.0]])
    assert Matcher(0.5, 0.4, True).match_quality(quality).tolist() == [BELOW_LOW, 1, BELOW_LOW]


def test_matching_without_truth_and_without_references():
    matcher = Matcher(0.5, 0.4, True)
    padding = torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.bool)
    # Whatever the padding overlaps.
    assert matcher(*padding, torch.zeros(3, 4)).tolist() == [[BELOW_LOW] * 3]
    assert matcher(*padding, torch.zeros(0, 4)).shape == (1, 0)
    with pytest.raises(ValueError, match=r"0\.6 exceeds high threshold 0\.5"):
        Matcher(0.5, 0.6, True)


@pytest.mark.parametrize("weights", [(10.0, 10.0, 5.0, 5.0), (1.0, 1.0, 1.0, 1.0)])
def test_recorded_coding(ops_record, weights):
    coder, name = BoxCoder(weights), "_".join(f"{w:.0f}" for w in weights)
    truth, anchors = ops_record["box_coder/gt"], ops_record["box_coder/anchors"]
    torch.testing.assert_close(
        coder.encode(truth, anchors), ops_record[f"box_coder/encode_{name}"], rtol=1e-5, atol=1e-5
    )
    decoded = coder.decode(ops_record["box_coder/deltas"], anchors)
    torch.testing.assert_close(decoded, ops_record[f"box_coder/decode_{name}"], rtol=1e-5, atol=1e-3)


def test_decoding_inverts_encoding(seed):
    corners = torch.rand(2, 50, 2, dtype=torch.float64) * 200
    first, second = (torch.cat([c, c + 1 + torch.rand(50, 2) * 100], dim=1) for c in corners)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(coder.decode(coder.encode(first, second), second), first)
    assert coder.encode(first[:0], second[:0]).shape == (0, 4)


def test_growth_is_limited():
    anchor = torch.tensor([[0.0, 0, 9, 9]])
    box = BoxCoder((1.0,) * 4).decode(torch.tensor([[0.0, 0, 1000, 1000]]), anchor)
    torch.testing.assert_close(box[0, 2:] - box[0, :2] + 1, torch.tensor([10 * 1000 / 16] * 2))


@pytest.mark.parametrize("beta", [0.11, 1 / 9, 1.0])
def test_recorded_smooth_l1(ops_record, beta):
    value = smooth_l1_sum(ops_record["smooth_l1/input"], ops_record["smooth_l1/target"], beta)
    torch.testing.assert_close(value, ops_record[f"smooth_l1/sum_beta_{beta:.4f}"], rtol=1e-6, atol=0)


def test_smooth_l1_in_closed_form(seed):
    prediction, target = torch.randn(40), torch.randn(40)
    expected = math.fsum(
        0.5 * d * d / 0.3 if d < 0.3 else d - 0.15 for d in (prediction - target).abs().tolist()
    )
    assert smooth_l1_sum(prediction, target, 0.3).item() == pytest.approx(expected, rel=1e-5)
    assert smooth_l1_sum(prediction[:0], target[:0], 0.3).item() == 0


def test_a_count_stays_without_other_processes():
    assert mean_over_processes(torch.tensor(7.0)).item() == 7
