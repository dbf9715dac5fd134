# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Dense 3D labels: visual tokens are asked, by the same heads, for the box of the object that they show.

A phrase says something about one object; an instance map says something about every object of the picture. Where there
is one (rendered or segmented data), the 3D heads read a random sample of visual tokens as if they were query tokens:
either as the projector gives them (to train the towers alone) or at the language model's last layer. Image tokens come
before all words, so what they say there depends on no phrase, and what is left to the query token is to find the right
place and copy.

That, too, is told: where words or a query token speak of an object, half of the heads of the last two layers are asked
to attend to the visual tokens that show it.

These are aids of training; inference knows nothing of them.

Shapes: B pictures, N visual tokens = cells (grid x grid), S sampled cells, M objects (padded), C channels, G gazes:
tokens that speak of an object.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer

from llmi3d.training.collator import _open
from llmi3d.training.losses import Box3DCriterion, Box3DTargets
from llmi3d.training.packing import PackedCollator
from llmi3d.training.trainer import LLMI3DTrainer

NOTHING = 255  # of an object's index in a cell


def cell_objects(instance_map: np.ndarray, place: list[int], canvas: int, grid: int) -> np.ndarray:
    """Which object each cell of a picture shows.

    The object with most pixels of the cell, nothing included. An object that is first nowhere, a small one, gets the
    cell in which it has most pixels, unless a still smaller one claims it too.

    Args:
        instance_map: uint8 [height, width]: 0 for nothing, else 1 + the object's index.
        place: (height, width, left, top) of the picture on the canvas, network pixels.
        canvas: side of the network frame, pixels.
        grid: cells along a side.

    Returns:
        uint8 [grid * grid], row-major: the object's index, or NOTHING.
    """
    height, width, left, top = place
    rows = ((np.arange(height) + 0.5) * instance_map.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * instance_map.shape[1] / width).astype(int)
    full = np.zeros((canvas, canvas), np.int64)
    full[top : top + height, left : left + width] = instance_map[rows[:, None], columns]
    side = np.arange(canvas) * grid // canvas
    cells = side[:, None] * grid + side
    counts = np.bincount((cells * 256 + full).ravel(), minlength=grid * grid * 256).reshape(-1, 256)
    counts = counts[:, : max(int(instance_map.max()), 0) + 1]
    owners = counts.argmax(1)
    total = counts.sum(0)
    small = [i for i in range(1, counts.shape[1]) if total[i] and not (owners == i).any()]
    for i in sorted(small, key=lambda one: -total[one]):  # the smallest last, so that it has the cell
        owners[counts[:, i].argmax()] = i
    return np.where(owners > 0, owners - 1, NOTHING).astype(np.uint8)


def name_classes(objects: list[dict[str, str | None]], vocabularies: dict[str, list[str]]) -> np.ndarray:
    """The class of each object in each vocabulary, -1 where it has none there.

    Args:
        objects: {"category": ..., "color": ...} each.
        vocabularies: by the same names.

    Returns:
        int16 [M + 1, A]; the first row is nobody's and all -1.
    """
    index = {name: {value: i for i, value in enumerate(values)} for name, values in vocabularies.items()}
    classes = [[index[name].get(one.get(name), -1) for name in index] for one in objects]
    return np.asarray([[-1] * len(index), *classes], np.int16)


