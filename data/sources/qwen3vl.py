# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converter of images with boxes in Qwen3-VL's `bbox_3d` form.

    ROOT/cam_infos.json          {image: {fx, fy, cx, cy}}, pixels
    ROOT/notebook_outputs.json   {image: {"prompt", "model_output": [{"bbox_3d": [9 numbers], "label"}]}}

`data.box_texts` says how the nine numbers are read. Such boxes are often a model's output, not ground truth, and
writers differ about the order of the angles. Use this source to inspect and to bootstrap, not to evaluate; each
object has the attribute "origin": "bbox_3d text".
"""

import json
import re
from pathlib import Path

from llmi3d.data.box_texts import parse_qwen3vl
from llmi3d.data.schema import image_size, make_object
from llmi3d.data.source import Source, inside
from llmi3d.processing.geometry_llmi3d import check_intrinsics, intrinsics_from_focal


class Qwen3VL(Source):
    """A folder of images with cameras and `bbox_3d` answers.

    Args:
        root: the folder.
        cameras, answers: names of the two JSON files.
    """

    name = "qwen3vl"
    complete = False

    def __init__(self, root: str | Path, cameras: str = "cam_infos.json", answers: str = "notebook_outputs.json"):
        super().__init__(root)
        self._cameras, self._answers = (self._read_json(name) for name in (cameras, answers))
        self._images = {f"{self.name}/examples/{re.sub(r'[^0-9A-Za-z_-]', '_', name)}": name for name in self._answers}

    def _read_json(self, name: str) -> dict:
        path = self.root / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file.")
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: {error}; want a JSON mapping from images.") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path}: got a {type(content).__name__}, want a JSON mapping from images.")
        return content

    def ids(self) -> list[str]:
        """See `Source`."""
        return sorted(self._images)

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        name = self._images[image_id]
        image = inside(self.root, name)
        camera = self._cameras.get(name)
        if not isinstance(camera, dict) or not {"fx", "fy", "cx", "cy"} <= set(camera):
            raise ValueError(f"{name}: camera: got {camera}, want fx, fy, cx and cy.")
        width, height = image_size(str(image))
        intrinsics = check_intrinsics(
            intrinsics_from_focal(camera["fx"], camera["fy"], camera["cx"], camera["cy"]), (width, height)
        )
        # These cameras have their principal point near the middle. A point a quarter of the image away from it belongs
        # to an image of another size, which the check above misses as long as the point is inside.
        x, y = intrinsics[0, 2].item() / width, intrinsics[1, 2].item() / height
        if max(abs(x - 0.5), abs(y - 0.5)) > 0.25:
            raise ValueError(
                f"{name}: camera: got the principal point ({camera['cx']:g}, {camera['cy']:g}) in a {width}x{height} "
                "image; K belongs to an image of another size."
            )
        written = self._answers[name].get("model_output")
        parsed = parse_qwen3vl(written if isinstance(written, str) else json.dumps(written))
        if parsed.malformed or parsed.status != "ok":
            raise ValueError(f"{name}: model_output: {parsed.malformed} boxes cannot be read ({parsed.status}).")
        return {
            "image": str(image),
            "image_id": image_id,
            "source": self.name,
            "split": "examples",
            "intrinsics": intrinsics.tolist(),
            "objects": [
                make_object(
                    str(i),
                    box["label"] or "object",
                    box["center"],
                    box["size"],
                    box["rotation"],
                    intrinsics,
                    ignore=box["center"][2] <= 0,
                    attributes={"origin": "bbox_3d text"},
                )
                for i, box in enumerate(parsed.boxes)
            ],
        }
