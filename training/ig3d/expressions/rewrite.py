# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Phrases in other words, by any vision-language model; what they mean stays as it was."""

import re
from collections.abc import Callable

from llmi3d.processing.processing_llmi3d import GROUNDING_PROMPT

from ..schema import IMAGE_PLACEHOLDER, upright_image

REQUEST = (
    "Say in other words, as one short noun phrase in English that means exactly the same thing in this picture: "
    '"{phrase}". Answer with the phrase alone.'
)
# Words whose loss or gain changes what a phrase means; any number does as well.
_KEPT = r"left|right|middle|nearest|closest|farthest|above|below|next|largest|smallest|tallest|shortest"
_KEPT += r"|first|second|third|fourth|all"
MOST_LETTERS = 200


def rewrite_phrases(rows: list[dict], captioner: Callable, max_new_tokens: int = 40) -> list[dict]:
    """Rows whose grounding phrases a captioner has put in other words.

    Task, targets and form of a turn stay; its meaning gets `rewritten`. An answer that is empty, long, of several
    lines, holds a placeholder or special token, or changes a number or a word of place or order is not taken.

    Args:
        rows: with `meanings`.
        captioner: an `image-text-to-text` pipeline of transformers, or anything that is called alike.
        max_new_tokens: of an answer.
    """
    before, after = GROUNDING_PROMPT.split("{phrase}")
    rewritten = []
    for row in rows:
        image = upright_image(row["image"])
        messages = [dict(message) for message in row["messages"]]
        meanings = [dict(meaning) for meaning in row["meanings"]]
        users = [message for message in messages if message["role"] == "user"]
        for message, task, meaning in zip(users, row["task"], meanings, strict=True):
            text = message["content"]
            start = f"{IMAGE_PLACEHOLDER}\n" if text.startswith(IMAGE_PLACEHOLDER) else ""
            asked = text[len(start) :]
            if task not in ("grounding", "multi", "absent") or not asked.startswith(before):
                continue
            phrase = asked[len(before) : len(asked) - len(after)]
            content = [{"type": "image", "image": image}, {"type": "text", "text": REQUEST.format(phrase=phrase)}]
            answer = captioner(
                text=[{"role": "user", "content": content}], max_new_tokens=max_new_tokens, return_full_text=False
            )
            new = str(answer[0]["generated_text"]).strip(" \n\"'.")
            if new.lower() != phrase.lower() and _usable(new, phrase):
                message["content"] = start + GROUNDING_PROMPT.format(phrase=new)
                meaning["rewritten"] = True
        rewritten.append({**row, "messages": messages, "meanings": meanings})
    return rewritten


def _usable(new: str, old: str) -> bool:
    if not new or len(new) > MOST_LETTERS or "\n" in new or re.search(r"[<>|{}\[\]]", new):
        return False
    return _signs(new) == _signs(old)


def _signs(text: str) -> list[str]:
    return sorted(re.findall(rf"\d+(?:\.\d+)?|\b(?:{_KEPT})\b", text.lower()))
