"""Reports are one file that stands alone, and they say what the numbers say."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from labelenc.reports.page import Marked, Page


def noise(height: int = 20, width: int = 30) -> np.ndarray:
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8).numpy()


def test_page_stands_alone(seed: int, tmp_path: Path, parse) -> None:
    image = noise()
    png = cv2.imencode(".png", image)[1].tobytes()
    page = Page("A title", "below it").add_heading("One").add_figure(png, "the curves", "curves")
    page.add_heading("Part", 3).add_images([(image, "map"), (noise(), "other")], 2, "map").add_guide("how")
    page.add_cards([("AP", 0.25)]).add_facts([("Seed", "7")]).add_list([]).add_images([])
    with page.folded("more"):
        page.add_preformatted("a: 1").add_figure(noise(), "inside only")
    path = page.write(tmp_path / "deep" / "index.html")
    parsed = parse(path.read_text(encoding="utf-8"))
    parsed.assert_stands_alone()
    assert parsed.headings == ["A title", "One", "Part"]
    assert [a["href"] for t, a in parsed.tags if t == "a"] == ["#s1", "#s2"]
    assert np.array_equal(parsed.pictures()[0], image)
    assert {entry.name for entry in path.parent.iterdir()} == {
        "index.html",
        "curves.png",
        "map_01.png",
        "map_02.png",
    }
    assert (path.parent / "curves.png").read_bytes() == png


def test_flat_graphics_stay_exact_and_photographs_become_small(seed: int, parse) -> None:
    flat = np.zeros((200, 300, 3), np.uint8)
    flat[50:100, 60:200] = (10, 200, 90)
    smooth = cv2.resize(noise(8, 12), (600, 400), interpolation=cv2.INTER_CUBIC)
    photograph = cv2.add(smooth, noise(400, 600) // 16)
    page = parse(Page("t").add_images([(flat, "flat"), (photograph, "photograph")]).html())
    shown_flat, shown_photograph = page.pictures()
    assert np.array_equal(shown_flat, flat)
    difference = np.abs(shown_photograph.astype(int) - photograph.astype(int))
    assert 0 < difference.mean() < 12
    assert sum(len(a["src"]) for t, a in page.tags if t == "img") < photograph.nbytes


def test_text_is_escaped(parse) -> None:
    evil = '<script>alert("x")</script>'
    page = Page(evil, evil).add_heading(evil).add_text(evil).add_list([evil]).add_guide(evil)
    page.add_table([evil], [[Marked(evil, evil)]], evil, row_colours=[evil], column_colours=[evil])
    page.add_figure(np.zeros((2, 2, 3), np.uint8), evil).add_facts([(evil, evil)]).add_cards([(evil, evil)])
    with page.folded(evil):
        page.add_preformatted(evil)
    parsed = parse(page.html())
    parsed.assert_stands_alone()
    # 17 as they were given; the title stands in the browser's frame, too, and the heading in the contents.
    assert parsed.text.count(evil) == 19


def test_table_formats_cells_and_marks_the_best(parse) -> None:
    rows = [["x", 1234, Marked(0.25, tone="best")], ["y", 0, None], ["z", Marked("1", "note"), 0.0]]
    page = parse(Page("t").add_table(["a", "b", "c"], rows).html())
    assert page.rows == [["a", "b", "c"], ["x", "1,234", "25.0"], ["y", "0", "n/a"], ["z", "1 | note", "0.0"]]
    assert page.best == ["25.0"]


def test_long_tables_are_broken_into_columns(parse) -> None:
    page = parse(Page("t").add_table(["a"], [[i] for i in range(5)], columns=2).html())
    assert page.rows == [["a"], ["0"], ["1"], ["2"], ["a"], ["3"], ["4"]]
    assert parse(Page("t").add_table(["a"], [], columns=2).html()).rows == [["a"]]


def test_bad_content_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 cells under 2 headers"):
        Page("t").add_table(["a", "b"], [["x", 1], ["y"]])
    with pytest.raises(ValueError, match="PNG file, a JPEG file"):
        Page("t").add_figure(b"GIF89a", "x")
    with pytest.raises(ValueError, match="float64"):
        Page("t").add_figure(np.zeros((3, 3, 3)), "x")
