# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Pack several turns about one image into one sequence, so that its visual tokens are computed once.

    USER: <image> ... <image> | \\nLocate the red car in 3D. ASSISTANT: <|box_3d|></s> | \\nHow far ... | ...

Every turn sees the image and itself, not the other turns, and starts at the position right after the image: the
network computes for it exactly what it would compute for that turn alone, which is also how it is asked in use. Ten
turns of 20 tokens after 256 visual tokens are so a sixth of the work.
"""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from llmi3d.data.schema import BOX_PLACEHOLDER, turns_of
from llmi3d.phrases_llmi3d import phrase_mask
from llmi3d.processing.processing_llmi3d import QWEN_IMAGE_TOKEN
from llmi3d.token_grid_llmi3d import positions_in_the_square

# Stands for a question while the chat template is read.
_WORDS = "WORDS"


class TurnPacker:
    """Make sequences of the turns of IG3D rows.

    Args:
        processor: the model's `LLMI3DProcessor`.

    Raises:
        ValueError (on a call): special tokens in a user's words.
    """

    def __init__(self, processor):
        self.processor = processor
        self._around = cache(self._read_template)

    def __call__(self, rows: list[dict[str, Any]], size: tuple[int, int]) -> tuple[dict[str, Any], list[tuple]]:
        """
        Args:
            rows: IG3D rows.
            size: (height, width) of the low-resolution images.

        Returns:
            `input_ids`, `position_ids` [B, T], `attention_mask` [B, 1, T, T] (see `phrase_mask`), `logits_to_keep`,
            and `labels` of those last positions only: visual tokens have no successor to learn.
            Which objects tokens speak of: (row, position in its sequence, object indices) each. A query token speaks
            of its object, the last token of a question of all objects of the answer, and the first token of an answer
            without boxes too.
        """
        grid = tuple(side // self.processor.patch_size for side in size)
        sequences, spoken_of, starts = [], [], []
        for number, row in enumerate(rows):
            sequence, spoken = self._sequence(row, grid[0] * grid[1])
            sequences.append(sequence)
            spoken_of += [(number, *one) for one in spoken]
            starts.append(int((sequence["phrase_ids"] == 1).sum()))
        padding = {"input_ids": self.processor.tokenizer.pad_token_id, "labels": -100}
        batch = {
            name: torch.nn.utils.rnn.pad_sequence(
                [sequence[name] for sequence in sequences], batch_first=True, padding_value=padding.get(name, 0)
            )
            for name in sequences[0]
        }
        keep = batch["input_ids"].shape[1] - min(starts) + 1  # the last visual token stands before the first label
        batch["labels"] = batch["labels"][:, -keep:]
        batch["attention_mask"] = phrase_mask(batch.pop("phrase_ids"), torch.float32)
        batch["position_ids"] = self._in_the_square(batch["input_ids"], batch["position_ids"], grid)
        return {**batch, "logits_to_keep": keep}, spoken_of

    def _sequence(self, row: dict[str, Any], visual_tokens: int) -> tuple[dict[str, Tensor], list[tuple]]:
        """Return the tokens of one row, and (position, object indices) of those that speak of objects."""
        system = next((message["content"] for message in row["messages"] if message["role"] == "system"), None)
        tokens = self.prefix(visual_tokens, system)
        start, index = len(tokens), {entry["id"]: i for i, entry in enumerate(row["objects"])}
        labels, positions, phrases, spoken_of = [-100] * start, list(range(start)), [1] * start, []
        for number, turn in enumerate(turns_of(row), 2):
            question, answer = self.tokens_of_turn(turn.question, turn.answer, system)
            first, length = len(tokens) + len(question), len(question) + len(answer)
            tokens += question + answer
            labels += [-100] * len(question) + answer
            positions += range(start, start + length)
            phrases += [number] * length
            objects = [index[target] for target in turn.targets]
            boxes = [first + i for i, token in enumerate(answer) if token == self.processor.box_3d_token_id]
            if not objects and "object" in (turn.meaning.get("form") or {}):  # see `first_words`
                objects = [index[turn.meaning["form"]["object"]]]
            if objects:
                spoken_of.append((first - 1, objects))
            if boxes:
                spoken_of += [(position, [i]) for position, i in zip(boxes, objects, strict=True)]
            elif objects:
                spoken_of.append((first, objects))
        sequence = {"input_ids": tokens, "labels": labels, "position_ids": positions, "phrase_ids": phrases}
        return {name: torch.tensor(values) for name, values in sequence.items()}, spoken_of

    def prefix(self, visual_tokens: int, system: str | None = None) -> list[int]:
        """Return the tokens up to the end of the image, with those that the tokenizer sets before every text."""
        image = self.processor.image_token_id
        tokens = self.processor.tokenizer.encode(self._around(system)[0] + self.processor.image_token)
        return [*tokens[: tokens.index(image)], *[image] * visual_tokens]

    def tokens_of_turn(self, question: str, answer: str, system: str | None = None) -> tuple[list[int], list[int]]:
        """Return the tokens from the image to the answer, and those of the answer and its end, as the template has
        them."""
        refuse, image = self.processor.refuse_special_tokens, self.processor.image_token
        question = self._around(system)[1].replace(_WORDS, refuse(question))
        answer = self.processor.box_3d_token.join(map(refuse, answer.split(BOX_PLACEHOLDER)))
        encode = partial(self.processor.tokenizer.encode, add_special_tokens=False)
        # After an image: SentencePiece's kind would set a space before what begins a text.
        return encode(image + question)[1:], encode(image + answer + self.processor.tokenizer.eos_token)[1:]

    def _read_template(self, system: str | None) -> tuple[str, str]:
        """Return what the chat template writes before the image, and after it about a question of `_WORDS`."""
        blocks = [{"type": "image"}, {"type": "text", "text": _WORDS}]
        conversation = [{"role": "user", "content": blocks}]
        if system is not None:
            system = self.processor.refuse_special_tokens(system)
            conversation.insert(0, {"role": "system", "content": system})
        text = self.processor.apply_chat_template(conversation, add_generation_prompt=True)
        before, _, after = text.partition(self.processor.image_token)
        return before, after

    def _in_the_square(self, input_ids: Tensor, position_ids: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return positions as if padding that was cropped were there; Qwen-VL's model counts its own."""
        side = self.processor.image_processor.size["height"] // self.processor.patch_size
        if grid == (side, side) or self.processor.image_token == QWEN_IMAGE_TOKEN:
            return position_ids
        is_image = input_ids == self.processor.image_token_id
        return positions_in_the_square(is_image, position_ids, torch.tensor(grid), side)
