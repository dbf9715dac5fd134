# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Collate IG3D rows into what the network reads and what the criterion compares with.

Shapes: B rows, T tokens of a sequence, N visual tokens, Q query tokens (padded), H x W places (see `place_px`).
"""

import io
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from llmi3d.data.schema import BOX_PLACEHOLDER, IMAGE_PLACEHOLDER
from llmi3d.processing.geometry_llmi3d import Camera, encode_boxes
from llmi3d.processing.image_processing_llmi3d import load_image
from llmi3d.training.dense import (
    DenseLabels,
    Frame,
    cells_of_boxes,
    cells_of_objects,
    draw_dense,
    gaze_targets,
    open_map,
)
from llmi3d.training.feature_cache import stack_features
from llmi3d.training.packing import TurnPacker


class LLMI3DDataCollator:
    """Turn IG3D rows (`llmi3d.data.schema`) into a batch for `LLMI3DTrainer`.

    Only the assistant's words are learned. Every object of a row that lies in front of the camera is painted into the
    target of the depth map, ignored ones too.

    A row may have an `instance_map` (see `llmi3d.training.dense`), which says which object each pixel shows. Without
    one, a query token may point anywhere inside the visible 2D box, and the row has no dense labels.

    Rows of a feature cache (`llmi3d.training.feature_cache`) bring features instead of pixels.

    Args:
        processor: the model's `LLMI3DProcessor`.
        symmetric_categories: categories whose rotation is judged up to symmetry. An object's attribute
            `symmetric: "true"` does the same for it alone.
        pack_turns: whether the turns of a row share one sequence without seeing each other (see `TurnPacker`), instead
            of forming one conversation.
        crop_padding: as in `LLMI3DImageProcessorKwargs`; by default as the image processor has it. Cached features are
            of the whole canvas.
        place_px: side of a place that query tokens can point at, network pixels (`config.place_px` of a model with
            pointing). With it the targets have `pointing_places`.
        dense: dense labels to draw; none by default.
        words: whether the batch has conversations; without, it has images and dense labels alone.

    Raises:
        ValueError: `words=False` without dense labels. On a call: no rows, special tokens in a user's words, or other
            counts of `<box_3d>` than of targets.
    """

    def __init__(
        self,
        processor,
        symmetric_categories: tuple[str, ...] = (),
        *,
        pack_turns: bool = False,
        crop_padding: bool | None = None,
        place_px: float | None = None,
        dense: DenseLabels | None = None,
        words: bool = True,
    ):
        if not words and dense is None:
            raise ValueError("words: got False without dense labels, want one of them to learn.")
        self.processor = processor
        self.symmetric_categories = frozenset(symmetric_categories)
        self.packer = TurnPacker(processor) if pack_turns else None
        self.crop_padding, self.place_px = crop_padding, place_px
        self.dense, self.words = dense, words

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Returns:
            `input_ids`, `attention_mask`, `labels` [B, T], `pixel_values`, `high_res_pixel_values`, `targets_3d` (the
            fields of `Box3DTargets` as a dictionary), and `image_id`, B names for messages.

            With `pack_turns`, `attention_mask` is additive, [B, 1, T, T], and there are `position_ids` [B, T] and
            `logits_to_keep`, with `labels` of those last positions only.
            With `dense` there is `dense`, as of `draw_dense`, and with `pack_turns` `gaze`, as of `gaze_targets`.
            Without `words`, `targets_3d` are the dense targets.
        """
        if not rows:
            raise ValueError("rows: got an empty list, want at least one.")
        data, cameras, spoken_of = self._inputs(rows)
        objects = [self._objects(row) for row in rows]
        intrinsics = torch.stack([camera.network_intrinsics() for camera in cameras])
        painted = self._painted(objects, intrinsics)
        frame = self._frame(data)
        data["image_id"] = [str(row.get("image_id")) for row in rows]
        if self.words:
            indices = [_target_indices(row) for row in rows]
            targets = _chosen(objects, indices, intrinsics) | painted
            if self.place_px is not None:
                targets["pointing_places"] = self._places(rows, indices, objects, intrinsics, cameras, frame)
            data["targets_3d"] = targets
        if self.dense is not None:
            maps = [open_map(row) for row in rows]
            labels = draw_dense(rows, maps, cameras, frame, self.dense)
            chosen = _chosen(objects, labels.pop("indices"), intrinsics) | painted
            shown = labels.pop("shown")
            if self.words:
                data["dense"] = {**labels, "targets": chosen}
                if self.packer is not None:
                    data["gaze"] = gaze_targets(shown, spoken_of)
            else:
                data |= {"dense": labels, "targets_3d": chosen}
        return data

    # ---------------------------------------------------------------------------------------------- pixels and words

    def _inputs(self, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], list[Camera], list[tuple]]:
        """Return network inputs and labels, cameras, and which objects tokens speak of (see `TurnPacker`)."""
        features, images = stack_features(rows), self.processor.image_processor
        crop = {} if self.crop_padding is None else {"crop_padding": self.crop_padding}
        if features:
            crop = {"crop_padding": False}  # they are of the whole canvas
        intrinsics, spoken_of = [row["intrinsics"] for row in rows], []
        if self.words and self.packer is None:
            # Tensors only afterwards: transformers compares each token with each span of the assistant's words, one at
            # a time, and with tensors that took five sixths of a batch's time.
            batch = self.processor.apply_chat_template(
                [self._conversation(row) for row in rows],
                tokenize=True,
                return_dict=True,
                return_tensors=None,
                return_assistant_tokens_mask=True,
                processor_kwargs={"intrinsics": intrinsics, "padding_side": "right", **crop},
            )
            batch.convert_to_tensors("pt")
            data = {key: batch[key] for key in self.processor.model_input_names if key in batch}
            cameras = batch.cameras
            data["labels"] = batch["input_ids"].masked_fill(~batch["assistant_masks"].bool(), -100)
        else:
            if features and rows[0]["image"] is None:
                data, cameras = {}, [row["camera"] for row in rows]
                size = images.size["height"], images.size["width"]
            else:
                pixels = images([_image_of(row) for row in rows], intrinsics=intrinsics, return_tensors="pt", **crop)
                data, cameras, size = pixels.data, pixels.cameras, pixels["pixel_values"].shape[-2:]
            if self.words:
                for row in rows:
                    _check_targets(row)
                words, spoken_of = self.packer(rows, size)
                data = {**words, **data}
        for name, pixels in (("vision_features", "pixel_values"), ("high_res_features", "high_res_pixel_values")):
            if name in features:
                data.pop(pixels, None)
        return {**data, **features}, cameras, spoken_of

    def _conversation(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        _check_targets(row)
        conversation, refuse = [], self.processor.refuse_special_tokens
        for message in row["messages"]:
            text = message["content"]
            if message["role"] == "assistant":
                text = self.processor.box_3d_token.join(map(refuse, text.split(BOX_PLACEHOLDER)))
                conversation.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
                continue
            if message["role"] == "system":
                conversation.append({"role": "system", "content": refuse(text)})
                continue
            blocks = []
            if IMAGE_PLACEHOLDER in text:
                blocks.append({"type": "image", "image": _image_of(row)})
                text = text.replace(IMAGE_PLACEHOLDER, "").strip()
            conversation.append({"role": "user", "content": [*blocks, {"type": "text", "text": refuse(text)}]})
        return conversation

    def _frame(self, data: dict[str, Any]) -> Frame:
        """The part of the canvas that the network gets, and its grids of visual tokens and places."""
        patch = self.processor.patch_size
        if "vision_features" in data:
            tokens = tuple(data["vision_features"].shape[1:3])
        else:
            tokens = tuple(side // patch for side in data["pixel_values"].shape[-2:])
        canvas = self.processor.image_processor.high_res_size["height"]
        grid = self.processor.image_processor.size["height"] // patch
        size = tuple(side * canvas // grid for side in tokens)
        places = tokens if self.place_px is None else tuple(round(side / self.place_px) for side in size)
        return Frame(canvas, size, tokens, places)

    # -------------------------------------------------------------------------------------------------------- targets

    def _objects(self, row: dict[str, Any]) -> dict[str, Tensor]:
        """Return float64 center [M, 3], size [M, 3], rotation [M, 3, 3] and bool symmetric [M] of a row's objects."""
        entries = row["objects"]
        shapes = {"center": (3,), "size": (3,), "rotation": (3, 3)}
        stacked = {
            name: torch.tensor([entry[name] for entry in entries], dtype=torch.float64).reshape(-1, *shape)
            for name, shape in shapes.items()
        }
        symmetric = [self._is_symmetric(entry) for entry in entries]
        return {**stacked, "symmetric": torch.tensor(symmetric, dtype=torch.bool)}

    def _is_symmetric(self, entry: dict[str, Any]) -> bool:
        attributes = entry.get("attributes") or {}
        return entry["category"] in self.symmetric_categories or attributes.get("symmetric") == "true"

    def _painted(self, objects: list[dict[str, Tensor]], intrinsics: Tensor) -> dict[str, Tensor]:
        """Return what is painted into the depth map: every object in front of the camera."""
        painted = []
        for boxes, k in zip(objects, intrinsics, strict=True):
            front = boxes["center"][:, 2] > 0
            truth = self._encode(boxes, front, k)
            painted.append({"painted_boxes_2d_px": truth.box_2d_px, "painted_depths_virtual": truth.depth_virtual})
        return _in_float32(_pad(painted, "painted_mask"))

    def _encode(self, boxes: dict[str, Tensor], chosen: Tensor, k: Tensor):
        geometry = (boxes[name][chosen] for name in ("center", "size", "rotation"))
        return encode_boxes(*geometry, k, self.processor.virtual_focal_length)

    def _places(self, rows, indices, objects, intrinsics, cameras, frame: Frame) -> Tensor:
        """Return the places that show each target, bool [B, Q, H, W]: by the instance map, else by the 2D box."""
        shown = []
        for row, chosen, boxes, k, camera in zip(rows, indices, objects, intrinsics, cameras, strict=True):
            instances = open_map(row)
            if instances is None:
                shown.append({"places": cells_of_boxes(self._encode(boxes, chosen, k).box_2d_px, frame)})
            else:
                owners = cells_of_objects(instances, camera, frame, frame.places)
                shown.append({"places": owners[None] == chosen[:, None, None]})
        return _pad(shown, "mask")["places"]


def _target_indices(row: dict[str, Any]) -> Tensor:
    """Return the index among the row's objects of each target, [Q]."""
    index = {entry["id"]: i for i, entry in enumerate(row["objects"])}
    return torch.tensor([index[target] for target in row["targets"]], dtype=torch.long)


def _check_targets(row: dict[str, Any]) -> None:
    placeholders = sum(turn["content"].count(BOX_PLACEHOLDER) for turn in row["messages"])
    if placeholders != len(row["targets"]):
        raise ValueError(
            f"targets: row '{row.get('image_id')}' has {placeholders} {BOX_PLACEHOLDER} and {len(row['targets'])} "
            "targets."
        )


def _chosen(objects: list[dict[str, Tensor]], indices: list[Tensor], intrinsics: Tensor) -> dict[str, Tensor]:
    """Return the truth of some objects of each row, padded, as `Box3DTargets` names it."""
    boxes = []
    for of_row, chosen in zip(objects, indices, strict=True):
        boxes.append({name: value[chosen] for name, value in of_row.items()})
    targets = {**_pad(boxes, "mask"), "intrinsics": intrinsics}
    return _in_float32(targets)


def _in_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _image_of(row: dict[str, Any]) -> Image.Image:
    """Return a row's image upright, since K and boxes belong to the image as it is seen; a blank one for features."""
    image = row["image"]
    if image is None:
        return Image.new("RGB", row["camera"].image_size)
    if isinstance(image, dict):
        image = image["path"] if image.get("bytes") is None else Image.open(io.BytesIO(image["bytes"]))
    return ImageOps.exif_transpose(load_image(image))


def _pad(samples: list[dict[str, Tensor]], mask_name: str) -> dict[str, Tensor]:
    """Stack samples of differing length along a new first dimension, with a mask of what is real."""
    names = list(samples[0])
    padded = {
        name: torch.nn.utils.rnn.pad_sequence([sample[name] for sample in samples], batch_first=True) for name in names
    }
    lengths = torch.tensor([len(sample[names[0]]) for sample in samples])
    padded[mask_name] = torch.arange(padded[names[0]].shape[1]) < lengths[:, None]
    return padded
