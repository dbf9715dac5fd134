# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Procedural textures of version 2: colours from tileable noise, filtered to the size of a pixel.

A texture is a function of a surface, two coordinates within its plane (a across, b along gravity where there is a
choice; metres, float32 [R]), and the size of a pixel there (metres, [R]). It returns sRGB [3, R].
"""

from collections.abc import Callable
from functools import cache

import numpy as np

TEXELS = 512  # along each side of a noise field; a power of two


@cache
def field(kind: str) -> np.ndarray:
    """Return tileable noise [TEXELS, TEXELS], evenly distributed between 0 and 1.

    Args:
        kind: "clouds" (of all sizes), "grain" (fine), or "fibres" (drawn out along the first axis).
    """
    draws = np.random.default_rng(len(kind)).standard_normal((TEXELS, TEXELS))
    fy, fx = np.meshgrid(*[np.fft.fftfreq(TEXELS) * TEXELS] * 2, indexing="ij")
    if kind == "clouds":
        gain = 1 / np.maximum(np.hypot(fx, fy), 1) ** 1.7
    elif kind == "grain":
        gain = np.exp(-((np.hypot(fx, fy) / 110) ** 2)) * np.maximum(np.hypot(fx, fy), 1) ** 0.2
    else:
        gain = 1 / np.maximum(np.hypot(fx * 14, fy), 6) ** 1.3
    gain[0, 0] = 0
    noise = np.fft.ifft2(np.fft.fft2(draws) * gain).real
    ranks = np.empty(TEXELS * TEXELS, np.float32)
    ranks[np.argsort(noise, axis=None)] = np.linspace(0, 1, TEXELS * TEXELS, dtype=np.float32)
    return ranks


def noise(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a field at (a, b), in tiles, by bilinear interpolation: float32 [R]."""
    texels = field(kind)
    x, y = a * np.float32(TEXELS), b * np.float32(TEXELS)
    x0, y0 = np.floor(x), np.floor(y)
    tx, ty = x - x0, y - y0
    i, j = x0.astype(np.int32) & (TEXELS - 1), y0.astype(np.int32) & (TEXELS - 1)
    i1, j1 = (i + 1) & (TEXELS - 1), ((j + 1) & (TEXELS - 1)) * TEXELS
    j = j * TEXELS
    upper = texels[j + i] * (1 - tx) + texels[j + i1] * tx
    return upper * (1 - ty) + (texels[j1 + i] * (1 - tx) + texels[j1 + i1] * tx) * ty


def chance(i: np.ndarray, j: np.ndarray, salt: int = 0) -> np.ndarray:
    """Return a random number between 0 and 1 for each cell (i, j): float32 [R]."""
    key = i.astype(np.int32).astype(np.uint32) * np.uint32(73856093)
    key ^= j.astype(np.int32).astype(np.uint32) * np.uint32(19349663)
    key += np.uint32(salt * 83492791 & 0xFFFFFFFF)
    key = (key ^ (key >> np.uint32(15))) * np.uint32(2246822519)
    key = (key ^ (key >> np.uint32(13))) * np.uint32(3266489917)
    return (key >> np.uint32(8)).astype(np.float32) / 2**24


def band(x: np.ndarray, low: float, high: float, pixel: np.ndarray) -> np.ndarray:
    """Return the share of a pixel within [low, high] of each unit period of x; `pixel` is its size in periods."""
    middle, half = (low + high) / 2, (high - low) / 2
    away = np.abs((x - middle + 0.5) % 1 - 0.5)
    edge = np.maximum(pixel, 1e-4)
    sharp = np.clip((half - away) / edge + 0.5, 0, 1)
    return sharp + (2 * half - sharp) * np.clip(1.5 * edge - 0.5, 0, 1)


def fade(amount: np.ndarray, pixel: np.ndarray, period: float) -> np.ndarray:
    """Return detail, which has a mean of 0, without what is finer than a pixel."""
    return amount * np.clip(1.5 - 2 * pixel / period, 0, 1)


