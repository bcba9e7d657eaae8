"""labelenc: detectors trained with label-encoding supervision (Hao et al., ECCV 2020)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labelenc.prediction import load_detector as load_detector

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Not imported at once: the configuration alone must be had without PyTorch.
    if name == "load_detector":
        from labelenc.prediction import load_detector

        return load_detector
    raise AttributeError(f"module 'labelenc' has no attribute {name!r}")
