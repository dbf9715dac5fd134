# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Rewrites a base's chat template to mark the tokens that are learned.

The turns stay those that the base was tuned on. Rendering the template shows what it writes around words; the new
template writes the same, with a generation block around the assistant's words and end of turn:

    <start> [<system> WORDS <system_end>] <user> WORDS <user_end> <assistant> WORDS <end> <rest> <user> ...
                                                                             '---------' learned
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

TEMPLATE = """{% for message in messages %}{% if message['role'] == 'system' %}@system@@words@@system_end@{% else -%}
{% if loop.first %}{{ @start@ }}{% endif %}{% if message['role'] == 'assistant' %}{{ @assistant@ }}{% generation -%}
@words@{{ @end@ }}{% endgeneration %}{{ @rest@ }}{% else -%}
{% set blocks = [] if message['content'] is string else message['content'] -%}
{% if blocks | selectattr('type', 'equalto', 'image') | list %}{{ @user_with_image@ }}{% else %}{{ @user@ -}}
{% endif %}@words@{{ @user_end@ }}{% endif -%}
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ @assistant@ }}{% endif -%}"""
WORDS = """{% if message['content'] is string %}{{ message['content'] }}{% else -%}
{% for block in message['content'] %}{{ block['text'] }}{% endfor %}{% endif -%}"""
# Placeholders of words while a template is read.
QUESTION, ANSWER, SECOND, RULE = "QUESTIONWORDS", "ANSWERWORDS", "SECONDWORDS", "RULEWORDS"


@dataclass(frozen=True)
class Turns:
    """Text that a chat template writes around words.

    Attributes:
        start: start of a conversation without a system message.
        system, system_end: around a system message; None if the template takes none.
        user, user_with_image, user_end: around a question; before a question that begins with an image.
        assistant: before an answer.
        end: token that ends an answer; it is learned.
        rest: after that token.
    """

    start: str
    system: str | None
    system_end: str | None
    user: str
    user_with_image: str
    user_end: str
    assistant: str
    end: str
    rest: str

    def to_template(self) -> str:
        """Return the chat template that writes these turns."""
        text = TEMPLATE
        if self.system is None:
            refusal = "{{ raise_exception('system: got a message, but the base was tuned without; want none.') }}"
            text = text.replace("@system@@words@@system_end@", refusal)
        for name, value in vars(self).items():
            literal = json.dumps(value, ensure_ascii=False)
            braces = name in ("system", "system_end")
            text = text.replace(f"@{name}@", f"{{{{ {literal} }}}}" if braces else literal)
        return text.replace("@words@", WORDS)


def read_turns(template: str, tokenizer, image_token: str) -> Turns:
    """Read the turns that a chat template writes.

    Args:
        template: for messages whose content is a list of blocks `{"type": "text", ...}` and `{"type": "image"}`.
        tokenizer: provides the special tokens. If it adds the first of them itself, the result leaves it out.
        image_token: what the template writes for an image.

    Raises:
        ValueError: a broken template, or turns that depend on more than their role and place.
    """

    def render(*messages: dict, ask: bool = False) -> str:
        return render_jinja_template(
            [list(messages)], chat_template=template, add_generation_prompt=ask, **tokenizer.special_tokens_map
        )[0][0]

    question, answer, second = _message("user", QUESTION), _message("assistant", ANSWER), _message("user", SECOND)
    picture = {"role": "user", "content": [{"type": "image"}, *question["content"]]}
    try:
        opening, user_end = _split(render(question), QUESTION)
        _, asked = _split(render(question, ask=True), QUESTION)
        _, answered = _split(render(question, answer), QUESTION)
        between, closing = _split(answered, ANSWER)
        asking, speaking = _without(user_end, asked), _without(user_end, between)
        _, gap = _split(render(question, answer, second), ANSWER)
        gap, _ = _split(gap, SECOND)
        user = _without(closing, gap)
        if not opening.endswith(user):
            raise ValueError("the first question begins differently from the second")
        start = opening[: len(opening) - len(user)]
        with_image = _without(start, _split(render(picture), QUESTION)[0])
        if with_image.count(image_token) != 1:
            raise ValueError(f"a question with an image begins with {with_image!r}, without one '{image_token}'")
    except (TemplateError, ValueError) as error:
        raise ValueError(f"chat_template: cannot read the base's: {error}.") from error
    end, rest = _end_of_turn(closing, tokenizer)
    return Turns(
        _without_bos(start, tokenizer),
        *_system(render, user, question, tokenizer),
        user,
        with_image,
        user_end,
        # As in a learned turn if the generation prompt agrees with it.
        speaking if speaking.startswith(asking) else asking,
        end,
        rest,
    )


def _message(role: str, words: str) -> dict:
    return {"role": role, "content": [{"type": "text", "text": words}]}


def _split(text: str, words: str) -> tuple[str, str]:
    before, separator, after = text.partition(words)
    if not separator or words in after:
        raise ValueError(f"words appear {text.count(words)} times instead of once")
    return before, after


def _without(start: str, text: str) -> str:
    if not text.startswith(start):
        raise ValueError(f"{text!r} does not begin with {start!r}")
    return text[len(start) :]


def _without_bos(text: str, tokenizer) -> str:
    """Remove the token that the tokenizer adds itself."""
    bos = tokenizer.bos_token
    adds = bos is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return text.removeprefix(bos) if adds else text


def _system(render: Callable[..., str], user: str, question: dict, tokenizer) -> tuple[str | None, str | None]:
    try:
        before, after = _split(render(_message("system", RULE), question), RULE)
        after, _ = _split(after, QUESTION)
    except (TemplateError, ValueError):
        return None, None
    if not after.endswith(user):
        return None, None
    return _without_bos(before, tokenizer), after[: len(after) - len(user)]


def _end_of_turn(closing: str, tokenizer) -> tuple[str, str]:
    """Return the token that ends an answer, by default the end of text, and what follows it."""
    for token in tokenizer.all_special_tokens:
        if closing.lstrip().startswith(token):
            return token, closing.lstrip()[len(token) :]
    return tokenizer.eos_token, ""
