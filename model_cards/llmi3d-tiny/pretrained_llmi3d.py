# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Base class of all LLMI3D models: weight initialisation, saving, loading and the choice of attention."""

import copy

import torch
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.quantizers import AutoQuantizationConfig
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from .box_heads_llmi3d import AnswerLinear, TrunkLinear
from .configuration_llmi3d import LLMI3DConfig
from .feature_mining_llmi3d import NeutralLinear
from .model_card_llmi3d import write_model_card

# Entries of a checkpoint's config.json for the Auto classes and `pipeline` where llmi3d is not installed
# (`trust_remote_code=True`). The processor saves its own code, and the pipeline's.
AUTO_MAP = {
    "AutoConfig": "configuration_llmi3d.LLMI3DConfig",
    "AutoModel": "modeling_llmi3d.LLMI3DModel",
    "AutoModelForImageTextToText": "modeling_llmi3d.LLMI3DForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_llmi3d.LLMI3DForConditionalGeneration",
}
CUSTOM_PIPELINES = {
    "image-3d-grounding": {
        "impl": "pipeline_llmi3d.Image3DGroundingPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}


# Only the ViT and the language model are quantised: the rest is small, and its outputs become metres. These are
# patterns of module names, as transformers matches them.
FULL_PRECISION = [r"(model\.)?(high_res_tower|feature_mining|multi_modal_projector)", "box_head", "lm_head"]


def keep_full_precision(quantization_config):
    """Return a copy of a quantisation configuration that also skips `FULL_PRECISION`.

    Args:
        quantization_config: as `from_pretrained` accepts it; a kind without a list of modules to skip is unchanged.
    """
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(quantization_config)
    changed = copy.copy(quantization_config)
    for field in ("llm_int8_skip_modules", "modules_to_not_convert"):  # bitsandbytes, all others
        if hasattr(changed, field):
            setattr(changed, field, [*(getattr(changed, field) or ()), *FULL_PRECISION])
    return changed


def fastest_attention(device: torch.device, dtype: torch.dtype) -> str:
    """Return the fastest attention installed: flash attention on CUDA in half precision, else sdpa."""
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        if is_flash_attn_3_available():
            return "flash_attention_3"
        if is_flash_attn_2_available():
            return "flash_attention_2"
    return "sdpa"


class LLMI3DPreTrainedModel(PreTrainedModel):
    """Weight initialisation, and the flags that transformers reads."""

    config: LLMI3DConfig
    config_class = LLMI3DConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["cache"]
    _no_split_modules = ["FeatureMining", "Box3DHead"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config: LLMI3DConfig, *args, **kwargs):
        # If the user chose no attention, it follows the device and dtype (see `_follow_device`).
        parts = (config, config.text_config, config.vision_config)
        self._attention_was_chosen = any(part._attn_implementation is not None for part in parts)
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        # Leaf modules only: transformers skips custom modules that hold no parameter of their own.
        if isinstance(module, NeutralLinear):
            init.zeros_(module.weight)
        elif isinstance(module, TrunkLinear):
            # The language model's 0.02 would damp the outputs and gradients of a narrow trunk a hundredfold.
            init.xavier_uniform_(module.weight)
        elif isinstance(module, AnswerLinear):
            init.copy_(module.bias, torch.tensor(module.initial_bias))

    def _set_gradient_checkpointing(self, enable=True, *args, **kwargs):
        super()._set_gradient_checkpointing(enable, *args, **kwargs)
        # timm has its own switch, which transformers does not find.
        if self.config.high_res_branch:
            self.base_model.high_res_tower._set_gradient_checkpointing(enable)

    def save_pretrained(self, save_directory, *args, is_main_process=True, **kwargs):
        """Save as every model does, with the code (see `AUTO_MAP`) and, if there is none yet, a model card."""
        if self._auto_class is not None:
            self.config.auto_map = dict(AUTO_MAP)
            self.config.custom_pipelines = CUSTOM_PIPELINES
        try:
            super().save_pretrained(save_directory, *args, is_main_process=is_main_process, **kwargs)
        finally:  # only the file holds it (see `LLMI3DConfig.__post_init__`)
            self.config.__dict__.pop("custom_pipelines", None)
        if is_main_process:
            write_model_card(save_directory, self.config, self.num_parameters())

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = keep_full_precision(kwargs["quantization_config"])
        loaded = super().from_pretrained(*args, **kwargs)
        # Loading replaces parameters by new, trainable ones.
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.base_model._freeze_unused_vision_layers()
        return loaded

    def set_attn_implementation(self, attn_implementation, *args, **kwargs):
        self.base_model._attention_was_chosen = True
        if isinstance(attn_implementation, str) and attn_implementation not in ("eager", "sdpa"):
            # The CNN has no attention, and timm refuses names that it does not know.
            attn_implementation = dict.fromkeys(("", "text_config", "vision_config"), attn_implementation)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def _follow_device(self) -> None:
        """Use the fastest attention for the current device and dtype, unless the user chose one."""
        if self._attention_was_chosen or torch.compiler.is_compiling():
            return
        best = fastest_attention(self.device, self.dtype)
        for key in ("text_config", "vision_config"):
            if getattr(self.config, key)._attn_implementation != best:
                super().set_attn_implementation({key: best})
