"""The commands as users type them: launchers, resuming after a kill, messages."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
LAUNCHERS = {
    "torch.distributed.launch": ["-m", "torch.distributed.launch", "--nproc_per_node=2"],
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node=2"],
}


def command(tool: str, config: Path, *words: object, launcher: tuple[str, ...] = ()) -> list[str]:
    script = str(ROOT / "tools" / tool)
    return [sys.executable, *launcher, script, "--config-file", str(config), *map(str, words)]


def run(words: list[str], expect: int = 0) -> str:
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def test_killed_training_ends_with_the_weights_of_an_undisturbed_run(tiny_root, tmp_path, seed):
    """Step 1 draws random numbers in every iteration and changes its losses on the way."""
    config = tiny_root / "config.yaml"
    words = ("--skip-test", "SOLVER.MAX_ITER", 60)
    run(command("train_labelenc_step1.py", config, *words, "OUTPUT_DIR", tmp_path / "whole"))

    disturbed = command("train_labelenc_step1.py", config, *words, "OUTPUT_DIR", tmp_path / "killed")
    metrics = tmp_path / "killed/metrics.jsonl"
    kill_at = random.Random(seed).randint(2, 30)
    process = subprocess.Popen(disturbed, env=ENVIRONMENT, stdout=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.is_file() and metrics.read_text().count("\n") >= kill_at:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait(timeout=120) == -signal.SIGKILL, f"was to be killed at iteration {kill_at}"
    assert not (tmp_path / "killed/model_final.pth").exists()

    told = run(disturbed)
    if kill_at >= 4:
        assert "resuming from" in told
    whole, killed = final_weights(tmp_path / "whole"), final_weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_repeat_one(tiny_root, tmp_path, losses_of, free_port, launcher):
    """Steps 1 and 2 on two CPU processes; step 2, which draws nothing at random, has the losses of one
    process. Rank 0 makes pictures of the method meanwhile."""
    config = tiny_root / "config.yaml"
    launch = (*LAUNCHERS[launcher], f"--master_port={free_port()}")
    pictures = ("TEST.METHOD_IMAGES", 1, "OUTPUT_DIR", tmp_path / "step1")
    run(command("train_labelenc_step1.py", config, *pictures, launcher=launch))
    folders = sorted(path.name for path in (tmp_path / "step1/method").iterdir())
    assert folders == ["iteration_0000000", "iteration_0000011"]
    handed = tmp_path / "step1/label_encoding_function.pth"
    step2 = ("--labelenc", handed, "--skip-test", "OUTPUT_DIR")
    run(command("train_labelenc_step2.py", config, *step2, tmp_path / "two", launcher=launch))
    run(command("train_labelenc_step2.py", config, *step2, tmp_path / "one"))
    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert one.keys() == two.keys()
    for iteration, losses in one.items():
        assert two[iteration] == pytest.approx(losses, rel=2e-4), iteration
    assert (tmp_path / "step1/inference/tiny_val/results.json").is_file()


def test_two_processes_evaluate_like_one(tiny_root, tmp_path, free_port):
    config = tiny_root / "config.yaml"
    run(command("train_net.py", config, "OUTPUT_DIR", tmp_path / "run"))
    weights = ("MODEL.WEIGHT", tmp_path / "run/model_final.pth", "OUTPUT_DIR")
    launch = (*LAUNCHERS["torchrun"], f"--master_port={free_port()}")
    run(command("test_net.py", config, *weights, tmp_path / "two", launcher=launch))
    results = "inference/tiny_val/results.json"
    assert (tmp_path / "two" / results).read_text() == (tmp_path / "run" / results).read_text()


@pytest.mark.parametrize("spelling", ["--local-rank=0", "--local_rank=0"])
def test_both_spellings_of_local_rank(tiny_root, tmp_path, spelling):
    words = command("train_net.py", tiny_root / "config.yaml")
    run([*words, spelling, "--skip-test", "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1"])


def test_mistakes_are_told_in_one_message(tiny_root, tmp_path):
    config = tiny_root / "config.yaml"
    told = run(command("train_net.py", config, "SOLVER.BASELR", 1), expect=2)
    assert "did you mean SOLVER.BASE_LR?" in told
    assert "Traceback" not in told
    words = ("DATASETS.TRAIN", "('tiny_trian',)", "OUTPUT_DIR", tmp_path)
    told = run(command("train_net.py", config, *words), expect=1)
    assert "did you mean tiny_train?" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_help_teaches(tool):
    told = run([sys.executable, str(ROOT / "tools" / tool), "--help"])
    assert "usage:" in told
    assert f"tools/{tool} " in told, "an example"


@pytest.mark.parametrize("kind", ["step1", "step2"])
def test_process_without_boxes_neither_crashes_nor_hangs(tiny_root, tmp_path, free_port, kind):
    """And the gradients are those of one process with the whole batch."""
    script = [str(ROOT / "tests/pipeline/empty_rank.py"), str(tiny_root / "config.yaml"), kind]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    run([sys.executable, *script, str(tmp_path / "one")])
    run(
        [
            sys.executable,
            *LAUNCHERS["torchrun"],
            f"--master_port={free_port()}",
            *script,
            str(tmp_path / "two"),
        ]
    )
    one = torch.load(tmp_path / "one/rank0.pt", weights_only=True)
    for rank in (0, 1):
        two = torch.load(tmp_path / f"two/rank{rank}.pt", weights_only=True)
        assert one.keys() == two.keys()
        for name, gradient in one.items():
            torch.testing.assert_close(two[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_check_reports_and_tells_by_its_status(tiny_root, tmp_path):
    good = run(command("check_dataset.py", tiny_root / "config.yaml"))
    assert "0 problems" in good
    data = json.loads((tiny_root / "train.json").read_text())
    data["annotations"][3]["bbox"] = [2, 2, 0, 9]
    (tmp_path / "train.json").write_text(json.dumps(data))
    words = ("DATASETS.REGISTER.tiny_train.annotations", tmp_path / "train.json")
    told = run(command("check_dataset.py", tiny_root / "config.yaml", *words))
    assert "annotation 4: box without area" in told
    assert "dropped" in told
    data["annotations"][3]["category_id"] = 77
    (tmp_path / "train.json").write_text(json.dumps(data))
    told = run(command("check_dataset.py", tiny_root / "config.yaml", *words), expect=1)
    assert "77" in told
    assert "Traceback" not in told
