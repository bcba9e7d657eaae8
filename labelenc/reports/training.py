"""The part of a page on the training itself: losses, AP, learning rate and throughput over the iterations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from labelenc.reports.page import Page
from labelenc.reports.run_folder import Run
from labelenc.visualization import figure_png, plot_ap, plot_learning_rates, plot_losses, run_colours

_THROUGHPUT = "images per second"
_LOSSES_GUIDE = (
    "Losses should fall and then level off; a faint line has the raw values behind the running mean. A "
    "loss that still falls at the end asks for more iterations. One that jumps up or swings widely asks for "
    "a lower learning rate (SOLVER.BASE_LR), a longer warm-up (SOLVER.WARMUP_ITERS) or clipped gradients "
    "(SOLVER.CLIP_GRADIENTS). Losses of different detectors are not comparable; their AP is."
)
_AP_GUIDE = (
    "AP on the test sets, measured while training (every TEST.EVAL_PERIOD iterations) and at the end. If it "
    "falls while the losses still fall, the detector learns the training images by heart: stop earlier "
    "(model_best.pth is the best one), or add data or augmentation."
)
_SPEED_GUIDE = (
    "The schedule of the learning rate, and the images trained on in each second. Throughput should be "
    "level; dips mean that data came too slowly or that something else used the machine. If the share of "
    "time spent waiting for data is more than a few percent, raise DATALOADER.NUM_WORKERS or use smaller "
    "image files."
)


def add_training(page: Page, runs: Sequence[Run]) -> None:
    """Curves of the runs in one set of axes each; nothing for runs that were not trained here."""
    runs = [run for run in runs if run.iterations]
    if not runs:
        return
    rows = {run.name: _with_throughput(run) for run in runs}
    colours = run_colours(rows)
    window = max(1, max(map(len, rows.values())) // 40)
    page.add_heading("Training")
    page.add_heading("Losses", 3).add_guide(_LOSSES_GUIDE)
    figure = plot_losses(rows, _loss_names(rows), colours, window)
    means = f"; running means over {window} iterations" if window > 1 else ""
    page.add_figure(figure_png(figure), f"Losses{means}.", "losses")
    _add_average_precision(page, rows, colours)
    page.add_heading("Learning rate and throughput", 3).add_guide(_SPEED_GUIDE)
    rates = figure_png(plot_learning_rates(rows, colours))
    speeds = plot_losses(rows, (_THROUGHPUT,), colours, window)
    speeds.axes[0].set_ylim(bottom=0)
    pictures = [(rates, "Learning rate."), (figure_png(speeds), "Images trained on per second.")]
    page.add_images(pictures, name="speed")
    page.add_list([_speed(run) for run in runs])


def _add_average_precision(page: Page, rows: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    # A set that was evaluated at the end only makes no curve.
    counts = [Counter(key for row in run for key in row if key.startswith("eval/")) for run in rows.values()]
    keys = {key for run in counts for key, times in run.items() if times > 1 and key.endswith("/AP")}
    sets = sorted(key.split("/")[1] for key in keys)
    if not sets:
        return
    page.add_heading("AP while training", 3).add_guide(_AP_GUIDE)
    for number, name in enumerate(sets, start=1):
        figure = plot_ap(rows, name, ("AP", "AP50"), colours)
        page.add_figure(figure_png(figure), f"AP and AP50 on {name}.", f"ap_while_training_{number}")


def _with_throughput(run: Run) -> list[dict[str, Any]]:
    """The rows, those of updates with the images per second."""
    return [
        {**row, _THROUGHPUT: run.images_per_iteration / row["time"]} if row.get("time") else dict(row)
        for row in run.rows
    ]


def _loss_names(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The sum, then each loss in the order in which the runs log them."""
    names = dict.fromkeys(
        key for run in rows.values() for row in run for key in row if key.startswith(("loss", "ae_loss"))
    )
    return list(names)


def _speed(run: Run) -> str:
    seconds = run.seconds or 0.0
    rate = f"{run.images_seen / seconds:.3g} images per second" if seconds else "not timed"
    waited = sum(row.get("data_time", 0.0) for row in run.rows)
    share = f", {100 * waited / seconds:.0f} % of the time waiting for data" if seconds else ""
    memory = max((row.get("max_mem", 0.0) for row in run.rows), default=0.0)
    peak = f", {memory:,.0f} MiB of memory at most" if memory else ""
    skipped = sum(bool(row.get("skipped")) for row in run.rows)
    left_out = f", {skipped} updates left out because their losses were not finite" if skipped else ""
    return f"{run.name}: {rate}{share}{peak}{left_out}"