def _colors(surface) -> tuple[np.ndarray, np.ndarray]:
    """Return both colours, [3, 1]."""
    first = np.array(surface.albedo, np.float32)[:, None]
    second = first * 0.6 if surface.second is None else np.array(surface.second, np.float32)[:, None]
    return first, second


def _mix(surface, share: np.ndarray | float, tone: np.ndarray | float = 1.0) -> np.ndarray:
    first, second = _colors(surface)
    if isinstance(share, float):
        return first * tone
    return (first + (second - first) * np.clip(share, 0, 1)) * tone


def _salt(surface) -> int:
    return int(sum(surface.albedo) * 1e4) % 9973


def _mottled(a, b, size: float, strength: float) -> np.ndarray:
    """Return a tone about 1 that wanders over distances of up to `size` metres."""
    return 1 + strength * (noise("clouds", a / size, b / size) - 0.5)


def plain(surface, a, b, pixel):
    """Dust and wear on one colour."""
    return _mix(surface, 0.0, _mottled(a + surface.albedo[0] * 7, b, 2.0, 0.08))


def plaster(surface, a, b, pixel):
    """A painted wall: stains of all sizes, a fine grain."""
    grain = fade(noise("grain", a / 1.2, b / 1.2) - 0.5, pixel, 0.02)
    return _mix(surface, 0.0, _mottled(a, b, 5.0, 0.09) + 0.04 * grain)


def asphalt(surface, a, b, pixel):
    """Grain, worn tracks, mended rectangles, cracks."""
    salt = _salt(surface)
    clouds = noise("clouds", a / 9, b / 17)
    grain = fade(noise("grain", a / 2.5, b / 2.5) - 0.5, pixel, 0.05)
    tone = 1 + 0.3 * (clouds - 0.5) + 0.5 * grain
    i, j = np.floor(a / 2.3), np.floor(b / 5.1 + chance(i_ := np.floor(a / 2.3), i_, salt))
    tone += (chance(i, j, salt) > 0.9) * (chance(j, i, salt) - 0.6) * 0.4
    cracks = np.abs(noise("clouds", a / 6 + 0.3, b / 6) - 0.5)
    wide = 0.004 + pixel * 0.05
    return _mix(surface, 0.8 * np.clip(1 - cracks / wide, 0, 1) * np.clip(0.012 / wide, 0, 1), tone)


def marking(surface, a, b, pixel):
    """Paint on a road, worn off in places."""
    worn = noise("clouds", a / 1.3, b / 1.3) * 0.5 + noise("grain", a / 1.5, b / 1.5) * 0.5
    return _mix(surface, 0.75 * np.clip((worn - 0.55) * 4, 0, 1))


def grass(surface, a, b, pixel):
    """Blades, and patches of earth and dry grass."""
    blades = fade(noise("grain", a / 1.6, b / 0.9) - 0.5, pixel, 0.06)
    return _mix(surface, 1.3 * noise("clouds", a / 11, b / 11) - 0.3, 1 + 0.9 * blades)


def foliage(surface, a, b, pixel):
    """Leaves with dark gaps between them."""
    leaves = noise("grain", a / 4, b / 4) - 0.5
    return _mix(surface, noise("clouds", a / 5, b / 5), 0.85 + 0.9 * fade(leaves, pixel, 0.2))


def _joints(surface, a, b, pixel, wide: float, tall: float, line: float, shift: float, uneven: float):
    """Rows of stones: `wide` x `tall` metres, joints of `line` metres, every other row moved by a share `shift`."""
    row = np.floor(b / tall)
    x = a / wide + shift * (row % 2)
    joint = np.maximum(band(x, 0, line / wide, pixel / wide), band(b / tall, 0, line / tall, pixel / tall))
    stone = fade(chance(np.floor(x), row, _salt(surface)) - 0.5, pixel, min(wide, tall))
    return _mix(surface, joint, 1 + uneven * stone + 0.18 * (noise("clouds", a / 3, b / 3) - 0.5))


