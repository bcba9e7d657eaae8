"""Bodies, the feature pyramid and pretrained weights."""
