"""Balanced sampling: bounds, fairness, repeatability."""

import pytest
import torch

from labelenc.modeling.sampling import BalancedSampler

POSITIVE, NEGATIVE, IGNORED = 3, 0, -1


def shuffled(positives, negatives, ignored):
    values = [POSITIVE] * positives + [NEGATIVE] * negatives + [IGNORED] * ignored
    return torch.tensor(values, dtype=torch.int64)[torch.randperm(len(values))]


def counts(labels, drawn):
    return [int((labels[drawn] == value).sum()) for value in (POSITIVE, NEGATIVE, IGNORED)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((30, 100, 10), [5, 15, 0]),  # a quarter of 20, and negatives for the rest
        ((2, 100, 10), [2, 18, 0]),  # negatives take the place of missing positives
        ((30, 4, 10), [5, 4, 0]),  # positives don't take the place of missing negatives
        ((0, 0, 10), [0, 0, 0]),
        ((1, 2, 0), [1, 2, 0]),
        ((0, 0, 0), [0, 0, 0]),
    ],
)
def test_numbers(seed, given, expected):
    labels = shuffled(*given)
    sampler = BalancedSampler(20, 0.25)
    drawn = sampler(labels)
    assert sampler.number(labels) == drawn.sum()
    assert drawn.shape == labels.shape
    assert drawn.dtype == torch.bool
    assert counts(labels, drawn) == expected


def test_all_are_taken_where_there_is_room(seed):
    labels = shuffled(7, 40, 5)
    assert torch.equal(BalancedSampler(1000, 0.25)(labels), labels >= 0)


def test_the_bound_on_positives_is_rounded_down(seed):
    labels = shuffled(30, 30, 0)
    assert counts(labels, BalancedSampler(10, 0.39)(labels)) == [3, 7, 0]
    assert counts(labels, BalancedSampler(10, 1.0)(labels)) == [10, 0, 0]


def test_images_are_sampled_apart(seed):
    rows = [(30, 100, 20), (2, 140, 8), (50, 4, 96)]
    labels = torch.stack([shuffled(*row) for row in rows])
    sampler = BalancedSampler(20, 0.25)
    drawn = sampler(labels)
    assert sampler.number(labels).tolist() == [20, 20, 9]
    found = [counts(*pair) for pair in zip(labels, drawn, strict=True)]
    assert found == [[5, 15, 0], [2, 18, 0], [5, 4, 0]]


def test_every_candidate_has_the_same_chance(seed):
    labels = shuffled(12, 40, 5)
    sampler, rounds = BalancedSampler(20, 0.25), 4000
    drawn = torch.stack([sampler(labels) for _ in range(rounds)]).double().mean(dim=0)
    for value, chance in ((POSITIVE, 5 / 12), (NEGATIVE, 15 / 40)):
        deviation = (chance * (1 - chance) / rounds) ** 0.5
        # Six standard deviations: one run in ten million fails by chance.
        assert (drawn[labels == value] - chance).abs().max() < 6 * deviation


def test_the_seed_decides(seed):
    labels = shuffled(12, 400, 5)
    sampler = BalancedSampler(20, 0.25)
    torch.manual_seed(seed)
    first, second = sampler(labels), sampler(labels)
    torch.manual_seed(seed)
    assert torch.equal(sampler(labels), first)
    assert not torch.equal(first, second)
