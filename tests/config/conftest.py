"""What the configuration tests share."""

import textwrap

import pytest

MINIMAL = ["MODEL.RETINANET_ON", "True", "MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET"]


@pytest.fixture
def minimal():
    """The overrides that turn the bare defaults into a configuration that works."""
    return list(MINIMAL)


@pytest.fixture
def write_yaml(tmp_path):
    """Write a yaml file from an indented text; returns its path."""

    def write(text, name="config.yaml"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write
