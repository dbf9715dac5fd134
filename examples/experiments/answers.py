# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Asks a model everything about a picture at once: the same answers as the pipeline's, in a tenth of the time.

A picture goes through the towers once: where a forward pass answers, by `share_images`; where the model writes, its
questions share its features.

Shapes: B pictures, T tokens of a sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llmi3d.processing.geometry_llmi3d import (
    allocentric_to_egocentric,
    back_project,
    decode_boxes,
    egocentric_to_allocentric,
    project,
)
from llmi3d.training.dense import dense_boxes
from llmi3d.training.experimental.text_boxes import read_boxes

PICTURES = 8  # of a batch
SEQUENCES = 48  # of a batch that is written


@dataclass(frozen=True)
class Asked:
    """A picture with its camera and what is asked about it.

    Attributes:
        image: upright.
        intrinsics: [3, 3], pixels.
        words: phrases to ground, or whole questions.
        cells: visual tokens to ask instead, by their index.
    """

    image: Image.Image
    intrinsics: Tensor
    words: tuple[str, ...] = ()
    cells: tuple[int, ...] = ()


def under_camera(center: Tensor, rotation: Tensor, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """A box of which another camera sees the same in the same pixels at the same z.

    Args:
        center, rotation: [..., 3], [..., 3, 3] under the K `old` [..., 3, 3]; `new` has the same principal point.
    """
    moved = back_project(project(center, old), center[..., 2], new)
    return moved, allocentric_to_egocentric(egocentric_to_allocentric(rotation, center), moved)


class Grounder:
    """A model and its processor.

    Args:
        model, processor: of one checkpoint.
        form: how it writes boxes (`text_boxes.FORMS`), or "" for the 3D query token.
        metric_depth: its depths are metres whatever the camera: it was trained without virtual depth.
    """

    def __init__(self, model, processor, form: str = "", metric_depth: bool = False):
        processor.check_model(model.config)
        self.model, self.processor = model.eval(), processor
        self.form, self.metric_depth = form, metric_depth
        self.canvas = model.config.high_res_image_size

    def ground(self, asked: Sequence[Asked]) -> list[list[dict]]:
        """Answers {"boxes": list or None, "text"} to each phrase about each picture; by the query token a box each."""
        if self.form:
            return self._ground_by_text(asked)
        answers = []
        for start in range(0, len(asked), PICTURES):
            answers += self._ground_directly(asked[start : start + PICTURES])
        return answers

    @torch.no_grad()
    def _ground_directly(self, asked: Sequence[Asked]) -> list[list[dict]]:
        inputs = self.processor.grounding_inputs(
            [one.image for one in asked],
            [list(one.words) for one in asked],
            intrinsics=[one.intrinsics.tolist() for one in asked],
            share_images=True,
        )
        outputs = self.model.ground(**inputs)
        told = [self._told(camera) for camera in inputs.cameras]
        decoded = self.processor.post_process_grounding_3d(outputs, told)
        boxes = (self._as_dicts(one, camera) for one, camera in zip(decoded, inputs.cameras, strict=True))
        return [[{"boxes": next(boxes), "text": ""} for _ in one.words] for one in asked]

    @torch.no_grad()
    def look(self, asked: Sequence[Asked]) -> list[list[dict]]:
        """What the 3D heads say at visual tokens (`cells`) without any words, as they were trained by dense labels."""
        answers = []
        for start in range(0, len(asked), PICTURES):
            group = asked[start : start + PICTURES]
            pixels, cameras = self._pixels(group)
            image = self.model.get_image_features(**pixels, return_dict=True)
            most = max(len(one.cells) for one in group)
            cells = torch.tensor([[*one.cells, *[0] * (most - len(one.cells))] for one in group])
            mask = torch.arange(most) < torch.tensor([[len(one.cells)] for one in group])
            if image.cells is not None:  # with pointing, places are the CNN's: those in the middle of the tokens
                (rows, columns), (height, width) = image.tokens.shape[1:3], image.cells.shape[-2:]
                y, x = ((cells // columns + 0.5) * height / rows, (cells % columns + 0.5) * width / columns)
                cells = y.long() * width + x.long()
            dense = {"places": cells, "mask": mask}
            boxes = dense_boxes(self.model.box_head, image, image.pooler_output, dense)
            told = [self._told(camera) for camera in cameras]
            decoded = self.processor.post_process_grounding_3d(SimpleNamespace(boxes_3d=boxes), told)
            answers += [
                [{"boxes": [box], "text": ""} for box in self._as_dicts(one, camera)]
                for one, camera in zip(decoded, cameras, strict=True)
            ]
        return answers

    def cells_of(self, instance_map: np.ndarray, intrinsics: Tensor, wanted: Sequence[int]) -> list[int]:
        """The visual token in which each object shows most pixels.

        Args:
            instance_map: uint8 [H, W] of the picture: 1 + the object's place in its row.
            wanted: places; each is seen in some pixel.
        """
        height, width = instance_map.shape
        [camera] = self._pixels([Asked(Image.new("RGB", (width, height)), intrinsics)])[1]
        grid = self.model.config.image_grid_size
        cells = []
        for place in wanted:
            y, x = np.nonzero(instance_map == place + 1)
            points = camera.to_network(torch.from_numpy(np.stack((x, y), 1) + 0.5))
            column, row = (points * grid / self.canvas).long().clamp(0, grid - 1).unbind(1)
            cells.append(int(torch.bincount(row * grid + column).argmax()))
        return cells

    def _told(self, camera):
        """The camera that answers are decoded with: with metric depth the virtual one, under the true pixels."""
        if not self.metric_depth:
            return camera
        focal = [self.processor.virtual_focal_length / scale for scale in camera.scale]
        (_, _, cx), (_, _, cy), last = camera.intrinsics
        return replace(camera, intrinsics=((focal[0], 0.0, cx), (0.0, focal[1], cy), last))

    def _as_dicts(self, decoded: dict, camera) -> list[dict]:
        center, rotation = decoded["centers"], decoded["rotations"]
        if self.metric_depth:
            center, rotation = under_camera(
                center, rotation, self._told(camera).intrinsics_tensor(), camera.intrinsics_tensor()
            )
        parts = (center, decoded["sizes"], rotation, decoded["scores"])
        names = ("center", "size", "rotation", "score")
        return [dict(zip(names, one, strict=True)) for one in zip(*(part.tolist() for part in parts), strict=True)]

    def _ground_by_text(self, asked: Sequence[Asked]) -> list[list[dict]]:
        prompts = [
            replace(one, words=tuple(self.processor.grounding_prompt(w, "generate") for w in one.words))
            for one in asked
        ]
        answers = []
        for one, texts in zip(asked, self._write(prompts, 160), strict=True):
            camera = self._pixels([one])[1][0]
            answers.append([{"boxes": self._read(text, camera), "text": text} for text in texts])
        return answers

    def _read(self, text: str, camera) -> list[dict] | None:
        """The boxes of a text; None where nothing can be read."""
        read = read_boxes(self.form, text, self.canvas)
        if not len(read.boxes.size):
            return None
        seen, focal_length = read.boxes, self.processor.virtual_focal_length
        center, size, rotation = decode_boxes(
            seen.center_2d_px,
            seen.depth_virtual,
            seen.size,
            seen.rotation_allocentric,
            camera.network_intrinsics(),
            focal_length,
        )
        names = ("center", "size", "rotation")
        boxes = zip(center.tolist(), size.tolist(), rotation.tolist(), strict=True)
        return [{**dict(zip(names, box, strict=True)), "score": 1.0} for box in boxes]

    def ask(self, asked: Sequence[Asked], most_tokens: int = 32) -> list[list[str]]:
        """Written answers to questions."""
        return self._write(
            [replace(one, words=tuple(self._prompt(question) for question in one.words)) for one in asked], most_tokens
        )

    @torch.no_grad()
    def ground_freely(self, asked: Sequence[Asked], most_tokens: int = 16) -> list[list[dict]]:
        """Answers as of `ground`, with as many boxes as the model chooses to write 3D query tokens."""
        answers = []
        for one in asked:
            inputs = self.processor.grounding_inputs(
                [one.image], [list(one.words)], intrinsics=[one.intrinsics.tolist()], mode="generate"
            )
            outputs = self.model.generate_boxes(**inputs, max_new_tokens=most_tokens, do_sample=False)
            texts = self.processor.batch_decode(
                outputs.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            decoded = self.processor.post_process_grounding_3d(outputs, inputs.cameras)
            answers.append(
                [
                    {"boxes": self._as_dicts(boxes, camera), "text": text.strip()}
                    for boxes, camera, text in zip(decoded, inputs.cameras, texts, strict=True)
                ]
            )
        return answers

    # ------------------------------------------------------------------------------------------------------- helpers

    def _prompt(self, question: str) -> str:
        blocks = [{"type": "image"}, {"type": "text", "text": self.processor.refuse_special_tokens(question)}]
        return self.processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True)

    def _pixels(self, asked: Sequence[Asked]) -> tuple[dict[str, Tensor], list]:
        """(network inputs of the pictures, their cameras)."""
        batch = self.processor.image_processor(
            [one.image for one in asked],
            intrinsics=[one.intrinsics.tolist() for one in asked],
            return_tensors="pt",
        )
        return dict(batch), batch.cameras

    def _tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        """Tokens of whole prompts, with the placeholder spelt out."""
        visual = self.model.config.image_seq_length
        texts = [prompt.replace(self.processor.image_token, self.processor.image_token * visual) for prompt in prompts]
        return self.processor.tokenizer(texts)["input_ids"]

    @torch.no_grad()
    def _write(self, asked: Sequence[Asked], most_tokens: int) -> list[list[str]]:
        """What the model writes behind each prompt (`words`) about each picture."""
        written = []
        for group in _groups(asked):
            pixels, _ = self._pixels(group)
            owners = torch.tensor([i for i, one in enumerate(group) for _ in one.words])
            image = self.model.get_image_features(**pixels, return_dict=True).of_images(owners)
            tokens = self._tokens([prompt for one in group for prompt in one.words])
            inputs = self.processor.tokenizer.pad(
                {"input_ids": tokens}, padding=True, padding_side="left", return_tensors="pt"
            )
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            sequences = self.model.generate(
                **inputs, mm_encoder_outputs={"image": image}, max_new_tokens=most_tokens, do_sample=False
            )
            texts = self.processor.batch_decode(sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            texts = iter(text.strip() for text in texts)
            written += [[next(texts) for _ in one.words] for one in group]
        return written


def _groups(asked: Sequence[Asked]) -> list[list[Asked]]:
    """Pictures in order, with at most SEQUENCES questions together, or one picture."""
    groups = []
    for one in asked:
        if groups and sum(len(other.words) for other in groups[-1]) + len(one.words) <= SEQUENCES:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups
