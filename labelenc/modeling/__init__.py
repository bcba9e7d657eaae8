"""Detectors."""

from labelenc.modeling.build import build_detector
from labelenc.modeling.detector import Detector

__all__ = ["Detector", "build_detector"]