def sample_cells(objects: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draws cells that show an object, every object of a picture as likely as the others.

    Args:
        objects: [B, N], index of the object or NOTHING.
        count: cells a picture.

    Returns:
        (cells [B, S], mask bool [B, S]): without an object in the picture the mask is False.
    """
    same = objects[:, :, None] == objects[:, None]
    weights = torch.where(objects == NOTHING, 0.0, 1 / same.sum(-1))
    any_there = weights.sum(-1) > 0
    weights = torch.where(any_there[:, None], weights, 1.0)
    cells = torch.multinomial(weights, count, replacement=True)
    return cells, any_there[:, None].expand(-1, count)


class DenseCollator(PackedCollator):
    """As `PackedCollator`; the batch also has `dense`: what the sampled cells show, and with words `gaze`: which cells
    show what a token speaks of (`samples` [G], `positions` [G], `cells` bool [G, N]).

    Its records also have `cells` (uint8 [N], from `cell_objects`) and `names` (from `name_classes`).

    Args:
        cells: sampled of each picture.
        words: whether the batch holds conversations; else pixels and dense labels alone.
        unordered: share of the cells whose corners are judged as a set of points, as those of symmetric objects are.
            Which end is the front is the last thing that is learned, and until then it pulls every box both ways.
        kwargs: of `PackedCollator`.
    """

    def __init__(self, *args, cells: int = 12, words: bool = True, unordered: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.cells, self.with_words, self.unordered = cells, words, unordered

    def __call__(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        scene = self.scene(records)
        batch = self.pixels(records, scene["flipped"])
        batch["dense"] = self._dense(records, scene)
        if self.with_words:
            words, spoken_of = self._words(records, scene)
            batch = {**batch, **words, "gaze": _gaze(batch["dense"].pop("shown"), spoken_of)}
        return batch

    def _dense(self, records: list[dict[str, Any]], scene: dict[str, Tensor]) -> dict[str, Tensor]:
        shown = torch.from_numpy(np.stack([np.frombuffer(one["cells"], np.uint8) for one in records])).long()
        grid = int(shown.shape[1] ** 0.5)
        mirrored = shown.unflatten(1, (grid, grid)).flip(2).flatten(1)
        shown = torch.where(scene["flipped"][:, None], mirrored, shown)
        # A box whose middle lies behind the camera has no depth to learn.
        objects = scene["objects"]
        before = scene["mask"] & (objects[..., 2] > 0) & (objects[..., 16] == 0)
        before = F.pad(before, (0, NOTHING + 1 - before.shape[1]))
        usable = torch.where(before.gather(1, shown), shown, NOTHING)
        cells, mask = sample_cells(usable, self.cells)
        which = usable.gather(1, cells).masked_fill(~mask, 0)
        names = [
            torch.from_numpy(np.frombuffer(one["names"], np.int16).copy()).view(count + 1, -1)
            for one, count in zip(records, scene["mask"].sum(1).tolist(), strict=True)
        ]
        names = torch.nn.utils.rnn.pad_sequence(names, batch_first=True).long()
        whose = (which + 1).masked_fill(~mask, 0)
        names = names.gather(1, whose[..., None].expand(-1, -1, names.shape[-1]))
        targets = {**self.targets(scene, which, mask), **self.painted(scene)}
        targets["symmetric"] = targets["symmetric"] | (torch.rand(mask.shape) < self.unordered)
        return {
            "cells": cells,
            "names": names,
            "shows_object": shown != NOTHING,
            "targets": targets,
            **({"shown": shown} if self.with_words else {}),
        }


def _gaze(shown: Tensor, spoken_of: list[tuple]) -> dict[str, Tensor]:
    """As `DenseCollator` says, of the cells' objects [B, N]; objects that fill no cell are left out."""
    cells = [torch.isin(shown[sample], torch.tensor(objects)) for sample, _, objects in spoken_of]
    seen = [i for i, one in enumerate(cells) if one.any()]
    return {
        "samples": torch.tensor([spoken_of[i][0] for i in seen], dtype=torch.long),
        "positions": torch.tensor([spoken_of[i][1] for i in seen], dtype=torch.long),
        "cells": torch.stack([cells[i] for i in seen]) if seen else torch.zeros(0, shown.shape[1], dtype=torch.bool),
    }


def gaze_loss(attentions: tuple[Tensor, ...], gaze: dict[str, Tensor], first: int) -> Tensor:
    """Cross-entropy of attending to what is spoken of: the first half of the heads of the last two layers.

    Args:
        attentions: [B, heads, T, T] of each layer, probabilities.
        gaze: of `DenseCollator`.
        first: position of the first visual token.

    Returns:
        A number; 0 without gazes.
    """
    losses = []
    for layer in attentions[-2:]:
        chosen = layer[gaze["samples"], : layer.shape[1] // 2, gaze["positions"]]  # [G, heads / 2, T]
        chosen = chosen[..., first : first + gaze["cells"].shape[1]].float()
        seen = (chosen * gaze["cells"][:, None]).sum(-1)
        losses.append(-seen.clamp(min=1e-12).log().sum() / max(seen.numel(), 1))
    return torch.stack(losses).mean()


def dense_boxes(box_head: nn.Module, states: Tensor, depth_logits: Tensor | None, dense: dict[str, Any]):
    """The 3D heads' answers at the sampled cells; states [B, N, C] of all cells."""
    chosen = states.gather(1, dense["cells"][..., None].expand(-1, -1, states.shape[-1]))
    return box_head(chosen, dense["targets"]["mask"], depth_logits)


class _LogsComponents:
    """For trainers: means of what `_note` was given since the last log stand beside the loss."""

    def _note(self, values: dict[str, Tensor]) -> None:
        if not hasattr(self, "_noted"):
            self._noted, self._times = defaultdict(float), defaultdict(int)
        for name, value in values.items():
            self._noted[name] += value.detach()
            self._times[name] += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if getattr(self, "_noted", None) and "loss" in logs:
            logs = {**logs, **{name: float(total) / self._times[name] for name, total in self._noted.items()}}
            self._noted.clear()
            self._times.clear()
        super().log(logs, start_time)


class DenseTowers(nn.Module):
    """The towers, feature mining, projector and 3D heads of a model, trained without its language model.

    Linear classifiers, which are thrown away, make the tokens tell what a cell shows.

    Args:
        model: a `LLMI3DForConditionalGeneration`; its parts are trained, not copied.
        classes: size of each vocabulary of names.
        name_weight: of the classification losses.
        box_weights: of `Box3DCriterion`.
    """

    def __init__(self, model: nn.Module, classes: list[int], name_weight: float = 0.5, box_weights=None):
        super().__init__()
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
        self.classifiers = nn.ModuleList(nn.Linear(model.config.text_config.hidden_size, size) for size in classes)
        self.objectness = nn.Linear(model.config.text_config.hidden_size, 1)
        self.name_weight = name_weight
        # Out of the reach of `parameters` and `state_dict`.
        self._get_image_features = [model.get_image_features]
        self._criterion = [Box3DCriterion(model.config, box_weights)]

    def forward(self, pixel_values: Tensor, high_res_pixel_values: Tensor, dense: dict[str, Any]) -> dict[str, Any]:
        """Returns `loss` and its `components`."""
        image = self._get_image_features[0](pixel_values, high_res_pixel_values, return_dict=True)
        states = image.pooler_output
        boxes = dense_boxes(self.parts["box_head"], states, image.depth_logits, dense)
        judged = self._criterion[0](boxes, image.depth_logits, Box3DTargets(**dense["targets"]))
        components = {f"loss_{name}": value for name, value in judged.components.items()}
        chosen = states.gather(1, dense["cells"][..., None].expand(-1, -1, states.shape[-1]))
        loss = judged.total
        for i, classifier in enumerate(self.classifiers):
            wanted = dense["names"][..., i]
            logits = classifier(chosen).float()
            each = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1, reduction="sum")
            components[f"loss_names_{i}"] = self.name_weight * each / (wanted >= 0).sum().clamp(min=1)
            components[f"right_names_{i}"] = (logits.argmax(-1) == wanted).sum() / (wanted >= 0).sum().clamp(min=1)
            loss = loss + components[f"loss_names_{i}"]
        objectness = self.objectness(states).float().squeeze(-1)
        there = dense["shows_object"].float()
        components["loss_objectness"] = self.name_weight * F.binary_cross_entropy_with_logits(objectness, there)
        loss = loss + components["loss_objectness"]
        if judged.iou is not None:
            components |= {"box_iou": judged.iou.mean(), "box_acc_25": (judged.iou > 0.25).float().mean()}
        return {"loss": loss, "components": components}


class DenseTowersTrainer(_LogsComponents, Trainer):
    """Trains `DenseTowers` on batches of a `DenseCollator` without words; logs every component."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        self._note(outputs["components"])
        loss = outputs["loss"]
        return (loss, outputs) if return_outputs else loss


class DenseTrainer(_LogsComponents, LLMI3DTrainer):
    """As `LLMI3DTrainer`, with the dense loss at the language model's last layer, for batches of a `DenseCollator`.

    For one process: the 3D heads are called beside the model's own forward pass.

    Args:
        dense_weight: of the dense box loss.
        gaze_weight: of `gaze_loss`; needs the eager attention, others do not tell where they look.
    """

    def __init__(self, *args, dense_weight: float = 1.0, gaze_weight: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.dense_weight, self.gaze_weight = dense_weight, gaze_weight
        self._dense_boxes: Tensor | None = None

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._dense_boxes = sum(batch["dense"]["targets"]["mask"].sum() for batch in batches).clamp(min=1)
        return batches, num_items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        dense, gaze = inputs.pop("dense"), inputs.pop("gaze")
        inputs |= {"output_hidden_states": True, "output_attentions": self.gaze_weight > 0}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch=num_items_in_batch)
        if self.gaze_weight:
            is_image = inputs["input_ids"][0] == self._config().image_token_id
            looked = gaze_loss(outputs.attentions, gaze, int(is_image.nonzero()[0]))
            loss = loss + self.gaze_weight * looked
            if model.training:
                self._note({"gaze_loss": looked})
        if self.dense_weight:
            unwrapped = self.accelerator.unwrap_model(model)
            unwrapped = unwrapped.get_base_model() if hasattr(unwrapped, "get_base_model") else unwrapped
            is_image = inputs["input_ids"] == unwrapped.config.image_token_id
            states = outputs.hidden_states[-1]
            states = states[is_image].view(len(states), -1, states.shape[-1])
            boxes = dense_boxes(unwrapped.box_head, states, outputs.depth_logits, dense)
            count = self._dense_boxes if model.training else None
            # The depth map is judged with the query tokens' boxes already.
            judged = self.criterion(boxes, None, Box3DTargets(**dense["targets"]), count)
            loss = loss + self.dense_weight * judged.total
            if model.training:
                noted = {"dense_loss": judged.total}
                if judged.iou is not None:
                    noted |= {"dense_iou": judged.iou.mean(), "dense_acc_25": (judged.iou > 0.25).float().mean()}
                self._note(noted)
        return (loss, outputs) if return_outputs else loss


def row_cells(row: dict[str, Any], place: list[int], canvas: int, grid: int) -> bytes:
    """`cell_objects` of a row's `instance_map`, as bytes."""
    return cell_objects(np.asarray(open_map(row["instance_map"])), place, canvas, grid).tobytes()


def open_map(image: Any):
    """A row's `instance_map` as a grey PIL picture."""
    return _open(image)
