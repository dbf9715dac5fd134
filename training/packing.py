# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Several conversations about one picture in one sequence, so that its pixels and visual tokens are computed once.

    USER: <image> ... <image> | \\nLocate the red car in 3D. ASSISTANT: <|box_3d|></s> | \\nHow far ... | ...

Every turn sees the picture and itself, not the other turns, and starts at the position right behind the picture: the
network computes for it exactly what it would compute for that turn alone, which is also how it is asked in use. Ten
turns of 20 tokens behind 256 visual tokens are so a sixth of the work.

Pixels are decoded, scaled and letterboxed once, by the processor itself, and kept as bytes beside the tokens.

Shapes: B pictures, T tokens of a sequence, N visual tokens, M objects of a picture (padded), S sampled cells.
"""

from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as tvF
from torch import Tensor

from llmi3d.data.schema import BOX_PLACEHOLDER, turns_of
from llmi3d.phrases_llmi3d import phrase_mask
from llmi3d.processing.geometry_llmi3d import encode_boxes
from llmi3d.training.collator import _open, _pad

# Numbers of a packed object: center 3, size 3, rotation 9, symmetric 1, to be ignored 1.
_BOX_NUMBERS = 17
# Stands for a question while the chat template is read.
_WORDS = "WORDS"


class Packer:
    """Turns IG3D rows into flat records of bytes, for `datasets.Dataset.map`; `PackedCollator` reads them.

    Args:
        processor: the model's `LLMI3DProcessor`.
        stages: which turns belong to which stage of training: {"stage": function of a row to its turns}.
    """

    def __init__(self, processor, stages: dict[str, Any] | None = None):
        self.processor = processor
        self.stages = stages or {"turns": turns_of}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """
        Returns:
            `pixels` (uint8 [h, w, 3]: the picture as it lies on the canvas, without its padding), `place` (h, w, left,
            top), `intrinsics` (K of the network frame), `boxes` (float32 [M, 17]), and for each stage `NAME`
            (`token_type`: all tokens) with `NAME_turns` (question length, answer length, then object indices, for each
            turn).
            A turn may have `targets` without boxes: the objects of which its words speak.
        """
        pixels, place, intrinsics = self._picture(row)
        index = {entry["id"]: i for i, entry in enumerate(row["objects"])}
        boxes = [
            [
                *(*entry["center"], *entry["size"], *np.ravel(entry["rotation"])),
                float((entry["attributes"] or {}).get("symmetric") == "true"),
                float(entry["ignore"]),
            ]
            for entry in row["objects"]
        ]
        packed = {
            "image_id": row["image_id"],
            "pixels": pixels.tobytes(),
            "place": place,
            "intrinsics": np.asarray(intrinsics, np.float32).tobytes(),
            "boxes": np.asarray(boxes, np.float32).reshape(-1, _BOX_NUMBERS).tobytes(),
        }
        for name, make in self.stages.items():
            tokens, turns = [], []
            for turn in make(row):
                question, answer = self.tokens_of_turn(turn.question, turn.answer)
                tokens += question + answer
                turns.append([len(question), len(answer), *(index[target] for target in turn.targets)])
            packed[name] = np.asarray(tokens, self.token_type).tobytes()
            packed[f"{name}_turns"] = turns
        return packed

    def _picture(self, row: dict[str, Any]) -> tuple[np.ndarray, list[int], Tensor]:
        inputs = self.processor.image_processor(
            [_open(row["image"])],
            intrinsics=[row["intrinsics"]],
            do_rescale=False,
            do_normalize=False,
            crop_padding=False,  # the records' frame is the whole canvas
            return_tensors="pt",
        )
        camera, canvas = inputs.cameras[0], inputs["high_res_pixel_values"][0]
        width, height = (round(side * scale) for side, scale in zip(camera.image_size, camera.scale, strict=True))
        left, top = (int(offset) for offset in camera.offset)
        content = canvas[:, top : top + height, left : left + width].permute(1, 2, 0).contiguous()
        return content.numpy(), [height, width, left, top], camera.network_intrinsics()

    @property
    def token_type(self) -> type[np.integer]:
        """Of packed tokens: as small as the vocabulary allows."""
        return np.int16 if len(self.processor.tokenizer) <= 2**15 else np.int32

    @property
    def num_image_tokens(self) -> int:
        """Visual tokens of a picture."""
        return (self.processor.image_processor.size["height"] // self.processor.patch_size) ** 2

    def prefix(self) -> list[int]:
        """The tokens up to and with the picture, those included that the tokenizer sets before every text (`<s>`)."""
        image = self.processor.image_token_id
        tokens = self.processor.tokenizer.encode(self._around[0] + self.processor.image_token)
        return [*tokens[: tokens.index(image)], *[image] * self.num_image_tokens]

    def tokens_of_turn(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """(tokens behind the picture up to the answer, tokens of the answer and its end), as the template has them."""
        refuse, image = self.processor.refuse_special_tokens, self.processor.image_token
        question = self._around[1].replace(_WORDS, refuse(question))
        answer = self.processor.box_3d_token.join(map(refuse, answer.split(BOX_PLACEHOLDER)))
        encode = partial(self.processor.tokenizer.encode, add_special_tokens=False)
        # Behind a picture: SentencePiece's kind would set a space before what begins a text.
        return encode(image + question)[1:], encode(image + answer + self.processor.tokenizer.eos_token)[1:]

    @cached_property
    def _around(self) -> tuple[str, str]:
        """What the chat template writes before the picture, and behind it about a question of `_WORDS`."""
        blocks = [{"type": "image"}, {"type": "text", "text": _WORDS}]
        text = self.processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True)
        before, _, behind = text.partition(self.processor.image_token)
        return before, behind


class PackedCollator:
    """Makes a batch for `LLMI3DTrainer` of the records of a `Packer`.

    Args:
        packer: that made the records.
        stage: whose turns are learned.
        most_turns: of a picture, drawn at random where there are more.
        jitter: strength of random changes of brightness, contrast and colour; 0 for none.
        flip: mirrors half of the pictures, cameras and boxes. Only for turns without words, as left becomes right.
    """

    def __init__(self, packer: Packer, stage: str = "turns", most_turns: int = 8, jitter: float = 0.0, flip=False):
        self.packer, self.stage, self.most_turns = packer, stage, most_turns
        self.jitter, self.flip = jitter, flip

    def __call__(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Returns:
            As `LLMI3DDataCollator`; `attention_mask` is additive, [B, 1, T, T], and there are `position_ids` [B, T]
            and `logits_to_keep`, with `labels` only of those last positions: visual tokens have no successor to learn.
        """
        scene = self.scene(records)
        return {**self.pixels(records, scene["flipped"]), **self._words(records, scene)[0]}

    # ------------------------------------------------------------------------------------------------------ pictures

    def scene(self, records: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Padded `objects` [B, M, 17] and their `mask` [B, M]; `intrinsics` [B, 3, 3]; which are `flipped` [B]."""
        boxes = [
            torch.from_numpy(np.frombuffer(one["boxes"], np.float32).copy().reshape(-1, _BOX_NUMBERS))
            for one in records
        ]
        scene = _pad([{"objects": one} for one in boxes], "mask")
        if not scene["objects"].shape[1]:  # no object in any picture
            scene = {"objects": torch.zeros(len(boxes), 1, _BOX_NUMBERS), "mask": torch.zeros(len(boxes), 1) > 0}
        k = [np.frombuffer(one["intrinsics"], np.float32).reshape(3, 3) for one in records]
        scene["intrinsics"] = torch.from_numpy(np.stack(k))
        scene["flipped"] = torch.rand(len(records)) < (0.5 if self.flip else 0)
        if self.flip:
            mirror_scene(scene, self.packer.processor.image_processor.high_res_size["width"])
        return scene

    def pixels(self, records: list[dict[str, Any]], flipped: Tensor) -> dict[str, Tensor]:
        """The two resolutions, as the processor makes them; the high one in the layout that convolutions like."""
        processor = self.packer.processor.image_processor
        size, low = processor.high_res_size, processor.size
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        canvas = torch.zeros(len(records), size["height"], size["width"], 3)
        for to, one, mirrored in zip(canvas, records, flipped.tolist(), strict=True):
            height, width, left, top = one["place"]
            content = torch.from_numpy(np.frombuffer(one["pixels"], np.uint8).copy().reshape(height, width, 3)).float()
            gain, shift = (processor.rescale_factor / std, -mean / std)
            if self.jitter:
                # About a middle grey: contrast, then brightness, then a tint.
                contrast, brightness = (1 + self.jitter * (2 * torch.rand(2) - 1)).tolist()
                tint = 1 + 0.4 * self.jitter * (2 * torch.rand(3) - 1)
                gain, shift = gain * tint * contrast, shift + tint * (brightness - contrast) * 0.5 / std
            if mirrored:
                content, left = content.flip(1), size["width"] - width - left
            to[top : top + height, left : left + width] = content * gain + shift
        high = canvas.permute(0, 3, 1, 2)
        small = tvF.resize(
            high, [low["height"], low["width"]], interpolation=tvF.InterpolationMode.BILINEAR, antialias=True
        )
        return {"pixel_values": small, "high_res_pixel_values": high}

    # --------------------------------------------------------------------------------------------------------- words

    def _words(self, records: list[dict[str, Any]], scene: dict[str, Tensor]) -> tuple[dict[str, Any], list[tuple]]:
        """The batch, and of which objects its tokens speak: (sample, position in it, object indices) each.

        A query token speaks of its object, the last token of a question of all objects of the answer, and the first
        token of an answer without boxes too.
        """
        prefix, box_token = self.packer.prefix(), self.packer.processor.box_3d_token_id
        samples, targets, spoken_of = [], [], []
        for sample, one in enumerate(records):
            tokens, labels, positions, turn_of = list(prefix), [-100] * len(prefix), list(range(len(prefix))), []
            turn_of, meant = [-1] * len(prefix), []
            all_tokens, start = np.frombuffer(one[self.stage], self.packer.token_type).tolist(), 0
            turns = one[f"{self.stage}_turns"]
            lengths = [turn[0] + turn[1] for turn in turns]
            starts = np.concatenate(([0], np.cumsum(lengths))).tolist()
            for index in torch.randperm(len(turns))[: self.most_turns].tolist():
                (question, _, *objects), start = turns[index], starts[index]
                turn = all_tokens[start : start + lengths[index]]
                tokens += turn
                labels += [-100] * question + turn[question:]
                positions += range(len(prefix), len(prefix) + len(turn))
                turn_of += [index] * len(turn)
                boxes = [at for at, token in enumerate(turn) if token == box_token]
                begin = len(tokens) - len(turn)
                if objects:
                    spoken_of.append((sample, begin + question - 1, objects))
                if boxes:
                    meant += objects
                    spoken_of += [(sample, begin + at, [i]) for at, i in zip(boxes, objects, strict=True)]
                elif objects:
                    spoken_of.append((sample, begin + question, objects))
            samples.append(
                {
                    "input_ids": torch.tensor(tokens),
                    "labels": torch.tensor(labels) + 100,  # padded by 0 = -100 + 100
                    "position_ids": torch.tensor(positions),
                    "turn_of": torch.tensor(turn_of) + 2,  # 1 for the picture, 0 for padding
                }
            )
            targets.append({"which": torch.tensor(meant, dtype=torch.long)})
        batch, asked = _pad(samples, "filled"), _pad(targets, "mask")
        batch["input_ids"].masked_fill_(~batch["filled"], self.packer.processor.tokenizer.pad_token_id)
        keep = batch["turn_of"].shape[1] - len(prefix) + 1  # the last visual token stands before the first label
        batch = {
            "input_ids": batch["input_ids"],
            "attention_mask": phrase_mask(batch["turn_of"], torch.float32),
            "position_ids": batch["position_ids"],
            "labels": batch["labels"][:, -keep:] - 100,
            "logits_to_keep": keep,
            "image_id": [one["image_id"] for one in records],
            "targets_3d": {**self.targets(scene, asked["which"], asked["mask"]), **self.painted(scene)},
        }
        return batch, spoken_of

    def targets(self, scene: dict[str, Tensor], which: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The truth of the objects `which` [B, Q] (indices), as `Box3DTargets` names it."""
        chosen = scene["objects"].gather(1, which[..., None].expand(-1, -1, _BOX_NUMBERS))
        return {
            "mask": mask,
            "center": chosen[..., :3],
            "size": chosen[..., 3:6],
            "rotation": chosen[..., 6:15].unflatten(-1, (3, 3)),
            "symmetric": chosen[..., 15] > 0,
            "intrinsics": scene["intrinsics"],
        }

    def painted(self, scene: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is painted into the depth map: every object before the camera."""
        objects, focal_length = scene["objects"], self.packer.processor.virtual_focal_length
        visible = scene["mask"] & (objects[..., 2] > 0)
        # What is not there gets a box that can be projected.
        blank = torch.tensor([0, 0, 1.0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0])
        objects = torch.where(visible[..., None], objects, blank)
        truth = encode_boxes(
            objects[..., :3],
            objects[..., 3:6],
            objects[..., 6:15].unflatten(-1, (3, 3)),
            scene["intrinsics"][:, None].expand(-1, objects.shape[1], -1, -1),
            focal_length,
        )
        return {
            "painted_boxes_2d_px": truth.box_2d_px,
            "painted_depths_virtual": truth.depth_virtual,
            "painted_mask": visible,
        }


def mirror_scene(scene: dict[str, Tensor], canvas_width: int) -> None:
    """Mirrors left and right of the pictures that are `flipped`, in place. A box keeps its own x axis (its front) and
    its y axis (down); its z axis turns round, so that the rotation stays one."""
    sign = torch.where(scene["flipped"], -1.0, 1.0)[:, None]
    objects = scene["objects"]
    objects[..., 0] *= sign
    rotation = objects[..., 6:15].unflatten(-1, (3, 3))
    rotation[..., 0, :] *= sign[..., None]
    rotation[..., :, 2] *= sign[..., None]
    k = scene["intrinsics"]
    k[:, 0, 2] = torch.where(scene["flipped"], canvas_width - k[:, 0, 2], k[:, 0, 2])
