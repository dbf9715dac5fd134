# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converter of Objectron's annotated videos.

    ROOT/annotations/chair/batch-0/3.pbdata        as published
    ROOT/frames/chair/batch-0/3/000030.jpg         frames of videos/chair/batch-0/3/video.MOV, extracted with
                                                   ffmpeg -i video.MOV -start_number 0 -q:v 2 frames/%06d.jpg
    ROOT/index/chair_annotations_test              as published, for the official split; without it: "full"

Objectron's conventions and their conversion
    objects     a unit cube scaled by `scale`, rotated and moved into the world; y is up, +z is the front -> `size` =
                (scale z, scale y, scale x), our x being the front and our y pointing down
    view_matrix world -> ARKit's camera (x right, y up, z backward) of the *landscape* sensor
    frames      are portrait, the sensor's image rotated clockwise: a camera point (x, y, z) becomes (y, x, -z), K's
                axes swap, and cx = height - cy of the sensor

Written from the public schema and tutorials, and tested on files made in that format, not on real ones. Therefore each
annotation is checked when it is read: the converted box must project to the annotated 2D points.
"""

import math
from functools import lru_cache
from pathlib import Path

import torch

from llmi3d.data.schema import image_size, make_object
from llmi3d.data.source import Source, inside
from llmi3d.processing.geometry_llmi3d import check_intrinsics, intrinsics_from_focal, project, transform_intrinsics

# ARKit's landscape camera -> the portrait image's, and our box axes (front, down, across) in Objectron's (x, y, z).
TO_PORTRAIT = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
_AXES = torch.tensor([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
# Objectron's key points: the centre, then the corners with x slowest and z fastest.
_KEY_POINTS = torch.tensor(
    [[0, 0, 0], *([x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5))], dtype=torch.float64
)
# Share of the image diagonal. Annotation tools round; wrong axes are off by far more.
MOST_DEVIATION = 0.02


class Objectron(Source):
    """Objectron's annotations with extracted frames.

    Args:
        root: folder laid out as above.
        every: take every n-th of a video's extracted frames.
    """

    name = "objectron"
    complete = False

    def __init__(self, root: str | Path, every: int = 1):
        super().__init__(root)
        if int(every) < 1:
            raise ValueError(f"every: got {every}, want at least 1.")
        if not (self.root / "annotations").is_dir():
            raise FileNotFoundError(f"{self.root / 'annotations'}: no such folder; want annotations and frames.")
        split_of = {}
        for split in ("train", "test"):
            for listed in sorted((self.root / "index").glob(f"*_annotations_{split}")):
                split_of |= dict.fromkeys(listed.read_text().split(), split)
        self._ids = []
        for path in sorted((self.root / "annotations").rglob("*.pbdata")):
            video = path.relative_to(self.root / "annotations").with_suffix("").as_posix()
            split = split_of.get(video, "full") if not split_of else split_of.get(video)
            frames = sorted((self.root / "frames" / video).glob("*.jpg"))
            self._ids += [f"{self.name}/{split}/{video}/{frame.stem}" for frame in frames[:: int(every)] if split]
        if not self._ids:
            raise FileNotFoundError(f"{self.root}: no frame of an annotated video in frames/.")

    def ids(self) -> list[str]:
        """See `Source`."""
        return sorted(self._ids)

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        _, split, *parts = image_id.split("/")
        video, frame = "/".join(parts[:-1]), parts[-1]
        path = inside(self.root / "annotations", f"{video}.pbdata")
        image = inside(self.root / "frames", f"{video}/{frame}.jpg")
        sequence = _read_sequence(path)
        annotated = next((entry for entry in sequence.frame_annotations if entry.frame_id == int(frame)), None)
        if annotated is None:
            raise ValueError(f"{path}: no annotation of frame {int(frame)}.")
        size = image_size(str(image))
        intrinsics = portrait_intrinsics(annotated.camera, size, path)
        instances = {instance.id: instance for instance in sequence.objects}
        objects = []
        for annotation in annotated.annotations:
            where = f"{path}: frame {int(frame)}: object {annotation.object_id}"
            if annotation.object_id not in instances:
                raise ValueError(f"{where}: is not among the sequence's objects.")
            objects.append(
                _object(instances[annotation.object_id], annotation, annotated.camera, intrinsics, size, where)
            )
        return {
            "image": str(image),
            "image_id": image_id,
            "source": self.name,
            "split": split,
            "intrinsics": intrinsics.tolist(),
            "objects": objects,
        }


def portrait_intrinsics(camera, image_size: tuple[int, int], where: object) -> torch.Tensor:
    """Return K [3, 3] of the portrait image from an ARCamera's, which is of the landscape sensor.

    Args:
        camera: with `intrinsics` (3x3 row by row) and `image_resolution_width` and `_height`.
        image_size: (width, height) of the extracted frame, which may be downscaled.
        where: names the file in errors.

    Raises:
        ValueError: invalid intrinsics, or an image of another shape than the sensor's.
    """
    width, height = camera.image_resolution_width, camera.image_resolution_height
    values = list(camera.intrinsics)
    if len(values) != 9 or min(width, height) <= 0:
        raise ValueError(f"{where}: camera: got {len(values)} intrinsics of a {width}x{height} sensor, want 9.")
    scale = image_size[0] / height, image_size[1] / width
    if abs(scale[0] / scale[1] - 1) > 0.01:
        raise ValueError(
            f"{where}: got a frame of {image_size[0]}x{image_size[1]}, want the {width}x{height} sensor's, upright."
        )
    focal_x, focal_y, x, y = values[0], values[4], values[2], values[5]
    return check_intrinsics(
        transform_intrinsics(intrinsics_from_focal(focal_y, focal_x, height - y, x), scale, (0.0, 0.0)), image_size
    )


def _object(instance, annotation, camera, intrinsics: torch.Tensor, image_size: tuple[int, int], where: str) -> dict:
    sizes = {"rotation": 9, "translation": 3, "scale": 3}
    values = {name: torch.tensor(list(getattr(instance, name)), dtype=torch.float64) for name in sizes}
    view = torch.tensor(list(camera.view_matrix), dtype=torch.float64)
    for name, count in sizes.items():
        if values[name].numel() != count or not torch.isfinite(values[name]).all():
            raise ValueError(f"{where}: {name}: got {values[name].tolist()}, want {count} finite numbers.")
    if view.numel() != 16 or (values["scale"] <= 0).any():
        raise ValueError(f"{where}: got scale {values['scale'].tolist()} and a view matrix of {view.numel()} numbers.")
    view = view.reshape(4, 4)
    turn = TO_PORTRAIT @ view[:3, :3] @ values["rotation"].reshape(3, 3)
    center = TO_PORTRAIT @ (view[:3, :3] @ values["translation"] + view[:3, 3])
    points = (_KEY_POINTS * values["scale"]) @ turn.mT + center
    if (points[:, 2] <= 0).any():
        raise ValueError(f"{where}: want a box in front of the camera.")
    _check_points(project(points, intrinsics), annotation, image_size, where)
    scale_x, scale_y, scale_z = values["scale"].tolist()
    return make_object(
        str(instance.id),
        instance.category.lower(),
        center,
        (scale_z, scale_y, scale_x),
        turn @ _AXES,
        intrinsics,
        visibility=min(1.0, max(0.0, annotation.visibility)),
    )


def _check_points(points: torch.Tensor, annotation, image_size: tuple[int, int], where: str) -> None:
    given = torch.tensor([[key.point_2d.x, key.point_2d.y] for key in annotation.keypoints], dtype=torch.float64)
    if given.shape != (9, 2):
        raise ValueError(f"{where}: got {len(given)} key points, want 9.")
    off = (points - given * torch.tensor(image_size, dtype=torch.float64)).norm(dim=1).mean().item()
    if not off <= MOST_DEVIATION * math.hypot(*image_size):
        raise ValueError(f"{where}: the box projects {off:.0f} px away from its annotated key points.")


@lru_cache(maxsize=2)
def _read_sequence(path: Path):
    from google.protobuf.message import DecodeError

    sequence = sequence_type()()
    try:
        sequence.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path}: {error}; want Objectron's annotation data.") from None
    return sequence


@lru_cache(maxsize=1)
def sequence_type():
    """Return the message class `Sequence` of Objectron's schema, with the fields that are read here.

    Raises:
        ModuleNotFoundError: protobuf is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("protobuf is not installed; Objectron needs pip install 'llmi3d[data]'.") from error
    field = descriptor_pb2.FieldDescriptorProto
    kinds = {
        "float": field.TYPE_FLOAT,
        "int": field.TYPE_INT32,
        "text": field.TYPE_STRING,
        "double": field.TYPE_DOUBLE,
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="llmi3d_objectron.proto", package="llmi3d_objectron", syntax="proto3"
    )
    for message, entries in _SCHEMA.items():
        described = file.message_type.add(name=message)
        for number, name, kind in entries:
            repeated, kind = kind.endswith("*"), kind.rstrip("*")
            added = described.field.add(name=name, number=number)
            added.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in kinds:
                added.type = kinds[kind]
            else:
                added.type, added.type_name = field.TYPE_MESSAGE, f".llmi3d_objectron.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("llmi3d_objectron.Sequence"))


# Field numbers of annotation_data.proto, object.proto and a_r_capture_metadata.proto; only the fields that are read.
_SCHEMA = {
    "Point2D": [(1, "x", "float"), (2, "y", "float"), (3, "depth", "float")],
    "AnnotatedKeyPoint": [(1, "id", "int"), (3, "point_2d", "Point2D")],
    "ObjectAnnotation": [
        (1, "object_id", "int"),
        (2, "keypoints", "AnnotatedKeyPoint*"),
        (3, "visibility", "float"),
    ],
    "Camera": [
        (5, "image_resolution_width", "int"),
        (6, "image_resolution_height", "int"),
        (7, "intrinsics", "float*"),
        (9, "view_matrix", "float*"),
    ],
    "FrameAnnotation": [(1, "frame_id", "int"), (2, "annotations", "ObjectAnnotation*"), (3, "camera", "Camera")],
    "Object": [
        (1, "id", "int"),
        (2, "category", "text"),
        (4, "rotation", "float*"),
        (5, "translation", "float*"),
        (6, "scale", "float*"),
    ],
    "Sequence": [(1, "objects", "Object*"), (2, "frame_annotations", "FrameAnnotation*")],
}
