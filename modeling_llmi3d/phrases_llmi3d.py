# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Several phrases about one picture in one sequence: who sees whom, and the way back to a sequence each."""

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
