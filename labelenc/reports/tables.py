"""The tables of average precision: the 12 numbers of COCO, and each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labelenc.evaluation import COCO_NUMBERS, ClassResult, CocoSummary, format_percent
from labelenc.reports.notes import RunResult
from labelenc.reports.page import Cell, Marked, Page

# A table of more classes is folded, and the classes that stand out come first.
_MANY_CLASSES = 20
_SHOWN_CLASSES = 10
_NUMBERS_CAPTION = (
    "AP and AR as COCO defines them, in percent. AP: mean over IoU thresholds 0.50 to 0.95; AP50, AP75: at one "
    "threshold; s, m, l: objects of less than 32², less than 96², and more pixels; AR1, AR10, AR100: recall with "
    "so many detections per image."
)


def add_number_table(page: Page, results: Sequence[RunResult]) -> None:
    """The 12 numbers, one row for each result; the best detector of each column is marked."""
    timed = any(result.seconds is not None for result in results)
    trained = any(result.iterations for result in results)
    headers = ["run", *["iterations"] * trained, *["time"] * timed, *COCO_NUMBERS]
    detectors = [result for result in results if result.role != "reconstruction"]
    best = {name: _greatest([result.summary.numbers[name] for result in detectors]) for name in COCO_NUMBERS}
    rows: list[list[Cell]] = []
    for result in results:
        row: list[Cell] = [result.name, *[result.iterations] * trained]
        row += ["" if result.seconds is None else duration(result.seconds)] * timed
        for name in COCO_NUMBERS:
            value = result.summary.numbers[name]
            marked = result in detectors and best[name] is not None and format_percent(value) == best[name]
            row.append(Marked(value, tone="best") if marked else value)
        rows.append(row)
    mark = " The best detector of each column is marked." if len(detectors) > 1 else ""
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
    scored = sorted((result for result in classes if result.ap is not None), key=lambda r: r.ap or 0.0)
    if scored:
        lowest = [row(result) for result in scored[:_SHOWN_CLASSES]]
        page.add_table(headers, lowest, f"The {len(lowest)} classes of lowest AP. {caption}")
    with page.folded(f"All {len(classes)} classes"):
        page.add_table(headers, [row(result) for result in classes], columns=2)


def add_class_comparison(
    page: Page, summaries: Mapping[str, CocoSummary], colours: Mapping[str, str], reconstructions: Sequence[str]
) -> None:
    """AP of each class in each run, with the difference to the first run in small print.

    Args:
        summaries: run name -> its evaluation; the first is the reference.
        colours: run name -> CSS colour.
        reconstructions: the names that are no detectors, which get no difference.
    """
    first, *others = summaries
    tables = {
        name: {row.category_id: row.ap for row in summary.per_class} for name, summary in summaries.items()
    }
    changes: list[tuple[float, list[Cell]]] = []
    for result in summaries[first].per_class:
        row: list[Cell] = [result.name, result.boxes, result.ap]
        greatest = 0.0
        for name in others:
            ap = tables[name].get(result.category_id)
            if name in reconstructions or ap is None or result.ap is None:
                row.append(ap)
                continue
            change = float(format_percent(ap)) - float(format_percent(result.ap))
            greatest = max(greatest, abs(change))
            row.append(Marked(ap, f"{change:+.1f}"))
        changes.append((greatest, row))
    headers = ["class", "objects", *summaries]
    marks = [None, None, *(colours.get(name) for name in summaries)]
    caption = f"AP in percent; in small print the difference to {first}."
    rows = [row for _, row in changes]
    if len(rows) <= _MANY_CLASSES:
        page.add_table(headers, rows, caption, column_colours=marks)
        return
    most = [row for _, row in sorted(changes, key=lambda entry: -entry[0])[:_SHOWN_CLASSES]]
    page.add_table(
        headers, most, f"The {len(most)} classes that change most. {caption}", column_colours=marks
    )
    with page.folded(f"All {len(rows)} classes"):
        page.add_table(headers, rows, caption, column_colours=marks, columns=2 if len(summaries) < 3 else 1)


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
