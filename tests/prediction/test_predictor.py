"""The Python interface: a checkpoint alone is enough, and it finds what the evaluation finds."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import labelenc
from labelenc.config import ConfigError, load_config
from labelenc.data.shapes import SHAPE_NAMES
from labelenc.modeling import build_detector
from labelenc.prediction import PredictionError


@pytest.fixture
def detector(trained):
    return labelenc.load_detector(trained / "run/model_final.pth", device="cpu")


def files(trained: Path) -> list[Path]:
    return sorted((trained / "val").iterdir())


def test_predictions_equal_those_of_the_evaluation(trained, detector):
    """The evaluation went through loaders, annotations and run_inference, and wrote a file."""
    written = json.loads((trained / "run/inference/tiny_val/predictions.json").read_text())
    truth = json.loads((trained / "val.json").read_text())
    ids = {entry["file_name"]: entry["id"] for entry in truth["images"]}
    results = detector.predict(files(trained))
    mine = [entry for found in results for entry in found.to_coco(ids[Path(found.path).name])]
    assert len(mine) == len(written) > 50

    def key(entry):
        return entry["image_id"], -entry["score"], entry["category_id"], entry["bbox"]

    for one, other in zip(sorted(mine, key=key), sorted(written, key=key), strict=True):
        assert one["image_id"] == other["image_id"]
        assert one["score"] == pytest.approx(other["score"], abs=2e-6)
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=2e-3)


def test_arrays_and_files_give_the_same(trained, detector):
    path = files(trained)[0]
    [from_array] = detector.predict(cv2.imread(str(path)))
    [from_file] = detector.predict(path)
    assert from_array.path is None
    assert from_file.path == str(path)
    assert len(from_file) > 0
    torch.testing.assert_close(from_array.boxes, from_file.boxes, rtol=0, atol=0)
    torch.testing.assert_close(from_array.scores, from_file.scores, rtol=0, atol=0)


def test_boxes_are_in_pixels_of_the_original_whatever_its_size(trained, detector):
    """The network sees both at the same size, so twice the picture has twice the boxes."""
    path = files(trained)[0]
    small = cv2.imread(str(path))
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    (one, two) = detector.predict([small, large], batch_size=1)
    assert two.image_size == (128, 128)
    assert float(two.boxes.max()) > 70
    assert torch.all(two.boxes <= 127.01)
    best = (one.boxes[0] * 2 - two.boxes).abs().amax(dim=1).min()
    assert best < 4


def test_batches_change_nothing_for_images_of_one_size(trained, detector):
    singly = detector.predict(files(trained), batch_size=1)
    together = detector.predict(files(trained), batch_size=6)
    for one, other in zip(singly, together, strict=True):
        torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-5)


def test_threshold_names_and_views(trained, detector):
    [found] = detector.predict(files(trained)[0])
    limit = float(found.scores.median())
    [fewer] = detector.predict(files(trained)[0], score_threshold=limit)
    assert len(fewer) == int((found.scores >= limit).sum()) < len(found)
    assert len(found.above(limit)) == len(fewer)
    assert found.class_names == SHAPE_NAMES == detector.class_names
    assert found.names[0] == SHAPE_NAMES[int(found.labels[0]) - 1]
    picture = found.draw(score_threshold=limit)
    assert picture.shape == found.image.shape
    assert (picture != found.image).any()
    assert "tiny" not in repr(found)
    assert "64 x 64" in repr(found)


def test_coco_boxes_are_legacy_inclusive(trained, detector):
    [found] = detector.predict(files(trained)[0])
    x0, y0, x1, y1 = found.boxes[0].tolist()
    assert found.to_coco(5)[0]["bbox"] == pytest.approx([x0, y0, x1 - x0 + 1, y1 - y0 + 1], abs=1e-3)
    both = detector.predict([*files(trained)[:2]], batch_size=1)
    assert [{entry["image_id"] for entry in found.to_coco()} for found in both] == [{1}, {2}]
    assert {entry["image_id"] for entry in both[1].above(0.1).to_coco()} == {2}


def test_arrays_of_pillow_and_with_swapped_colours(trained, detector, recwarn):
    path = files(trained)[0]
    rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    swapped = rgb[..., ::-1]
    fixed = np.frombuffer(swapped.tobytes(), np.uint8).reshape(swapped.shape)
    assert min(swapped.strides) < 0
    assert not fixed.flags.writeable
    expected, *others = detector.predict([path, swapped, fixed])
    assert len(expected) > 0
    for found in others:
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=0)
        assert found.draw().shape == found.image.shape
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_a_batch_has_an_image(trained, detector):
    with pytest.raises(PredictionError, match="batch_size must be 1 or more, not 0"):
        detector.predict(files(trained), batch_size=0)


def test_supervision(trained, detector):
    pytest.importorskip("supervision", reason="the package supervision is not installed")
    [found] = detector.predict(files(trained)[0])
    other = found.to_supervision()
    np.testing.assert_array_equal(other.xyxy, found.boxes.numpy())
    np.testing.assert_array_equal(other.class_id, found.labels.numpy() - 1)
    assert list(other.data["class_name"]) == found.names


def test_rotated_photos_are_turned_upright(trained, detector, tmp_path):
    """EXIF orientation 6: the camera was held so that the stored picture has to be turned clockwise."""
    image = pytest.importorskip("PIL.Image")
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :40] = 255
    exif = image.Exif()
    exif[0x0112] = 6
    image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    [found] = detector.predict(tmp_path / "turned.jpg")
    assert found.image_size == (40, 80)
    assert found.image[:30].mean() > 200
    assert found.image[50:].mean() < 50


def test_further_views_are_looked_at_where_the_configuration_says_so(trained):
    words = ["TEST.BBOX_AUG.ENABLED", "True", "TEST.BBOX_AUG.SCALES", "(64,)"]
    plain = labelenc.load_detector(trained / "run/model_final.pth", device="cpu")
    views = labelenc.load_detector(trained / "run/model_final.pth", opts=words, device="cpu")
    (one,), (other,) = plain.predict(files(trained)[0]), views.predict(files(trained)[0])
    assert len(other) > 0
    assert len(one) != len(other) or (one.scores - other.scores).abs().max() > 1e-4


def test_config_file_takes_the_place_of_the_carried_one(trained, tmp_path):
    content = torch.load(trained / "run/model_final.pth", weights_only=True)
    torch.save({"model": content["model"]}, tmp_path / "old.pth")
    with pytest.raises(ConfigError, match=r"old\.pth carries no configuration.*--config-file"):
        labelenc.load_detector(tmp_path / "old.pth")
    old = labelenc.load_detector(tmp_path / "old.pth", config_file=trained / "config.yaml", device="cpu")
    new = labelenc.load_detector(trained / "run/model_final.pth", device="cpu")
    assert old.categories == new.categories
    (one,), (other,) = old.predict(files(trained)[0]), new.predict(files(trained)[0])
    torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=0)


def test_classes_that_nobody_names_get_numbers(trained, tmp_path, caplog):
    """A published checkpoint whose data set is not on this machine."""
    content = torch.load(trained / "run/model_final.pth", weights_only=True)
    torch.save({"model": content["model"]}, tmp_path / "old.pth")
    words = ["DATASETS.TRAIN", "('coco_2017_train',)", "DATASETS.TEST", "()"]
    words += ["DATASETS.DATA_DIR", str(tmp_path), "MODEL.NUM_CLASSES", "10"]
    detector = labelenc.load_detector(tmp_path / "old.pth", trained / "config.yaml", words, "cpu")
    assert detector.class_names == tuple(map(str, range(1, 11)))
    assert "called by their numbers" in caplog.text


def test_cocos_classes_are_known_without_coco(tmp_path, shared_dir):
    config = "configs/retinanet/retinanet_R-50-FPN_1x.yaml"
    words = ["MODEL.DEVICE", "cpu", "DATASETS.DATA_DIR", str(tmp_path)]
    torch.save({"model": build_detector(load_config(config, words)).state_dict()}, tmp_path / "published.pth")
    detector = labelenc.load_detector(tmp_path / "published.pth", config, words, "cpu")
    truth = json.loads((shared_dir / "data/coco_mini80/annotations/val.json").read_text())
    assert detector.categories == tuple((entry["id"], entry["name"]) for entry in truth["categories"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.jpg", "there is no image nowhere.jpg"),
        (np.zeros((4, 4), np.uint8), r"uint8 array \(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "not float32"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_inputs_that_are_no_images(detector, image, message):
    with pytest.raises(PredictionError, match=message):
        detector.predict([image])


def test_a_file_that_is_no_image(detector, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(PredictionError, match=r"text\.jpg cannot be decoded"):
        detector.predict(tmp_path / "text.jpg")
