# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Conversations about one image: text answers, and boxes of the objects they mention.

Messages are those of an IG3D row: {"role": "user" or "assistant", "content": text}, with `<box_3d>` in the assistant's
text for each of its boxes.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

from transformers import Pipeline

from llmi3d.processing.drawing.styles import ABSENT

BOX_PLACEHOLDER = "<box_3d>"
# Objects of one question that are looked for.
MAX_MENTIONS = 6

# Words between names of things, such as "from" in "how far is the chair from the table"...
_APART = (
    r"[?!;:,]|\.(?!\d)|\b(?:locate|find|detect|show|where|there|left or right of|in 3d|about(?! \d)"
    r"|(?:side|width|height|length|depth|size|volume|distance|position|colou?r) of"
    r"|(?:in|of) (?:the|this) (?:picture|image|photo|photograph|scene)"
    r"|from|between|and|or|than|is|are|was|were|be|do|does|did|has|have|can|could|will|would|to|me)\b"
)
# ... unless they belong to one name, such as "the second chair from the left".
_TOGETHER = (
    r"\b(?:(?:closer to|farther from) the camera than|farthest from the camera"
    r"|(?:next|close|closer|closest|nearest) to|to the (?:left|right)(?: of)?"
    r"|from the (?:left|right|top|bottom|front|back)"
    r"|(?:nearer|closer|farther|farther away|larger|smaller|bigger|taller) than"
    r"|in the \w+ third of the picture|at a distance of)\b"
)
_CUT = re.compile(f"(?P<together>{_TOGETHER})|(?P<apart>{_APART})", re.IGNORECASE)
_NAME = re.compile(r"(?:the|an?|my|this|that|these|those|every|each|all)\s+\S.*", re.IGNORECASE)
_NO_THING = re.compile(
    r"\S+ (?:camera|viewer|picture|image|photo|photograph|scene|(?:\w+ )?(?:distance|difference|volume))",
    re.IGNORECASE,
)
_COUNT = re.compile(r"\bhow many (.+?) (?:are|is|can|do|does|have|has)\b", re.IGNORECASE)


def mentions(question: str) -> list[str]:
    """Return the objects named in an English question, in order; "How far is the red chair from the table?" has two.

    A name begins with an article or similar, and is delimited by function words; "how many cars" means "all cars".
    Pronouns name nothing.
    """
    if count := _COUNT.search(question):
        return [f"all {count[1]}"]
    parts, start = [], 0
    for cut in _CUT.finditer(question):
        if cut["apart"]:
            parts.append(question[start : cut.start()])
            start = cut.end()
    names = (part.strip() for part in (*parts, question[start:]))
    names = [name for name in names if _NAME.fullmatch(name) and not _NO_THING.fullmatch(name)]
    return list(dict.fromkeys(names))[:MAX_MENTIONS]


