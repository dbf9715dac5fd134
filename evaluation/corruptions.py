# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Image corruptions of severity 1 to 5, after the common corruptions of Hendrycks and Dietterich (ICLR 2019).

gaussian_noise  added to every channel of every pixel
gaussian_blur   with a radius in proportion to the image, so that small images are not hit harder
brightness      raised in HSV
contrast        lowered about the image's mean
jpeg            compressed again
fog             blended with smooth light grey, regardless of depth
pixelate        made of larger pixels

Amounts are theirs for images of 224 pixels. Size, camera and truth do not change.
"""

import hashlib
import io

import numpy as np
from PIL import Image, ImageFilter

SEVERITIES = (1, 2, 3, 4, 5)
# Side in pixels of the images for which lengths are given.
_SIDE = 224


def corrupt(image: Image.Image, family: str, severity: int, seed: str = "") -> Image.Image:
    """Return a corrupted RGB copy of an image, of the same size.

    Args:
        image: any mode.
        family: one of `FAMILIES`.
        severity: 1 to 5.
        seed: decides, with the family, what is random. All severities share it, so only the amount changes.

    Raises:
        ValueError: an unknown family or severity.
    """
    if family not in FAMILIES:
        raise ValueError(f"corruption: got {family!r}, want one of {', '.join(FAMILIES)}.")
    if severity not in SEVERITIES:
        raise ValueError(f"severity: got {severity!r}, want a whole number from 1 to 5.")
    digest = hashlib.sha256(f"{family} of {seed}".encode()).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return FAMILIES[family](image.convert("RGB"), int(severity) - 1, draw)


def _image(values: np.ndarray) -> Image.Image:
    """Return values [H, W, 3] within 0 to 1 as an image."""
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def _values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 255


def _gaussian_noise(image: Image.Image, level: int, draw: np.random.Generator) -> Image.Image:
    values = _values(image)
    noise = draw.standard_normal(values.shape, np.float32)
    return _image(values + (0.08, 0.12, 0.18, 0.26, 0.38)[level] * noise)


def _gaussian_blur(image: Image.Image, level: int, draw: np.random.Generator) -> Image.Image:
    radius = (1, 2, 3, 4, 6)[level] * max(image.size) / _SIDE
    return image.filter(ImageFilter.GaussianBlur(radius))


def _brightness(image: Image.Image, level: int, draw: np.random.Generator) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    raised = value.point([min(255, round(v + 25.5 * (level + 1))) for v in range(256)])
    return Image.merge("HSV", (hue, saturation, raised)).convert("RGB")


def _contrast(image: Image.Image, level: int, draw: np.random.Generator) -> Image.Image:
    values = _values(image)
    mean = values.mean((0, 1))
    return _image((values - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean)


def _jpeg(image: Image.Image, level: int, draw: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return Image.open(file).convert("RGB")


def _fog(image: Image.Image, level: int, draw: np.random.Generator) -> Image.Image:
    values, amount = _values(image), (1.5, 2.0, 2.5, 2.5, 3.0)[level]
    # Clouds: each octave is twice as fine and `decay` times weaker than the last.
    decay = (2.0, 2.0, 1.7, 1.5, 1.4)[level]
    clouds = np.zeros(values.shape[:2], np.float32)
    for octave in range(1, 7):
        coarse = Image.fromarray(draw.random((2**octave + 1, 2**octave + 1), np.float32))
        clouds += np.asarray(coarse.resize(image.size, Image.Resampling.BICUBIC)) / decay**octave
    clouds = (clouds - clouds.min()) / max(clouds.max() - clouds.min(), 1e-6)
    brightest = max(float(values.max()), 1e-6)
    return _image((values + amount * clouds[..., None]) * brightest / (brightest + amount))


def _pixelate(image: Image.Image, level: int, draw: np.random.Generator) -> Image.Image:
    # The shares are of an image with sides of `_SIDE`.
    share = min(1.0, (0.6, 0.5, 0.4, 0.3, 0.25)[level] * _SIDE / max(image.size))
    small = tuple(max(1, round(side * share)) for side in image.size)
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


FAMILIES = {
    "gaussian_noise": _gaussian_noise,
    "gaussian_blur": _gaussian_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg": _jpeg,
    "fog": _fog,
    "pixelate": _pixelate,
}