def tiles(surface, a, b, pixel):
    """Square tiles or slabs."""
    grain = 1 + 0.1 * fade(noise("grain", a * 1.5, b * 1.5) - 0.5, pixel, 0.02)
    return grain * _joints(surface, a, b, pixel, surface.scale, surface.scale, 0.012 * surface.scale + 0.002, 0, 0.1)


def bricks(surface, a, b, pixel):
    """Bricks, or other oblong stones, in a bond."""
    return _joints(surface, a, b, pixel, surface.scale, surface.scale / 3, 0.045 * surface.scale, 0.5, 0.35)


def facade(surface, a, b, pixel):
    """Windows in frames, some of which mirror the sky or have a blind, in a plastered wall with a ledge a storey."""
    wide, tall = surface.scale, surface.scale * 1.15
    x, y = a / wide, b / tall
    i, j, salt = np.floor(x), np.floor(y), _salt(surface)
    left, top = 0.2 + 0.13 * (salt % 3), 0.18 + 0.1 * (salt % 2)
    pane = band(x, left, 1 - left, pixel / wide) * band(y, top, 0.8, pixel / tall)
    frame = band(x, left - 0.04, 1.04 - left, pixel / wide) * band(y, top - 0.04, 0.84, pixel / tall) - pane
    cross = band(x, 0.48, 0.52, pixel / wide) * pane
    color = _mix(surface, 0.0, _mottled(a, b, 7.0, 0.25))
    color -= 0.1 * band(y, 0.97, 1.0, pixel / tall) * color
    seen = chance(i, j, salt)
    glass = _colors(surface)[1] * (0.35 + 1.3 * seen) + (seen > 0.8) * 0.25
    blind = (chance(j, i, salt) > 0.75) & (y % 1 < top + (0.8 - top) * seen)
    glass = np.where(blind, 0.72, glass)
    edge = np.clip(_colors(surface)[0] * 0.4 + 0.5, 0, 1) if salt % 4 else np.float32(0.25)
    color += pane * (glass - color)
    return color + np.clip(frame + cross, 0, 1) * (edge - color)


def shop(surface, a, b, pixel):
    """A row of large panes with things behind them."""
    x = a / surface.scale
    pane = band(x, 0.06, 0.94, pixel / surface.scale)
    inside = 0.5 * printed(surface, a * 0.6, b * 0.6, pixel) * noise("clouds", a / 4, b / 4)
    color = _mix(surface, 0.0, np.ones_like(a))
    return color + pane * (inside + 0.06 - color)


def _grain(surface, a, b, pixel, scale: float) -> np.ndarray:
    """Return the rings of wood along a, as a share of the second colour."""
    fibres = noise("fibres", a / (14 * scale), b / (5 * scale))
    return 0.15 + 0.6 * fibres + 0.25 * fade(noise("fibres", a / (2 * scale), b / scale) - 0.5, pixel, 0.01)


def wood(surface, a, b, pixel):
    """Sawn or painted wood."""
    first = np.array(surface.albedo, np.float32)
    strength = 0.7 if first[0] > first[2] * 1.15 else 0.25
    return _mix(surface, strength * _grain(surface, a, b, pixel, max(surface.scale, 0.1)))


def planks(surface, a, b, pixel):
    """A floor of boards."""
    wide, long = surface.scale, surface.scale * 7
    row = np.floor(a / wide)
    along = b / long + chance(row, row, 3)
    board = chance(row, np.floor(along), _salt(surface))
    joint = np.maximum(band(a / wide, 0, 0.02, pixel / wide), band(along, 0, 0.003, pixel / long))
    share = 0.5 * _grain(surface, b + 3.1 * board, a + 1.7 * row, pixel, wide) + 0.8 * joint
    return _mix(surface, share, 1 + 0.35 * fade(board - 0.5, pixel, wide))


