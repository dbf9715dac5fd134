"""Phrases that mean exactly what they should, questions that the boxes answer, and paraphrases to test with."""

from llmi3d.data.expressions.forms import referents
from llmi3d.data.expressions.phrases import PHRASE_KINDS, phrases_for
from llmi3d.data.expressions.questions import QUESTION_KINDS
from llmi3d.data.expressions.rewrite import rewrite_phrases
from llmi3d.data.expressions.scene_conversation import make_conversation

__all__ = [
    "PHRASE_KINDS",
    "QUESTION_KINDS",
    "make_conversation",
    "phrases_for",
    "referents",
    "rewrite_phrases",
]
