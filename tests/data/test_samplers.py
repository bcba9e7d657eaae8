"""Which images form which batch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from labelenc.data.samplers import Draw, TestBatchSampler, TrainBatchSampler, derive_seed


def _groups(seed: int, count: int) -> list[int]:
    return torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("grouped", [False, True])
def test_resuming_continues_exactly(seed, grouped):
    groups = _groups(seed, 37) if grouped else None
    whole = list(TrainBatchSampler(groups, 37, 6, seed, 0, 50))
    assert len(whole) == 50
    for start in (1, 17, 49, 50):
        sampler = TrainBatchSampler(groups, 37, 6, seed, start, 50)
        assert len(sampler) == 50 - start
        assert list(sampler) == whole[start:]


@pytest.mark.parametrize("replicas", [2, 3, 6])
def test_processes_share_the_batches_of_one(seed, replicas):
    groups = _groups(seed, 37)
    whole = list(TrainBatchSampler(groups, 37, 6, seed, 3, 30))
    shares = [list(TrainBatchSampler(groups, 37, 6, seed, 3, 30, replicas, rank)) for rank in range(replicas)]
    for iteration, batch in enumerate(whole):
        assert all(len(share[iteration]) == 6 // replicas for share in shares)
        dealt = [share[iteration][i] for i in range(6 // replicas) for share in shares]
        assert dealt == batch


def test_every_image_once_per_epoch(seed):
    batches = list(TrainBatchSampler(None, 24, 4, seed, 0, 18))
    epochs = [[draw.index for batch in batches[i : i + 6] for draw in batch] for i in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_groups_never_mix_and_no_image_is_favoured(seed):
    groups = [1] * 5 + [0] * 32
    batches = list(TrainBatchSampler(groups, 37, 4, seed, 0, 370))
    assert all(len({groups[draw.index] for draw in batch}) == 1 for batch in batches)
    assert {groups[batch[0].index] for batch in batches} == {0, 1}
    counts = Counter(draw.index for batch in batches for draw in batch)
    # 40 epochs; what waits in an unfinished group is missing.
    assert set(counts) == set(range(37))
    assert max(counts.values()) - min(counts.values()) <= 2


def test_seeds_differ_between_draws_and_runs(seed):
    draws = [draw for batch in TrainBatchSampler(None, 10, 5, seed, 0, 400) for draw in batch]
    others = [draw for batch in TrainBatchSampler(None, 10, 5, seed + 1, 0, 400) for draw in batch]
    assert len({draw.seed for draw in draws}) == len(draws)
    assert not {draw.seed for draw in draws} & {draw.seed for draw in others}
    assert all(0 <= draw.seed < 2**63 for draw in draws)
    # Every bit is set about half the time: 2000 draws, five standard deviations.
    for bit in range(63):
        assert abs(sum(draw.seed >> bit & 1 for draw in draws) - 1000) < 120


def test_derived_seed_depends_on_each_argument():
    assert len({derive_seed(a, b, c) for a in range(6) for b in range(6) for c in range(6)}) == 216


@pytest.mark.parametrize("replicas", [1, 2, 5, 40])
def test_testing_gives_every_image_once(seed, replicas):
    groups = _groups(seed, 37)
    for chosen in (None, groups):
        samplers = [TestBatchSampler(chosen, 37, 4, replicas, rank) for rank in range(replicas)]
        seen = [index for sampler in samplers for batch in sampler for index in batch]
        assert sorted(seen) == list(range(37))
        assert all(len(batch) <= 4 for sampler in samplers for batch in sampler)
        assert all(len(list(sampler)) == len(sampler) for sampler in samplers)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="cannot be split over 3"):
        TrainBatchSampler(None, 10, 4, 0, 0, 10, num_replicas=3)
    with pytest.raises(ValueError, match="no images"):
        TrainBatchSampler(None, 0, 4, 0, 0, 10)
    with pytest.raises(ValueError, match="2 groups for 3"):
        TrainBatchSampler([0, 1], 3, 4, 0, 0, 10)


def test_fewer_images_than_a_batch_holds():
    (batch,) = TrainBatchSampler(None, 2, 5, 1, 0, 1)
    assert {draw.index for draw in batch} == {0, 1}
    assert isinstance(batch[0], Draw)


@pytest.mark.parametrize(("replicas", "steps"), [(1, 3), (3, 2), (2, 6)])
def test_micro_batches_share_the_batch_of_their_iteration(seed, replicas, steps):
    groups = _groups(seed, 37)
    whole = list(TrainBatchSampler(groups, 37, 12, seed, 0, 20))
    shares = [
        TrainBatchSampler(groups, 37, 12, seed, 5, 20, replicas, rank, steps) for rank in range(replicas)
    ]
    assert [len(share) for share in shares] == [15 * steps] * replicas
    streams = [iter(share) for share in shares]
    for batch in whole[5:]:
        micro_batches = [next(stream) for stream in streams for _ in range(steps)]
        assert {len(micro_batch) for micro_batch in micro_batches} == {12 // replicas // steps}
        dealt = [draw for micro_batch in micro_batches for draw in micro_batch]
        assert sorted(dealt, key=batch.index) == batch
    assert [next(stream, None) for stream in streams] == [None] * replicas


def test_batch_too_small_for_its_micro_batches():
    with pytest.raises(ValueError, match="6 images cannot be split over 2 processes, 2 micro-batches"):
        TrainBatchSampler(None, 10, 6, 0, 0, 10, num_replicas=2, micro_batches=2)
