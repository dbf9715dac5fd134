# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""IG3D-Synth as a source of IG3D rows: any number of frames of four domains, each determined by its id and a seed.

    llmi3d data build synth --out ig3d_synth --option frames=train:20000,test:1000 --num-proc 8

Version 2, the default, renders textured scenes with soft light, reflections and a camera's flaws. Version 1 is the
plain look that `llmi3d-tiny` was trained on.

Splits: `train`, `validation` and `test` are alike. `novel` has categories, and colours of categories, that the others
never show (`scene.NOVEL_CATEGORIES`, `scene.NOVEL_PAIRS`), `camera` focal lengths outside the others' range, `dense`
many objects that hide one another, `far` small and distant ones.
"""

import hashlib
import io
from dataclasses import dataclass, replace
from random import Random

import datasets
import numpy as np
from PIL import Image

from llmi3d.data.schema import make_object
from llmi3d.data.source import Source
from llmi3d.data.synthetic import camera_effects, version1_rendering
from llmi3d.data.synthetic.assets import CATEGORIES
from llmi3d.data.synthetic.camera_effects import Camera
from llmi3d.data.synthetic.close_up import objects
from llmi3d.data.synthetic.indoor import indoor
from llmi3d.data.synthetic.render import SCENERY, Rendered, Tracer, pixel_rays
from llmi3d.data.synthetic.scene import SPLITS, Scene
from llmi3d.data.synthetic.shading import photograph
from llmi3d.data.synthetic.street import driving, surround

DOMAINS = {"indoor": indoor, "driving": driving, "surround": surround, "objects": objects}
# Objects with fewer visible pixels are neither asked for nor counted.
LEAST_PIXELS = 12
# Number of rays, at most, that measure the visible share of an object.
VISIBILITY_RAYS = 3000


@dataclass(frozen=True)
class Frame:
    """A rendered image with all of its truth.

    Attributes:
        scene: what was rendered.
        rendered: colour, depth and owners.
        image: JPEG file.
        row: the IG3D scene; the id of an object is its index in `scene.placed`.
    """

    scene: Scene
    rendered: Rendered
    image: bytes
    row: dict

    def instance_map(self) -> np.ndarray:
        """Return uint8 [H, W]: 1 + the index in the row's `objects` of what is seen there, 0 for anything else."""
        values = np.zeros(len(self.scene.placed) + 1, np.uint8)
        for index, entry in enumerate(self.row["objects"]):
            values[int(entry["id"])] = index + 1
        return values[self.rendered.owners]  # SCENERY, -1, reads the last, which is 0


class Synthetic(Source):
    """Rendered frames.

    Args:
        root: not used; nothing is downloaded.
        frames: number of frames of each split, "train:20000,test:1000".
        domains: names of domains, separated by commas.
        long_side: of the images, pixels; never larger than the cameras they stand for.
        oversample: rays along each side of a pixel, 1 to 4.
        masks: whether rows also hold `instance_map`, a grey image (`Frame.instance_map`).
        seed: of everything that is rendered.
        start: number of the first frame of each split, so that a large set can be built in parts.
        version: 2, or 1 for the plain look of the first release, whose frames it repeats byte for byte.

    Raises:
        ValueError: an unknown split or domain, or a number out of range.
    """

    name = "synthetic"
    vocabulary = tuple(sorted(CATEGORIES))

    def __init__(
        self,
        root: str | None = None,
        frames: str = "train:1000,validation:100,test:100",
        domains: str = ",".join(DOMAINS),
        long_side: str | int = 448,
        oversample: str | int = 1,
        masks: str | bool = False,
        seed: str | int = 0,
        start: str | int = 0,
        version: str | int = 2,
    ):
        self.domains = _names("domains", domains, DOMAINS)
        self.frames = {}
        for part in frames.split(","):
            split, _, count = part.partition(":")
            _names("frames", split, SPLITS)
            self.frames[split] = _number("frames", count, 1)
        self.long_side = _number("long_side", long_side, 32)
        self.oversample = _number("oversample", oversample, 1, 4)
        if str(masks).lower() not in ("true", "false"):
            raise ValueError(f"masks: got {masks!r}, want true or false.")
        self.masks = str(masks).lower() == "true"
        self.seed = _number("seed", seed, 0)
        self.start = _number("start", start, 0)
        self.version = _number("version", version, 1, 2)
        self.wording = "plain" if self.version == 1 else "varied"
        if self.masks:
            self.extra_features = {"instance_map": datasets.Image()}

    def recipe(self) -> dict:
        """See `Source`."""
        options = ("version", "long_side", "oversample", "masks", "seed")
        return {"rendering": {name: getattr(self, name) for name in options}}

    def ids(self) -> list[str]:
        """Return ids in order; domains alternate."""
        return sorted(
            f"{self.name}/{split}/{self.domains[i % len(self.domains)]}-{i:06d}"
            for split, count in self.frames.items()
            for i in range(self.start, self.start + count)
        )

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        frame = self.frame(image_id)
        row = {**frame.row, "image": {"bytes": frame.image, "path": f"{image_id.rsplit('/', 1)[1]}.jpg"}}
        if self.masks:
            file = io.BytesIO()
            Image.fromarray(frame.instance_map()).save(file, "PNG")
            row["instance_map"] = {"bytes": file.getvalue(), "path": None}
        return row

    def frame(self, image_id: str) -> Frame:
        """Render a frame; the same id and options give the same bytes in every process."""
        _, split, name = image_id.split("/")
        domain = name.split("-")[0]
        digest = hashlib.sha256(f"{self.seed}/{image_id}".encode()).digest()
        draw = Random(int.from_bytes(digest[:8], "big"))
        scene = DOMAINS[domain](draw, replace(SPLITS[split], version=self.version, pool=str(self.seed)))
        scene = scene.scaled(self.long_side)
        tracer = Tracer(scene.pieces(), scene.to_camera)
        noise_seed = int.from_bytes(digest[8:16], "big")
        render = version1_rendering.render if self.version == 1 else photograph
        rendered = render(tracer, scene.intrinsics, scene.image_size, scene.light, self.oversample)
        if self.version == 1:
            image = version1_rendering.develop(rendered.color, scene.sensor, noise_seed)
        else:
            image = camera_effects.develop(rendered.color, rendered.depth, scene.sensor, noise_seed)
        entries = [_label(i, scene, rendered) for i in range(len(scene.placed))]
        row = {
            "image_id": image_id,
            "source": self.name,
            "split": split,
            "intrinsics": scene.intrinsics.tolist(),
            "objects": [entry for entry in entries if entry is not None],
        }
        return Frame(scene, rendered, image, row)


