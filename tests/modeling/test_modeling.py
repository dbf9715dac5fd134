# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The model as a whole: batching, generation, saving and loading, precision, gradients, attention backends."""

import inspect
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration, LogitsProcessor, LogitsProcessorList

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DModel, generation_llmi3d, pretrained_llmi3d

PIXELS = ("pixel_values", "high_res_pixel_values")
IMAGE_TOKENS, PROMPT = 16, 23  # of a sample of `tiny_inputs`


@torch.no_grad()
def answer(model, inputs, **kwargs):
    return model(**inputs, **kwargs)


def assert_same_boxes(got, want, atol=1e-5):
    for name, value in want.items():
        torch.testing.assert_close(
            got[name], value, atol=atol, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def text_only(inputs):
    return {name: value for name, value in inputs.items() if name not in PIXELS}


# ------------------------------------------------------------------------------------------------ batching and padding


def test_batched_is_one_by_one(tiny_model, tiny_inputs):
    inputs = tiny_inputs(batch=3)
    batched = answer(tiny_model, inputs)
    assert (batched.boxes_3d.depth_virtual[0] != batched.boxes_3d.depth_virtual[1]).all()
    for i in range(3):
        single = answer(tiny_model, {name: value[i : i + 1] for name, value in inputs.items()})
        torch.testing.assert_close(single.logits[0], batched.logits[i], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(single.depth_logits[0], batched.depth_logits[i], atol=1e-5, rtol=1e-4)
        assert_same_boxes(
            {k: v[0] for k, v in single.boxes_3d.items()}, {k: v[i] for k, v in batched.boxes_3d.items()}
        )


def left_padded(inputs, padding: int):
    rows = len(inputs["input_ids"])
    fill = torch.zeros(rows, padding, dtype=torch.long)
    return {
        **inputs,
        "input_ids": torch.cat((fill, inputs["input_ids"]), 1),
        "attention_mask": torch.cat((fill, inputs["attention_mask"]), 1),
    }


def test_left_padded_is_unpadded(tiny_model, tiny_inputs):
    inputs = tiny_inputs()
    plain, padded = answer(tiny_model, inputs), answer(tiny_model, left_padded(inputs, 5))
    torch.testing.assert_close(padded.logits[:, 5:], plain.logits, atol=1e-5, rtol=1e-4)
    assert_same_boxes(padded.boxes_3d, plain.boxes_3d)


def test_samples_with_different_numbers_of_queries_share_a_batch(tiny_model, tiny_inputs):
    long, short = tiny_inputs(batch=1, queries=3, words=8, seed=1), tiny_inputs(batch=1, queries=1, words=5, seed=2)
    alone = [answer(tiny_model, sample).boxes_3d for sample in (long, short)]
    padded = left_padded(short, 3)
    together = answer(tiny_model, {name: torch.cat((long[name], padded[name])) for name in long}).boxes_3d
    assert together.mask.tolist() == [[True, True, True], [True, False, False]]
    for i, want in enumerate(alone):
        count = want.mask.shape[1]
        assert_same_boxes({k: v[i, :count] for k, v in together.items()}, {k: v[0] for k, v in want.items()})


def test_without_query_there_is_no_box(tiny_model, tiny_inputs):
    boxes = answer(tiny_model, tiny_inputs(queries=0)).boxes_3d
    assert boxes.mask.shape == (2, 1) and not boxes.mask.any()


def test_without_image_there_is_only_text(tiny_model, tiny_inputs):
    inputs = text_only(tiny_inputs())
    inputs["input_ids"][inputs["input_ids"] == 3] = 7
    out = answer(tiny_model, inputs)
    assert out.boxes_3d is None and out.depth_logits is None and out.logits.shape == (2, PROMPT, 99)


def test_logits_to_keep_changes_neither_boxes_nor_the_kept_logits(tiny_model, tiny_inputs):
    inputs = tiny_inputs()
    full, last = answer(tiny_model, inputs), answer(tiny_model, inputs, logits_to_keep=1)
    assert last.logits.shape == (2, 1, 99)
    torch.testing.assert_close(last.logits[:, 0], full.logits[:, -1])
    assert_same_boxes(last.boxes_3d, full.boxes_3d)


def test_the_network_knows_no_camera():
    for function in (LLMI3DModel.forward, LLMI3DForConditionalGeneration.forward, LLMI3DModel.get_image_features):
        names = inspect.signature(function).parameters
        assert not [n for n in names if any(word in n for word in ("intrinsic", "camera", "focal", "fov"))]


# ---------------------------------------------------------------------------------------------------------- as LLaVA


@pytest.mark.parametrize("depth_branch", [True, False])
def test_a_neutral_model_is_llava(tiny_config, new_tiny_model, tiny_inputs, depth_branch):
    """With the value path of the mining at zero the same weights give LLaVA's own logits."""
    model = new_tiny_model(depth_branch=depth_branch, depth_from_map=depth_branch)
    config, attention = model.config, model.model.feature_mining.attention
    with torch.no_grad():
        for parameter in (attention.value_proj.weight, attention.value_proj.bias):
            parameter.zero_()
        if depth_branch:
            attention.depth_value_proj.weight.zero_()
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=config.vision_config,
            text_config=config.text_config,
            image_token_index=config.image_token_id,
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy="default",
        )
    ).eval()
    own = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(("box_head", "model.h", "model.f"))
    }
    llava.load_state_dict(own, strict=True)
    inputs = tiny_inputs()
    with torch.no_grad():
        want = llava(**{name: value for name, value in inputs.items() if name != "high_res_pixel_values"}).logits
    torch.testing.assert_close(answer(model, inputs).logits, want, atol=1e-5, rtol=1e-5)
    # The high-resolution picture matters as soon as the value path is not zero.
    torch.nn.init.normal_(attention.value_proj.weight)
    assert (answer(model, inputs).logits - want).abs().max() > 1e-2


