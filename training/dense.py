# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Dense 3D labels: places of an image are asked, by the same heads, for the box of the object that they show.

A phrase says something about one object; an instance map says something about every object of the image. Where there
is one (rendered or segmented data), a random sample of places is asked as if each were pointed at. Sight is so learned
as by a dense detector, and what is left to the query token is to find the right place.

That, too, is taught: a query token points at places that show its object, and where words speak of an object, half of
the heads of the last two layers are asked to attend to the visual tokens that show it (`gaze_loss`).

These are aids of training; inference knows nothing of them. Without pointing, places are visual tokens, and the heads
read the language model's last state there.

An IG3D row's `instance_map` is a grey image of any size over the same view: 0 for nothing, else 1 + the index among
the row's `objects`.

Shapes: B images, N visual tokens, P places, S sampled places, M objects (padded), A vocabularies, G gazes: tokens that
speak of an object.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from transformers.utils import ModelOutput

from llmi3d.box_heads_llmi3d import Box3DHeadOutput, states_at
from llmi3d.processing.geometry_llmi3d import Camera
from llmi3d.processing.image_processing_llmi3d import load_image
from llmi3d.training.losses import places_inside

NOTHING = -1  # index of the object in a cell without one


@dataclass(frozen=True)
class DenseLabels:
    """Dense labels of a batch.

    Attributes:
        count: places sampled of each image.
        vocabularies: names of objects that classifiers learn to tell, by attribute ("category" or a key of
            `attributes`).
    """

    count: int
    vocabularies: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """What the network gets of its canvas, network pixels: all of it, or its middle without padding.

    Attributes:
        canvas: side of the canvas.
        size: (height, width) of what the network gets.
        tokens: (rows, columns) of visual tokens.
        places: (rows, columns) of places that query tokens can point at.
    """

    canvas: int
    size: tuple[int, int]
    tokens: tuple[int, int]
    places: tuple[int, int]


# ------------------------------------------------------------------------------------------------------------- labels


def open_map(row: dict[str, Any]) -> np.ndarray | None:
    """Return a row's `instance_map` as an array [h, w], upright; None where it has none.

    Raises:
        ValueError: a map in colour, or of more objects than the row has.
    """
    image = row.get("instance_map")
    if image is None:
        return None
    if isinstance(image, dict):
        image = image["path"] if image.get("bytes") is None else Image.open(io.BytesIO(image["bytes"]))
    instances = np.asarray(ImageOps.exif_transpose(load_image(image)))
    known = len(row["objects"])
    if instances.ndim != 2 or instances.max() > known:
        given = f"the shape {instances.shape} and values up to {instances.max()}"
        raise ValueError(f"instance_map: got {given}, want one grey channel and at most {known}, for as many objects.")
    return instances