def cloth(surface, a, b, pixel):
    """A weave with folds; one in four has stripes, one in four is checked."""
    salt = _salt(surface)
    threads = fade(noise("grain", a * 2.2, b * 2.2) - 0.5, pixel, 0.01)
    tone = _mottled(a, b, 0.8, 0.25) + 0.35 * threads
    share = np.zeros_like(a)
    if salt % 4 < 2:
        wide = 0.04 + 0.01 * (salt % 7)
        share += 0.5 * band(a / wide, 0, 0.4, pixel / wide)
        if salt % 4 == 1:
            share += 0.5 * band(b / wide, 0, 0.4, pixel / wide)
    return _mix(surface, share, tone)


def leather(surface, a, b, pixel):
    """Leather with creases."""
    creases = np.abs(noise("clouds", a / 0.5, b / 0.5) - 0.5)
    return _mix(
        surface, 0.4 * np.clip(1 - creases * 12, 0, 1) * np.clip(1 - pixel * 100, 0, 1), _mottled(a, b, 0.6, 0.25)
    )


def carpet(surface, a, b, pixel):
    """Pile, in one colour or in squares of stripes as in offices."""
    pile = 1 + 0.3 * fade(noise("grain", a * 1.3, b * 1.3) - 0.5, pixel, 0.02)
    share = 0.5 * noise("clouds", a / 3, b / 3)
    salt = _salt(surface)
    if salt % 2:
        i, j = np.floor(a * 2), np.floor(b * 2)
        turned = chance(i, j, salt) > 0.5
        line = np.where(turned, a, b)
        share += 0.5 * fade(noise("grain", line / 0.9, 0.01 * (i + 3 * j)) - 0.5, pixel, 0.03)
    return _mix(surface, share, pile)


def stone(surface, a, b, pixel):
    """Marble, granite or a laminate like them."""
    veins = np.abs(noise("clouds", a / 1.1, b / 1.1) - 0.5)
    specks = fade(noise("grain", a * 1.7, b * 1.7) - 0.5, pixel, 0.01)
    return _mix(surface, 0.5 * np.clip(1 - veins * 14, 0, 1), _mottled(a, b, 0.7, 0.15) + 0.15 * specks)


def printed(surface, a, b, pixel):
    """Something printed, painted or piled up: rectangles of any colours, and lines of text."""
    salt, size = _salt(surface), surface.scale
    x, y = a / size, b / size
    color = _mix(surface, noise("clouds", x / 4, y / 4))
    for k, (wide, tall) in enumerate(((0.9, 0.6), (0.35, 0.5), (0.2, 0.23))):
        i, j = np.floor(x / wide + 0.37 * k), np.floor(y / tall)
        filled = chance(i, j, salt + 5 * k) > 0.62
        hue = np.stack([chance(i, j, salt + 5 * k + c) for c in (1, 2, 3)])
        color = np.where(filled, 0.1 + 0.6 * color + 0.25 * hue, color)
    text = (chance(np.floor(x * 60), np.floor(y * 18), salt) > 0.4) & (y * 18 % 1 > 0.5)
    text &= chance(np.floor(x * 2), np.floor(y * 3), salt + 9) > 0.6
    return color - fade(text * 0.6, pixel, size / 18) * color


def outside(surface, a, b, pixel):
    """What a window shows: blurred shapes in bright light."""
    return _mix(surface, 1.6 * noise("clouds", a / 3, b / 3) - 0.5)


# By the name in `Surface.texture`. The names that version 1 has too are drawn more finely here.
TEXTURES: dict[str, Callable] = {
    "plain": plain,
    "cloud": leather,
    "speckle": carpet,
    "wood": wood,
    "weave": cloth,
    "checks": tiles,
    "stripes": cloth,
    "planks": planks,
    "tiles": tiles,
    "bricks": bricks,
    "windows": facade,
    "plaster": plaster,
    "asphalt": asphalt,
    "marking": marking,
    "grass": grass,
    "foliage": foliage,
    "shop": shop,
    "carpet": carpet,
    "cloth": cloth,
    "leather": leather,
    "stone": stone,
    "printed": printed,
    "outside": outside,
}