def test_the_answer_depends_on_both_resolutions(tiny_model, tiny_inputs):
    inputs = tiny_inputs()
    before = answer(tiny_model, inputs).boxes_3d.depth_virtual
    for name in PIXELS:
        after = answer(tiny_model, {**inputs, name: inputs[name] + 1}).boxes_3d.depth_virtual
        assert (after - before).abs().max() > 1e-4, name


# -------------------------------------------------------------------------------------------------------- generation


class Say(LogitsProcessor):
    """Makes a model say these tokens, in every row and beam; None leaves a token to the model."""

    def __init__(self, prompt_length: int, tokens: list[int | None]):
        self.prompt_length, self.tokens = prompt_length, tokens

    def __call__(self, input_ids, scores):
        token = self.tokens[input_ids.shape[1] - self.prompt_length]
        if token is None:
            return scores
        forced = torch.full_like(scores, -1e9)
        forced[:, token] = 0.0
        return forced


def say(inputs, *tokens) -> dict:
    length = inputs["input_ids"].shape[1]
    return {"logits_processor": LogitsProcessorList([Say(length, list(tokens))]), "max_new_tokens": len(tokens)}


def teacher_forced(model, inputs, sequences):
    """The boxes of one forward pass over prompts without query tokens and their answers."""
    per_sample = len(sequences) // len(inputs["input_ids"])
    again = {name: value.repeat_interleave(per_sample, 0) for name, value in inputs.items()}
    grown = sequences.shape[1] - again["attention_mask"].shape[1]
    mask = torch.cat((again["attention_mask"], torch.ones(len(sequences), grown, dtype=torch.long)), 1)
    return answer(model, {**again, "input_ids": sequences, "attention_mask": mask}).boxes_3d


QUERY, EOS = 4, 2
DECODING = {
    "greedy": {"do_sample": False},
    "beam search": {"num_beams": 3, "do_sample": False},
    "three beams returned": {"num_beams": 4, "num_return_sequences": 3, "do_sample": False},
    "two samples each": {"do_sample": True, "num_return_sequences": 2},
    "without cache": {"do_sample": False, "use_cache": False},
}


@pytest.mark.parametrize("decoding", DECODING)
@pytest.mark.parametrize("padding", [0, 4])
def test_generated_boxes_are_those_of_a_teacher_forced_pass(tiny_model, tiny_inputs, decoding, padding):
    torch.manual_seed(0)
    inputs = left_padded(tiny_inputs(queries=0), padding)
    tokens = (None, None, QUERY, None, QUERY, None, None)
    got = tiny_model.generate_boxes(**inputs, **say(inputs, *tokens), **DECODING[decoding], eos_token_id=None)
    assert got.boxes_3d.mask.sum(-1).min() >= 2
    per_sample = DECODING[decoding].get("num_return_sequences", 1)
    assert len(got.sequences) == 2 * per_sample
    if per_sample > 1:
        assert len({tuple(row) for row in got.sequences.tolist()}) > 2  # the answers of one sample differ
    want = teacher_forced(tiny_model, inputs, got.sequences)
    assert torch.equal(got.boxes_3d.mask, want.mask)
    for name in ("center_2d_px", "box_2d_px", "depth_virtual", "size", "rotation_6d", "score_logits"):
        torch.testing.assert_close(got.boxes_3d[name][want.mask], want[name][want.mask], atol=1e-4, rtol=1e-4)


