"""Pages as a browser reads them."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from yacs.config import CfgNode

from labelenc.config import load_config
from labelenc.data import coco_ground_truth, generate_shapes
from labelenc.evaluation import evaluate_coco, write_evaluation

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "img", "br"}
ALLOWED_LINKS = ("#", "data:image/png;base64,", "data:image/jpeg;base64,")


class ParsedPage(HTMLParser):
    """Tags, attributes, text, headings and table rows of a document; fails on tags that do not match."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.document = document
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.best: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._in_best = False
        self.feed(document)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_best = dict(attrs).get("class") == "best"
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")
        if tag == "small":
            self.rows[-1][-1] += " | "

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if self._open and self._open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data
            if self._in_best and "small" not in self._open:
                self.best.append(data)

    def pictures(self) -> list[np.ndarray]:
        urls = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        return [cv2.imdecode(np.frombuffer(base64.b64decode(u.split(",")[1]), np.uint8), 1) for u in urls]

    def assert_stands_alone(self) -> None:
        """Nothing is fetched from elsewhere, nothing runs, every picture has a text, every link a target."""
        style = self.document[self.document.index("<style>") : self.document.index("</style>")]
        assert "url(" not in style
        assert "@import" not in style
        names = {tag for tag, _ in self.tags}
        assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
        anchors = {attributes.get("id") for _, attributes in self.tags}
        for tag, attributes in self.tags:
            assert not {"srcset", "background", "action"} & set(attributes), tag
            assert not any(name.startswith("on") for name in attributes), tag
            for key in ("src", "href"):
                target = attributes.get(key)
                assert target is None or target.startswith(ALLOWED_LINKS), target
                assert target is None or not target.startswith("#") or target[1:] in anchors
            if tag == "img":
                assert attributes["alt"]


@pytest.fixture(scope="session")
def parse() -> type[ParsedPage]:
    """parse(document) -> what is in it."""
    return ParsedPage


def perturbed(truth: dict, rng: np.random.Generator, error: float) -> list[dict]:
    """The truth as a detector of this error (0 perfect, 1 useless) might find it, as COCO results."""
    categories = [category["id"] for category in truth["categories"]]
    results = []
    for entry in truth.get("annotations", []):
        if rng.random() < 0.4 * error:
            continue
        box = np.array(entry["bbox"], dtype=float)
        for _ in range(1 + (rng.random() < 0.3 * error)):
            moved = box + rng.normal(0, 0.25 * error, 4) * box[[2, 3, 2, 3]]
            moved[2:] = np.maximum(moved[2:], 1)
            confused = rng.random() < 0.3 * error
            results.append(
                {
                    "image_id": entry["image_id"],
                    "category_id": int(rng.choice(categories)) if confused else entry["category_id"],
                    "bbox": [round(value, 3) for value in moved.tolist()],
                    "score": round(float(np.clip(rng.beta(5, 2) - 0.4 * error * confused, 0.01, 1)), 4),
                }
            )
    return results


def write_run(
    cfg: CfgNode, kind: str, error: float, seed: int, iterations: int = 40, reconstruction: bool = False
) -> Path:
    """OUTPUT_DIR as a run leaves it: configuration, facts, metrics, and an evaluation of made-up detections.

    An ``error`` above 1 stands for a detector that finds nothing.
    """
    rng, folder = np.random.default_rng(seed), Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(cfg.dump())
    facts = {"kind": kind, "version": "0.0", "iterations": iterations, "images_per_iteration": 4}
    (folder / "run.json").write_text(json.dumps({**facts, "label_encoding": None}))
    rows = [
        {
            "iteration": k,
            "loss": 9 / k,
            "loss_cls": 5 / k,
            "lr": 0.01,
            "time": 0.1 + 0.01 * (k % 3),
            "data_time": 0.01,
        }
        for k in range(1, iterations + 1)
    ]
    name = cfg.DATASETS.TEST[0]
    truth = coco_ground_truth(cfg, name)
    for suffix, own in (("", error), *((("_reconstruction", 0.1),) if reconstruction else ())):
        results = perturbed(truth, rng, own) if own <= 1 else []
        summary = evaluate_coco(truth, results)
        write_evaluation(folder, name + suffix, results, summary)
        for k in (iterations // 2, iterations):
            rows.append(
                {"iteration": k, **{f"eval/{name}{suffix}/{n}": v for n, v in summary.numbers.items()}}
            )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(str(root), "val", 8, 64, 0)
    return root


@pytest.fixture
def config(shapes: Path, tmp_path: Path):
    """config(name, change=None) -> a configuration whose test set is the shapes, changed by change(truth)."""

    def make(name: str, change=None, dataset: str = "val"):
        annotations = shapes / "val.json"
        if change is not None:
            truth = json.loads(annotations.read_bytes())
            change(truth)
            annotations = tmp_path / f"{name}.json"
            annotations.write_text(json.dumps(truth))
        source = {"images": str(shapes / "val"), "annotations": str(annotations)}
        words = [f"DATASETS.REGISTER.{dataset}", str(source), "DATASETS.TEST", f"('{dataset}',)"]
        words += ["DATASETS.TRAIN", f"('{dataset}',)", "OUTPUT_DIR", str(tmp_path / name)]
        return load_config(ROOT / "configs/demo/shapes_R-18_small.yaml", words)

    return make


@pytest.fixture(scope="session")
def make_run():
    """make_run(cfg, kind, error, seed, ...) -> the folder of a run that `write_run` made up."""
    return write_run
