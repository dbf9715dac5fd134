# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The IG3D row: one image, its camera, the objects in it and a conversation about them.

One schema serves training, evaluation and users' own data. Lengths are metres in the camera frame (x right, y down, z
forward), pixels are of the image frame ((0, 0) at the top-left corner of the top-left pixel).

    image           the photograph; the image frame is that after its EXIF orientation is applied
    image_id        unique over the data set, "kitti/training/000008"
    source, split   where the row comes from, "kitti", "training"
    intrinsics      [3, 3] K, pixels
    objects         each with
        id              unique within the row
        category        "car"
        center          [3] (x, y, z) of the box's middle, metres
        size            [3] (length, height, width) along the box's own x, y, z, metres
        rotation        [3][3] box to camera
        box_2d          [4] (x_min, y_min, x_max, y_max) of the projected 3D box, pixels; extends beyond the image
                        where the object does; null where the box lies wholly behind the camera
        visibility      visible share of the object, 0 to 1; null where the source has none
        truncation      share of the object outside the image, 0 to 1; null where the source has none
        occlusion       KITTI's level, 0 fully visible, 1 partly, 2 largely occluded, 3 unknown; null where the source
                        has none
        ignore          true for an object that is never asked for, and no mistake when it is found
        attributes      {str: str}, {} where there are none
    messages        the conversation: an optional system message, then user and assistant in turn. <image> stands once
                    in the first user message, <box_3d> in the assistant's messages for each box meant there
    targets         object ids, one for each <box_3d>, in order
    task            one of TASKS for each turn of the assistant, in order
    meanings        for each turn of the assistant, in order: {"kind": kind of phrase or question, "form": its logical
                    form (`expressions`), "rewritten": true if a captioner wrote the words}; any of these may be
                    missing, {} where nothing is known; null where nothing is known of any turn

The keys of `attributes` and `meanings` vary, which an Arrow struct cannot hold. The feature type Json (datasets 4.7
and later) stores each mapping as text; it reads and writes as a plain dict.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from datasets import Features, Image, Json, List, Value
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage

from llmi3d.processing.geometry_llmi3d import box_corners, check_intrinsics, project_box_2d
from llmi3d.processing.image_processing_llmi3d import load_image
from llmi3d.processing.processing_llmi3d import GROUNDING_PROMPT

TASKS = ("grounding", "multi", "absent", "vqa", "caption")
IMAGE_PLACEHOLDER = "<image>"
BOX_PLACEHOLDER = "<box_3d>"
GROUNDING_ANSWER = BOX_PLACEHOLDER


def _vector(length: int) -> List:
    return List(Value("float64"), length=length)


IG3D_FEATURES = Features(
    {
        "image": Image(),
        "image_id": Value("string"),
        "source": Value("string"),
        "split": Value("string"),
        "intrinsics": List(_vector(3), length=3),
        "objects": List(
            {
                "id": Value("string"),
                "category": Value("string"),
                "center": _vector(3),
                "size": _vector(3),
                "rotation": List(_vector(3), length=3),
                "box_2d": _vector(4),
                "visibility": Value("float64"),
                "truncation": Value("float64"),
                "occlusion": Value("int32"),
                "ignore": Value("bool"),
                "attributes": Json(),
            }
        ),
        "messages": List({"role": Value("string"), "content": Value("string")}),
        "targets": List(Value("string")),
        "task": List(Value("string")),
        "meanings": List(Json()),
    }
)

# Every other field of an object is required.
_NULLABLE = ("box_2d", "visibility", "truncation", "occlusion")


