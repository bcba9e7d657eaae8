"""A comparison shows each run's own numbers, and refuses what cannot be compared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labelenc.evaluation import COCO_NUMBERS
from labelenc.reports import ReportError, write_comparison

ROOT = Path(__file__).resolve().parents[2]


def numbers_of(folder: Path, name: str = "val") -> list[str]:
    numbers = json.loads((folder / "inference" / name / "results.json").read_bytes())["numbers"]
    return ["n/a" if numbers[key] is None else f"{100 * numbers[key]:.1f}" for key in COCO_NUMBERS]


def test_page_and_table_show_the_numbers_of_the_runs(
    config, make_run, parse, seed: int, tmp_path: Path
) -> None:
    weak = make_run(config("weak <i>"), "baseline", 0.8, seed)
    step1 = make_run(config("step1"), "step1", 0.5, seed + 1, reconstruction=True)
    strong = make_run(config("strong"), "step2", 0.2, seed + 2)
    comparison = write_comparison([weak, step1, strong], tmp_path / "page.html", samples=20)
    assert comparison.path == tmp_path / "page.html"
    beside = json.loads((tmp_path / "intervals.json").read_bytes())
    assert list(beside["runs"]) == ["weak <i>", "step1", "strong"]
    assert beside["samples"] == 20
    expected = {
        "weak <i>": numbers_of(weak),
        "step1": numbers_of(step1),
        "step1 (reconstruction)": numbers_of(step1, "val_reconstruction"),
        "strong": numbers_of(strong),
    }
    lines = comparison.table().splitlines()
    assert lines[1].split() == ["run", *COCO_NUMBERS]
    for line, (name, numbers) in zip(lines[2:6], expected.items(), strict=True):
        assert line.startswith(name)
        assert line[len(name) :].split() == numbers
    assert "not over training seeds" in comparison.table()
    change = float(expected["strong"][0]) - float(expected["weak <i>"][0])
    assert f"{change:+.1f} [+" in lines[-2]
    # There are eight.
    assert lines[-1].startswith("With so few images")

    page = parse(comparison.path.read_text(encoding="utf-8"))
    page.assert_stands_alone()
    assert next(row[1:] for row in page.rows if row[0] == "weak <i>") == expected["weak <i>"]
    shown = next(row for row in page.rows if row[0] == "strong")
    assert [cell.split(" | ")[0] for cell in shown[1:]] == expected["strong"]
    assert shown[1].split(" | ")[1] == f"{change:+.1f}"
    parts = {"How sure the differences are", "How to read these numbers", "The runs", "Classes"}
    parts |= {"Precision and recall", "Object sizes", "Causes of errors", "Scores and thresholds", "Images"}
    assert parts | {"Losses"} <= set(page.headings)
    assert "over images" in page.text
    assert "With so few images" in page.text
    assert "step 2 reaches an AP of" in page.text


def test_two_runs_without_intervals(config, make_run, parse, seed: int, tmp_path: Path) -> None:
    first, second = (make_run(config(name), "other", 0.3, seed + k) for k, name in enumerate("ab"))
    comparison = write_comparison([first, second], tmp_path / "out", names=["A", "B"], samples=0)
    assert comparison.path == tmp_path / "out/index.html"
    assert comparison.bootstrap is None
    assert len(comparison.table().splitlines()) == 4
    page = parse(comparison.path.read_text(encoding="utf-8"))
    assert "How sure the differences are" not in page.headings
    assert {"A", "B"} <= {row[0] for row in page.rows}


def test_what_cannot_be_compared_is_refused_in_one_line(config, make_run, seed: int, tmp_path: Path) -> None:
    one = make_run(config("one"), "baseline", 0.3, seed)
    other = make_run(config("other", dataset="elsewhere"), "baseline", 0.3, seed)
    fewer = make_run(config("fewer", lambda truth: truth["annotations"].pop()), "baseline", 0.3, seed)

    def move(truth: dict) -> None:
        for entry in truth["annotations"]:
            entry["bbox"][0] += 0.5 * entry["bbox"][2]

    moved = make_run(config("moved", move), "baseline", 0.3, seed)
    for runs, options, message in (
        ([one, moved], {}, "moved had another AP when it was evaluated"),
        ([one, other], {}, r"not all evaluated on a common set \(one on val; other on elsewhere\)"),
        ([one, fewer], {}, "different annotations, both called val"),
        ([one, one], {}, "two runs have the name"),
        ([one], {}, "two runs or more"),
        ([one, fewer], {"names": ["x"]}, "1 names for 2 runs"),
        ([one, fewer], {"dataset": "train"}, "not all evaluated on train"),
    ):
        with pytest.raises(ReportError, match=message) as error:
            write_comparison(runs, tmp_path / "out", **options)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_tools(config, make_run, seed: int, tmp_path: Path) -> None:
    runs = [str(make_run(config(name), "baseline", 0.3, seed + k)) for k, name in enumerate("ab")]

    def tool(name: str, *words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "tools" / name), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    done = tool("compare.py", *runs, "--output", "c", "--samples", "10")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("report: c/index.html")
    assert (tmp_path / "c/index.html").is_file()
    assert tool("compare.py", *runs, "--samples", "-1").returncode == 2
    refused = tool("report.py", str(tmp_path))
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        f"error: {tmp_path} has no config.yml, so it is no run's folder; name an OUTPUT_DIR"
    ]
    for name in ("report.py", "compare.py"):
        assert f"  python tools/{name}" in tool(name, "--help").stdout
