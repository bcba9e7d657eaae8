"""Exported programs as files: ONNX and PyTorch's own."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from labelenc.export.errors import ExportError
from labelenc.export.interface import EXTRA_FILE, INPUTS, OUTPUTS, TEXT, as_texts

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# RoIAlign as we need it has come with 16; deformable convolution with 19.
OPSET, OPSET_OF_DEFORMABLE = 18, 19
# Files of more cannot be one file.
_LARGEST = 2**31


def require_onnx() -> None:
    """ExportError unless the packages that ONNX needs are installed."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX needs further packages ({', '.join(missing)}): pip install {' '.join(ONNX_PACKAGES)}"
        )


def write_pt2(program: torch.export.ExportedProgram, interface: Mapping[str, Any], path: Path) -> None:
    """A file for `torch.export.load`, once labelenc.export is imported; ``interface`` is inside as JSON."""
    torch.export.save(program, path, extra_files={EXTRA_FILE: json.dumps(interface)})


def write_onnx(program: torch.export.ExportedProgram, interface: Mapping[str, Any], path: Path) -> None:
    """One file with its weights inside, and ``interface`` as its metadata."""
    require_onnx()
    import onnx

    from labelenc.export.onnx_operators import TRANSLATIONS

    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    deformable = torch.ops.labelenc.deform_conv2d.default in called
    try:
        with _quiet():
            converted = torch.onnx.export(
                program,
                opset_version=OPSET_OF_DEFORMABLE if deformable else OPSET,
                input_names=INPUTS,
                output_names=OUTPUTS,
                custom_translation_table=TRANSLATIONS,
            )
    # As many ways to fail as there are operators.
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise ExportError(f"this network cannot be converted to ONNX: {first}") from error
    assert converted is not None
    model = converted.model_proto
    if model.ByteSize() >= _LARGEST:
        raise ExportError("this network is larger than the 2 GiB that an ONNX file can hold; write a .pt2")
    _name_sizes(model)
    onnx.helper.set_model_props(model, as_texts(interface))
    model.producer_name, model.producer_version = "labelenc", interface["labelenc_version"]
    model.doc_string = TEXT
    onnx.save(model, path)


def _name_sizes(model: Any) -> None:
    """Call free sizes by names that mean something, in place of the tracer's symbols."""
    # Shapes of what lies between are optional, and would keep the symbols.
    del model.graph.value_info[:]
    free = {"images": {0: "batch", 2: "height", 3: "width"}}
    for value in (*model.graph.input, *model.graph.output):
        for place, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.dim_param:
                dimension.dim_param = free.get(value.name, {0: "batch"})[place]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells its developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