def make_object(
    object_id: str,
    category: str,
    center,
    size,
    rotation,
    intrinsics,
    *,
    visibility: float | None = None,
    truncation: float | None = None,
    occlusion: int | None = None,
    ignore: bool = False,
    attributes: dict[str, str] | None = None,
) -> dict:
    """Return one entry of a row's `objects`, with `box_2d` projected from the 3D box by K.

    Args:
        object_id: unique within the row.
        center, size, rotation: [3], [3], [3, 3] lists, arrays or tensors; metres, in the camera frame of `intrinsics`.
        intrinsics: [3, 3], pixels, image frame.
        category, visibility, truncation, occlusion, ignore, attributes: as at the top of this file.
    """
    center, size, rotation, intrinsics = (
        torch.as_tensor(value, dtype=torch.float64) for value in (center, size, rotation, intrinsics)
    )
    box_2d = project_box_2d(box_corners(center, size, rotation), intrinsics)
    return {
        "id": object_id,
        "category": category,
        "center": center.tolist(),
        "size": size.tolist(),
        "rotation": rotation.tolist(),
        "box_2d": None if box_2d.isnan().any() else box_2d.tolist(),
        "visibility": visibility,
        "truncation": truncation,
        "occlusion": occlusion,
        "ignore": ignore,
        "attributes": dict(attributes or {}),
    }


@dataclass(frozen=True)
class Turn:
    """One question about an image and its answer.

    Attributes:
        question: the user's words, without the image placeholder.
        answer: the assistant's words, with one `<box_3d>` for each target.
        task: one of TASKS.
        targets: object ids, one for each `<box_3d>`, in order.
        meaning: the turn's entry of `meanings`, {} where nothing is known.
    """

    question: str
    answer: str
    task: str
    targets: tuple[str, ...] = ()
    meaning: dict = field(default_factory=dict)

    @property
    def phrase(self) -> str:
        """What a question in the form of GROUNDING_PROMPT asks for; any other question as it is."""
        before, after = GROUNDING_PROMPT.split("{phrase}")
        if self.question.startswith(before) and self.question.endswith(after):
            return self.question[len(before) : len(self.question) - len(after)]
        return self.question


def turns_of(row: dict) -> list[Turn]:
    """Return the conversation of a valid row, turn by turn; `with_turns` is the inverse."""
    texts = [message["content"] for message in row["messages"] if message["role"] != "system"]
    meanings = row.get("meanings") or [None] * len(row["task"])
    targets = iter(row["targets"])
    turns = []
    for question, answer, task, meaning in zip(texts[::2], texts[1::2], row["task"], meanings, strict=True):
        meant = tuple(next(targets) for _ in range(answer.count(BOX_PLACEHOLDER)))
        turns.append(Turn(question.replace(IMAGE_PLACEHOLDER, "").strip(), answer, task, meant, meaning or {}))
    return turns


