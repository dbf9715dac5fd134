# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Camera-aware augmentation of IG3D rows: pixels, K, boxes and words move together, so that every row stays true.

    augment = augment_from_config({"flip": 0.5, "crop": [0.7, 1.0], "zoom": [0.8, 1.25], "roll_deg": 3, "color": 0.2})
    augment.set_epoch(epoch)
    row = augment(row)

A transform is called as `transform(row, rng)` with a `random.Random`. It returns a new row with a PIL image, or the
same row where nothing changes; its argument is never modified. Pixels move by an affine map A, the scene by a
reflection or rotation M about the camera, and K becomes A K M^-1: what was seen at u is then seen at A u, exactly, in
the pixel convention of K, (0, 0) at the corner of the image. An `instance_map` moves with the pixels.

Words follow as far as that is certain (`augment_words`). Crops drop turns that may have become false; since those
turns are then learned less often, crops are made with probability `p` only.

Objects that have left the image leave the row. For the others, the visible share is estimated from their 2D boxes, and
`visibility` and `truncation` follow where they are known.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torchvision.transforms.v2.functional as tvF
from PIL import Image, ImageOps
from torch import Tensor

from llmi3d.data.schema import upright_image
from llmi3d.processing.geometry_llmi3d import (
    box_corners,
    check_intrinsics,
    orient_intrinsics,
    project,
    project_box_2d,
    transform_intrinsics,
)
from llmi3d.training.augment_words import (
    UncertainError,
    cut_turns,
    keep_turns,
    mirror_conversation,
    names_color,
    speaks_of_pixels,
)
from llmi3d.training.dense import open_map

Row = dict[str, Any]

# Fills what lies outside the original image.
GREY = (128, 128, 128)
# Share of an object's formerly visible 2D box that must remain for it to be asked for.
LEAST_LEFT = 0.5


