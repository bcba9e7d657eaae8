"""Trained detectors as files that run elsewhere.

Importing this package registers the operators in ``.pt2`` files, so `torch.export.load` needs it.
"""

from labelenc.export.agreement import Agreement
from labelenc.export.checkpoint import Request, export_checkpoint
from labelenc.export.errors import ExportError
from labelenc.export.interface import TEXT
from labelenc.export.runtime import ExportedDetector

__all__ = ["TEXT", "Agreement", "ExportError", "ExportedDetector", "Request", "export_checkpoint"]
