"""Configuration: keys, files, command lines and the data-set catalogue."""

from labelenc.config.catalog import DatasetSource, resolve_dataset, resolve_weight
from labelenc.config.errors import ConfigError
from labelenc.config.load import detector_kind, load_config, num_classes, with_num_classes

__all__ = [
    "ConfigError",
    "DatasetSource",
    "detector_kind",
    "load_config",
    "num_classes",
    "resolve_dataset",
    "resolve_weight",
    "with_num_classes",
]