# ------------------------------------------------------------------------------------------------------- transforms


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right. A box keeps its own x axis (front) and y axis (down); its z axis is reversed, so that its
    rotation stays a rotation.

    Args:
        p: probability.
    """

    p: float = 0.5

    def __post_init__(self):
        _check_number("p", self.p, 0, 1)

    def __call__(self, row: Row, rng: random.Random) -> Row:
        if rng.random() >= self.p:
            return row
        try:
            row = mirror_conversation(row)
        except UncertainError:
            return row
        image, k = _image_and_k(row)
        pixels = torch.tensor([[-1, 0, image.width], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
        mirror = torch.diag(torch.tensor([-1, 1, 1], dtype=torch.float64))
        return _move(row, image.size, ImageOps.mirror(image), pixels, orient_intrinsics(k, image.size, 2), mirror)[0]


@dataclass(frozen=True)
class RandomCrop:
    """Crop a window of whole pixels around the principal point, which has to stay in the image. The processor then
    enlarges the window, so the network sees everything nearer, off-centre, and through a longer lens.

    Args:
        share: (least, most) share of the image's width and of its height, drawn separately; above 0, up to 1.
        p: probability.
    """

    share: tuple[float, float] = (0.7, 1.0)
    p: float = 0.5

    def __post_init__(self):
        _check_range("share", self.share, 0.05, 1)
        _check_number("p", self.p, 0, 1)

    def __call__(self, row: Row, rng: random.Random) -> Row:
        if rng.random() >= self.p:
            return row
        image, k = _image_and_k(row)
        starts, sides = [], []
        for side, middle in zip(image.size, (k[0, 2].item(), k[1, 2].item()), strict=True):
            kept = min(side, max(2, round(side * rng.uniform(*self.share))))
            starts.append(rng.randint(max(0, math.floor(middle - kept) + 1), min(side - kept, math.ceil(middle) - 1)))
            sides.append(kept)
        if tuple(sides) == image.size:
            return row
        return cut_turns(row, image.size, *_look_through(row, image, k, starts, sides, sides))


@dataclass(frozen=True)
class FocalZoom:
    """Simulate a lens of another focal length: pixels move away from the principal point by a factor, K's focal
    lengths are multiplied by it, boxes and image size stay. When zooming out, the border is grey.

    Changing K alone would teach nothing: the network works in a virtual camera and never sees K, so the same pixels
    with boxes rescaled in depth give the same input and the same targets. A real zoom changes how large things look,
    and with it their virtual depth, while their metric boxes stay.

    Args:
        factor: (least, most), drawn log-uniformly; from 0.5 to 4.
        p: probability.
    """

    factor: tuple[float, float] = (0.8, 1.25)
    p: float = 0.5

    def __post_init__(self):
        _check_range("factor", self.factor, 0.5, 4)
        _check_number("p", self.p, 0, 1)

    def __call__(self, row: Row, rng: random.Random) -> Row:
        if rng.random() >= self.p:
            return row
        image, k = _image_and_k(row)
        factor = _log_uniform(rng, self.factor)
        start = [middle - middle / factor for middle in k[:2, 2].tolist()]
        window = [side / factor for side in image.size]
        return cut_turns(row, image.size, *_look_through(row, image, k, start, window, image.size))


@dataclass(frozen=True)
class RandomRoll:
    """Rotate the camera about its optical axis: the image turns about the principal point, boxes about the z axis, K
    stays. Empty corners are grey. Words such as "upright" have to stay true, so only a few degrees are allowed.

    Args:
        degrees: largest rotation in either direction; up to 15.
        p: probability.
    """

    degrees: float = 3.0
    p: float = 0.5

    def __post_init__(self):
        _check_number("degrees", self.degrees, 0, 15)
        _check_number("p", self.p, 0, 1)

    def __call__(self, row: Row, rng: random.Random) -> Row:
        if rng.random() >= self.p:
            return row
        image, k = _image_and_k(row)
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        cos, sin = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float64)
        # If fx and fy differ, the map of the pixels is not a pure rotation.
        back = k @ turn.T @ k.inverse()
        turned = image.transform(
            image.size,
            Image.Transform.AFFINE,
            back[:2].flatten().tolist(),
            resample=Image.Resampling.BILINEAR,
            fillcolor=GREY,
        )
        return cut_turns(row, image.size, *_move(row, image.size, turned, k @ turn @ k.inverse(), k, turn))


@dataclass(frozen=True)
class RandomScale:
    """Resize image and K together; boxes stay. The processor brings every image to one size, so this changes sharpness
    only, as another sensor would; `FocalZoom` and `RandomCrop` change apparent size.

    Args:
        factor: (least, most), drawn log-uniformly; from 0.1 to 2.
        p: probability.
    """

    factor: tuple[float, float] = (0.8, 1.25)
    p: float = 1.0

    def __post_init__(self):
        _check_range("factor", self.factor, 0.1, 2)
        _check_number("p", self.p, 0, 1)

    def __call__(self, row: Row, rng: random.Random) -> Row:
        if rng.random() >= self.p:
            return row
        image, k = _image_and_k(row)
        factor = _log_uniform(rng, self.factor)
        size = [max(1, round(side * factor)) for side in image.size]
        moved, _ = _look_through(row, image, k, (0, 0), image.size, size)
        return keep_turns(row, moved, lambda turn: not speaks_of_pixels(turn))


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation, and tint slightly. Hue is never shifted, and rows whose words name a
    colour are not tinted.

    Args:
        strength: largest relative change, 0 to 0.9; 0.4 times that for tints.
        p: probability.
    """

    strength: float = 0.2
    p: float = 1.0

    def __post_init__(self):
        _check_number("strength", self.strength, 0, 0.9)
        _check_number("p", self.p, 0, 1)

    def __call__(self, row: Row, rng: random.Random) -> Row:
        if rng.random() >= self.p:
            return row
        image = upright_image(row["image"])
        for adjust in (tvF.adjust_brightness, tvF.adjust_contrast, tvF.adjust_saturation):
            image = adjust(image, 1 + rng.uniform(-self.strength, self.strength))
        gains = [1 + 0.4 * rng.uniform(-self.strength, self.strength) for _ in range(3)]
        if not names_color(row):
            image = image.point([min(255, round(value * gain)) for gain in gains for value in range(256)])
        return {**row, "image": image}


