"""labelenc: detectors trained with label-encoding supervision (Hao et al., ECCV 2020)."""

__version__ = "0.1.0"
