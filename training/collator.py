# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""From IG3D rows to what the network reads and what the criterion compares with."""

import io
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from llmi3d.data.schema import BOX_PLACEHOLDER, IMAGE_PLACEHOLDER
from llmi3d.processing.geometry_llmi3d import encode_boxes
from llmi3d.processing.image_processing_llmi3d import load_image
from llmi3d.training.losses import Box3DTargets


class LLMI3DDataCollator:
    """Turns IG3D rows (`llmi3d.data.schema`) into a batch for `LLMI3DTrainer`.

    Only the assistant's words are learned. Every object of a row that lies before the camera is painted into the
    target of the depth map, ignored ones too.

    Args:
        processor: the model's `LLMI3DProcessor`.
        symmetric_categories: categories whose rotation is judged up to symmetry. An object's attribute
            `symmetric: "true"` does the same for it alone.

    Raises (on a call):
        ValueError: no rows, special tokens in a user's words, or other counts of `<box_3d>` than of targets.
    """

    def __init__(self, processor, symmetric_categories: tuple[str, ...] = ()):
        self.processor = processor
        self.symmetric_categories = frozenset(symmetric_categories)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Returns:
            `input_ids`, `attention_mask`, `labels` [B, T], `pixel_values`, `high_res_pixel_values`, `targets_3d` (the
            fields of `Box3DTargets` as a dictionary), and `image_id`, B names for messages.
        """
        if not rows:
            raise ValueError("rows: got an empty list, want at least one.")
        conversations = [self._conversation(row) for row in rows]
        # Tensors only afterwards: transformers compares each token with each span of the assistant's words, one at a
        # time, and with tensors that took five sixths of a batch's time.
        batch = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors=None,
            return_assistant_tokens_mask=True,
            processor_kwargs={"intrinsics": [row["intrinsics"] for row in rows], "padding_side": "right"},
        )
        batch.convert_to_tensors("pt")
        data = {key: batch[key] for key in self.processor.model_input_names if key in batch}
        data["labels"] = batch["input_ids"].masked_fill(~batch["assistant_masks"].bool(), -100)
        data["targets_3d"] = self._targets(rows, batch.cameras)
        data["image_id"] = [str(row.get("image_id")) for row in rows]
        return data

    def _conversation(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        conversation = []
        for message in row["messages"]:
            text = message["content"]
            if message["role"] == "assistant":
                text = self.processor.box_3d_token.join(map(self._words, text.split(BOX_PLACEHOLDER)))
                conversation.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
                continue
            if message["role"] == "system":
                conversation.append({"role": "system", "content": self._words(text)})
                continue
            blocks = []
            if IMAGE_PLACEHOLDER in text:
                blocks.append({"type": "image", "image": _open(row["image"])})
                text = text.replace(IMAGE_PLACEHOLDER, "").strip()
            conversation.append({"role": "user", "content": [*blocks, {"type": "text", "text": self._words(text)}]})
        return conversation

    def _words(self, text: str) -> str:
        return self.processor.refuse_special_tokens(text)

    def _targets(self, rows: list[dict[str, Any]], cameras: list) -> dict[str, Tensor]:
        intrinsics = torch.stack([camera.network_intrinsics() for camera in cameras])
        focal_length = self.processor.virtual_focal_length
        targets, painted = [], []
        for row, k in zip(rows, intrinsics, strict=True):
            objects = {entry["id"]: entry for entry in row["objects"]}
            wanted = [objects[target] for target in row["targets"]]
            placeholders = sum(message["content"].count(BOX_PLACEHOLDER) for message in row["messages"])
            if placeholders != len(wanted):
                raise ValueError(
                    f"targets: row '{row.get('image_id')}' has {placeholders} {BOX_PLACEHOLDER} and {len(wanted)} "
                    f"targets."
                )
            targets.append(
                {
                    **_stack_boxes(wanted),
                    "symmetric": torch.tensor([self._is_symmetric(entry) for entry in wanted], dtype=torch.bool),
                }
            )
            visible = _stack_boxes([entry for entry in objects.values() if entry["center"][2] > 0])
            truth = encode_boxes(visible["center"], visible["size"], visible["rotation"], k, focal_length)
            painted.append({"painted_boxes_2d_px": truth.box_2d_px, "painted_depths_virtual": truth.depth_virtual})
        batch = {**_pad(targets, "mask"), **_pad(painted, "painted_mask"), "intrinsics": intrinsics}
        return {key: value.float() if value.is_floating_point() else value for key, value in batch.items()}

    def _is_symmetric(self, entry: dict[str, Any]) -> bool:
        attributes = entry.get("attributes") or {}
        return entry["category"] in self.symmetric_categories or attributes.get("symmetric") == "true"


def _open(image: Any) -> Image.Image:
    """A row's image, upright: a row's K and boxes belong to the picture as it is seen."""
    if isinstance(image, dict):
        image = image["path"] if image.get("bytes") is None else Image.open(io.BytesIO(image["bytes"]))
    return ImageOps.exif_transpose(load_image(image))


def _stack_boxes(entries: list[dict[str, Any]]) -> dict[str, Tensor]:
    """float64 center [Q, 3], size [Q, 3], rotation [Q, 3, 3] of a row's objects, Q = 0 included."""
    shapes = {"center": (3,), "size": (3,), "rotation": (3, 3)}
    return {
        name: torch.tensor([entry[name] for entry in entries], dtype=torch.float64).reshape(-1, *shape)
        for name, shape in shapes.items()
    }


def _pad(samples: list[dict[str, Tensor]], mask_name: str) -> dict[str, Tensor]:
    """Stacks samples of differing length along a new first dimension, with a mask of what is real."""
    names = list(samples[0])
    padded = {
        name: torch.nn.utils.rnn.pad_sequence([sample[name] for sample in samples], batch_first=True) for name in names
    }
    lengths = torch.tensor([len(sample[names[0]]) for sample in samples])
    padded[mask_name] = torch.arange(padded[names[0]].shape[1]) < lengths[:, None]
    return padded


def targets_from(batch: dict[str, Tensor]) -> Box3DTargets:
    """`Box3DTargets` from the collator's `targets_3d`."""
    return Box3DTargets(**batch)