@dataclass
class Augment:
    """Apply transforms in order, drawn from (seed, epoch, image_id) alone: a resumed run sees the same images.

    The trainer's data loader calls `set_epoch` of a data set, which calls this one's. Loader workers that outlive an
    epoch (`persistent_workers`) do not get the call.

    Args:
        transforms: called in this order as `transform(row, rng)`.
        seed: seed of all random draws.
        epoch: first epoch.
    """

    transforms: tuple[Callable[[Row, random.Random], Row], ...]
    seed: int = 0
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, row: Row) -> Row:
        """Return an augmented row; valid rows (`llmi3d.data.schema`) stay valid.

        Raises:
            ValueError: an image that cannot be read, or a K or instance map that does not fit it.
        """
        rng = random.Random(f"{self.seed}/{self.epoch}/{row['image_id']}")
        for transform in self.transforms:
            row = transform(row, rng)
        return row


def augment_from_config(config: Mapping[str, Any]) -> Augment:
    """Read the section `augment` of a recipe; the order of its keys does not matter.

    Args:
        config: any of `color` (strength), `flip` (probability), `roll_deg` (degrees), and `zoom`, `crop`, `scale`
            ([least, most]); `p`, the probability of each of roll, zoom and crop (default 0.5); `seed` (default 0).

    Raises:
        ValueError: an unknown name or a value out of range.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"augment: got {config!r}, want a mapping with some of {', '.join(_CONFIG)}, p, seed.")
    unknown = [str(name) for name in config if name not in (*_CONFIG, "p", "seed")]
    if unknown:
        raise ValueError(f"augment: got the unknown {', '.join(unknown)}, want some of {', '.join(_CONFIG)}, p, seed.")
    seed, p = config.get("seed", 0), config.get("p", 0.5)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"augment.seed: got {seed!r}, want a whole number.")
    _check_number("augment.p", p, 0, 1)
    transforms = []
    for name, make in _CONFIG.items():
        if name in config:
            try:
                transforms.append(make(config[name], p))
            except ValueError as error:
                raise ValueError(f"augment.{name}: {error}") from None
    return Augment(tuple(transforms), seed)


# In order of application: colours before any border is grey, then geometry, the size last.
_CONFIG = {
    "color": lambda value, p: ColorJitter(value),
    "flip": lambda value, p: HorizontalFlip(value),
    "roll_deg": lambda value, p: RandomRoll(value, p),
    "zoom": lambda value, p: FocalZoom(value, p),
    "crop": lambda value, p: RandomCrop(value, p),
    "scale": lambda value, p: RandomScale(value),
}


def _check_number(name: str, value, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name}: got {value!r}, want a number from {low} to {high}.")


def _check_range(name: str, value, low: float, high: float) -> None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name}: got {value!r}, want two numbers, [least, most].")
    for number in value:
        _check_number(name, number, low, high)
    if value[0] > value[1]:
        raise ValueError(f"{name}: got {value!r}, want the least before the most.")


def _log_uniform(rng: random.Random, bounds: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))


# --------------------------------------------------------------------------------------------- pixels, camera, boxes


def _image_and_k(row: Row) -> tuple[Image.Image, Tensor]:
    """Return the upright image, RGB, and its K, float64 [3, 3]."""
    image = upright_image(row["image"])
    return image, check_intrinsics(row["intrinsics"], image.size)


def _look_through(
    row: Row, image: Image.Image, k: Tensor, start: Iterable[float], window: Iterable[float], size: Iterable[int]
) -> tuple[Row, set[str]]:
    """Return what `_move` does for a window of the image that is resized to `size`.

    The window (start and sides, x before y, pixels) may reach beyond the image.
    """
    (left, top), (width, height), size = start, window, tuple(size)
    border = [max(0, math.ceil(out)) for out in (-left, -top, left + width - image.width, top + height - image.height)]
    padded = ImageOps.expand(image, tuple(border), GREY) if any(border) else image
    x, y = left + border[0], top + border[1]
    shown = padded.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))
    scale = size[0] / width, size[1] / height
    offset = -left * scale[0], -top * scale[1]
    pixels = transform_intrinsics(torch.eye(3, dtype=torch.float64), scale, offset)
    return _move(row, image.size, shown, pixels, transform_intrinsics(k, scale, offset))


def _move(
    row: Row, size: tuple[int, int], image: Image.Image, pixels: Tensor, k: Tensor, turn: Tensor | None = None
) -> tuple[Row, set[str]]:
    """Return the row with a moved image, and the ids of the objects that can still be seen well enough.

    Args:
        row: before the move; its conversation stays.
        size: (width, height) of the image before the move.
        image: image after the move.
        pixels: [3, 3], from pixels before to pixels after.
        k: [3, 3], K after the move.
        turn: [3, 3] rotation or reflection of the camera frame; None for none.
    """
    entries = row["objects"]
    center, extent, rotation = (
        torch.tensor([entry[name] for entry in entries], dtype=torch.float64).reshape(-1, *shape)
        for name, shape in (("center", (3,)), ("size", (3,)), ("rotation", (3, 3)))
    )
    if turn is not None:
        center, rotation = center @ turn.T, turn @ rotation
        # A reflected rotation is not a rotation: reverse the box's z axis.
        rotation[..., 2] *= turn.det().sign()
    boxes_2d = project_box_2d(box_corners(center, extent, rotation), k)
    points = project(center, k)
    inside = ((points >= 0) & (points < points.new_tensor(image.size))).all(-1) & (center[:, 2] > 0)
    shares = _shares_left(entries, size, pixels, image.size)
    objects, well_seen, kept = [], set(), []
    for i, (entry, share) in enumerate(zip(entries, shares.tolist(), strict=True)):
        if share == 0:
            continue
        hidden = entry.get("box_2d") is None or boxes_2d[i].isnan().any()
        moved = {
            "center": center[i].tolist(),
            "rotation": rotation[i].tolist(),
            "box_2d": None if hidden else boxes_2d[i].tolist(),
        }
        if share < 1 and entry.get("visibility") is not None:
            moved["visibility"] = entry["visibility"] * share
        if share < 1 and entry.get("truncation") is not None:
            moved["truncation"] = 1 - (1 - entry["truncation"]) * share
        objects.append({**entry, **moved})
        kept.append(i)
        if inside[i] and share >= LEAST_LEFT:
            well_seen.add(entry["id"])
    new = {**row, "image": image, "intrinsics": k.tolist(), "objects": objects}
    if row.get("instance_map") is not None:
        new["instance_map"] = _move_map(row, size, image.size, pixels, kept)
    return new, well_seen


def _move_map(
    row: Row, size: tuple[int, int], new_size: tuple[int, int], pixels: Tensor, kept: list[int]
) -> Image.Image:
    """Return the instance map of the moved image, at the map's own resolution.

    Args:
        row: before the move.
        size, new_size: (width, height) of the image before and after.
        pixels: [3, 3], from image pixels before to image pixels after.
        kept: indices of the objects that are still in the row, in order.
    """
    instances = Image.fromarray(open_map(row))
    ratio = [own / side for own, side in zip(instances.size, size, strict=True)]
    moved_size = tuple(max(1, round(side * factor)) for side, factor in zip(new_size, ratio, strict=True))
    to_map = torch.diag(pixels.new_tensor([*ratio, 1]))
    to_image = torch.diag(pixels.new_tensor([*(a / b for a, b in zip(new_size, moved_size, strict=True)), 1]))
    back = to_map @ pixels.inverse() @ to_image
    moved = instances.transform(moved_size, Image.Transform.AFFINE, back[:2].flatten().tolist(), fillcolor=0)
    labels = [0] * 256
    for index, i in enumerate(kept):
        labels[i + 1] = index + 1
    return moved.point(labels)


def _shares_left(entries: list[dict], size: tuple[int, int], pixels: Tensor, new_size: tuple[int, int]) -> Tensor:
    """Return which share of each object's formerly visible 2D box is still visible, [M]; 1 where nothing was visible.

    Points of a grid are counted, since a rotated image leaves arbitrary polygons.
    """
    nowhere = (0.0, 0.0, 0.0, 0.0)
    boxes = torch.tensor([entry.get("box_2d") or nowhere for entry in entries], dtype=torch.float64).reshape(-1, 4)
    limit = boxes.new_tensor(size)
    low, high = boxes[:, :2].clamp(min=0), boxes[:, 2:].minimum(limit)
    steps = (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    points = low[:, None, None] + grid * (high - low)[:, None, None]
    points = points @ pixels[:2, :2].T + pixels[:2, 2]
    left = ((points >= 0) & (points <= points.new_tensor(new_size))).all(-1).double().mean((1, 2))
    return torch.where((high > low).all(-1), left, 1.0)
