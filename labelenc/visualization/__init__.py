"""Pictures: boxes in images, curves of runs, label maps and features as colours."""

from labelenc.visualization.boxes import class_colour, draw_boxes
from labelenc.visualization.confusion_figure import plot_confusion
from labelenc.visualization.curves import (
    figure_png,
    plot_ap,
    plot_learning_rates,
    plot_losses,
    read_metrics,
    run_colours,
)
from labelenc.visualization.dataset import (
    CLASSES_IN_A_COLUMN,
    Distribution,
    contact_sheet,
    plot_class_shares,
    plot_distributions,
    plot_image_sizes,
)
from labelenc.visualization.encodings import features_to_images, label_map_image, principal_components
from labelenc.visualization.evaluation_figures import (
    plot_ap_by_size,
    plot_differences,
    plot_errors,
    plot_precision_recall,
    plot_reliability,
    plot_score_threshold,
)
from labelenc.visualization.method import (
    Panel,
    Scene,
    boxes_panel,
    distance_panel,
    label_map_panel,
    map_panel,
    strip,
)
from labelenc.visualization.score_overlays import plot_calibrations, plot_f1_scores

__all__ = [
    "CLASSES_IN_A_COLUMN",
    "Distribution",
    "Panel",
    "Scene",
    "boxes_panel",
    "class_colour",
    "contact_sheet",
    "distance_panel",
    "draw_boxes",
    "features_to_images",
    "figure_png",
    "label_map_image",
    "label_map_panel",
    "map_panel",
    "plot_ap",
    "plot_ap_by_size",
    "plot_calibrations",
    "plot_class_shares",
    "plot_confusion",
    "plot_differences",
    "plot_distributions",
    "plot_errors",
    "plot_f1_scores",
    "plot_image_sizes",
    "plot_learning_rates",
    "plot_losses",
    "plot_precision_recall",
    "plot_reliability",
    "plot_score_threshold",
    "principal_components",
    "read_metrics",
    "run_colours",
    "strip",
]
