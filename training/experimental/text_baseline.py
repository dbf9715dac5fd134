# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The text-decoding baseline: the same network, data and LoRA, with boxes written out instead of 3D query tokens.

    trainer = text_trainer(model, processor, rows, SFTConfig(output_dir="run"), "numbers", text_lora_config(model))
    trainer.train()
    evaluate(TextPredictor("checkpoint", "numbers"), rows, protocol, "report")

TRL's SFTTrainer trains it. A row stays a row until it is collated, so that pictures may be changed before, with their
K and boxes; the words always say what the network then sees.
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

# What is new in LLMI3D but for the 3D heads, which no word comes from.
TEXT_PARTS = tuple(part for part in NEW_PARTS if part != "box_head")


class TextCollator(LLMI3DDataCollator):
    """As `LLMI3DDataCollator`, with the boxes of the assistant's answers written out, and no 3D targets.

    Args:
        processor: the model's `LLMI3DProcessor`.
        form: how boxes are written, one of `text_boxes.FORMS`.

    Raises:
        ValueError: an unknown form; on a call as `LLMI3DDataCollator`.
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
    """`lora.lora_config` without what only the 3D query token learns from: its embedding and the 3D heads.

    Args:
        model, rank, train, kwargs: as in `lora_config`.
    """
    config = lora_config(model, rank, train=train, **kwargs)
    config.trainable_token_indices = None
    return config


def text_trainer(model: nn.Module, processor, rows, args, form: str, peft_config: LoraConfig | None = None, **kwargs):
    """A `trl.SFTTrainer` that learns the assistant's words alone, boxes among them.

    Args:
        model: a `LLMI3DForConditionalGeneration`; its 3D heads get no gradient and are frozen.
        processor: the model's.
        rows: a `datasets.Dataset` or `IterableDataset` of IG3D rows.
        args: a `trl.SFTConfig`; columns are kept, whatever it says of unused ones.
        form: how boxes are written, one of `text_boxes.FORMS`.
        peft_config: such as `text_lora_config(model)`; None trains all weights.
        kwargs: anything that `SFTTrainer` takes.
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
    """Answers questions (`evaluation.runner.Predictor`) in words, and reads the boxes in them.

    A box's score is the geometric mean of the probabilities of its answer's tokens. With several samples the answer of
    the highest score is taken among those that can be read (best of n).

    Args:
        checkpoint: folder or Hub name of a model that was trained to write boxes.
        form: how it writes them, one of `text_boxes.FORMS`.
        name: in reports; default the checkpoint's own.
        device: default the fastest there is.
        samples: answers to choose from. One is written greedily, several are drawn.
        temperature: of drawing.
        max_new_tokens: of an answer.
        seed: of drawing; together with the questions it decides what is drawn.

    Attributes:
        counts: over all answers so far: `answers`, of them `abstained`, `malformed` (not readable at all, which
            reports count as unanswered), and `malformed_boxes` of the others.

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
        # A picture that several questions in turn are about enters the network's towers once.
        shared = [
            list(same)
            for _, same in groupby(questions, key=lambda one: (id(one.image), one.intrinsics.flatten().tolist()))
        ]
        phrases = [[phrase for question in same for phrase in question.phrases] for same in shared]
        inputs = self.processor.grounding_inputs(
            [same[0].image for same in shared],
            phrases,
            intrinsics=[same[0].intrinsics.tolist() for same in shared],
            mode="generate",
        )
        owners = torch.tensor([i for i, of_picture in enumerate(phrases) for _ in of_picture])
        seed = self.seed + zlib.crc32("\n".join(question.record.id for question in questions).encode())
        written = self._write(inputs, owners, seed)
        answers = (
            self._choose(candidates, camera.network_intrinsics())
            for candidates, camera in zip(written, inputs.cameras, strict=True)
        )
        return [self._answer(question, answers) for question in questions]

    @torch.no_grad()
    def _write(self, inputs, owners: Tensor, seed: int) -> list[list[tuple[str, float]]]:
        """For each of B prompts its answers, each with its score; `owners` [B] says which picture it is about."""
        model, tokenizer = self.model, self.processor.tokenizer
        first = torch.cat((torch.ones(1, dtype=torch.bool), owners[1:] != owners[:-1]))
        pixels = {name: inputs[name][first].to(model.device, model.dtype) for name in inputs if "pixel" in name}
        features = model.get_image_features(**pixels, return_dict=True).pooler_output[owners.to(model.device)]
        drawn = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "num_return_sequences": self.samples}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found = model.generate(
                **{name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")},
                mm_encoder_outputs={"image": LLMI3DImageFeatures(pooler_output=features)},
                max_new_tokens=self.max_new_tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                return_dict_in_generate=True,
                output_logits=True,  # the model's own probabilities, whatever they were drawn by
                **(drawn if self.samples > 1 else {"do_sample": False}),
            )
        tokens = found.sequences[:, inputs["input_ids"].shape[1] :]
        log_probs = model.compute_transition_scores(found.sequences, found.logits, normalize_logits=True)
        ended = (tokens == tokenizer.eos_token_id).int()
        said = ended.cumsum(1) - ended == 0  # up to and with the end
        scores = ((log_probs * said).sum(1) / said.sum(1)).exp().tolist()
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        answers = list(zip(texts, scores, strict=True))
        return [answers[start : start + self.samples] for start in range(0, len(answers), self.samples)]

    def _choose(self, candidates: list[tuple[str, float]], intrinsics: Tensor) -> list[dict] | None:
        """The boxes of the best candidate, under K of the network frame; None where none can be read."""
        read = [(self.box_text.read(text, intrinsics), score) for text, score in candidates]
        best, score = max(read, key=lambda one: (one[0].answer is not None, one[1]))
        self._count(best)
        return None if best.answer is None else [{**box, "score": score} for box in best.answer]

    def _count(self, answer: TextAnswer) -> None:
        self.counts["answers"] += 1
        self.counts["abstained"] += answer.abstains
        self.counts["malformed"] += answer.answer is None
        self.counts["malformed_boxes"] += answer.malformed if answer.boxes else 0

    def _answer(self, question: Question, answers) -> list[dict] | None:
        found = [(phrase, next(answers)) for phrase in question.phrases]
        if all(boxes is None for _, boxes in found):
            return None
        return [{**box, "category": phrase} for phrase, boxes in found for box in boxes or ()]