def _label(index: int, scene: Scene, rendered: Rendered) -> dict | None:
    """Return an object as an entry of a row's `objects`, or None if no pixel shows it."""
    seen = rendered.owners == index
    count = int(seen.sum())
    if not count:
        return None
    placed = scene.placed[index]
    visibility, truncation = _shares(index, scene, rendered)
    shown = visibility / max(1 - truncation, 1e-6)
    attributes = {"color": placed.color, "material": placed.material}
    if placed.asset.symmetric:
        attributes["symmetric"] = "true"
    center = scene.to_camera @ placed.position
    return make_object(
        str(index),
        placed.asset.category,
        center,
        placed.asset.size,
        scene.to_camera @ placed.rotation,
        scene.intrinsics,
        visibility=visibility,
        truncation=truncation,
        occlusion=0 if shown > 0.9 else 1 if shown > 0.5 else 2,
        ignore=count < LEAST_PIXELS or bool(center[2] <= 0),
        attributes={name: value for name, value in attributes.items() if value is not None},
    )


def _shares(index: int, scene: Scene, rendered: Rendered) -> tuple[float, float]:
    """Return the visible share of an object and the share outside the image, by area in the image plane.

    The object is rendered alone, on a grid over its projection that reaches beyond the image. An object that extends
    behind the camera has no bounded projection; it is measured up to one image's size around the image.
    """
    alone = Tracer(scene.placed[index].pieces(0), scene.to_camera, facing=isinstance(scene.sensor, Camera))
    width, height = scene.image_size
    vertices = alone.triangles.reshape(-1, 3).astype(np.float64)
    low, high = np.array([-width, -height]), np.array([2 * width, 2 * height])
    if vertices[:, 2].min() > 1e-3:
        points = vertices @ scene.intrinsics.T
        points = points[:, :2] / points[:, 2:]
        low, high = np.maximum(points.min(0), low), np.minimum(points.max(0), high)
    low, high = np.floor(low).astype(int), np.ceil(high).astype(int)
    step = max(1, int(np.sqrt((high - low).prod() / VISIBILITY_RAYS)))
    v, u = np.mgrid[low[1] : high[1] : step, low[0] : high[0] : step]
    rays = pixel_rays(u + 0.5, v + 0.5, scene.intrinsics).reshape(-1, 3)
    covered = (alone.owners(rays) != SCENERY).reshape(u.shape)
    inside = covered & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    shown = rendered.owners[v[inside], u[inside]] == index
    total = max(int(covered.sum()), 1)
    return float(shown.sum() / total), float(1 - inside.sum() / total)


def _names(field: str, given: str, known) -> list[str]:
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"{field}: got {name!r}, want some of {', '.join(known)}.")
    return names


def _number(field: str, given: str | int, least: int, most: int | None = None) -> int:
    try:
        number = int(given)
    except ValueError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        limit = f" and at most {most}" if most is not None else ""
        raise ValueError(f"{field}: got {given!r}, want a whole number of at least {least}{limit}.")
    return number
