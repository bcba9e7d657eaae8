"""Yaml files, their bases, and the keys in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from labelenc.config.errors import ConfigError

# In a yaml file: the file, relative to it, whose values it starts from.
BASE_KEY = "_BASE_"


def with_bases(path: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict]]:
    """A yaml file after the files that its ``_BASE_`` leads to, each with its content."""
    if path.resolve() in above:
        raise ConfigError(f"config file {path} is, through {BASE_KEY}, its own base; remove one of them")
    if above and not path.is_file():
        raise ConfigError(f"config file {path}, the {BASE_KEY} of {above[-1]}, does not exist")
    tree = _read_yaml(path)
    base = tree.pop(BASE_KEY, None)
    if base is not None and not (isinstance(base, str) and base):
        raise ConfigError(f"{BASE_KEY} in {path} must be the name of one yaml file, not {base!r}")
    if base is not None:
        yield from with_bases(path.parent / base, (*above, path.resolve()))
    yield path, tree


def _read_yaml(path: Path) -> dict:
    name = f"config file {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{name} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} cannot be read: {error}") from None
    return parse_yaml(text, name)


def parse_yaml(text: str, name: str) -> dict:
    """The mapping that a yaml text holds; ConfigError, beginning with ``name``, if it holds anything else."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid yaml: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{name} must hold KEY: value lines, not a {type(content).__name__}")
    return content


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value as written) of every leaf."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(value, name + ".")
        elif not isinstance(value, dict):
            yield name, value
