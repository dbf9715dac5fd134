"""Phrases that mean exactly what they should, and questions whose answers are in the boxes."""

from .conversation import make_conversation
from .forms import Referents, referents
from .phrases import PHRASE_KINDS, phrases_for
from .questions import QUESTION_KINDS
from .rewrite import rewrite_phrases

__all__ = [
    "PHRASE_KINDS",
    "QUESTION_KINDS",
    "Referents",
    "make_conversation",
    "phrases_for",
    "referents",
    "rewrite_phrases",
]
