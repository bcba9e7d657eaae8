"""Label maps and features as colours, against hand-computed pixels and numpy's SVD."""

import numpy as np
import pytest
import torch

from labelenc.visualization import class_colour, features_to_images, label_map_image, principal_components


def test_label_map_colours_by_hand() -> None:
    label_map = torch.zeros(3, 2, 2)
    label_map[0, 0, 0] = 1.0
    label_map[2, 0, 1], label_map[1, 0, 1] = 0.75, 0.5
    label_map[1, 1, 0] = 0.5
    image = label_map_image(label_map)
    assert image.dtype == np.uint8
    assert image.shape == (2, 2, 3)
    assert tuple(image[0, 0]) == class_colour(1)
    assert tuple(image[1, 1]) == (255, 255, 255)
    expected = [255 + 0.75 * (value - 255) for value in class_colour(3)]
    assert image[0, 1] == pytest.approx(expected, abs=0.51)
    expected = [255 + 0.5 * (value - 255) for value in class_colour(2)]
    assert image[1, 0] == pytest.approx(expected, abs=0.51)
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        label_map_image(torch.zeros(1, 3, 2, 2))


def test_components_match_numpy_svd(seed: int) -> None:
    mixing = torch.randn(12, 12) * torch.logspace(1, -1, 12)
    features = [torch.einsum("kc,chw->khw", mixing, torch.randn(12, h, w)) + 5 for h, w in ((9, 7), (4, 11))]
    mean, basis = principal_components(features, 4)
    positions = np.concatenate([f.double().numpy().reshape(12, -1).T for f in features])
    expected_mean = positions.mean(axis=0)
    assert mean.numpy() == pytest.approx(expected_mean, abs=1e-12)
    rows = np.linalg.svd(positions - expected_mean, full_matrices=False)[2][:4]
    assert np.abs((basis.numpy() * rows).sum(axis=1)) == pytest.approx(1.0, abs=1e-6)
    assert all(row[row.abs().argmax()] > 0 for row in basis)


def test_equal_features_get_equal_colours(seed: int) -> None:
    feature = torch.randn(8, 6, 5)
    first, second = features_to_images([feature, torch.cat([feature, feature + 3], dim=2)])
    assert first.shape == (6, 5, 3)
    assert second.shape == (6, 10, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second[:, :5])
    assert not np.array_equal(first, second[:, 5:])


def test_first_component_is_red_and_ordered(seed: int) -> None:
    ramp = torch.linspace(-1, 1, 50).expand(1, 4, 50)
    noise = 0.01 * torch.randn(2, 4, 50)
    (image,) = features_to_images([torch.cat([noise, ramp])])
    red = image[..., 2].astype(int)
    assert (np.diff(red, axis=1) >= -2).all()
    assert red[:, 0].max() < 15
    assert red[:, -1].min() > 240


def test_few_channels_and_constant_features() -> None:
    for channels in (1, 2):
        (image,) = features_to_images([torch.rand(channels, 4, 4)])
        assert image.shape == (4, 4, 3)
    (flat,) = features_to_images([torch.full((5, 3, 3), 2.0)])
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1
    with pytest.raises(ValueError, match="same C"):
        features_to_images([torch.zeros(3, 2, 2), torch.zeros(4, 2, 2)])
    with pytest.raises(ValueError, match="same C"):
        features_to_images([])