def test_the_direct_prompts_box_is_the_generated_one(tiny_model, tiny_inputs):
    """The prompt that already ends in the query token and the model that says it at once agree."""
    inputs = tiny_inputs(queries=0)
    got = tiny_model.generate_boxes(**inputs, **say(inputs, QUERY, EOS), do_sample=False)
    ends_in_query = torch.cat((inputs["input_ids"], torch.full((2, 1), QUERY)), 1)
    direct = answer(
        tiny_model, {**inputs, "input_ids": ends_in_query, "attention_mask": torch.ones_like(ends_in_query)}
    )
    assert got.boxes_3d.mask.tolist() == direct.boxes_3d.mask.tolist() == [[True], [True]]
    assert_same_boxes(got.boxes_3d, direct.boxes_3d, atol=1e-4)


def test_query_tokens_of_the_prompt_are_not_the_answers(tiny_model, tiny_inputs):
    inputs = tiny_inputs(queries=2)
    got = tiny_model.generate_boxes(**inputs, **say(inputs, 9, 9, EOS), do_sample=False)
    assert not got.boxes_3d.mask.any()


@pytest.mark.parametrize("before", [(), (9,)], ids=["only token", "second token"])
def test_a_query_token_at_the_cut_gives_no_box_and_a_warning(tiny_model, tiny_inputs, monkeypatch, before):
    warned = []
    monkeypatch.setattr(generation_llmi3d.logger, "warning", warned.append)
    inputs = tiny_inputs(queries=0)
    got = tiny_model.generate_boxes(**inputs, **say(inputs, *before, QUERY), do_sample=False)
    assert (got.sequences[:, -1] == QUERY).all()
    assert not got.boxes_3d.mask.any()
    assert len(warned) == 1 and "cut off right after a 3D query token" in warned[0]


def test_samples_that_end_early_keep_their_own_boxes(tiny_model, tiny_inputs):
    class EndsFirst(LogitsProcessor):
        """Row 0 says a query and ends; row 1 says two."""

        def __call__(self, input_ids, scores):
            step = input_ids.shape[1] - PROMPT
            wanted = [(QUERY, EOS, EOS, EOS, EOS)[step], (9, QUERY, QUERY, 9, EOS)[step]]
            forced = torch.full_like(scores, -1e9)
            forced[torch.arange(2), wanted] = 0.0
            return forced

    inputs = tiny_inputs(queries=0)
    processors = LogitsProcessorList([EndsFirst()])
    got = tiny_model.generate_boxes(**inputs, logits_processor=processors, max_new_tokens=5, do_sample=False)
    assert got.boxes_3d.mask.tolist() == [[True, False], [True, True]]
    want = teacher_forced(tiny_model, inputs, got.sequences)
    torch.testing.assert_close(got.boxes_3d.size[got.boxes_3d.mask], want.size[want.mask], atol=1e-4, rtol=1e-4)


def test_generate_boxes_encodes_the_picture_once(tiny_model, tiny_inputs, monkeypatch):
    calls = []
    forward = tiny_model.model.high_res_tower.forward
    monkeypatch.setattr(
        tiny_model.model.high_res_tower, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k)
    )
    inputs = tiny_inputs(queries=0)
    tiny_model.generate_boxes(**inputs, **say(inputs, 9, QUERY, 9, 9), num_beams=2, do_sample=False)
    assert len(calls) == 1


