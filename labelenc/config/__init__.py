"""Configuration: keys, files, command lines and the data-set catalogue."""

from labelenc.config.catalog import DatasetSource, WeightSource, resolve_dataset, resolve_weight
from labelenc.config.classes import known_categories
from labelenc.config.command_line import ToolParser, count, fraction, parse_tool, tool_parser
from labelenc.config.compare import all_differences, changed_keys, differing_keys
from labelenc.config.errors import ConfigError
from labelenc.config.linear_rule import linear_rule_advice
from labelenc.config.load import (
    config_from_text,
    detector_kind,
    load_config,
    num_classes,
    with_num_classes,
    with_values,
)

__all__ = [
    "ConfigError",
    "DatasetSource",
    "ToolParser",
    "WeightSource",
    "all_differences",
    "changed_keys",
    "config_from_text",
    "count",
    "detector_kind",
    "differing_keys",
    "fraction",
    "known_categories",
    "linear_rule_advice",
    "load_config",
    "num_classes",
    "parse_tool",
    "resolve_dataset",
    "resolve_weight",
    "tool_parser",
    "with_num_classes",
    "with_values",
]
