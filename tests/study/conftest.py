"""Studies of the tiny data set and schedule of the pipeline's tests."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from labelenc.config import load_config, parse_tool
from labelenc.study import Stage, Study, plan_study

ROOT = Path(__file__).resolve().parents[2]


def module(path: Path):
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


tiny_root = module(ROOT / "tests/pipeline/conftest.py").tiny_root


@pytest.fixture
def plan(tiny_root: Path, tmp_path: Path):
    """plan(*opts, **switches) -> a `Study` in tmp_path / "study"."""

    def make(*opts: object, **switches) -> Study:
        config, words = str(tiny_root / "config.yaml"), [*map(str, opts)]
        words += ["OUTPUT_DIR", str(tmp_path / "study")]
        return plan_study(config, words, load_config(config, words), **switches)

    return make


@pytest.fixture
def arguments(tiny_root: Path, tmp_path: Path):
    """arguments(*words) -> what the tool makes of them, for a study in tmp_path / "study"."""
    parser = module(ROOT / "tools/run_labelenc.py").parser

    def make(*words: object):
        last = ("OUTPUT_DIR", str(tmp_path / "study"))
        return parse_tool(
            parser(), ["--config-file", str(tiny_root / "config.yaml"), *map(str, words), *last]
        )

    return make


def pretend(stage: Stage, done: int, checkpoint: str, *rows: dict) -> None:
    """What a run leaves after ``done`` updates, apart from the weights."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    updates = [{"iteration": k + 1, "loss": 1.0, "time": 0.5} for k in range(done)]
    lines = [json.dumps(row) for row in (*updates, *rows)]
    (stage.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (stage.folder / "last_checkpoint").write_text(checkpoint)
    (stage.folder / checkpoint).write_text("weights")
    (stage.folder / "config.yml").write_text(stage.cfg.dump())
    if stage.kind == "step1" and checkpoint == "model_final.pth":
        (stage.folder / "label_encoding_function.pth").write_text("weights")


def pretend_finished(stage: Stage) -> None:
    suffixes = ("", "_reconstruction") if stage.kind == "step1" else ("",)
    results = {f"eval/tiny_val{suffix}/AP": 0.1 for suffix in suffixes}
    row = {"iteration": stage.iterations, **results}
    pretend(stage, stage.iterations, "model_final.pth", row)


@pytest.fixture(scope="session")
def pretended():
    """pretended(stage) makes what a finished run leaves; pretended(stage, done, checkpoint, *rows) a part."""

    def make(stage: Stage, *words) -> None:
        pretend(stage, *words) if words else pretend_finished(stage)

    return make
