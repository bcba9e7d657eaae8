"""Processes: alone, badly launched, and two of them compared with one."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from labelenc.config import ConfigError
from labelenc.engine import broadcast_object, is_main, load_file, reduce_mean, setup_distributed
from labelenc.engine.distributed import all_gather_objects

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_alone_without_launcher(no_launcher: pytest.MonkeyPatch) -> None:
    process = setup_distributed("cpu")
    assert (process.rank, process.world_size, process.local_rank) == (0, 1, 0)
    assert process.device == torch.device("cpu")
    assert not torch.distributed.is_initialized()
    assert is_main()
    assert all_gather_objects("x") == ["x"]
    assert broadcast_object("x") == "x"
    means = reduce_mean(
        {"b": torch.tensor(2.0, dtype=torch.float64, requires_grad=True), "a": torch.tensor(3)}
    )
    assert {name: float(value) for name, value in means.items()} == {"b": 2.0, "a": 3.0}
    assert list(means) == ["b", "a"]
    assert not means["b"].requires_grad
    assert reduce_mean({}) == {}


def test_missing_gpu_names_the_remedy(no_launcher: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        no_launcher.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"Append 'MODEL\.DEVICE cpu'"):
        setup_distributed("cuda")


def test_unknown_device(no_launcher: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE is 'meta'"):
        setup_distributed("meta")


def test_half_an_environment_names_what_is_missing(no_launcher: pytest.MonkeyPatch) -> None:
    no_launcher.setenv("WORLD_SIZE", "2")
    no_launcher.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match=r"RANK, MASTER_PORT is not set.*torchrun --nproc_per_node=2"):
        setup_distributed("cpu")


def test_two_processes_average(pair: tuple[Path, list[dict]]) -> None:
    for rank, found in enumerate(pair[1]):
        assert found["process"] == (rank, 2)
        assert {name: float(value) for name, value in found["means"].items()} == {"b": 0.5, "a": 2.0}


def test_gradients_across_borders_equal_one_process(tiny: ModuleType, pair: tuple[Path, list[dict]]) -> None:
    alone, wrappers = tiny.parallel_gradients(tiny.ALONE)
    assert wrappers == 0
    assert alone[1]["helper.weight"] is None
    for found in pair[1]:
        assert len(found["gradients"]) == len(alone) == 4
        for ours, theirs in zip(found["gradients"], alone, strict=True):
            assert [key for key in ours if ours[key] is None] == [
                key for key in theirs if theirs[key] is None
            ]
            given = [key for key in theirs if theirs[key] is not None]
            assert_close({key: ours[key] for key in given}, {key: theirs[key] for key in given})
        assert found["wrappers"] == 1, "wrappers of earlier borders are gone"


def test_two_processes_with_two_micro_batches_equal_one_with_the_whole_batch(
    tiny: ModuleType, divided: ModuleType, pair: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    whole = divided.run(tmp_path, tiny.ALONE, steps=1)
    for found in pair[1]:
        assert_close(found["divided"], whole)
    assert_close(pair[1][0]["divided"], pair[1][1]["divided"], rtol=0, atol=0)
    logged = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path, pair[0] / "divided")
    ]
    for rows in zip(*logged, strict=True):
        for name in ("iteration", "loss", "loss_body", "loss_helper"):
            assert rows[0].get(name) == pytest.approx(rows[1].get(name)), name


def test_gradients_stay_local_until_the_last_micro_batch(pair: tuple[Path, list[dict]]) -> None:
    torch.manual_seed(4)
    torch.nn.Linear(3, 1, bias=False)
    # The gradient of a sum over w x is x.
    data = torch.randn(2, 2, 1, 3)
    for rank, found in enumerate(pair[1]):
        assert_close(found["local"], data[rank, 0])
        assert_close(found["summed"], data.sum(dim=1).mean(dim=0))


def test_unequal_shares_are_gathered_on_rank_0(tiny: ModuleType, pair: tuple[Path, list[dict]]) -> None:
    first, second = pair[1]
    pixels = {
        image_id: float(pixel[0, 0, 0])
        for batch in tiny.loader(0, 4)
        for image_id, pixel in zip(batch.image_ids, batch.images.tensors, strict=True)
    }
    assert first["scores"] == pixels
    assert len(pixels) == 8
    assert not second["predicts"]


def test_overlapping_shares_are_an_error_everywhere(pair: tuple[Path, list[dict]]) -> None:
    for found in pair[1]:
        assert "RuntimeError: 2 images were evaluated more than once (ids [0, 1])" in found["overlap"]


def test_resuming_restores_the_random_state_of_each_rank(pair: tuple[Path, list[dict]]) -> None:
    finals = [load_file(pair[0] / name / "model_final.pth") for name in ("through", "stopped")]
    assert finals[0].pop("kind") == finals[1].pop("kind")
    states = finals[0]["random_states"]
    assert len(states) == 2
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])
    assert_close(*finals, rtol=0, atol=0)
    lines = (pair[0] / "stopped" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == list(range(1, 11))


def test_task_of_rank_0_answers_and_fails_for_all(pair: tuple[Path, list[dict]]) -> None:
    assert [found["on_main"] for found in pair[1]] == [7, 7]
    assert all("division of labour" in found["on_main_error"] for found in pair[1])


def test_bad_loss_on_one_rank_stops_both(pair: tuple[Path, list[dict]]) -> None:
    for found in pair[1]:
        for part in (
            "TrainingError",
            "iteration 6",
            "loss_helper",
            "[50, 51]",
            "[1050, 1051]",
            "model_0000004.pth",
        ):
            assert part in found["nan"]
    assert load_file(pair[0] / "nan" / "model_0000004.pth")["iteration"] == 4
    assert not (pair[0] / "nan" / "model_final.pth").exists()


def test_bad_loss_on_one_rank_is_skipped_by_both(pair: tuple[Path, list[dict]]) -> None:
    first, second = (found["weights"] for found in pair[1])
    assert_close(first, second, rtol=0, atol=0)
    assert all(weight.isfinite().all() for weight in first.values())
    assert [found["skipped"]["skipped_updates"] for found in pair[1]] == [1, 1]
    assert load_file(pair[0] / "skip" / "model_final.pth")["iteration"] == 10