def with_turns(row: dict, turns: Sequence[Turn]) -> dict:
    """Return a row whose conversation is these turns; its system message and everything else stay.

    The first question gets the image placeholder. `meanings` stays null where it was and no turn has a meaning.
    """
    messages = [message for message in row.get("messages", ()) if message["role"] == "system"]
    for i, turn in enumerate(turns):
        start = "" if i else f"{IMAGE_PLACEHOLDER}\n"
        messages.append({"role": "user", "content": start + turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    meanings = [turn.meaning for turn in turns]
    return {
        **row,
        "messages": messages,
        "targets": [target for turn in turns for target in turn.targets],
        "task": [turn.task for turn in turns],
        "meanings": meanings if row.get("meanings") is not None or any(meanings) else None,
    }


def grounding_conversation(phrases: Sequence[str]) -> list[dict]:
    """Return the messages that ask for one object after another, each by its phrase, answered by one box each."""
    turns = [Turn(GROUNDING_PROMPT.format(phrase=phrase), GROUNDING_ANSWER, "grounding") for phrase in phrases]
    return with_turns({}, turns)["messages"]


def grounding_pairs(row: dict) -> list[tuple[str, dict]]:
    """Return (phrase, object) for each `grounding` turn of a valid row."""
    objects = {entry["id"]: entry for entry in row["objects"]}
    turns = [turn for turn in turns_of(row) if turn.task == "grounding"]
    return [(turn.phrase, objects[target]) for turn in turns for target in turn.targets]


# --------------------------------------------------------------------------------------------------------- validation


def validate_row(row: dict) -> None:
    """Check everything that the top of this file states about a row.

    Only the size of the image is read. K is checked against it, so a missing image is found as well.

    Args:
        row: a dict as in IG3D_FEATURES. `image` is a Pillow image, a path, or {"path", "bytes"}.

    Raises:
        ValueError: names the field, what was given and what is wanted.
    """
    _check_keys("row", row, IG3D_FEATURES)
    for name in ("image_id", "source", "split"):
        _check_text(name, row[name])
    for name in ("objects", "messages", "targets", "task"):
        if not isinstance(row[name], list):
            raise ValueError(f"{name}: got {row[name]!r}, want a list.")
    check_intrinsics(_numbers("intrinsics", row["intrinsics"], (3, 3)), image_size(row["image"]))

    objects = {}
    for i, entry in enumerate(row["objects"]):
        where = f"objects[{i}]"
        _check_object(where, entry)
        if entry["id"] in objects:
            raise ValueError(f"{where}.id: got {entry['id']!r} a second time, want ids unique within the row.")
        objects[entry["id"]] = entry

    _check_conversation(row["messages"])
    answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    if len(row["task"]) != len(answers):
        raise ValueError(f"task: got {len(row['task'])} for {len(answers)} turns of the assistant, want one for each.")
    for i, task in enumerate(row["task"]):
        if task not in TASKS:
            raise ValueError(f"task[{i}]: got {task!r}, want one of {', '.join(TASKS)}.")
    _check_meanings(row.get("meanings"), len(answers))

    count = sum(answer.count(BOX_PLACEHOLDER) for answer in answers)
    if count != len(row["targets"]):
        raise ValueError(
            f"targets: got {len(row['targets'])} for {count} {BOX_PLACEHOLDER} of the assistant, want one for each."
        )
    for i, target in enumerate(row["targets"]):
        if target not in objects:
            raise ValueError(f"targets[{i}]: got {target!r}, want one of the object ids {list(objects)}.")
        if objects[target]["ignore"]:
            raise ValueError(f"targets[{i}]: got {target!r}, which is an object to ignore; want one to be found.")


def _check_object(where: str, entry: dict) -> None:
    _check_keys(where, entry, IG3D_FEATURES["objects"].feature, _NULLABLE)
    for name in ("id", "category"):
        _check_text(f"{where}.{name}", entry[name])
    if not isinstance(entry["ignore"], bool):
        raise ValueError(f"{where}.ignore: got {entry['ignore']!r}, want true or false.")
    center = _numbers(f"{where}.center", entry["center"], (3,))
    if center[2] <= 0 and not entry["ignore"]:
        raise ValueError(
            f"{where}.center: got a depth of {center[2]:g} m, want > 0 (in front of the camera), or ignore set."
        )
    size = _numbers(f"{where}.size", entry["size"], (3,))
    if (size <= 0).any():
        raise ValueError(f"{where}.size: got {size.tolist()}, want (length, height, width) above 0 m.")
    rotation = _numbers(f"{where}.rotation", entry["rotation"], (3, 3))
    # Wide enough for matrices written with four decimals.
    if (rotation.T @ rotation - torch.eye(3)).abs().max() > 1e-3 or rotation.det() < 0:
        raise ValueError(f"{where}.rotation: got {rotation.tolist()}, want orthonormal columns and determinant +1.")
    if entry.get("box_2d") is None:
        if not entry["ignore"]:
            raise ValueError(f"{where}.box_2d: got none, want (x_min, y_min, x_max, y_max), or ignore set.")
    else:
        x_min, y_min, x_max, y_max = _numbers(f"{where}.box_2d", entry["box_2d"], (4,)).tolist()
        if x_min > x_max or y_min > y_max:
            raise ValueError(f"{where}.box_2d: got {entry['box_2d']}, want x_min <= x_max and y_min <= y_max.")
    for name, levels in (("visibility", "0 to 1"), ("truncation", "0 to 1"), ("occlusion", "0, 1, 2, 3")):
        value = entry.get(name)
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (value in (0, 1, 2, 3) if name == "occlusion" else 0 <= value <= 1):
            raise ValueError(f"{where}.{name}: got {value!r}, want {levels} or null.")
    attributes = entry["attributes"]
    if not isinstance(attributes, dict) or not all(isinstance(text, str) for kv in attributes.items() for text in kv):
        raise ValueError(f"{where}.attributes: got {attributes!r}, want a mapping of strings to strings.")


def _check_meanings(meanings: list[dict] | None, turns: int) -> None:
    if meanings is None:
        return
    if not isinstance(meanings, list) or len(meanings) != turns:
        raise ValueError(f"meanings: got {meanings!r}, want a list with one entry for each of {turns} turns, or null.")
    for i, meaning in enumerate(meanings):
        if not isinstance(meaning, dict) or set(meaning) - {"kind", "form", "rewritten"}:
            raise ValueError(f"meanings[{i}]: got {meaning!r}, want a mapping with kind, form or rewritten at most.")
        if not isinstance(meaning.get("kind", ""), str):
            raise ValueError(f"meanings[{i}].kind: got {meaning['kind']!r}, want a string.")


def _check_conversation(messages: list[dict]) -> None:
    for i, message in enumerate(messages):
        _check_keys(f"messages[{i}]", message, IG3D_FEATURES["messages"].feature)
        if not isinstance(message["content"], str):
            raise ValueError(f"messages[{i}].content: got {message['content']!r}, want a string.")
    roles = [message["role"] for message in messages]
    turns = messages[1:] if roles[:1] == ["system"] else messages
    if not turns or [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(f"messages: got the roles {roles}, want an optional system, then user and assistant in turn.")
    for i, message in enumerate(messages):
        where, wanted = f"messages[{i}].content", int(i == len(messages) - len(turns))
        count = message["content"].count(IMAGE_PLACEHOLDER)
        if count != wanted:
            raise ValueError(
                f"{where}: got {count} {IMAGE_PLACEHOLDER}, want {wanted}: one in the first user turn, none elsewhere."
            )
        count = message["content"].count(BOX_PLACEHOLDER)
        if count and message["role"] != "assistant":
            raise ValueError(f"{where}: got {count} {BOX_PLACEHOLDER} of the {message['role']}, want none.")


def _check_keys(where: str, given: dict, wanted: dict, optional: tuple[str, ...] = ()) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{where}: got {type(given).__name__}, want a dict with {', '.join(wanted)}.")
    for problem, names in (
        ("misses", set(wanted) - set(given) - set(optional)),
        ("has no field", set(given) - set(wanted)),
    ):
        if names:
            raise ValueError(f"{where}: {problem} {', '.join(sorted(names))}; want the fields {', '.join(wanted)}.")


def _check_text(where: str, value) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: got {value!r}, want a string that is not empty.")


def _numbers(where: str, value, shape: tuple[int, ...]) -> torch.Tensor:
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{where}: got {value!r}, want numbers of shape {shape}.") from None
    if numbers.shape != shape or not torch.isfinite(numbers).all():
        raise ValueError(f"{where}: got {value!r}, want finite numbers of shape {shape}.")
    return numbers


def upright_image(image) -> PILImage.Image:
    """Return a row's image as RGB, with its EXIF orientation applied: the image frame of the row.

    Args:
        image: a Pillow image, a path, or {"path", "bytes"}.

    Raises:
        ValueError: not an image.
    """
    if isinstance(image, dict):
        image = image["path"] if image.get("bytes") is None else PILImage.open(io.BytesIO(image["bytes"]))
    return ImageOps.exif_transpose(load_image(image)).convert("RGB")


def image_size(image) -> tuple[int, int]:
    """Return (width, height) in pixels of a row's image after its EXIF orientation. Only a file's header is read.

    Args:
        image: a Pillow image, a path, or {"path", "bytes"}.

    Raises:
        ValueError: not an image.
    """
    if isinstance(image, PILImage.Image):
        return image.size
    if isinstance(image, dict):
        image = image["path"] if image.get("bytes") is None else io.BytesIO(image["bytes"])
    try:
        with PILImage.open(image) as opened:  # reads the header alone
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return opened.size[::-1] if turned else opened.size
    except (OSError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"image: got {image!r} ({error}), want a Pillow image or one that Pillow can open.") from None
