"""Pages as a browser reads them."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

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
