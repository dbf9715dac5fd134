# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What phrases about one picture share: one sequence, in which they do not see each other, or the start of theirs."""

import torch
from torch import Tensor, nn

# Attention that takes any mask; the others know causality and padding alone.
ANY_MASK = ("eager", "sdpa")


def phrase_mask(phrase_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention in a sequence of several phrases: each sees what all share, and itself, but no other.

    Args:
        phrase_ids: [B, T]: 0 for padding, 1 for what all share, 2 and on for each phrase.
        dtype: floating, of the mask.

    Returns:
        [B, 1, T, T], added to the scores: every attention takes that, while a boolean one would mean nothing to
        `eager`.
    """
    length = phrase_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=phrase_ids.device).tril()
    same = (phrase_ids[:, :, None] == phrase_ids[:, None]) | (phrase_ids[:, None] == 1)
    # Padding sees itself alone: a row that sees nothing would be nan.
    itself = torch.eye(length, dtype=torch.bool, device=phrase_ids.device)
    sees = (causal & same & (phrase_ids > 0)[:, :, None]) | itself
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, torch.finfo(dtype).min)[
        :, None
    ]


def split_phrases(input_ids: Tensor, phrase_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A sequence of its own for each of the phrases that share one.

    Args:
        input_ids, phrase_ids: [B, T], as of `phrase_mask`.

    Returns:
        (input_ids [P, T'], attention_mask [P, T'], which of B each was in [P]), padded on the right.
    """
    rows, owners = [], []
    for owner, (tokens, ids) in enumerate(zip(input_ids, phrase_ids, strict=True)):
        for phrase in range(2, int(ids.max()) + 1):
            rows.append(tokens[(ids == 1) | (ids == phrase)])
            owners.append(owner)
    masks = [torch.ones_like(row) for row in rows]
    pad = nn.utils.rnn.pad_sequence
    owners = torch.tensor(owners, dtype=torch.long, device=input_ids.device)
    return pad(rows, batch_first=True), pad(masks, batch_first=True), owners


def shared_start(input_ids: Tensor, attention_mask: Tensor, is_image: Tensor, picture_index: Tensor) -> int:
    """How many tokens all phrases about a picture start with: those up to the picture's last.

    Args:
        input_ids, attention_mask: [B, T], padded on the left.
        is_image: bool [B, T], which tokens stand for visual ones.
        picture_index: [B], which picture each sequence is about.

    Returns:
        The same number for every sequence; 0 where they start otherwise, or no picture has two phrases.
    """
    length = input_ids.shape[1]
    padding = attention_mask.long().argmax(-1)
    ends = length - is_image.flip(-1).long().argmax(-1)
    starts = ends - padding
    pictures = picture_index.tolist()
    in_form = (attention_mask.sum(-1) == length - padding) & is_image.any(-1) & (starts == starts[0]) & (ends < length)
    if len(set(pictures)) == len(pictures) or not in_form.all():
        return 0
    start = int(starts[0])
    tokens = pad_behind(input_ids, attention_mask, start)[:, :start]
    firsts = torch.tensor([pictures.index(picture) for picture in pictures], device=tokens.device)
    return start if torch.equal(tokens, tokens[firsts]) else 0


def pad_behind(rows: Tensor, attention_mask: Tensor, start: int) -> Tensor:
    """Rows [B, T] whose padding moves from the left to behind their first `start` tokens, so that these lie together.

    Args:
        attention_mask: [B, T], padded on the left.
    """
    padding = attention_mask.long().argmax(-1, keepdim=True)
    columns = torch.arange(rows.shape[1], device=rows.device)[None]
    behind = torch.where(columns < start + padding, columns - start, columns)
    return rows.gather(1, torch.where(columns < start, columns + padding, behind))
