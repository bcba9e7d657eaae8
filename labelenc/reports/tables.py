"""The tables of average precision: the 12 numbers of COCO, and each class."""

from __future__ import annotations

from collections.abc import Sequence

from labelenc.evaluation import COCO_NUMBERS, ClassResult, CocoSummary, format_percent
from labelenc.reports.notes import RunResult
from labelenc.reports.page import Cell, Marked, Page

# A table of more classes is folded, and the classes that stand out come first.
_MANY_CLASSES = 20
_SHOWN_CLASSES = 10
# AP of fewer objects jumps; its interval over images can shrink to nothing.
_ENOUGH_OBJECTS = 10
ENOUGH_CAPTION = f"classes of at least {_ENOUGH_OBJECTS} objects"
_NUMBERS_CAPTION = (
    "AP and AR as COCO defines them, in percent. AP: mean over IoU thresholds 0.50 to 0.95; AP50, AP75: at "
    "one threshold; s, m, l: objects of less than 32², less than 96², and more pixels; AR1, AR10, AR100: "
    "recall with so many detections per image."
)


def add_number_table(page: Page, results: Sequence[RunResult], reference: RunResult | None = None) -> None:
    """The 12 numbers, one row for each result; the best detector of each column is marked.

    Other detectors than ``reference`` have their difference to it in small print.
    """
    detectors = [result for result in results if result.role != "reconstruction"]
    best = {name: _greatest([result.summary.numbers[name] for result in detectors]) for name in COCO_NUMBERS}
    rows: list[list[Cell]] = []
    for result in results:
        row: list[Cell] = [result.name]
        for name in COCO_NUMBERS:
            value = result.summary.numbers[name]
            detector = result in detectors
            tone = "best" if detector and value is not None and format_percent(value) == best[name] else ""
            compared = detector and reference is not None and result is not reference
            base = reference.summary.numbers[name] if compared and reference is not None else None
            row.append(Marked(value, difference(value, base), tone))
        rows.append(row)
    mark = " The best detector of each column is marked." if len(detectors) > 1 else ""
    headers = ["", *COCO_NUMBERS]
    page.add_table(headers, rows, _NUMBERS_CAPTION + mark, row_colours=[result.colour for result in results])


def add_class_table(page: Page, summary: CocoSummary) -> None:
    """AP and counts of each class of one evaluation; of many classes the worst first, all folded."""
    headers = ["class", "AP", "AP50", "objects", "detections"]

    def row(result: ClassResult) -> list[Cell]:
        return [result.name, result.ap, result.ap50, result.boxes, result.detections]

    classes = summary.per_class
    caption = "AP in percent; the objects of the ground truth and all detections, whatever their score."
    if len(classes) <= _MANY_CLASSES:
        page.add_table(headers, [row(result) for result in classes], caption)
        return
    scored = sorted(enough_objects(classes), key=lambda result: result.ap or 0.0)
    if scored:
        lowest = [row(result) for result in scored[:_SHOWN_CLASSES]]
        page.add_table(headers, lowest, f"The lowest AP, {ENOUGH_CAPTION}. {caption}")
    with page.folded(f"All {len(classes)} classes"):
        page.add_table(headers, [row(result) for result in classes], columns=2)


def add_class_comparison(page: Page, results: Sequence[RunResult]) -> None:
    """AP of each class in each result; detectors have the difference to the first in small print."""
    first, *others = results
    tables = [{row.category_id: row.ap for row in result.summary.per_class} for result in others]
    enough = enough_objects(first.summary.per_class)
    rows, changes = [], []
    for entry in first.summary.per_class:
        row: list[Cell] = [entry.name, entry.boxes, entry.ap]
        greatest = 0.0
        for result, table in zip(others, tables, strict=True):
            ap = table.get(entry.category_id)
            if result.role == "reconstruction":
                row.append(ap)
            else:
                row.append(Marked(ap, difference(ap, entry.ap)))
                greatest = max(greatest, abs((ap or 0.0) - (entry.ap or 0.0)))
        rows.append(row)
        if entry in enough:
            changes.append((greatest, row))
    headers = ["class", "objects", *(result.name for result in results)]
    marks = [None, None, *(result.colour for result in results)]
    caption = f"AP in percent; in small print the difference to {first.name}."
    if len(rows) <= _MANY_CLASSES:
        page.add_table(headers, rows, caption, column_colours=marks)
        return
    most = [row for _, row in sorted(changes, key=lambda change: -change[0])[:_SHOWN_CLASSES]]
    if most:
        what = f"The largest changes, {ENOUGH_CAPTION}. {caption}"
        page.add_table(headers, most, what, column_colours=marks)
    with page.folded(f"All {len(rows)} classes"):
        page.add_table(headers, rows, caption, column_colours=marks, columns=2 if len(results) < 4 else 1)


def enough_objects(classes: Sequence[ClassResult]) -> list[ClassResult]:
    """The classes whose AP and intervals mean something."""
    return [entry for entry in classes if entry.ap is not None and entry.boxes >= _ENOUGH_OBJECTS]


def difference(value: float | None, base: float | None) -> str:
    """Points between the rounded figures, so that a reader who subtracts finds the same; "" for None."""
    if value is None or base is None:
        return ""
    return f"{float(format_percent(value)) - float(format_percent(base)):+.1f}"


def duration(seconds: float) -> str:
    """Seconds as text, such as "1 h 2 min" or "9 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _greatest(values: Sequence[float | None]) -> str | None:
    """The largest of at least two numbers as it is displayed; None where nothing stands out."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < 2 or max(numbers) <= 0:
        return None
    return format_percent(max(numbers))
