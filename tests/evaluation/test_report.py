"""Reports are one file that stands alone, and they say what the numbers say."""

import base64
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from labelenc.evaluation import (
    COCO_NUMBERS,
    ClassResult,
    CocoSummary,
    Report,
    RunResult,
    comparison_report,
    reading_notes,
)

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser would find: tags, attributes, text, table rows; fails on tags that do not match."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
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

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if self._open and {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data
            if self._in_best:
                self.best.append(data)


def noise(height: int = 20, width: int = 30) -> np.ndarray:
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8).numpy()


def pictures(page: Page) -> list[np.ndarray]:
    urls = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    return [cv2.imdecode(np.frombuffer(base64.b64decode(u.split(",")[1]), np.uint8), 1) for u in urls]


def run(name: str, role: str, ap: float, iterations: int = 500, **more) -> RunResult:
    numbers = dict.fromkeys(COCO_NUMBERS, ap) | {"APl": None}
    classes = [ClassResult(1, "disc", ap, ap, 12, 3), ClassResult(2, "rod", None, None, 0, 0)]
    return RunResult(name, role, CocoSummary(numbers, classes, "faster", 5), iterations, **more)


RUNS = [
    run("baseline", "baseline", 0.181, seconds=80, colour="#0072B2"),
    run("step 1", "step1", 0.207, 600, seconds=3725),
    run("reconstruction", "reconstruction", 0.953, 600),
    run("step 2", "step2", 0.2534, seconds=9),
]


def test_report_stands_alone(seed: int, tmp_path: Path) -> None:
    image = noise()
    png = cv2.imencode(".png", image)[1].tobytes()
    path = comparison_report(
        "A title",
        RUNS,
        introduction=["one", "two"],
        curves=[(png, "the curves")],
        detections=[(noise(), "truth"), (noise(), "found")],
        label_maps=[(image, "map")],
    ).write(tmp_path / "deep" / "report.html")
    document = path.read_text(encoding="utf-8")
    page = Page(document)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert "http" not in document
    assert "url(" not in document
    assert "@import" not in document
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "a"}
    for tag, attributes in page.tags:
        assert not {"href", "srcset", "onload", "onclick"} & set(attributes), tag
        if tag == "img":
            assert attributes["src"].startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
            assert attributes["alt"]
    assert np.array_equal(pictures(page)[0], image)


def test_flat_graphics_stay_exact_and_photographs_become_small(seed: int) -> None:
    flat = np.zeros((200, 300, 3), np.uint8)
    flat[50:100, 60:200] = (10, 200, 90)
    smooth = cv2.resize(noise(8, 12), (600, 400), interpolation=cv2.INTER_CUBIC)
    photograph = cv2.add(smooth, noise(400, 600) // 16)
    page = Page(Report("t").add_images([(flat, "flat"), (photograph, "photograph")]).html())
    shown_flat, shown_photograph = pictures(page)
    assert np.array_equal(shown_flat, flat)
    difference = np.abs(shown_photograph.astype(int) - photograph.astype(int))
    assert 0 < difference.mean() < 12
    assert sum(len(a["src"]) for t, a in page.tags if t == "img") < photograph.nbytes


def test_text_is_escaped() -> None:
    evil = '<script>alert("x")</script>'
    report = Report(evil, evil).add_heading(evil).add_text(evil).add_list([evil])
    report.add_table([evil], [[evil]], evil, row_colours=[evil], column_colours=[evil])
    report.add_figure(np.zeros((2, 2, 3), np.uint8), evil)
    page = Page(report.html())
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(evil) >= 8


def test_table_formats_cells_and_marks_the_best() -> None:
    page = Page(
        Report("t").add_table(["a", "b", "c"], [["x", 1234, 0.25], ["y", 0, None]], best={(0, 2)}).html()
    )
    assert page.rows == [["a", "b", "c"], ["x", "1,234", "25.0"], ["y", "0", "n/a"]]
    assert page.best == ["25.0"]


def test_bad_content_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 cells under 2 headers"):
        Report("t").add_table(["a", "b"], [["x", 1], ["y"]])
    with pytest.raises(ValueError, match="PNG file, a JPEG file"):
        Report("t").add_figure(b"GIF89a", "x")
    with pytest.raises(ValueError, match="float64"):
        Report("t").add_figure(np.zeros((3, 3, 3)), "x")


def test_comparison_tables() -> None:
    page = Page(comparison_report("t", RUNS).html())
    header, *rows = page.rows[:5]
    assert header == ["run", "iterations", "time", *COCO_NUMBERS]
    assert [row[:4] for row in rows] == [
        ["baseline", "500", "1 min 20 s", "18.1"],
        ["step 1", "600", "1 h 2 min", "20.7"],
        ["reconstruction", "600", "", "95.3"],
        ["step 2", "500", "9 s", "25.3"],
    ]
    assert rows[0][header.index("APl")] == "n/a"
    # 11 columns have numbers, and the class table has one class with ground truth.
    assert page.best == ["25.3"] * 12
    assert page.rows[5:] == [
        ["class", "boxes", "baseline", "step 1", "reconstruction", "step 2"],
        ["disc", "12", "18.1", "20.7", "95.3", "25.3"],
        ["rod", "0", "n/a", "n/a", "n/a", "n/a"],
    ]


def test_notes_follow_the_numbers() -> None:
    text = " ".join(reading_notes(RUNS))
    assert "500 iterations each, step 2 reaches an AP of 25.3 and the baseline 18.1" in text
    assert "7.2 points above the baseline" in text
    assert "head and the FPN that step 1 has trained for 600 iterations" in text
    assert "most of the gain, or all of it, can be that head start" in text
    assert "in a trial" in text
    assert "near convergence" in text
    assert "It is 95.3 here. The head reads nearly all labels back" in text

    worse = [run("b", "baseline", 0.3, 700), run("s", "step2", 0.25)]
    text = " ".join(reading_notes(worse))
    assert "5.0 points below the baseline" in text
    assert "most of the gain" not in text
    assert "500 iterations for step 2 and 700 for the baseline" in text
    level = [run("b", "baseline", 0.30001), run("s", "step2", 0.3)]
    assert "step 2 is level with the baseline" in reading_notes(level)[0]


def test_notes_report_what_was_measured() -> None:
    more = [run("long", "baseline_long", 0.512, 1100), run("head start", "head_start", 0.2601)]
    text = " ".join(reading_notes([*RUNS, *more]))
    assert "in a trial" not in text
    assert "does not measure" not in text
    assert "1,100 iterations" in text
    assert "reaches 51.2: 25.9 points above step 2" in text
    assert (
        "reaches 26.0: 7.9 points above the baseline. The auxiliary loss changes this by -0.7 points" in text
    )
    assert "only in part" in " ".join(reading_notes([run("r", "reconstruction", 0.4)]))
    assert reading_notes([run("b", "baseline", 0.3)]) == []
