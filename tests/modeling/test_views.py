"""Detections from several views of an image, against boxes known beforehand and a merge by hand."""

import pytest
import torch
from torch import nn

from labelenc.modeling import build_detector
from labelenc.modeling.views import detect_views
from labelenc.structures import BoxList, ImageBatch

# What makes the small RetinaNet of small_cfg another detector.
KINDS = {
    "retinanet": (),
    "fcos": (
        *("MODEL.RETINANET_ON", "False", "MODEL.FCOS_ON", "True", "MODEL.FCOS.FPN_STRIDES", "[8, 16, 32]"),
        *("MODEL.FCOS.NUM_CONVS", "1"),
    ),
    "faster_rcnn": (
        *("MODEL.RETINANET_ON", "False", "MODEL.RPN_ONLY", "False", "MODEL.BACKBONE.CONV_BODY", "R-18-FPN"),
        *("MODEL.RPN.USE_FPN", "True", "MODEL.RPN.ANCHOR_STRIDE", "(4, 8, 16, 32, 64)"),
        *("MODEL.RPN.PRE_NMS_TOP_N_TEST", "50", "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", "20"),
        *("MODEL.ROI_HEADS.USE_FPN", "True", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "7"),
        *("MODEL.ROI_BOX_HEAD.POOLER_SCALES", "(0.25, 0.125, 0.0625, 0.03125)"),
        *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "2", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", "32"),
        *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor"),
        *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FPNPredictor"),
    ),
}
NMS_KEYS = {
    "retinanet": "MODEL.RETINANET.NMS_TH",
    "fcos": "MODEL.FCOS.NMS_TH",
    "faster_rcnn": "MODEL.ROI_HEADS.NMS",
}
LIMIT = 40
# (height, width) of two images in three views whose proportions differ a little, as rounding makes them.
SIZES = (((64, 70), (50, 96)), ((47, 52), (37, 71)), ((96, 105), (75, 143)))