def test_plain_generate_says_what_generate_boxes_says(tiny_model, tiny_inputs):
    inputs = tiny_inputs(queries=1)
    plain = tiny_model.generate(**inputs, max_new_tokens=6, do_sample=False)
    boxes = tiny_model.generate_boxes(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(plain, boxes.sequences)


# ------------------------------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("max_shard_size", ["5GB", "100KB"], ids=["one file", "sharded"])
def test_saved_is_loaded(tiny_model, tiny_inputs, tmp_path, max_shard_size):
    tiny_model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    weights = sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".safetensors"))
    assert all(name.endswith(".safetensors") for name in weights)
    assert (len(weights) > 1) == (max_shard_size == "100KB")
    loaded, info = LLMI3DForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not loaded.training
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    inputs = tiny_inputs()
    want, got = answer(tiny_model, inputs), answer(loaded, inputs)
    assert torch.equal(got.logits, want.logits)
    assert all(torch.equal(got.boxes_3d[name], want.boxes_3d[name]) for name in want.boxes_3d)


def test_unused_layers_are_frozen_after_loading_too(tiny_model, tmp_path):
    frozen = {name for name, p in tiny_model.named_parameters() if not p.requires_grad}
    tiny_model.save_pretrained(tmp_path)
    loaded = LLMI3DForConditionalGeneration.from_pretrained(tmp_path)
    assert {name for name, p in loaded.named_parameters() if not p.requires_grad} == frozen != set()
    base = LLMI3DModel.from_pretrained(tmp_path)
    assert {f"model.{name}" for name, p in base.named_parameters() if not p.requires_grad} == frozen


def test_a_llava_checkpoint_starts_neutral_whatever_memory_held(tiny_model, tiny_config, tiny_inputs, tmp_path):
    """Weights that a checkpoint lacks are initialised: none is left as the meta device gave it."""
    tiny_model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if "feature_mining" not in k and "box_head" not in k}
    save_file(kept, path, metadata={"format": "pt"})
    loaded, info = LLMI3DForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert {name.split(".")[0 if name.startswith("box_head") else 1] for name in info["missing_keys"]} == {
        "feature_mining",
        "box_head",
    }
    fresh = LLMI3DForConditionalGeneration(tiny_config()).state_dict()
    for name in info["missing_keys"]:
        got, typical = loaded.state_dict()[name], fresh[name]
        assert torch.isfinite(got).all() and not got.is_meta, name
        if got.dim() == 1:  # biases and norms start the same every time
            torch.testing.assert_close(got, typical, msg=name)
        else:  # weights are drawn anew, as widely as in a new model (zeros where they are zeros there)
            assert got.std().item() == pytest.approx(typical.std().item(), rel=0.5, abs=1e-9), name
    assert loaded.box_head.outputs["center"].bias.tolist() == [0.5, 0.5]
    tokens = torch.randn(1, IMAGE_TOKENS, 24)
    stages = loaded.model.high_res_tower(
        tiny_inputs(batch=1)["high_res_pixel_values"], output_hidden_states=[0, 1, 2, 3], do_pooling=False
    ).hidden_states
    assert torch.equal(loaded.model.feature_mining(tokens, list(stages)).tokens, tokens)


