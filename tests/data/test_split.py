"""The division of images into training and validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labelenc.data.split import stratified_split


def _random_classes(num_images: int, num_classes: int) -> list[list[int]]:
    classes = []
    for _ in range(num_images):
        drawn = (torch.rand(int(torch.randint(0, 5, ()))) ** 3 * num_classes).long()
        classes.append(sorted(set(drawn.tolist())))
    return classes


def test_every_class_has_its_share(seed):
    classes = _random_classes(2000, 12)
    validation = stratified_split(classes, 0.2, 3)
    assert validation.sum() == pytest.approx(400, abs=25)
    for label in range(12):
        members = np.array([label in row for row in classes])
        if members.sum() >= 20:
            assert validation[members].mean() == pytest.approx(0.2, abs=0.06)


def test_rare_classes_are_in_both_parts(seed):
    # Classes of two to four images each, among many without.
    classes: list[list[int]] = [[] for _ in range(200)]
    for label in range(15):
        for _ in range(2 + label % 3):
            classes.append([label])
    order = torch.randperm(len(classes)).tolist()
    classes = [classes[i] for i in order]
    validation = stratified_split(classes, 0.1, seed % 7)
    for label in range(15):
        inside = [bool(v) for v, row in zip(validation, classes, strict=True) if label in row]
        assert 0 < sum(inside) < len(inside)


def test_classes_that_always_occur_together_are_in_both_parts():
    # Class 1 is given out with class 0, and class 2 has only images of both.
    classes = [[0, 1], [0, 1], [1, 2], [1, 2], [2], [0, 1, 2]]
    for seed in range(20):
        validation = stratified_split(classes, 0.3, seed)
        for label in range(3):
            inside = {bool(v) for v, row in zip(validation, classes, strict=True) if label in row}
            assert inside == {True, False}


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("classes", [[[0], [1]], [[], []], [[0], []], [[0, 1], [0, 1], [2]]])
def test_no_part_is_empty(classes, share):
    for seed in range(5):
        assert set(stratified_split(classes, share, seed).tolist()) == {True, False}


def test_deterministic_and_different_for_other_seeds(seed):
    classes = _random_classes(300, 5)
    once, again = (stratified_split(classes, 0.25, 11) for _ in range(2))
    assert np.array_equal(once, again)
    assert any(not np.array_equal(once, stratified_split(classes, 0.25, other)) for other in range(5))
    # The state of the global generator stays out of it, in both directions.
    state = torch.get_rng_state()
    stratified_split(classes, 0.25, 11)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("classes", "share"), [([], 0.2), ([[0]], 0.5), ([[0], [1], [0]], 0.0)])
def test_nothing_to_divide(classes, share):
    assert not stratified_split(classes, share, 0).any()
