# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Estimate what a training run needs before anything is loaded: memory per device and time per step.

The model is built on the meta device, adapters included, and runs one step there: torch itself counts what autograd
saves for the backward pass and how many operations there are, without a byte of weights. Two assumptions can be
changed: the share of its peak that a device reaches (`utilisation`) and what the allocator wastes (`overhead`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from llmi3d.configuration_llmi3d import LLMI3DConfig
from llmi3d.modeling_llmi3d import LLMI3DForConditionalGeneration
from llmi3d.training.lora import NEW_PARTS, lora_config
from llmi3d.training.trainable import TOWERS, make_trainable, unwrapped

# Memory in GiB, and dense bfloat16 operations per second with float32 accumulation, from the makers' data sheets.
DEVICES = {
    "rtx-3090": (24, 71e12),
    "rtx-4090": (24, 165e12),
    "l40s": (48, 362e12),
    "a100-40gb": (40, 312e12),
    "a100-80gb": (80, 312e12),
    "h100": (80, 989e12),
    "h200": (141, 989e12),
}
GIB = 2**30
TUNINGS = ("lora", "full", "new_parts")
SHARDINGS = ("none", "zero2", "fsdp")


@dataclass(frozen=True)
class TrainingPlan:
    """Memory of one device, GiB, and time of one optimisation step.

    Attributes:
        parameters, trained_parameters: counts for the whole model, adapters included.
        weights, gradients, optimizer: the device's share of them; the optimizer is AdamW with two moments.
        activations: tensors that the forward pass keeps for the backward pass.
        overhead: allocator, workspaces and short-lived tensors.
        tera_operations: floating-point operations of a step on one device, forward and backward, 1e12.
        seconds_per_step: time of a step at the assumed utilisation.
        memory: memory that the device has.
    """

    parameters: int
    trained_parameters: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    overhead: float
    tera_operations: float
    seconds_per_step: float
    memory: float

    @property
    def total(self) -> float:
        """Total memory of one device, GiB."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.overhead

    @property
    def fits(self) -> bool:
        """Whether the device has that much memory."""
        return self.total <= self.memory

    def to_markdown(self, title: str = "") -> str:
        """Return a table with the total and whether it fits."""
        parts = ("weights", "gradients", "optimizer", "activations", "overhead")
        lines = [f"| {title or 'one device'} | GiB |", "|---|---|"]
        lines += [f"| {name} | {getattr(self, name):.2f} |" for name in parts]
        verdict = "fits" if self.fits else "does NOT fit"
        lines.append(f"| **total** ({verdict} {self.memory:g} GiB) | **{self.total:.2f}** |")
        share = self.trained_parameters / self.parameters
        return "\n".join(
            [
                *lines,
                "",
                f"{self.trained_parameters:,} of {self.parameters:,} parameters are trained ({share:.2%}); "
                f"{self.tera_operations:.3g} tera-operations and about {self.seconds_per_step:.3g} s per step.",
            ]
        )


def plan_training(
    config: LLMI3DConfig,
    *,
    tuning: str = "lora",
    rank: int = 16,
    train: tuple[str, ...] = NEW_PARTS,
    train_towers: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    **step: Any,
) -> TrainingPlan:
    """Plan a run from a configuration alone.

    Args:
        config: configuration of the base.
        tuning: `lora` (adapters and `train`), `full` (language model and `train`), `new_parts` (`train` only).
        rank: rank of the adapters.
        train: modules that are trained in full.
        train_towers: whether the towers are trained as well.
        dtype: dtype of frozen weights and of computation; trained weights are always float32.
        step: the other arguments of `plan_model`.

    Raises:
        ValueError: a setting that is unknown or out of range; the message names it.
    """
    _one_of("tuning", tuning, TUNINGS)
    _at_least_one("rank", rank)
    with torch.device("meta"):
        model = LLMI3DForConditionalGeneration(config).to(dtype)
        parts = (*train, *(TOWERS if train_towers else ()))
        if tuning == "lora":
            model = get_peft_model(model, lora_config(model, rank=rank, train=parts))
    return plan_model(make_trainable(model, parts, full=tuning == "full"), dtype=dtype, **step)


def plan_model(
    model: nn.Module,
    *,
    dtype: torch.dtype,
    batch_size: int = 1,
    text_tokens: int = 128,
    queries: int = 4,
    gradient_checkpointing: bool = False,
    sharding: str = "none",
    devices: int = 1,
    device: str = "a100-80gb",
    utilisation: float = 0.4,
    overhead: float = 0.1,
) -> TrainingPlan:
    """Plan a run of `LLMI3DTrainer` with AdamW and an attention that stores no scores (flash, or sdpa on a GPU).

    Args:
        model: on the meta device, as `make_trainable` leaves it; it is modified.
        dtype: dtype of computation (autocast); the 3D heads always stay float32.
        batch_size: samples per device and forward pass; accumulated batches only take longer.
        text_tokens: tokens per sample, beside the visual ones.
        queries: 3D query tokens per sample.
        gradient_checkpointing: whether the language model's layers are recomputed.
        sharding: `none` (DDP), `zero2` (gradients and optimizer), `fsdp` (weights as well; the same as ZeRO-3).
        devices: number of devices that share what is sharded.
        device: one of `DEVICES`.
        utilisation: share of the device's peak operations that is reached.
        overhead: share of all other memory that is added.

    Raises:
        ValueError: a setting that is unknown or out of range; the message names it.
    """
    _one_of("sharding", sharding, SHARDINGS)
    _one_of("device", device, DEVICES)
    _at_least_one("batch_size", batch_size)
    _at_least_one("devices", devices)
    _at_least_one("text_tokens", text_tokens)
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation: got {utilisation}, want above 0 and at most 1.")

    trained = [one for one in model.parameters() if one.requires_grad]
    numbers = {"parameters": sum(one.numel() for one in model.parameters())}
    numbers["trained_parameters"] = sum(one.numel() for one in trained)
    weights, gradients = (sum(one.nbytes for one in some) for some in (model.parameters(), trained))
    whole, split = {"none": (1, 1), "zero2": (1, devices), "fsdp": (devices, devices)}[sharding]
    parts = {"weights": weights / whole, "gradients": gradients / split, "optimizer": 2 * gradients / split}
    if sharding == "fsdp":  # layers are gathered one at a time
        parts["weights"] += max(sum(one.nbytes for one in layer.parameters()) for layer in layers_of(model))
    unwrapped(model.to(dtype)).box_head.float()
    step = count_step(model, batch_size, text_tokens, queries, gradient_checkpointing)
    parts["activations"] = step.saved
    memory, peak = DEVICES[device]
    return TrainingPlan(
        **numbers,
        **{name: value / GIB for name, value in parts.items()},
        overhead=overhead * sum(parts.values()) / GIB,
        tera_operations=step.operations / 1e12,
        seconds_per_step=step.operations / (peak * utilisation),
        memory=memory,
    )


def plan_inference(config: LLMI3DConfig, text_tokens: int = 512, overhead: float = 0.1) -> float:
    """Return the GiB for one question about one image in bfloat16: weights (3D heads in float32), keys and values.

    Args:
        config: the model's configuration; no weights are read.
        text_tokens: tokens of question and answer, beside the visual ones.
        overhead: share of the sum that is added for everything else.

    Raises:
        ValueError: fewer than one text token.
    """
    _at_least_one("text_tokens", text_tokens)
    with torch.device("meta"):
        model = LLMI3DForConditionalGeneration(config)
    weights = sum(one.numel() * (4 if "box_head" in name else 2) for name, one in model.named_parameters())
    words = config.text_config
    head = getattr(words, "head_dim", None) or words.hidden_size // words.num_attention_heads
    cache = 2 * words.num_hidden_layers * words.num_key_value_heads * head * (config.image_seq_length + text_tokens)
    return (1 + overhead) * (weights + 2 * cache) / GIB


@dataclass
class Step:
    """One forward and backward pass: bytes saved in between, and floating-point operations."""

    saved: int
    operations: int


def count_step(
    model: nn.Module, batch_size: int, text_tokens: int, queries: int, gradient_checkpointing: bool = False
) -> Step:
    """Run a step on the model's device, meta or real, and count; arguments as in `plan_model`."""
    base = unwrapped(model)
    config, layers = base.config, layers_of(model)
    weights = {_storage(one) for one in model.parameters()}
    sizes: list[dict[int, int]] = [{}, {}]  # bytes of each storage, saved elsewhere and in layers
    in_layer, forward = False, 0

    def save(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights and _storage(tensor) not in sizes[not in_layer]:
            kept.append(tensor)  # the address of a freed storage would be reused
            sizes[in_layer][_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    def enter(*_) -> None:
        nonlocal in_layer, forward
        in_layer, forward = True, forward - counter.get_total_flops()

    def leave(*_) -> None:
        nonlocal in_layer, forward
        in_layer, forward = False, forward + counter.get_total_flops()

    kept: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(enter) for layer in layers]
    hooks += [layer.register_forward_hook(leave) for layer in layers]
    before = {name: part._attn_implementation for name, part in _attending(config).items()}
    base.set_attn_implementation(dict.fromkeys(before, KEEPS_NO_SCORES))
    try:
        with FlopCounterMode(display=False) as counter:
            with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
                loss = _loss(base, batch_size, text_tokens, queries)
            loss.backward()
    finally:
        base.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()
        model.zero_grad()
    elsewhere, inside = (sum(one.values()) for one in sizes)
    operations = counter.get_total_flops()
    if gradient_checkpointing:  # each layer keeps its input, one at a time keeps everything, and all run twice
        tokens = batch_size * (config.image_seq_length + text_tokens)
        inside = inside // len(layers) + len(layers) * tokens * config.text_config.hidden_size * base.dtype.itemsize
        operations += forward
    return Step(elsewhere + inside, operations)


def _loss(base: LLMI3DForConditionalGeneration, batch_size: int, text_tokens: int, queries: int) -> Tensor:
    """Return a loss of zero inputs that depends on all trained weights."""
    config, new = base.config, {"device": base.device, "dtype": base.dtype}
    low, high = config.image_size, config.high_res_image_size
    image = base.get_image_features(
        torch.zeros(batch_size, 3, low, low, **new),
        torch.zeros(batch_size, 3, high, high, **new),
        return_dict=True,
        **_qwen_grid(config, batch_size, base.device),
    )
    words = torch.zeros(batch_size, text_tokens, dtype=torch.long, device=base.device)
    embeddings = torch.cat((image.pooler_output, base.get_input_embeddings()(words)), 1)
    states = base.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    labels = words.new_zeros(states.shape[:2])
    loss = base.loss_function(
        logits=base.lm_head(states), labels=labels, vocab_size=config.text_config.vocab_size, num_items_in_batch=1
    )
    mask = torch.ones(batch_size, queries, dtype=torch.bool, device=base.device)
    boxes = base.box_head(states[:, -queries:], mask, **image.sight._asdict())
    answers = [value for value in boxes.values() if value is not None and value.is_floating_point()]
    if image.depth_logits is not None:
        answers.append(image.depth_logits)
    return loss + sum(value.float().sum() for value in answers)


def _qwen_grid(config: LLMI3DConfig, images: int, device: torch.device) -> dict[str, Tensor]:
    """Return what Qwen-VL's encoders derive from numbers of patches, which have no values on the meta device."""
    if not config.has_qwen_vision:
        return {}
    vision, merge = config.vision_config, config.vision_config.spatial_merge_size
    side = config.image_grid_size * merge
    grids = torch.tensor([[1, side, side]]).expand(images, -1)
    # Tensors whose values are read stay on a real device.
    derived = {"cu_seqlens": get_vision_cu_seqlens(grids), "position_ids": get_vision_position_ids(grids, merge)}
    if vision.model_type == "qwen2_5_vl_vision":
        window = get_vision_window_index(grids, merge, vision.window_size, vision.patch_size)
        derived |= dict(zip(("window_index", "cu_window_seqlens"), window, strict=True))
    else:
        table = int(vision.num_position_embeddings**0.5)
        taps = get_vision_interpolation_indices_and_weights(grids, table, "bilinear", True, merge)
        derived |= dict(zip(("interp_indices", "interp_weights"), taps, strict=True))
    return {name: value if "seqlens" in name else value.to(device) for name, value in derived.items()}


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the language model's layers."""
    return list(unwrapped(model).model.language_model.layers)


def _one_of(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}: got '{value}', want one of {', '.join(known)}.")


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: got {value}, want at least 1.")


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _attending(config: LLMI3DConfig) -> dict:
    return {name: getattr(config, name) for name in ("text_config", "vision_config")}


# ----------------------------------------------------------------------------------------------------------- attention

KEEPS_NO_SCORES = "llmi3d_planned"


def _keeps_no_scores(module, query, key, value, attention_mask, scaling=None, dropout=0.0, is_causal=None, **kwargs):
    """Attend and save only inputs and output for the backward pass; the result is not meant to be used."""
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = (one.repeat_interleave(groups, 1) for one in (key, value))
    attended = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)[0]
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(KEEPS_NO_SCORES, _keeps_no_scores)
