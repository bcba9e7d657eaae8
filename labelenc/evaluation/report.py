"""A report as one HTML file that needs nothing else: pictures and styles are inside it, no scripts."""

import base64
import os
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from labelenc.evaluation.summary import format_percent, write_atomically

Cell = str | int | float | None

_STYLE = """
:root { color-scheme: light; --ink: #1d2430; --soft: #5b6573; --line: #dfe3e8; --best: #e7f4ec; }
* { box-sizing: border-box; }
body { margin: 0; background: #ffffff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 20px; line-height: 1.3; margin: 44px 0 12px; padding-top: 20px;
  border-top: 1px solid var(--line); }
p, ul { max-width: 76ch; margin: 0 0 12px; }
ul { padding-left: 22px; }
li { margin-bottom: 8px; }
.subtitle { color: var(--soft); font-size: 17px; margin-bottom: 24px; }
.scroll { overflow-x: auto; margin: 4px 0 20px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 14px; padding-bottom: 8px; }
th, td { padding: 6px 9px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 4px; }
td.best { background: var(--best); font-weight: 700; }
td.absent { color: #8a94a1; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px; }
figure { margin: 0 0 20px; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: 14px; line-height: 1.4; padding-top: 5px; }
.grid { display: grid; gap: 16px 14px; margin: 8px 0 20px; }
.grid figure { margin: 0; min-width: 0; }
.grid img { width: 100%; border-radius: 4px; border: 1px solid var(--line); }
"""


class Report:
    """Collects headings, paragraphs, tables and pictures in order; `write` makes the file.

    The ``add_`` methods return the report itself, so that calls can be chained. All text is escaped.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if subtitle:
            self._parts.append(f'<p class="subtitle">{escape(subtitle)}</p>')

    def add_heading(self, text: str) -> "Report":
        self._parts.append(f"<h2>{escape(text)}</h2>")
        return self

    def add_text(self, text: str) -> "Report":
        """One paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")
        return self

    def add_list(self, items: Sequence[str]) -> "Report":
        """A bulleted list; nothing for no items."""
        if items:
            points = "".join(f"<li>{escape(item)}</li>" for item in items)
            self._parts.append(f"<ul>{points}</ul>")
        return self

    def add_table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        caption: str = "",
        best: Collection[tuple[int, int]] = (),
        row_colours: Sequence[str | None] | None = None,
        column_colours: Sequence[str | None] | None = None,
    ) -> "Report":
        """A table; wide ones scroll inside the page.

        Args:
            headers: one text per column.
            rows: cells as text, as int (a count), as float (a fraction, shown as percent with one decimal) or
                None (shown as "n/a").
            caption: stands above the table.
            best: (row, column) positions, counted from 0, to be marked.
            row_colours, column_colours: CSS colours for a small square before the row's first cell or the
                header, None for no square.

        Raises:
            ValueError: a row whose length differs from the header's.
        """
        for number, row in enumerate(rows):
            if len(row) != len(headers):
                raise ValueError(f"row {number} has {len(row)} cells under {len(headers)} headers")
        head = "".join(
            f'<th scope="col">{_swatch(column_colours, i)}{escape(text)}</th>'
            for i, text in enumerate(headers)
        )
        body = []
        for i, row in enumerate(rows):
            cells = [_cell(value, (i, j) in best) for j, value in enumerate(row)]
            cells[0] = cells[0].replace(">", ">" + _swatch(row_colours, i), 1)
            body.append(f"<tr>{''.join(cells)}</tr>")
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        self._parts.append(
            f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )
        return self

    def add_figure(self, picture: bytes | np.ndarray, caption: str) -> "Report":
        """One picture, as wide as the page at most: a PNG or JPEG file's bytes, or uint8 (H, W, 3) BGR."""
        self._parts.append(_figure(picture, caption))
        return self

    def add_images(
        self, images: Sequence[tuple[bytes | np.ndarray, str]], columns: int | None = None
    ) -> "Report":
        """A grid of pictures (as in `add_figure`) with captions, row by row; nothing for no images."""
        if images:
            figures = "".join(_figure(picture, caption) for picture, caption in images)
            width = columns or min(len(images), 4)
            # A picture alone in a wide grid would be blown up; 350 px keeps small images pleasant.
            style = f"grid-template-columns: repeat({width}, minmax(0, 350px))"
            self._parts.append(f'<div class="grid" style="{style}">{figures}</div>')
        return self

    def html(self) -> str:
        """The whole document."""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join(self._parts)
            + "\n</main>\n</body>\n</html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the document, creating folders as needed; the file appears whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.html())
        return path


def _swatch(colours: Sequence[str | None] | None, index: int) -> str:
    colour = colours[index] if colours is not None else None
    return "" if colour is None else f'<span class="swatch" style="background:{escape(colour)}"></span>'


def _cell(value: Cell, best: bool) -> str:
    if value is None:
        return '<td class="absent">n/a</td>'
    if isinstance(value, str):
        text = escape(value)
    else:
        text = format_percent(value) if isinstance(value, float) else f"{value:,}"
    return f'<td class="best">{text}</td>' if best else f"<td>{text}</td>"


def _figure(picture: bytes | np.ndarray, caption: str) -> str:
    text = escape(caption)
    return f'<figure><img src="{_data_url(picture)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _data_url(picture: bytes | np.ndarray) -> str:
    data = picture if isinstance(picture, bytes) else _encode(picture)
    if data.startswith(b"\x89PNG\r\n"):
        kind = "png"
    elif data.startswith(b"\xff\xd8"):
        kind = "jpeg"
    else:
        raise ValueError("a picture for the report must be a PNG file, a JPEG file or a uint8 image")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _encode(image: np.ndarray) -> bytes:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a picture must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    files = [
        cv2.imencode(".png", image)[1].tobytes(),
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes(),
    ]
    # Flat graphics are sharp and small as PNG; photographs are many times smaller as JPEG.
    return files[0] if len(files[0]) <= 3 * len(files[1]) else files[1]