def test_the_base_model_loads_from_the_whole_models_checkpoint(tiny_model, tiny_inputs, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    base = LLMI3DModel.from_pretrained(tmp_path)
    inputs = tiny_inputs()
    want = tiny_model.model(**inputs).last_hidden_state
    assert torch.equal(base(**inputs).last_hidden_state, want)


def test_tied_embeddings_stay_tied(tiny_config, tiny_inputs, tmp_path):
    model = LLMI3DForConditionalGeneration(tiny_config(tie_word_embeddings=True)).eval()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = LLMI3DForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(answer(loaded, tiny_inputs()).logits, answer(model, tiny_inputs()).logits)


def test_resize_token_embeddings(new_tiny_model, tiny_inputs):
    model, inputs = new_tiny_model(), tiny_inputs()
    before = answer(model, inputs)
    model.resize_token_embeddings(103)
    after = answer(model, inputs)
    assert model.config.text_config.vocab_size == 103 and after.logits.shape[-1] == 103
    torch.testing.assert_close(after.logits[..., :99], before.logits)
    assert_same_boxes(after.boxes_3d, before.boxes_3d)
    loss = model(**inputs, labels=torch.full_like(inputs["input_ids"], 102)).loss
    assert torch.isfinite(loss)


# ----------------------------------------------------------------------------------------------------------- precision


def test_bfloat16_is_near_float32(tiny_config, tiny_inputs, tmp_path):
    # A new model rather than `tiny_model`: its residual streams are as small as a trained one's.
    torch.manual_seed(0)
    model = LLMI3DForConditionalGeneration(tiny_config()).eval()
    torch.nn.init.normal_(model.model.feature_mining.attention.value_proj.weight, std=0.02)
    model.save_pretrained(tmp_path)
    half = LLMI3DForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    inputs = tiny_inputs()
    want, got = answer(model, inputs), answer(half, inputs)
    assert got.logits.dtype == torch.bfloat16
    assert (got.logits.float() - want.logits).abs().max() < 0.05 * want.logits.abs().max()
    assert_same_boxes(got.boxes_3d, want.boxes_3d, atol=0.05 * 64 / 10)
    torch.testing.assert_close(got.boxes_3d.depth_virtual, want.boxes_3d.depth_virtual, rtol=0.05, atol=0)
    torch.testing.assert_close(got.boxes_3d.size, want.boxes_3d.size, rtol=0.05, atol=0)


@pytest.mark.parametrize("how", ["to", "from_config"])
def test_a_model_cast_to_bfloat16_still_answers(tiny_config, new_tiny_model, tiny_inputs, how):
    if how == "to":
        model = new_tiny_model().to(torch.bfloat16)
    else:
        model = LLMI3DForConditionalGeneration._from_config(tiny_config(), dtype=torch.bfloat16)
    boxes = answer(model, tiny_inputs()).boxes_3d
    assert boxes.depth_virtual.dtype == torch.float32 and torch.isfinite(boxes.depth_virtual).all()


def test_autocast_is_near_float32(tiny_model, tiny_inputs):
    inputs = tiny_inputs()
    want = answer(tiny_model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = answer(tiny_model, inputs)
    assert got.boxes_3d.depth_virtual.dtype == torch.float32
    torch.testing.assert_close(got.boxes_3d.depth_virtual, want.boxes_3d.depth_virtual, rtol=0.1, atol=0)


# ----------------------------------------------------------------------------------------------------------- gradients


def loss_of_everything(model, inputs):
    """Language-modelling loss and a sum over all 3D answers."""
    out = model(**inputs, labels=inputs["input_ids"])
    boxes = sum((value * value).mean() for name, value in out.boxes_3d.items() if name != "mask")
    return out.loss + 1e-3 * boxes


def test_every_trainable_parameter_gets_a_gradient_and_no_frozen_one(new_tiny_model, tiny_inputs):
    model = new_tiny_model().train()
    loss_of_everything(model, tiny_inputs()).backward()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    silent = {name for name in trainable if (g := model.get_parameter(name).grad) is None or not g.any()}
    assert not silent
    assert all(torch.isfinite(model.get_parameter(name).grad).all() for name in trainable)
    # hidden_states[-2] of 3 layers: the third layer and the norm of the pooled token are never used.
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    tower = "model.vision_tower."
    assert frozen == {
        n for n, _ in model.named_parameters() if n.startswith((f"{tower}encoder.layers.2.", f"{tower}post_"))
    }
    assert all(model.get_parameter(name).grad is None for name in frozen)


@pytest.mark.parametrize(("layer", "unused"), [(-1, []), (-3, [1, 2]), (2, [2]), (1, [1, 2])])
def test_the_layers_behind_the_one_that_is_read_are_frozen(tiny_config, layer, unused):
    tower = LLMI3DModel(tiny_config(vision_feature_layer=layer)).vision_tower
    frozen = [
        i for i, module in enumerate(tower.encoder.layers) if not any(p.requires_grad for p in module.parameters())
    ]
    assert frozen == unused


def siglip(**overrides):
    return {
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 4,
        },
        "vision_feature_select_strategy": "full",
        **overrides,
    }


@pytest.mark.parametrize("layer", [-1, -2])
def test_siglip_is_trained_by_what_is_read_of_it(new_tiny_model, tiny_inputs, layer):
    model = new_tiny_model(**siglip(vision_feature_layer=layer)).train()
    loss_of_everything(model, tiny_inputs()).backward()
    silent = {
        name
        for name, p in model.model.vision_tower.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    }
    # The positions' softmax forgets a constant added to every key.
    assert {name for name in silent if not name.endswith("k_proj.bias")} == set()
    # What is frozen is not on the way to the answer.
    used = answer(model.eval(), tiny_inputs()).logits
    with torch.no_grad():
        for p in model.model.vision_tower.parameters():
            if not p.requires_grad:
                p.add_(1.0)
    assert torch.equal(answer(model, tiny_inputs()).logits, used)


def test_activation_checkpointing_changes_no_number_and_reaches_every_tower(new_tiny_model, tiny_inputs):
    model, inputs = new_tiny_model().train(), tiny_inputs()

    def passes_and_gradients():
        model.zero_grad()
        passes = {
            "vision_tower.encoder.layers.0": 0,
            "high_res_tower.timm_model.stages.1.blocks.0": 0,
            "language_model.layers.0": 0,
        }
        handles = []
        for name in passes:
            block = model.model.get_submodule(name)
            inner = next(child for child in block.children())  # runs again when the block is recomputed
            handles.append(inner.register_forward_hook(lambda *_, name=name: passes.update({name: passes[name] + 1})))
        loss = loss_of_everything(model, inputs)
        loss.backward()
        for handle in handles:
            handle.remove()
        return passes, loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain_passes, plain_loss, plain_gradients = passes_and_gradients()
    assert set(plain_passes.values()) == {1}
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert model.model.high_res_tower.timm_model.stages[0].grad_checkpointing
    passes, loss, gradients = passes_and_gradients()
    assert set(passes.values()) == {2}, passes
    assert loss == plain_loss
    assert gradients.keys() == plain_gradients.keys()
    for name, want in plain_gradients.items():
        torch.testing.assert_close(gradients[name], want, msg=name)
    model.activation_checkpointing_disable()
    assert not model.is_activation_checkpointing
    assert set(passes_and_gradients()[0].values()) == {1}


def test_loss_is_the_next_tokens_cross_entropy(tiny_model, tiny_inputs):
    inputs = tiny_inputs()
    labels = inputs["input_ids"].clone()
    labels[:, : IMAGE_TOKENS + 1] = -100
    out = answer(tiny_model, inputs, labels=labels)
    log_probabilities = out.logits.log_softmax(-1)
    terms = [
        -log_probabilities[b, t - 1, labels[b, t]] for b in range(2) for t in range(1, PROMPT) if labels[b, t] != -100
    ]
    torch.testing.assert_close(out.loss, torch.stack(terms).mean())


# ----------------------------------------------------------------------------------------------------------- attention


def attention_of(model) -> set[str]:
    return {getattr(model.config, key)._attn_implementation for key in ("text_config", "vision_config")}


def test_the_default_on_a_cpu_is_sdpa(tiny_model, tiny_inputs, tmp_path):
    answer(tiny_model, tiny_inputs())
    assert attention_of(tiny_model) == {"sdpa"}
    tiny_model.save_pretrained(tmp_path)
    loaded = LLMI3DForConditionalGeneration.from_pretrained(tmp_path)
    answer(loaded, tiny_inputs())
    assert attention_of(loaded) == {"sdpa"}


def test_eager_gives_what_sdpa_gives(tiny_model, tiny_inputs, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    eager = LLMI3DForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    inputs = left_padded(tiny_inputs(), 3)
    want, got = answer(tiny_model, inputs), answer(eager, inputs)
    assert attention_of(eager) == {"eager"}  # what the user chose, also after a forward pass
    torch.testing.assert_close(got.logits[:, 3:], want.logits[:, 3:], atol=1e-5, rtol=1e-4)
    assert_same_boxes(got.boxes_3d, want.boxes_3d)


def test_attentions_and_hidden_states_come_out_on_request(tiny_model, tiny_inputs, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    eager = LLMI3DForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    out = answer(eager, tiny_inputs(), output_attentions=True, output_hidden_states=True)
    assert [a.shape for a in out.attentions] == [(2, 4, PROMPT, PROMPT)] * 2
    assert [h.shape for h in out.hidden_states] == [(2, PROMPT, 32)] * 3
    assert out.image_hidden_states.shape == (2, IMAGE_TOKENS, 32)


def test_flash_attention_without_its_package_is_a_clear_error(tiny_model, tmp_path):
    if pretrained_llmi3d.is_flash_attn_2_available():
        pytest.skip("flash-attn is installed")
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(ImportError, match=r"FlashAttention2 .*installed"):
        LLMI3DForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "want"),
    [
        ("cpu", torch.bfloat16, (True, True), "sdpa"),
        ("cuda", torch.float32, (True, True), "sdpa"),
        ("cuda", torch.bfloat16, (False, False), "sdpa"),
        ("cuda", torch.bfloat16, (True, False), "flash_attention_2"),
        ("cuda", torch.float16, (True, False), "flash_attention_2"),
        ("cuda", torch.bfloat16, (True, True), "flash_attention_3"),
        ("cuda", torch.bfloat16, (False, True), "flash_attention_3"),
    ],
)
def test_the_fastest_attention_follows_device_dtype_and_what_is_installed(monkeypatch, device, dtype, installed, want):
    monkeypatch.setattr(pretrained_llmi3d, "is_flash_attn_2_available", lambda: installed[0])
    monkeypatch.setattr(pretrained_llmi3d, "is_flash_attn_3_available", lambda: installed[1])
    assert pretrained_llmi3d.fastest_attention(torch.device(device), dtype) == want


def test_attention_follows_the_device_only_where_the_user_has_not_chosen(new_tiny_model, tiny_inputs, monkeypatch):
    monkeypatch.setattr(pretrained_llmi3d, "fastest_attention", lambda device, dtype: "eager")
    model = new_tiny_model()
    answer(model, tiny_inputs())
    assert attention_of(model) == {"eager"}
    chosen = new_tiny_model()
    chosen.set_attn_implementation("sdpa")
    answer(chosen, tiny_inputs())
    assert attention_of(chosen) == {"sdpa"}


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_the_cnn_does_not_mind_an_attention_that_timm_does_not_know(tiny_config, new_tiny_model, when):
    if when == "later":
        model = new_tiny_model()
        model.set_attn_implementation("flex_attention")
    else:
        model = LLMI3DForConditionalGeneration._from_config(tiny_config(), attn_implementation="flex_attention")
    assert attention_of(model) == {"flex_attention"}
    assert model.config.high_res_vision_config._attn_implementation == "sdpa"


# -------------------------------------------------------------------------------------------------------------- errors


def test_another_number_of_image_tokens_than_of_features_is_refused(tiny_model, tiny_inputs):
    inputs = tiny_inputs()
    inputs["input_ids"][0, 3] = 7  # one placeholder less
    with pytest.raises(ValueError, match=r"tokens: 31, features: 32 \(2 images of 16 tokens\)"):
        answer(tiny_model, inputs)


@pytest.mark.parametrize("missing", PIXELS)
def test_one_resolution_alone_is_refused(tiny_model, tiny_inputs, missing):
    inputs = tiny_inputs()
    del inputs[missing]
    with pytest.raises(ValueError, match=f"^{missing}: got None, but the other resolution is given"):
        answer(tiny_model, inputs)


def test_ids_and_embeddings_exclude_each_other(tiny_model, tiny_inputs):
    inputs = text_only(tiny_inputs())
    embeddings = tiny_model.get_input_embeddings()(inputs["input_ids"])
    for both_or_none in ({**inputs, "inputs_embeds": embeddings}, {"attention_mask": inputs["attention_mask"]}):
        with pytest.raises(ValueError, match="input_ids and inputs_embeds: want exactly one"):
            answer(tiny_model, both_or_none)


def test_pixels_and_encoded_pictures_exclude_each_other(tiny_model, tiny_inputs):
    inputs = tiny_inputs()
    with torch.no_grad():
        image = tiny_model.get_image_features(*(inputs[name] for name in PIXELS), return_dict=True)
    with pytest.raises(ValueError, match="pixel_values and mm_encoder_outputs: got both"):
        answer(tiny_model, inputs, mm_encoder_outputs={"image": image})
    encoded = answer(tiny_model, text_only(inputs), mm_encoder_outputs={"image": image})
    assert_same_boxes(encoded.boxes_3d, answer(tiny_model, inputs).boxes_3d)


def test_embeddings_instead_of_ids_give_the_same_words(tiny_model, tiny_inputs):
    inputs = tiny_inputs()
    embeddings = tiny_model.get_input_embeddings()(inputs["input_ids"])
    out = answer(tiny_model, {**{k: v for k, v in inputs.items() if k != "input_ids"}, "inputs_embeds": embeddings})
    torch.testing.assert_close(out.logits, answer(tiny_model, inputs).logits)


def test_a_checkpoint_holds_no_camera(tiny_model, tmp_path):
    """Whatever camera an application uses, it is no part of what is saved but for the virtual one."""
    tiny_model.save_pretrained(tmp_path)
    keys = json.loads((tmp_path / "config.json").read_text())
    assert [key for key in keys if "focal" in key or "intrinsic" in key] == ["virtual_focal_length"]
