"""Pictures: boxes in images, curves of runs, label maps and features as colours."""

from labelenc.visualization.boxes import class_colour, draw_boxes
from labelenc.visualization.curves import (
    figure_png,
    plot_ap,
    plot_learning_rates,
    plot_losses,
    read_metrics,
    run_colours,
)
from labelenc.visualization.dataset import (
    Distribution,
    contact_sheet,
    plot_class_shares,
    plot_distributions,
    plot_image_sizes,
)
from labelenc.visualization.encodings import features_to_images, label_map_image, principal_components

__all__ = [
    "Distribution",
    "class_colour",
    "contact_sheet",
    "draw_boxes",
    "features_to_images",
    "figure_png",
    "label_map_image",
    "plot_ap",
    "plot_class_shares",
    "plot_distributions",
    "plot_image_sizes",
    "plot_learning_rates",
    "plot_losses",
    "principal_components",
    "read_metrics",
    "run_colours",
]