class Conversation:
    """Questions and answers about one image.

    Args:
        ground: the pipeline `image-3d-grounding`.
        image: a path, URL, PIL image, array or tensor.
        intrinsics, fov_deg: its camera, as for the pipeline.
        messages: earlier turns.

    Raises:
        ValueError: messages do not alternate between user and assistant, or hold special tokens.

    Example:

    ```python
    >>> chat = Conversation(ground, "room.jpg", fov_deg=65)
    >>> chat.ask("How far is the red chair from the table?")["text"]
    '1.8 m'
    ```
    """

    def __init__(
        self, ground: Pipeline, image: Any, intrinsics: Any = None, fov_deg: Any = None, messages: Iterable = ()
    ):
        self.ground, self.image = ground, image
        self.camera = {"intrinsics": intrinsics, "fov_deg": fov_deg}
        self.messages = self._checked(messages)

    def ask(self, question: str, max_new_tokens: int = 128, **generate_kwargs) -> dict[str, Any]:
        """Answer one more question and append the turn to `messages`.

        Args:
            question: text.
            max_new_tokens: of the answer.
            generate_kwargs: further arguments of `generate`.

        Returns:
            `question`, `text` (the answer), `boxes`, `image_size`, `intrinsics` and `intrinsics_source` as in the
            pipeline, and `spoken_of`: if the answer itself has no box, the objects named in the question, which are
            then looked for, each with its number of boxes. Empty `boxes` with names in `spoken_of` mean that these
            objects are not in the image.

        Raises:
            ValueError: the question is empty or has special tokens, the camera is invalid, or the conversation is too
                long for the model. The turn is then not kept.
        """
        processor, model = self.ground.processor, self.ground.model
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question: got {question!r}, want text.")
        question = processor.refuse_special_tokens(question.strip())
        messages = [*self.messages, {"role": "user", "content": question}]
        inputs = processor(
            images=[self.image],
            text=[processor.apply_chat_template(self._blocks(messages), add_generation_prompt=True)],
            return_tensors="pt",
            **{name: [value] for name, value in self.camera.items() if value is not None},
        )
        length, most = inputs["input_ids"].shape[1], model.config.text_config.max_position_embeddings
        if length + max_new_tokens > most:
            raise ValueError(
                f"conversation: got {length} tokens and {max_new_tokens} for the answer, want at most {most}; "
                "start a new conversation."
            )
        names = mentions(question)
        kept = {name: inputs[name] for name in processor.model_input_names if name in inputs}
        asked = {"inputs": kept, "cameras": inputs.cameras, "prompts": [names[0] if len(names) == 1 else "box"]}
        outputs = self.ground.forward(asked, mode="generate", max_new_tokens=max_new_tokens, **generate_kwargs)
        written = self._with_placeholders(outputs["sequences"][0])
        # The model itself says what is absent: no threshold on the score.
        (answer,) = self.ground.postprocess(outputs, mode="generate", threshold=0.0)
        boxes, spoken_of = answer["boxes"], []
        if len(names) == len(boxes):
            boxes = [{**box, "label": name} for box, name in zip(boxes, names, strict=True)]
        if not boxes and names:
            answers = self.ground(self.image, prompt=names, mode="generate", max_new_tokens=32, **self.camera)
            spoken_of = [{"name": found["prompt"], "boxes": len(found["boxes"])} for found in answers]
            boxes = [box for found in answers for box in found["boxes"]]
        self.messages = [*messages, {"role": "assistant", "content": written}]
        kept = {name: answer[name] for name in ("text", "image_size", "intrinsics", "intrinsics_source")}
        return {"question": question, **kept, "boxes": boxes, "spoken_of": spoken_of}

    def _checked(self, messages: Iterable) -> list[dict[str, str]]:
        kept = []
        for index, message in enumerate(messages):
            want = ("user", "assistant")[index % 2]
            if not isinstance(message, dict) or message.get("role") != want:
                raise ValueError(f"messages[{index}]: got {message!r}, want a turn of the {want}.")
            content = message.get("content")
            if not isinstance(content, str):
                raise ValueError(f"messages[{index}]: got the content {content!r}, want text.")
            self.ground.processor.refuse_special_tokens(content.replace(BOX_PLACEHOLDER, ""))
            kept.append({"role": want, "content": content})
        if len(kept) % 2:
            raise ValueError("messages: got a question without its answer at the end, want complete turns.")
        return kept

    def _blocks(self, messages: list[dict[str, str]]) -> list[dict[str, Any]]:
        """Convert messages for the chat template: the image first, query tokens for placeholders."""
        token, blocks = self.ground.processor.box_3d_token, []
        for message in messages:
            words = message["content"]
            if message["role"] == "assistant":
                words = words.replace(BOX_PLACEHOLDER, token)
            blocks.append({"role": message["role"], "content": [{"type": "text", "text": words}]})
        blocks[0]["content"].insert(0, {"type": "image"})
        return blocks

    def _with_placeholders(self, tokens) -> str:
        """Decode an answer with a placeholder for each query token and without other special tokens."""
        processor, parts = self.ground.processor, [[]]
        for token in tokens.tolist():
            if token == processor.box_3d_token_id:
                parts.append([])
            else:
                parts[-1].append(token)
        return BOX_PLACEHOLDER.join(processor.batch_decode(parts, skip_special_tokens=True)).strip()


def describe(answer: dict[str, Any]) -> list[str]:
    """Describe an answer in lines: its text, each box in metres, and the distance between two boxes."""
    lines = [answer["text"] or ("(no words)" if not answer["boxes"] else "")]
    for number, box in enumerate(answer["boxes"], 1):
        distance, size = math.hypot(*box["center"]), " x ".join(f"{side:.2f}" for side in box["size"])
        lines.append(f"[{number}] {box['label']}: {distance:.2f} m away, {size} m, score {box['score']:.2f}")
    lines += [f"{absent['name']}: {ABSENT}" for absent in answer["spoken_of"] if not absent["boxes"]]
    if len(answer["boxes"]) == 2:
        apart = math.dist(*(box["center"] for box in answer["boxes"]))
        lines.append(f"From the centre of [1] to that of [2]: {apart:.2f} m")
    return [line for line in lines if line]