def cells_of_objects(instances: np.ndarray, camera: Camera, frame: Frame, grid: tuple[int, int]) -> Tensor:
    """Return the index of the object that each cell of a grid shows, or NOTHING.

    It is the object with most pixels of the cell, nothing included. A small object that is nowhere the first gets the
    cell in which it has most pixels, unless a still smaller one claims it too.

    Args:
        instances: [h, w], see `open_map`.
        camera: of the image, which says where it lies on the canvas.
        frame: the part of the canvas that the grid covers.
        grid: (rows, columns).

    Returns:
        int64 [rows, columns].
    """
    size, (rows, columns) = frame.size, grid
    width, height = (round(side * scale) for side, scale in zip(camera.image_size, camera.scale, strict=True))
    left, top = (
        round(offset) - (frame.canvas - side) // 2 for offset, side in zip(camera.offset, size[::-1], strict=True)
    )
    y = ((np.arange(height) + 0.5) * instances.shape[0] / height).astype(int)
    x = ((np.arange(width) + 0.5) * instances.shape[1] / width).astype(int)
    full = np.zeros(size, np.int64)
    full[top : top + height, left : left + width] = instances[y[:, None], x]
    cells = (np.arange(size[0]) * rows // size[0])[:, None] * columns + np.arange(size[1]) * columns // size[1]
    kinds = int(instances.max()) + 1
    counts = np.bincount((cells * kinds + full).ravel(), minlength=rows * columns * kinds).reshape(-1, kinds)
    owners, total = counts.argmax(1), counts.sum(0)
    small = [i for i in range(1, kinds) if total[i] and not (owners == i).any()]
    for i in sorted(small, key=lambda kind: -total[kind]):  # the smallest last, so that it has the cell
        owners[counts[:, i].argmax()] = i
    return torch.from_numpy(owners - 1).view(rows, columns)


def cells_of_boxes(boxes_2d_px: Tensor, frame: Frame) -> Tensor:
    """Return the places inside the visible part of 2D boxes [Q, 4] (canvas, xyxy): bool [Q, rows, columns]."""
    visible = boxes_2d_px.clamp(0, frame.canvas)
    return places_inside(visible, frame.places, frame.size[0] / frame.places[0], frame.canvas)


def names_of_objects(objects: Iterable[dict[str, Any]], vocabularies: dict[str, list[str]]) -> Tensor:
    """Return the class of each object in each vocabulary, -1 where it has none there: int64 [M, A]."""
    index = {name: {value: i for i, value in enumerate(values)} for name, values in vocabularies.items()}
    classes = [[index[name].get(name_of(entry, name), -1) for name in index] for entry in objects]
    return torch.tensor(classes, dtype=torch.long).reshape(len(classes), len(index))


def name_of(entry: dict[str, Any], vocabulary: str) -> str | None:
    """Return an object's category, or one of its attributes."""
    return entry["category"] if vocabulary == "category" else (entry["attributes"] or {}).get(vocabulary)


def sample_cells(objects: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draw cells that show an object, every object of an image as likely as the others.

    Args:
        objects: [B, P], index of the object or NOTHING.
        count: cells an image.

    Returns:
        (cells [B, S], mask bool [B, S]): without an object in the image the mask is False.
    """
    same = objects[:, :, None] == objects[:, None]
    weights = torch.where(objects == NOTHING, 0.0, 1 / same.sum(-1))
    any_there = weights.sum(-1) > 0
    weights = torch.where(any_there[:, None], weights, 1.0)
    cells = torch.multinomial(weights, count, replacement=True)
    return cells, any_there[:, None].expand(-1, count)


def draw_dense(
    rows: list[dict[str, Any]],
    maps: list[np.ndarray | None],
    cameras: list[Camera],
    frame: Frame,
    wanted: DenseLabels,
) -> dict[str, Any]:
    """Draw places that show an object, of images with instance maps.

    Returns:
        `places` [B, S] and their `mask`; `names` [B, S, A] of their objects, -1 where there is none; `shows_object`
        bool [B, N], whether a visual token does, and `has_map` bool [B]. Beside these `shown` [B, N], which object,
        and `indices`, B times [S] or [0], the objects of the places.
    """
    everywhere = [torch.full(grid, NOTHING) for grid in (frame.tokens, frame.places)]
    shown, usable = [], []
    for row, instances, camera in zip(rows, maps, cameras, strict=True):
        tokens, places = everywhere
        if instances is not None:
            tokens = cells_of_objects(instances, camera, frame, frame.tokens)
            places = tokens
            if frame.places != frame.tokens:
                places = cells_of_objects(instances, camera, frame, frame.places)
            # A box whose middle lies behind the camera has no depth to learn.
            asked = [entry["center"][2] > 0 and not entry["ignore"] for entry in row["objects"]]
            places = places.where(torch.tensor([*asked, False])[places], NOTHING)  # NOTHING is the last
        shown.append(tokens.flatten())
        usable.append(places.flatten())
    shown, usable = torch.stack(shown), torch.stack(usable)
    places, mask = sample_cells(usable, wanted.count)
    indices = usable.gather(1, places)
    names = []
    for row, chosen in zip(rows, indices, strict=True):
        none = torch.full((1, len(wanted.vocabularies)), -1)  # NOTHING is the last
        names.append(torch.cat((names_of_objects(row["objects"], wanted.vocabularies), none))[chosen])
    return {
        "places": places,
        "mask": mask,
        "names": torch.stack(names),
        "shows_object": shown != NOTHING,
        "has_map": torch.tensor([instances is not None for instances in maps]),
        "shown": shown,
        "indices": [chosen[drawn] for chosen, drawn in zip(indices, mask, strict=True)],
    }


def gaze_targets(shown: Tensor, spoken_of: list[tuple]) -> dict[str, Tensor]:
    """Say which visual tokens show what tokens speak of.

    Args:
        shown: [B, N], index of the object or NOTHING.
        spoken_of: (sample, position, object indices) each; objects that no visual token shows are left out.

    Returns:
        `samples` [G], `positions` [G], `cells` bool [G, N].
    """
    cells = [torch.isin(shown[sample], torch.tensor(objects)) for sample, _, objects in spoken_of]
    seen = [i for i, of_token in enumerate(cells) if of_token.any()]
    return {
        "samples": torch.tensor([spoken_of[i][0] for i in seen], dtype=torch.long),
        "positions": torch.tensor([spoken_of[i][1] for i in seen], dtype=torch.long),
        "cells": torch.stack([cells[i] for i in seen]) if seen else torch.zeros(0, shown.shape[1], dtype=torch.bool),
    }


# ------------------------------------------------------------------------------------------------------------- losses


def gaze_loss(
    attentions: tuple[Tensor, ...], gaze: dict[str, Tensor], first: int, count: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of attending to what is spoken of: the first half of the heads of the last two layers.

    Args:
        attentions: [B, heads, T, T] of each layer, probabilities.
        gaze: from `gaze_targets`.
        first: position of the first visual token.
        count: gazes that the sum is divided by; this batch's by default.

    Returns:
        A number; 0 without gazes.
    """
    losses = []
    count = max(len(gaze["samples"]), 1) if count is None else count
    for layer in attentions[-2:]:
        heads = layer.shape[1] // 2
        chosen = layer[gaze["samples"], :heads, gaze["positions"]]  # [G, heads / 2, T]
        chosen = chosen[..., first : first + gaze["cells"].shape[1]].float()
        seen = (chosen * gaze["cells"][:, None]).sum(-1)
        losses.append(-seen.clamp(min=1e-12).log().sum() / (count * heads))
    return torch.stack(losses).mean()


def dense_boxes(box_head: nn.Module, image, states: Tensor | None, dense: dict[str, Any]) -> Box3DHeadOutput:
    """Ask the 3D heads about the sampled places.

    Args:
        box_head: `Box3DHead`.
        image: `LLMI3DImageFeatures`.
        states: [B, N, C], states of the visual tokens, which are read without pointing.
        dense: from `draw_dense`.
    """
    if box_head.config.pointing:
        return box_head(None, dense["mask"], **image.sight._asdict(), places=dense["places"])
    return box_head(states_at(states, dense["places"]), dense["mask"], image.depth_logits)


@dataclass
class DenseDetectorOutput(ModelOutput):
    """Answers of `DenseDetector`.

    Attributes:
        boxes_3d: answers at the sampled places.
        depth_logits: the object-level depth map, if there is one.
        names: logits [B, S, V] of each vocabulary.
        objectness: [B, N], logits of whether a visual token shows an object.
    """

    boxes_3d: Box3DHeadOutput | None = None
    depth_logits: Tensor | None = None
    names: list[Tensor] | None = None
    objectness: Tensor | None = None


class DenseDetector(nn.Module):
    """The towers, feature mining, projector and 3D heads of a model, trained without its language model.

    Linear classifiers, which are thrown away, make visual tokens tell what they show.

    Args:
        model: a `LLMI3DForConditionalGeneration`; its parts are trained, not copied.
        classes: size of each vocabulary of names.
    """

    def __init__(self, model: nn.Module, classes: list[int]):
        super().__init__()
        self.config = model.config
        base = model.base_model
        self.parts = nn.ModuleDict(
            {
                "vision_tower": base.vision_tower,
                "high_res_tower": base.high_res_tower,
                "feature_mining": base.feature_mining,
                "multi_modal_projector": base.multi_modal_projector,
                "box_head": model.box_head,
            }
        )
        width = model.config.text_config.hidden_size
        self.classifiers = nn.ModuleList(nn.Linear(width, size) for size in classes)
        self.objectness = nn.Linear(width, 1)
        # Out of the reach of `parameters` and `state_dict`.
        self._model = [model]

    @property
    def model(self) -> nn.Module:
        """The model whose parts are trained."""
        return self._model[0]

    def forward(
        self,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
        dense: dict[str, Any] | None = None,
        vision_features: Tensor | None = None,
        high_res_features: list[Tensor] | None = None,
    ) -> DenseDetectorOutput:
        """
        Args:
            pixel_values, high_res_pixel_values, vision_features, high_res_features: as in
                `LLMI3DModel.get_image_features`.
            dense: from `draw_dense`.
        """
        image = self.model.get_image_features(
            pixel_values, high_res_pixel_values, vision_features, high_res_features, return_dict=True
        )
        tokens = image.pooler_output
        boxes = dense_boxes(self.parts["box_head"], image, tokens, dense)
        chosen = states_at(tokens, self._tokens_at(dense["places"], image))
        return DenseDetectorOutput(
            boxes_3d=boxes,
            depth_logits=image.depth_logits,
            names=[classifier(chosen).float() for classifier in self.classifiers],
            objectness=self.objectness(tokens).float().squeeze(-1),
        )

    @staticmethod
    def _tokens_at(places: Tensor, image) -> Tensor:
        """Return the visual tokens [B, S] in which places lie."""
        if image.cells is None:
            return places
        (height, width), (rows, columns) = image.cells.shape[-2:], image.tokens.shape[1:3]
        return (places // width * rows // height) * columns + places % width * columns // width


def naming_losses(outputs: DenseDetectorOutput, dense: dict[str, Any], counts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the classification losses of `DenseDetector`: `names`, summed over vocabularies, and `objectness`.

    Args:
        outputs: of `DenseDetector`.
        dense: from `draw_dense`.
        counts: what sums are divided by: `names` [A] and `maps`, images with a map; this batch's by default.
    """
    total = outputs.objectness.new_zeros(())
    known = counts.get("names", (dense["names"] >= 0).sum((0, 1)).clamp(min=1))
    for i, logits in enumerate(outputs.names):
        wanted = dense["names"][..., i]
        each = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1, reduction="sum")
        total = total + each / known[i]
    there, mapped = dense["shows_object"].float(), dense["has_map"]
    right = F.binary_cross_entropy_with_logits(outputs.objectness, there, reduction="none").mean(1)
    objectness = (right * mapped).sum() / counts.get("maps", mapped.sum().clamp(min=1))
    return {"names": total, "objectness": objectness}
