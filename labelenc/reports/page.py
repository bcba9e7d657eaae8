"""A page as one HTML file that needs nothing else: pictures and styles are inside it, no scripts."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from labelenc.engine import replace_file
from labelenc.evaluation import format_percent
from labelenc.reports.style import STYLE

Picture = bytes | np.ndarray
Plain = str | int | float | None


@dataclass(frozen=True)
class Marked:
    """A table cell with more than its value.

    ``note`` stands below it in small print; ``tone`` is "best", "better", "worse", "words" (a text, which
    stands on the left and may take several lines) or "".
    """

    value: Plain
    note: str = ""
    tone: str = ""


Cell = Plain | Marked


class Page:
    """Collects headings, paragraphs, tables and pictures in order; `write` makes the file.

    The headings make the table of contents. The ``add_`` methods return the page itself, so that calls can be
    chained. All text is escaped.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if subtitle:
            self._parts.append(f'<p class="subtitle">{escape(subtitle)}</p>')
        self._contents: list[str] = []
        self._files: dict[str, bytes] = {}

    def add_heading(self, text: str, level: int = 2) -> Page:
        """A heading of a section (2) or of a part of one (3), with its entry in the table of contents."""
        anchor = f"s{len(self._contents) + 1}"
        self._parts.append(f'<h{level} id="{anchor}">{escape(text)}</h{level}>')
        kind = ' class="sub"' if level > 2 else ""
        self._contents.append(f'<li{kind}><a href="#{anchor}">{escape(text)}</a></li>')
        return self

    def add_text(self, text: str) -> Page:
        """One paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")
        return self

    def add_guide(self, text: str) -> Page:
        """A paragraph on how to read what follows, set apart from what is said of this run; shown once."""
        part = f'<p class="guide">{escape(text)}</p>'
        if part not in self._parts:
            self._parts.append(part)
        return self

    def add_list(self, items: Sequence[str]) -> Page:
        """A bulleted list; nothing for no items."""
        if items:
            points = "".join(f"<li>{escape(item)}</li>" for item in items)
            self._parts.append(f"<ul>{points}</ul>")
        return self

    def add_facts(self, facts: Sequence[tuple[str, str]]) -> Page:
        """(name, value) pairs, one a line; nothing for no facts."""
        if facts:
            lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
            self._parts.append(f'<dl class="facts">{lines}</dl>')
        return self

    def add_cards(self, numbers: Sequence[tuple[str, Plain]]) -> Page:
        """The few numbers to see first, large; (name, value), values as in `add_table`."""
        cards = "".join(
            f"<div><b>{escape(_text(value))}</b><span>{escape(name)}</span></div>" for name, value in numbers
        )
        self._parts.append(f'<div class="cards">{cards}</div>')
        return self

    def add_preformatted(self, text: str) -> Page:
        """Text as it is, such as a configuration."""
        self._parts.append(f"<pre>{escape(text)}</pre>")
        return self

    @contextlib.contextmanager
    def folded(self, summary: str) -> Iterator[None]:
        """What is added inside the ``with`` is hidden behind the line ``summary``, which opens it."""
        self._parts.append(f"<details><summary>{escape(summary)}</summary>")
        yield
        self._parts.append("</details>")

    def add_table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        caption: str = "",
        *,
        row_colours: Sequence[str | None] | None = None,
        column_colours: Sequence[str | None] | None = None,
        columns: int = 1,
    ) -> Page:
        """A table; wide ones scroll inside the page.

        Args:
            headers: one text per column.
            rows: cells as text, as int (a count), as float (a fraction, shown as percent with one decimal) or
                None (shown as "n/a"), or one of these as `Marked`.
            caption: stands above the table.
            row_colours, column_colours: CSS colours for a small square before the row's first cell or the
                header, None for no square.
            columns: break a long table into so many parts side by side, where the page is wide enough.

        Raises:
            ValueError: a row whose length differs from the header's.
        """
        for number, row in enumerate(rows):
            if len(row) != len(headers):
                raise ValueError(f"row {number} has {len(row)} cells under {len(headers)} headers")
        head = "".join(
            f'<th scope="col"{_header_class(rows, i)}>{_swatch(column_colours, i)}{escape(text)}</th>'
            for i, text in enumerate(headers)
        )
        lines = []
        for i, row in enumerate(rows):
            first = _cell(row[0]).replace(">", ">" + _swatch(row_colours, i), 1)
            lines.append(f"<tr>{first}{''.join(map(_cell, row[1:]))}</tr>")
        title = f'<p class="caption">{escape(caption)}</p>' if caption else ""
        height = max(-(-len(lines) // columns), 1)
        tables = [
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(lines[start : start + height])}</tbody></table></div>"
            for start in range(0, max(len(lines), 1), height)
        ]
        whole = tables[0] if columns == 1 else f'<div class="columns">{"".join(tables)}</div>'
        self._parts.append(title + whole)
        return self

    def add_figure(self, picture: Picture, caption: str, name: str | None = None) -> Page:
        """One picture, as wide as the page at most: a PNG or JPEG file's bytes, or uint8 (H, W, 3) BGR.

        With ``name`` it is written beside the page too, as ``<name>.png`` or ``<name>.jpg``.
        """
        self._parts.append(self._figure(picture, caption, name))
        return self

    def add_images(
        self, images: Sequence[tuple[Picture, str]], columns: int | None = None, name: str | None = None
    ) -> Page:
        """A grid of pictures (as in `add_figure`) with captions, row by row; nothing for no images.

        Without ``columns`` there are as many as fit. With ``name`` they are written beside the page too, as
        ``<name>_01``, ``<name>_02`` and so on.
        """
        if images:
            names = [f"{name}_{i:02d}" if name else None for i in range(1, len(images) + 1)]
            figures = "".join(self._figure(*image, name) for image, name in zip(images, names, strict=True))
            # A picture alone in a wide grid would be blown up; 480 px keeps small images pleasant.
            width = f"{columns}, minmax(0, 480px)" if columns else "auto-fit, minmax(min(100%, 340px), 1fr)"
            style = f"grid-template-columns: repeat({width})"
            self._parts.append(f'<div class="grid" style="{style}">{figures}</div>')
        return self

    def add_data(self, name: str, content: Any) -> Page:
        """Numbers for other programs: nothing on the page, but ``<name>.json`` beside it."""
        self._files[f"{name}.json"] = (json.dumps(content, allow_nan=False) + "\n").encode()
        return self

    def html(self) -> str:
        """The whole document."""
        contents = f"<nav><p>Contents</p><ul>{''.join(self._contents)}</ul></nav>\n" if self._contents else ""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            f'<div class="page">\n{contents}<main>\n'
            + "\n".join(self._parts)
            + "\n</main>\n</div>\n</body>\n"
            "</html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the document and, beside it, the named pictures; files appear whole or not at all.

        Raises:
            CheckpointError: a file that cannot be written.
        """
        path = Path(path)
        contents = {path.parent / name: data for name, data in self._files.items()}
        for file, data in (*contents.items(), (path, self.html().encode())):
            replace_file(file, lambda stream, data=data: stream.write(data))  # type: ignore[misc]
        return path

    def _figure(self, picture: Picture, caption: str, name: str | None) -> str:
        data, kind = _encoded(picture)
        if name is not None:
            self._files[f"{name}.{'jpg' if kind == 'jpeg' else kind}"] = data
        text = escape(caption)
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _swatch(colours: Sequence[str | None] | None, index: int) -> str:
    colour = colours[index] if colours is not None else None
    return "" if colour is None else f'<span class="swatch" style="background:{escape(colour)}"></span>'


