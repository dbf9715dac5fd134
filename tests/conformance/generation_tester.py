# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Tests of `generate`, in the place of transformers' own, which its source distribution lacks.

Each compares one way of decoding with another that must give the same, or with plain forward passes.
"""

import copy
from unittest import mock

import torch
from transformers import GenerationConfig
from transformers.testing_utils import torch_device

NEW_TOKENS = 5


class GenerationTesterMixin:
    """For a test class with a `model_tester` and `all_generative_model_classes`."""

    def _generative_models(self):
        """Each model in eval mode, with its inputs; it never stops early and never writes an image placeholder."""
        for model_class in self.all_generative_model_classes:
            torch.manual_seed(0)
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            model = model_class(config).to(torch_device).eval()
            model.generation_config = GenerationConfig(
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=config.text_config.pad_token_id,
                suppress_tokens=[config.image_token_id],
                return_dict_in_generate=True,
                output_logits=True,
            )
            yield model, inputs

    def _assert_same(self, one, other):
        self.assertEqual(one.sequences.tolist(), other.sequences.tolist())
        if one.logits is not None and other.logits is not None:
            torch.testing.assert_close(torch.stack(one.logits), torch.stack(other.logits), atol=1e-4, rtol=1e-4)

    def test_greedy_generate_matches_forward(self):
        for model, inputs in self._generative_models():
            answer = model.generate(**inputs)
            length = inputs["input_ids"].shape[1]
            self.assertEqual(answer.sequences.shape[1], length + NEW_TOKENS)
            with torch.no_grad():
                full = {**inputs, "input_ids": answer.sequences, "attention_mask": torch.ones_like(answer.sequences)}
                logits = model(**full).logits[:, length - 1 : -1]
            torch.testing.assert_close(torch.stack(answer.logits, 1), logits, atol=1e-4, rtol=1e-4)

    def test_generate_without_cache(self):
        for model, inputs in self._generative_models():
            self._assert_same(model.generate(**inputs), model.generate(**inputs, use_cache=False))

    def test_generate_with_static_cache(self):
        for model, inputs in self._generative_models():
            self._assert_same(model.generate(**inputs), model.generate(**inputs, cache_implementation="static"))

    def test_sample_generate(self):
        for model, inputs in self._generative_models():
            answers = []
            for _ in range(2):
                torch.manual_seed(1)
                answers.append(model.generate(**inputs, do_sample=True, top_k=20, num_return_sequences=2))
            self.assertEqual(len(answers[0].sequences), 2 * len(inputs["input_ids"]))
            self._assert_same(*answers)

    def test_beam_search_generate(self):
        for model, inputs in self._generative_models():
            best = model.generate(**inputs, num_beams=3, num_return_sequences=3, output_scores=True)
            without_cache = model.generate(**inputs, num_beams=3, num_return_sequences=3, use_cache=False)
            self.assertEqual(best.sequences.tolist(), without_cache.sequences.tolist())
            for scores in best.sequences_scores.view(-1, 3).tolist():
                self.assertEqual(scores, sorted(scores, reverse=True))
            self._assert_same(model.generate(**inputs), model.generate(**inputs, num_beams=1))

    def test_beam_sample_generate(self):
        for model, inputs in self._generative_models():
            answer = model.generate(**inputs, do_sample=True, num_beams=2)
            self.assertEqual(answer.sequences.shape[1], inputs["input_ids"].shape[1] + NEW_TOKENS)

    def test_generate_dict_outputs(self):
        for model, inputs in self._generative_models():
            model.set_attn_implementation("eager")  # sdpa has no attentions to give
            answer = model.generate(**inputs, output_attentions=True, output_hidden_states=True, output_scores=True)
            text, (batch, length) = model.config.text_config, inputs["input_ids"].shape
            for step in range(NEW_TOKENS):
                new = length if step == 0 else 1
                self.assertEqual(answer.scores[step].shape, (batch, text.vocab_size))
                self.assertEqual(len(answer.hidden_states[step]), text.num_hidden_layers + 1)
                self.assertEqual(answer.hidden_states[step][-1].shape, (batch, new, text.hidden_size))
                heads = (batch, text.num_attention_heads, new, length + step)
                self.assertEqual({tuple(layer.shape) for layer in answer.attentions[step]}, {heads})

    def test_prompt_lookup_decoding_matches_greedy(self):
        for model, inputs in self._generative_models():
            one = {name: value[:1] for name, value in inputs.items()}  # it takes one sample at a time
            self._assert_same(model.generate(**one), model.generate(**one, prompt_lookup_num_tokens=2))

    def test_assisted_decoding_matches_greedy(self):
        for model, inputs in self._generative_models():
            one = {name: value[:1] for name, value in inputs.items()}
            assistant = copy.deepcopy(model)
            with torch.no_grad():  # one that often guesses wrong
                assistant.lm_head.weight += torch.randn_like(assistant.lm_head.weight) * 0.02
            assistant.generation_config.num_assistant_tokens = 2
            self._assert_same(model.generate(**one), model.generate(**one, assistant_model=assistant))

    def test_left_padding_compatibility(self):
        for model, inputs in self._generative_models():
            padding = torch.full_like(inputs["input_ids"][:, :3], model.config.text_config.pad_token_id)
            padded = {
                **inputs,
                "input_ids": torch.cat((padding, inputs["input_ids"]), 1),
                "attention_mask": torch.cat((torch.zeros_like(padding), inputs["attention_mask"]), 1),
            }
            plain, answer = model.generate(**inputs), model.generate(**padded)
            answer.sequences = answer.sequences[:, padding.shape[1] :]
            self._assert_same(plain, answer)

    def test_generate_from_inputs_embeds(self):
        for model, inputs in self._generative_models():
            embeds = {**inputs, "inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
            plain, with_ids = model.generate(**inputs), model.generate(**embeds)
            self._assert_same(plain, with_ids)
            del embeds["input_ids"]
            alone = model.generate(**embeds)  # without a prompt to repeat, the answer alone comes out
            plain.sequences = plain.sequences[:, inputs["input_ids"].shape[1] :]
            self._assert_same(plain, alone)

    def test_generate_without_images(self):
        for model, inputs in self._generative_models():
            text = {name: inputs[name][:, -3:] for name in ("input_ids", "attention_mask")}
            self._assert_same(model.generate(**text), model.generate(**text, use_cache=False))

    def test_generate_continues_from_a_cache(self):
        for model, inputs in self._generative_models():
            whole = model.generate(**inputs)
            first = model.generate(**inputs, max_new_tokens=2)
            rest = {
                "input_ids": first.sequences,
                "attention_mask": torch.ones_like(first.sequences),
                "cache": first.cache,
            }
            second = model.generate(**rest, max_new_tokens=NEW_TOKENS - 2)
            self.assertEqual(whole.sequences.tolist(), second.sequences.tolist())

    def test_generate_encodes_images_once(self):
        for model, inputs in self._generative_models():
            for arguments in ({}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
                tower = model.base_model.high_res_tower
                with mock.patch.object(tower, "forward", wraps=tower.forward) as forward:
                    model.generate(**inputs, **arguments)
                self.assertEqual([len(call.args[0]) for call in forward.call_args_list], [len(inputs["input_ids"])])

    def test_generate_compiles_without_graph_breaks(self):
        for model, inputs in self._generative_models():
            plain = model.generate(**inputs, cache_implementation="static")
            forward = model.forward
            model.forward = torch.compile(forward, backend="eager", fullgraph=True)
            compiled = model.generate(**inputs, cache_implementation="static")
            model.forward = forward
            self._assert_same(plain, compiled)
