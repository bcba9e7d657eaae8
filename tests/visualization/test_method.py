"""Strips of the method: pixels worked out by hand."""

import numpy as np
import pytest
import torch

from labelenc.structures import BoxList
from labelenc.visualization import (
    Panel,
    Scene,
    boxes_panel,
    class_colour,
    distance_panel,
    features_to_images,
    label_map_image,
    label_map_panel,
    map_panel,
    strip,
)


@pytest.fixture
def scene() -> Scene:
    """An image of 89 x 60 pixels, padded to 96 x 64; a panel is four times as large."""
    boxes = BoxList([[10.0, 10, 30, 40]], (89, 60))
    boxes.add_field("labels", torch.tensor([2]))
    return Scene(np.full((60, 89, 3), 100, np.uint8), boxes, (96, 64))


def lightness(picture: np.ndarray) -> np.ndarray:
    return picture.astype(int).sum(axis=2)


def test_maps_lie_on_the_image_and_the_padding_is_left_out(scene) -> None:
    distance = torch.zeros(8, 12)
    distance[6, 10], distance[7, 11] = 1.0, 3.0
    picture = distance_panel(scene, distance, "distance").picture
    assert picture.shape == (240, 356, 3)
    light = lightness(picture)
    # Of the cell in row 6 and column 10 all 32 x 32 pixels, of the last cell what is not padding: 16 x 4.
    assert len(np.unique(light[192:224, 320:352])) == 1
    assert len(np.unique(light[224:, 352:])) == 1
    assert light[0, 0] < light[200, 330] < light[230, 354]
    assert light[191, 330] == light[200, 319] == light[0, 0]
    # The frame of the box.
    assert (picture[40, 40:121] == 255).all()
    assert (picture[40:161, 120] == 255).all()


def test_distances_have_fixed_colours(scene) -> None:
    values = torch.tensor([[0.0, 0.1, 0.5], [1.0, 2.0, 4.0]])
    bright = Scene(scene.pixels, scene.boxes[:0], scene.padded)
    light = lightness(distance_panel(bright, values, "").picture)[[50, 200]][:, [50, 180, 330]].ravel()
    assert (np.diff(light) > 0).all()
    # Beyond 4 and with other values around, a position keeps its colour.
    other = distance_panel(bright, torch.tensor([[9.0, 0.1, 0.5], [1.0, 2.0, 7.0]]), "").picture
    assert lightness(other)[[50, 200]][:, [50, 180, 330]].ravel().tolist() == [light[5], *light[1:]]


def test_label_maps_of_few_classes_keep_their_colours(scene) -> None:
    dense = torch.zeros(7, 6, 5)
    dense[1], dense[6, :3] = 0.5, 1.0
    assert np.array_equal(label_map_image(dense[[1, 6]], [2, 7]), label_map_image(dense))
    names = [f"class {k}" for k in range(1, 8)]
    panel = label_map_panel(scene, dense[[1, 6]], [2, 7], names, "label map")
    assert tuple(panel.picture[10, 10]) == class_colour(7)
    found = strip("", [panel])[-40:].reshape(-1, 3).tolist()
    assert {class_colour(2), class_colour(7)} <= {tuple(pixel) for pixel in found}
    assert class_colour(1) not in {tuple(pixel) for pixel in found}


def test_colours_of_a_reference_do_not_depend_on_what_is_drawn(seed) -> None:
    reference, feature = [torch.randn(6, 9, 8) for _ in range(2)], torch.randn(6, 4, 4)
    alone = features_to_images(reference)
    *first, last = features_to_images([*reference, 100 * feature], reference)
    assert all(np.array_equal(*pair) for pair in zip(alone, first, strict=True))
    # Beyond the range there is only black and full colour.
    assert np.isin(last, (0, 255)).mean() > 0.8


@pytest.mark.parametrize("classes", [1, 80])
def test_strips_have_the_width_of_a_page(scene, classes) -> None:
    names = [f"rather long class name {k}" for k in range(1, classes + 1)]
    panels = [
        boxes_panel(scene, scene.boxes[:0], names, "none"),
        label_map_panel(scene, torch.rand(classes, 64, 96), range(1, classes + 1), names, "label map"),
        map_panel(scene, np.zeros((8, 12, 3), np.uint8), "Größe of 8 px"),
    ]
    picture = strip("image 1", panels)
    assert picture.shape == (26 + 240 + 42, 1100, 3)
    assert picture.dtype == np.uint8
    # Captions stay in their columns, which are 16 pixels apart.
    for gap in (slice(356, 372), slice(728, 744)):
        assert (picture[30:, gap] == 255).all()


@pytest.mark.parametrize("size", [(1216, 800), (400, 1000), (3000, 20), (5, 700)])
def test_images_of_any_shape_fit(size) -> None:
    width, height = size
    padded = -(-width // 32) * 32, -(-height // 32) * 32
    tall = Scene(np.zeros((height, width, 3), np.uint8), BoxList([], size), padded)
    features = np.zeros((-(-padded[1] // 8), -(-padded[0] // 8), 3), np.uint8)
    picture = map_panel(tall, features, "").picture
    assert picture.shape[0] <= 320
    assert picture.shape[1] <= 356
    assert picture.shape[:2] == tall.panel_size[::-1]
    assert strip("", [Panel(picture, "")]).shape[1] == 1100