def _header_class(rows: Sequence[Sequence[Cell]], column: int) -> str:
    first = rows[0][column] if rows else None
    return ' class="words"' if isinstance(first, Marked) and first.tone == "words" else ""


def _text(value: Plain) -> str:
    if value is None or isinstance(value, float):
        return format_percent(value)
    return value if isinstance(value, str) else f"{value:,}"


def _cell(cell: Cell) -> str:
    marked = cell if isinstance(cell, Marked) else Marked(cell)
    tone = marked.tone or ("absent" if marked.value is None else "")
    kind = f' class="{tone}"' if tone else ""
    note = f"<small>{escape(marked.note)}</small>" if marked.note else ""
    return f"<td{kind}>{escape(_text(marked.value))}{note}</td>"


def _encoded(picture: Picture) -> tuple[bytes, str]:
    """The bytes of a file and its kind, "png" or "jpeg"."""
    data = picture if isinstance(picture, bytes) else _encode(picture)
    if data.startswith(b"\x89PNG\r\n"):
        return data, "png"
    if data.startswith(b"\xff\xd8"):
        return data, "jpeg"
    raise ValueError("a picture for the page must be a PNG file, a JPEG file or a uint8 image")


def _encode(image: np.ndarray) -> bytes:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a picture must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    files = [
        cv2.imencode(".png", image)[1].tobytes(),
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes(),
    ]
    # Flat graphics are sharp and small as PNG; photographs are many times smaller as JPEG.
    return files[0] if len(files[0]) <= 3 * len(files[1]) else files[1]
