# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Text-decoding baseline: the same network, data and LoRA, with boxes as text instead of 3D query tokens.

    trainer = text_trainer(model, processor, rows, SFTConfig(output_dir="run"), "numbers", text_lora_config(model))
    trainer.train()
    evaluate(TextPredictor("checkpoint", "numbers"), rows, protocol, "report")

TRL's SFTTrainer trains it. Boxes are written when rows are collated, so rows may be augmented before: the words always
describe what the network sees.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from llmi3d.data.outputs import checkpoint_fingerprint
from llmi3d.evaluation.runner import Question
from llmi3d.modeling_llmi3d import LLMI3DImageFeatures
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.experimental.text_boxes import BoxText, TextAnswer
from llmi3d.training.lora import NEW_PARTS, lora_config

# New parts of LLMI3D except the 3D heads, which no word depends on.
TEXT_PARTS = tuple(part for part in NEW_PARTS if part != "box_head")


class TextCollator(LLMI3DDataCollator):
    """`LLMI3DDataCollator` with the boxes of the assistant's answers as text, and without 3D targets.

    Args:
        processor: the model's `LLMI3DProcessor`.
        form: how boxes are written, one of `text_boxes.FORMS`.

    Raises:
        ValueError: an unknown form. On a call: as `LLMI3DDataCollator`.
    """

    def __init__(self, processor, form: str):
        super().__init__(processor)
        self.box_text = BoxText.for_processor(processor, form)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Returns:
            `input_ids`, `attention_mask`, `labels` [B, T], `pixel_values`, `high_res_pixel_values`.
        """
        batch = super().__call__([self.box_text.write_row(row, self.processor) for row in rows])
        return {name: batch[name] for name in (*self.processor.model_input_names, "labels") if name in batch}


def text_lora_config(model: nn.Module, rank: int = 16, train: tuple[str, ...] = TEXT_PARTS, **kwargs) -> LoraConfig:
    """Return `lora.lora_config` without the 3D query token's embedding and the 3D heads.

    Args:
        model, rank, train, kwargs: as in `lora_config`.
    """
    config = lora_config(model, rank, train=train, **kwargs)
    config.trainable_token_indices = None
    return config


def text_trainer(model: nn.Module, processor, rows, args, form: str, peft_config: LoraConfig | None = None, **kwargs):
    """Return a `trl.SFTTrainer` that learns the assistant's words only, boxes among them.

    Args:
        model: a `LLMI3DForConditionalGeneration`; its 3D heads get no gradient and are frozen.
        processor: the model's processor.
        rows: a `datasets.Dataset` or `IterableDataset` of IG3D rows.
        args: a `trl.SFTConfig`; its `remove_unused_columns` is set to False.
        form: how boxes are written, one of `text_boxes.FORMS`.
        peft_config: adapters, such as `text_lora_config(model)`; None trains all weights.
        kwargs: other arguments of `SFTTrainer`.
    """
    from trl import SFTTrainer

    model.box_head.requires_grad_(False)
    args.remove_unused_columns = False
    return SFTTrainer(
        model,
        args,
        data_collator=TextCollator(processor, form),
        train_dataset=rows,
        processing_class=processor,
        peft_config=peft_config,
        **kwargs,
    )


class TextPredictor:
    """Predictor (`llmi3d.evaluation.runner.Predictor`) that answers in words and reads the boxes in them.

    The score of a box is the geometric mean of the probabilities of its answer's tokens. With several samples, the
    readable answer with the highest score is taken (best of n).

    Args:
        checkpoint: folder or Hub name of a model that was trained to write boxes.
        form: how it writes them, one of `text_boxes.FORMS`.
        name: name in reports; the checkpoint's by default.
        device: the fastest available by default.
        samples: answers to choose from; one is decoded greedily, several are sampled.
        temperature: sampling temperature.
        max_new_tokens: longest answer.
        seed: sampling seed; seed and questions together determine the samples.

    Attributes:
        counts: totals over all answers: `answers`, of them `abstained` and `malformed` (unreadable; reports count
            them as unanswered), and `malformed_boxes` of the others.

    Raises:
        ValueError: an unknown form, or fewer samples than 1.
    """

    def __init__(
        self,
        checkpoint: str,
        form: str,
        name: str | None = None,
        device=None,
        samples: int = 1,
        temperature: float = 1.0,
        max_new_tokens: int = 160,
        seed: int = 0,
    ):
        from transformers import pipeline

        if samples < 1:
            raise ValueError(f"samples: got {samples}, want at least 1.")
        loaded = pipeline("image-3d-grounding", model=str(checkpoint), device=device)
        self.model, self.processor = loaded.model, loaded.processor
        self.box_text = BoxText.for_processor(self.processor, form)
        self.samples, self.temperature, self.max_new_tokens, self.seed = samples, temperature, max_new_tokens, seed
        self.name = name or Path(checkpoint).name
        self.recipe = {
            "checkpoint": checkpoint_fingerprint(checkpoint, self.model.config),
            "form": form,
            "dtype": str(self.model.dtype),
            "max_new_tokens": max_new_tokens,
            **({"samples": samples, "temperature": temperature, "seed": seed} if samples > 1 else {}),
        }
        self.counts = Counter()

    def __call__(self, questions: Sequence[Question]) -> list[list[dict] | None]:
        """See `Predictor`."""
        # The towers see an image once for consecutive questions about it.
        shared = [
            list(same)
            for _, same in groupby(
                questions, key=lambda question: (id(question.image), question.intrinsics.flatten().tolist())
            )
        ]
        phrases = [[phrase for question in same for phrase in question.phrases] for same in shared]
        inputs = self.processor.grounding_inputs(
            [same[0].image for same in shared],
            phrases,
            intrinsics=[same[0].intrinsics.tolist() for same in shared],
            mode="generate",
        )
        owners = torch.tensor([i for i, of_image in enumerate(phrases) for _ in of_image])
        seed = self.seed + zlib.crc32("\n".join(question.record.id for question in questions).encode())
        written = self._write(inputs, owners, seed)
        answers = (
            self._choose(candidates, camera.network_intrinsics())
            for candidates, camera in zip(written, inputs.cameras, strict=True)
        )
        return [self._answer(question, answers) for question in questions]

    @torch.no_grad()
    def _write(self, inputs, owners: Tensor, seed: int) -> list[list[tuple[str, float]]]:
        """Return the answers to each of B prompts with their scores; `owners` [B] are the images of the prompts."""
        model, tokenizer = self.model, self.processor.tokenizer
        first = torch.cat((torch.ones(1, dtype=torch.bool), owners[1:] != owners[:-1]))
        pixels = {name: inputs[name][first].to(model.device, model.dtype) for name in inputs if "pixel" in name}
        features = model.get_image_features(**pixels, return_dict=True).pooler_output[owners.to(model.device)]
        drawn = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "num_return_sequences": self.samples}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            output = model.generate(
                **{name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")},
                mm_encoder_outputs={"image": LLMI3DImageFeatures(pooler_output=features)},
                max_new_tokens=self.max_new_tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                return_dict_in_generate=True,
                output_logits=True,  # the model's own probabilities, without temperature
                **(drawn if self.samples > 1 else {"do_sample": False}),
            )
        tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
        log_probs = model.compute_transition_scores(output.sequences, output.logits, normalize_logits=True)
        ended = (tokens == tokenizer.eos_token_id).int()
        said = ended.cumsum(1) - ended == 0  # up to and including the end
        scores = ((log_probs * said).sum(1) / said.sum(1)).exp().tolist()
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        answers = list(zip(texts, scores, strict=True))
        return [answers[start : start + self.samples] for start in range(0, len(answers), self.samples)]

    def _choose(self, candidates: list[tuple[str, float]], intrinsics: Tensor) -> list[dict] | None:
        """Return the boxes of the best candidate, given K of the network frame; None if none can be read."""
        read = [(self.box_text.read(text, intrinsics), score) for text, score in candidates]
        best, score = max(read, key=lambda pair: (pair[0].answer is not None, pair[1]))
        self._count(best)
        return None if best.answer is None else [{**box, "score": score} for box in best.answer]

    def _count(self, answer: TextAnswer) -> None:
        self.counts["answers"] += 1
        self.counts["abstained"] += answer.abstains
        self.counts["malformed"] += answer.answer is None
        self.counts["malformed_boxes"] += answer.malformed if answer.boxes else 0

    def _answer(self, question: Question, answers) -> list[dict] | None:
        answered = [(phrase, next(answers)) for phrase in question.phrases]
        if all(boxes is None for _, boxes in answered):
            return None
        return [{**box, "category": phrase} for phrase, boxes in answered for box in boxes or ()]
