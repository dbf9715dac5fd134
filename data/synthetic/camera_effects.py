# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""A camera's effects on light in version 2, from the lens to the JPEG file.

None displaces what a pixel shows by more than the blur that it adds, so K, boxes and masks stay true.
"""

import io
import math
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageFilter

LEVELS = 30_000  # of the tone curve


@dataclass(frozen=True)
class Camera:
    """A camera's effects.

    Attributes:
        key: mean linear brightness that exposure aims at, of 1.
        white_balance: factors of R, G, B.
        contrast: slope of the tone curve in the middle, against that of a power of 2.2.
        soft: whether highlights saturate softly rather than being cut off.
        saturation: factor.
        vignette: loss of light in the corners, 0 to 1.
        blur_px: standard deviation of the blur of the lens, pixels.
        aperture: blur far behind the focus, pixels; 0 if everything is sharp.
        motion_px: (x, y), motion during the exposure, pixels.
        fringe_px: distance between red and blue at the edges, pixels.
        bloom: share of the light beyond white that spreads.
        noise: standard deviation in the middle tones, of 1.
        sharpen: strength of the sharpening, percent.
        quality: of the JPEG file.
    """

    key: float
    white_balance: tuple[float, float, float]
    contrast: float
    soft: bool
    saturation: float
    vignette: float
    blur_px: float
    aperture: float
    motion_px: tuple[float, float]
    fringe_px: float
    bloom: float
    noise: float
    sharpen: int
    quality: int


def draw_camera(draw: Random, moving: bool = False, shallow: bool = False) -> Camera:
    """Draw a camera that moves with a car (`moving`), or may have its background out of focus (`shallow`)."""
    warm = draw.gauss(0, 0.06)
    motion = draw.random() < 0.2
    return Camera(
        key=math.exp(draw.gauss(math.log(0.2), 0.3)),
        white_balance=(1 + warm, 1 + draw.gauss(0, 0.015), 1 - warm),
        contrast=draw.uniform(0.95, 1.35),
        soft=draw.random() < 0.5,
        saturation=draw.uniform(0.65, 1.1),
        vignette=draw.choice((0.0, draw.uniform(0, 0.35))),
        blur_px=draw.choice((0.0, draw.uniform(0.2, 0.5), draw.uniform(0.3, 0.9))),
        aperture=draw.uniform(0.7, 2.5) if shallow and draw.random() < 0.4 else 0.0,
        motion_px=(draw.uniform(0, 3), draw.uniform(0, 1 if moving else 2.5)) if motion else (0.0, 0.0),
        fringe_px=draw.choice((0.0, 0.0, draw.uniform(0.2, 0.9))),
        bloom=draw.choice((0.0, draw.uniform(0.1, 0.5))),
        noise=draw.choice((draw.uniform(0.002, 0.012), draw.uniform(0.005, 0.035))),
        sharpen=draw.choice((0, 0, draw.randint(20, 110))),
        quality=draw.randint(55, 96),
    )


def develop(color: np.ndarray, depth: np.ndarray, camera: Camera, seed: int) -> bytes:
    """Return a JPEG file of linear light [H, W, 3]; `depth` [H, W] decides what is out of focus, `seed` the noise."""
    height, width = depth.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    bright = color.mean(-1)
    bright = np.minimum(bright, 3 * np.median(bright) + 1e-3)  # a sky or a lamp does not decide alone
    light = color * (np.array(camera.white_balance, np.float32) * (camera.key / max(float(bright.mean()), 1e-3)))
    if camera.vignette:
        light *= (1 - camera.vignette * (x * x + y * y) / 2)[..., None]
    if camera.bloom:
        beyond = _picture(np.minimum(np.maximum(light - 1, 0), 2) / 2)
        spread = np.asarray(beyond.filter(ImageFilter.BoxBlur(0.012 * width)), np.float32) / 255 * 2
        light += camera.bloom * spread
    shown = _tone(camera)[(np.clip(light, 0, 3) * (LEVELS / 3)).astype(np.int32)]
    grey = shown.mean(-1, keepdims=True)
    picture = _picture(grey + (shown - grey) * np.float32(camera.saturation))
    if camera.fringe_px:
        red, green, blue = picture.split()
        parts = []
        for channel, sign in ((red, 1), (blue, -1)):
            grow = sign * camera.fringe_px / width
            terms = (1 + grow, 0, -grow * width / 2, 0, 1 + grow, -grow * height / 2)
            parts.append(channel.transform(channel.size, Image.Transform.AFFINE, terms, Image.Resampling.BILINEAR))
        picture = Image.merge("RGB", (parts[0], green, parts[1]))
    if camera.aperture:
        picture = _defocused(picture, depth, camera.aperture)
    if max(camera.motion_px) > 0.5:
        picture = picture.filter(_line(*camera.motion_px))
    if camera.blur_px:
        picture = picture.filter(ImageFilter.GaussianBlur(camera.blur_px))
    shown = np.asarray(picture, np.float32)
    draws = np.random.default_rng(seed).standard_normal(shown.shape, dtype=np.float32)
    shown = shown + draws * (255 * camera.noise * (0.6 + 0.8 * (1 - shown / 255)))
    picture = _picture(shown / 255)
    if camera.sharpen:
        picture = picture.filter(ImageFilter.UnsharpMask(1.2, camera.sharpen, 0))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=camera.quality)
    return file.getvalue()


def _tone(camera: Camera) -> np.ndarray:
    """Return the tone curve: brightness as a screen shows it, for light from 0 to 3, float32 [LEVELS + 1]."""
    light = np.linspace(0, 3, LEVELS + 1)
    shown = (1 - np.exp(-1.5 * light) if camera.soft else np.minimum(light * 1.15, 1)) ** (1 / 2.2)
    curve = shown * shown * (3 - 2 * shown)  # an S about the middle tones
    return (shown + (camera.contrast - 1) * 2 * (curve - shown)).astype(np.float32)


def _picture(shown: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8))


def _defocused(picture: Image.Image, depth: np.ndarray, radius: float) -> Image.Image:
    """Blur what lies behind the median depth, more with distance."""
    focus = float(np.median(np.minimum(depth, 1e3)))
    share = _picture(np.clip((1 - focus / np.maximum(depth, 1e-3)) * 2.5 - 0.5, 0, 1))
    share = share.filter(ImageFilter.BoxBlur(1))
    return Image.composite(picture.filter(ImageFilter.GaussianBlur(radius)), picture, share)


def _line(x: float, y: float) -> ImageFilter.Kernel:
    """Return the blur of a motion by (x, y), at most 4 pixels either way, about its middle."""
    kernel = np.zeros((5, 5))
    for t in np.linspace(-0.5, 0.5, 41):
        column, row = 2 + np.clip(t * x, -2, 2), 2 + np.clip(t * y, -2, 2)
        i, j = int(row), int(column)
        for a, b in ((i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1)):
            if a < 5 and b < 5:
                kernel[a, b] += (1 - abs(row - a)) * (1 - abs(column - b))
    return ImageFilter.Kernel((5, 5), (kernel / kernel.sum()).reshape(-1).tolist(), scale=1)
