"""Label maps and features as colour images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from labelenc.visualization.boxes import class_colour


def label_map_image(label_map: Tensor, labels: Sequence[int] | None = None) -> np.ndarray:
    """One label map in the colours of `draw_boxes`.

    Args:
        label_map: (C, H, W), values in 0..1 (0 outside boxes, 1 at the centre of a box).
        labels: the class of each channel, if they are not the classes 1 to C.

    Returns:
        uint8 (H, W, 3), BGR. Each pixel shows the class with the largest value; the value is the opacity of
        that class's colour over white.
    """
    if label_map.ndim != 3:
        raise ValueError(f"a label map has the shape (C, H, W), got {tuple(label_map.shape)}")
    strength, winner = label_map.detach().cpu().float().clamp(0, 1).max(dim=0)
    if labels is None:
        labels = range(1, len(label_map) + 1)
    palette = torch.tensor([class_colour(label) for label in labels]).float()
    white = torch.full((3,), 255.0)
    image = white + strength.unsqueeze(-1) * (palette[winner] - white)
    return image.round().to(torch.uint8).numpy()


def principal_components(features: Sequence[Tensor], components: int = 3) -> tuple[Tensor, Tensor]:
    """The directions in which the positions of all feature maps together vary most (PCA).

    Args:
        features: tensors (C, H_i, W_i) with one C.
        components: how many directions.

    Returns:
        The mean (C,) and orthonormal rows (min(components, C), C), float64, in order of falling variance. A
        row's entry of largest magnitude is positive, which fixes the sign.

    Raises:
        ValueError: no features, or features of different C.
    """
    channels = {feature.shape[0] for feature in features}
    if len(channels) != 1 or any(feature.ndim != 3 for feature in features):
        shapes = [tuple(feature.shape) for feature in features]
        raise ValueError(f"features on one basis need shapes (C, H, W) with the same C, got {shapes}")
    positions = torch.cat([feature.detach().cpu().double().flatten(1) for feature in features], dim=1)
    mean = positions.mean(dim=1)
    centred = positions - mean[:, None]
    _, vectors = torch.linalg.eigh(centred @ centred.T)
    basis = vectors.flip(1)[:, :components].T
    largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
    return mean, basis * torch.where(largest < 0, -1.0, 1.0)


def features_to_images(
    features: Sequence[Tensor], reference: Sequence[Tensor] | None = None
) -> list[np.ndarray]:
    """Feature maps as colours: three principal components, on one basis and one scale for all.

    Args:
        features: tensors (C, H_i, W_i) with one C; for instance the features of an image and the encoding of
            its labels. Equal colours mean equal (projected) features, in all the images.
        reference: what basis and scale are taken from, likewise; None takes ``features``.

    Returns:
        One uint8 (H_i, W_i, 3) BGR image for each of ``features``; the first component is red, the second
        green, the third blue. Of each component the 1st to 99th percentile of ``reference`` fills the range;
        what lies beyond is clipped.
    """
    reference = features if reference is None else reference
    mean, basis = principal_components(reference)

    def project(feature: Tensor) -> np.ndarray:
        centred = feature.detach().cpu().double() - mean[:, None, None]
        return torch.einsum("kc,chw->hwk", basis, centred).numpy()

    values = np.concatenate([project(feature).reshape(-1, len(basis)) for feature in reference])
    low, high = np.percentile(values, (1, 99), axis=0)
    span = np.where(high - low > 1e-12, high - low, np.inf)
    images = []
    for feature in features:
        scaled = np.clip((project(feature) - low) / span, 0, 1)
        red_green_blue = np.full((*scaled.shape[:2], 3), 0.5)
        red_green_blue[..., : scaled.shape[2]] = scaled
        images.append(np.ascontiguousarray(np.rint(255 * red_green_blue[..., ::-1]).astype(np.uint8)))
    return images
