"""Trained detectors at work: from files and arrays to boxes in the pixels of the originals."""

from labelenc.prediction.detections import Detections
from labelenc.prediction.predictor import PredictionError, Predictor, load_detector
from labelenc.prediction.run import Settings, predict_files

__all__ = ["Detections", "PredictionError", "Predictor", "Settings", "load_detector", "predict_files"]
