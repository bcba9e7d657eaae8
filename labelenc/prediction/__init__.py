"""Trained detectors at work: from files and arrays to boxes in the pixels of the originals."""

from labelenc.prediction.detections import Detections
from labelenc.prediction.predictor import PredictionError, Predictor, load_detector

__all__ = ["Detections", "PredictionError", "Predictor", "load_detector"]
