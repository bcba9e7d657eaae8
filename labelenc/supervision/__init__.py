"""LabelEnc: the label encoding function, the two training steps and what passes between them."""

from labelenc.supervision.adapter import compared_levels
from labelenc.supervision.compiling import COMPILED_PARTS
from labelenc.supervision.handover import HandoverError, export_label_encoding, load_label_encoding
from labelenc.supervision.schedule import step1_advice, step2_advice
from labelenc.supervision.step1 import LabelEncStep1
from labelenc.supervision.step2 import LabelEncStep2

__all__ = [
    "COMPILED_PARTS",
    "HandoverError",
    "LabelEncStep1",
    "LabelEncStep2",
    "compared_levels",
    "export_label_encoding",
    "load_label_encoding",
    "step1_advice",
    "step2_advice",
]
