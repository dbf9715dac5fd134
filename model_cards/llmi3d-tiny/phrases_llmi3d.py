# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Prefix sharing for several phrases about one image: one masked sequence, or a shared prefix cache."""

import torch
from torch import Tensor, nn

# Attention implementations that accept any mask; the others support causal masks and padding only.
ANY_MASK = ("eager", "sdpa")


def phrase_mask(phrase_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask a sequence of several phrases: each attends to the shared tokens and to itself, but to no other phrase.

    Args:
        phrase_ids: [B, T]: 0 for padding, 1 for shared tokens, 2 and up for each phrase.
        dtype: floating dtype of the mask.

    Returns:
        [B, 1, T, T], added to the scores: every attention implementation accepts that, whereas `eager` does not
        understand a boolean mask.
    """
    length = phrase_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=phrase_ids.device).tril()
    same = (phrase_ids[:, :, None] == phrase_ids[:, None]) | (phrase_ids[:, None] == 1)
    # Padding attends to itself: a row that attends to nothing would be NaN.
    itself = torch.eye(length, dtype=torch.bool, device=phrase_ids.device)
    visible = (causal & same & (phrase_ids > 0)[:, :, None]) | itself
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, torch.finfo(dtype).min
    )[:, None]


def split_phrases(input_ids: Tensor, phrase_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split sequences that several phrases share into one sequence for each phrase.

    Args:
        input_ids, phrase_ids: [B, T], as in `phrase_mask`.

    Returns:
        (input_ids [P, T'], attention_mask [P, T'], index of the original sequence [P]), padded on the right.
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


def shared_start(input_ids: Tensor, attention_mask: Tensor, is_image: Tensor, image_index: Tensor) -> int:
    """Count the tokens that all phrases about an image start with: those up to the image's last token.

    Args:
        input_ids, attention_mask: [B, T], padded on the left.
        is_image: bool [B, T], placeholders of visual tokens.
        image_index: [B], which image each sequence is about.

    Returns:
        The same number for every sequence; 0 if they start differently, or if no image has two phrases.
    """
    length = input_ids.shape[1]
    padding = attention_mask.long().argmax(-1)
    ends = length - is_image.flip(-1).long().argmax(-1)
    starts = ends - padding
    images = image_index.tolist()
    in_form = (attention_mask.sum(-1) == length - padding) & is_image.any(-1) & (starts == starts[0]) & (ends < length)
    if len(set(images)) == len(images) or not in_form.all():
        return 0
    start = int(starts[0])
    tokens = pad_after(input_ids, attention_mask, start)[:, :start]
    firsts = torch.tensor([images.index(image) for image in images], device=tokens.device)
    return start if torch.equal(tokens, tokens[firsts]) else 0


def pad_after(rows: Tensor, attention_mask: Tensor, start: int) -> Tensor:
    """Move the padding of rows [B, T] from the left to after their first `start` tokens, so that these are aligned.

    Args:
        attention_mask: [B, T], padded on the left.
    """
    padding = attention_mask.long().argmax(-1, keepdim=True)
    columns = torch.arange(rows.shape[1], device=rows.device)[None]
    rest = torch.where(columns < start + padding, columns - start, columns)
    return rows.gather(1, torch.where(columns < start, columns + padding, rest))