class Finder(nn.Module):
    """Finds, in each channel, the bright rectangle: a detector that cannot miss. All it finds is kept."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def backbone(self, pixels):
        return [pixels]

    def candidates(self, images, features):
        self.seen.append(images)
        found = []
        for channels, (height, width) in zip(features[0], images.image_sizes, strict=True):
            places = [channel.nonzero() for channel in channels]
            rows = [[*p.min(dim=0).values.flip(0), *p.max(dim=0).values.flip(0)] for p in places]
            boxes = BoxList(channels.new_tensor(rows), (width, height))
            boxes.add_field("labels", torch.arange(1, 4, device=channels.device))
            boxes.add_field("scores", channels.amax(dim=(1, 2)) / 2 ** len(self.seen))
            found.append(boxes)
        return found

    def select(self, candidates):
        return candidates


@pytest.fixture(
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ]
)
def rectangles(seed, request):
    """Two images of 40 x 60 and 56 x 32 (height, width), one bright rectangle in each channel; its boxes."""
    images, boxes = [], []
    for height, width in ((40, 60), (56, 32)):
        image, rows = torch.zeros(3, height, width), []
        for channel in image:
            x0, y0 = int(torch.randint(0, width // 2, ())), int(torch.randint(0, height // 2, ()))
            x1, y1 = int(torch.randint(x0, width, ())), int(torch.randint(y0, height, ()))
            channel[y0 : y1 + 1, x0 : x1 + 1] = 1
            rows.append([x0, y0, x1, y1])
        images.append(image.to(request.param))
        boxes.append(images[-1].new_tensor(rows))
    return images, boxes


def test_what_a_mirror_image_shows_maps_back_exactly(rectangles):
    images, boxes = rectangles
    batch = ImageBatch.from_tensors(images, 32)
    finder = Finder()
    found = detect_views(finder, [(batch, True)])
    assert [view.image_sizes for view in finder.seen] == [batch.image_sizes] * 2
    assert not torch.equal(finder.seen[1].tensors, batch.tensors)
    for result, expected, (height, width) in zip(found, boxes, batch.image_sizes, strict=True):
        assert torch.equal(result.bbox, torch.cat([expected, expected]))
        assert result.get_field("labels").tolist() == [1, 2, 3] * 2
        assert result.get_field("scores").tolist() == [0.5] * 3 + [0.25] * 3
        assert result.size == (width, height)


def test_other_sizes_map_to_the_first(rectangles):
    images, boxes = rectangles
    first = ImageBatch.from_tensors(images, 32)
    # Twice as wide, three times as high.
    larger = ImageBatch.from_tensors([i.repeat_interleave(3, 1).repeat_interleave(2, 2) for i in images], 8)
    finder = Finder()
    found = detect_views(finder, [(first, False), (larger, True)])
    assert len(finder.seen) == 3
    for result, expected, (height, width) in zip(found, boxes, first.image_sizes, strict=True):
        assert result.size == (width, height)
        assert torch.equal(result.bbox[:3], expected)
        # The last pixel of a box, x1, has become the pixels 2 x1 and 2 x1 + 1, its last row three.
        expected = expected + expected.new_tensor([0, 0, 1 / 2, 2 / 3])
        torch.testing.assert_close(result.bbox[3:6], expected)
        torch.testing.assert_close(result.bbox[6:], expected)


def test_views_are_asked_for_one_at_a_time(rectangles):
    finder = Finder()
    seen_before = []

    def views():
        for _ in range(3):
            seen_before.append(len(finder.seen))
            yield ImageBatch.from_tensors(rectangles[0]), True

    detect_views(finder, views())
    assert seen_before == [0, 2, 4]


@pytest.fixture(params=KINDS)
def detector(request, seed, small_cfg):
    """Draw a detector with something to say, in eval mode; returns it and its NMS threshold."""
    cfg = small_cfg(
        *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32),
        *("TEST.DETECTIONS_PER_IMG", LIMIT, "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", LIMIT),
        *("MODEL.RETINANET.PRE_NMS_TOP_N", 10, "MODEL.FCOS.PRE_NMS_TOP_N", 10),
        *KINDS[request.param],
    )
    node = cfg
    for part in NMS_KEYS[request.param].split("."):
        node = node[part]

    def draw():
        model = build_detector(cfg).eval()
        with torch.no_grad():
            for head in (model.rpn.head, getattr(model.roi_heads, "box", None)):
                for parameter in head.parameters() if head is not None else ():
                    parameter.normal_(0, 0.05)
        return model, node

    return draw


def test_one_view_is_the_model_itself(detector):
    model, _ = detector()
    images = ImageBatch.from_tensors([torch.randn(3, *size) for size in SIZES[0]], 32)
    with torch.no_grad():
        pairs = zip(detect_views(model, [(images, False)]), model(images), strict=True)
    for found, expected in pairs:
        assert len(found) > 0
        assert torch.equal(found.bbox, expected.bbox)
        assert torch.equal(found.get_field("scores"), expected.get_field("scores"))
        assert torch.equal(found.get_field("labels"), expected.get_field("labels"))


def merged_by_hand(model, views, index):
    """Boxes, scores, labels of one image from all views and their mirrors, in the first view's pixels."""
    height, width = views[0].image_sizes[index]
    boxes, scores, labels = [], [], []
    for view in views:
        h, w = view.image_sizes[index]
        for mirrored in (False, True):
            pixels = view.tensors.clone()
            if mirrored:
                for image, (rows, columns) in zip(pixels, view.image_sizes, strict=True):
                    image[:, :rows, :columns] = image[:, :rows, :columns].flip(2)
            seen = ImageBatch(pixels, view.image_sizes)
            found = model.candidates(seen, model.backbone(pixels))[index]
            x0, y0, x1, y1 = found.bbox.unbind(1)
            if mirrored:
                x0, x1 = w - 1 - x1, w - 1 - x0
            across, down = width / w, height / h
            boxes.append(torch.stack([x0 * across, y0 * down, x1 * across, y1 * down], dim=1))
            scores.append(found.get_field("scores"))
            labels.append(found.get_field("labels"))
    return torch.cat(boxes), torch.cat(scores), torch.cat(labels)


@torch.no_grad()
def test_candidates_of_all_views_are_selected_from_together(detector, clear_nms):
    for _ in range(50):
        model, threshold = detector()
        views = [ImageBatch.from_tensors([torch.randn(3, *size) for size in sizes], 32) for sizes in SIZES]
        merged = [merged_by_hand(model, views, index) for index in range(2)]
        # Of equal numbers: only overlaps at the threshold and scores that are equal leave a choice.
        keeps = [clear_nms(*parts, threshold, LIMIT, gap=0) for parts in merged]
        if all(keep is not None for keep in keeps):
            break
    else:
        pytest.fail("no draw in which rounding decides nothing")
    found = detect_views(model, [(view, True) for view in views])
    for result, (boxes, scores, labels), keep in zip(found, merged, keeps, strict=True):
        assert len(boxes) > len(result) > 0
        torch.testing.assert_close(result.bbox, boxes[keep], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(result.get_field("scores"), scores[keep])
        assert torch.equal(result.get_field("labels"), labels[keep])
