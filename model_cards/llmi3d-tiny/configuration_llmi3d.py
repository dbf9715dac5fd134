# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DConfig: every size, range and switch of the network, stated once."""

from difflib import get_close_matches
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# Strides of the CNN's stages, pixels of the high-resolution input.
CNN_STRIDES = (4, 8, 16, 32)
# Keys that transformers reads and writes without declaring a field for them.
_HOUSEKEEPING_KEYS = {
    "_commit_hash",
    "_experts_implementation_internal",
    "_attn_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "tie_last_hidden_states",
    "torch_dtype",
    "use_cache",
}

# Tokens that a ViT sets before those of its patches: the class token, and DINOv2's registers.
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1, "dinov2_with_registers": 1}

# Qwen-VL's vision encoders, which merge and project patches themselves, and the language models made for them.
_QWEN_VL = {"qwen2_5_vl_vision": "qwen2_5_vl_text", "qwen3_vl_vision": "qwen3_vl_text"}


@strict
class LLMI3DConfig(PreTrainedConfig):
    r"""
    Configuration of [`LLMI3DModel`] and [`LLMI3DForConditionalGeneration`]. The defaults are the paper's size:
    CLIP ViT-L/14-336, ConvNeXt-L at 768 pixels, a 7B Llama.

    Args that choose the backbones:
        text_config: any causal language model of transformers; a Llama by default.
        vision_config: the low-resolution ViT: CLIP, SigLIP or DINOv2 (with or without registers); or the vision
            encoder of Qwen2.5-VL or Qwen3-VL, with its own language model as `text_config`. The latter needs no
            projector, and the three fields of ViT and projector below are not read.
        image_size: side of the square low-resolution input, pixels; by default the ViT's own, or
            `high_res_image_size` for Qwen-VL's encoders, which have none.
        high_res_branch: whether the high-resolution CNN and feature mining exist. Without them only the low-resolution
            tokens are seen, and there is no depth branch.
        high_res_vision_config: the high-resolution CNN: any timm network with feature maps at strides 4, 8, 16 and
            32 (ConvNeXt, ResNet, EfficientNet, MobileNet), as a `TimmWrapperConfig`.
        high_res_image_size: side of the square high-resolution input, pixels; also the side of the network frame, with
            or without a CNN.
        vision_feature_layer: which hidden state of the ViT is read (-2: last but one). A list reads several, each
            layer-normalised without weights, concatenated along the channels.
        vision_feature_select_strategy: `default` drops the class token, and registers (CLIP, DINOv2); `full` keeps all
            tokens (SigLIP).
        projector_hidden_act, multimodal_projector_bias: activation of the two-layer projector into the language model,
            and whether its layers have a bias.
        tie_word_embeddings: whether input and output embeddings share one matrix.

    Args that control Spatial-Enhanced Local Feature Mining:
        depth_branch: whether the depth predictor exists and its embedding enters the keys and values.
        depth_map_stage: the CNN stage at whose resolution the object-level depth map is predicted
            (stride 4 * 2**depth_map_stage).
        depth_predictor_dim: channels of the depth predictor.
        depth_embedding_dim: channels of the depth embedding.
        num_depth_bins: bins of virtual depth; one background bin is added. Bins are equal in log depth: 80 bins over
            0.1-200 m are 10 % wide everywhere, where bins growing linearly (LID) over the same range would start
            at 6 cm, a fifth of a tabletop object's distance.
        depth_min_virtual, depth_max_virtual: range of the bins, virtual metres.

    Args that control 3D Query Token-Derived Info Decoding and Geometry Projection-Based 3D Reasoning:
        virtual_focal_length: focal length of the virtual camera, network pixels; `high_res_image_size` by default
            (a field of view of 53 degrees), so that the range of virtual depth does not depend on the resolution.
        box_head_dim: width of the 3D heads.
        pointing: whether the 3D query token points at the place that it means, and boxes are read there. Off by
            default, so that earlier checkpoints answer unchanged; `llmi3d init --vision` turns it on.
        pointing_dim: channels in which query tokens are compared with places.
        depth_from_regression, depth_from_height, depth_from_map: which of the three estimates of virtual depth are
            fused. At least one; the third needs `depth_branch`.

    Args that name special tokens:
        image_token_id: id of `<image>`, the placeholder of one visual token.
        box_3d_token_id: id of `<|box_3d|>`, the 3D query token.

    Raises:
        ValueError: an unknown key.
        huggingface_hub.errors.StrictDataclassError: a value of the wrong type, or values that contradict each other;
            the message gives both.

    Example:

    ```python
    >>> from llmi3d import LLMI3DConfig

    >>> config = LLMI3DConfig()
    >>> config.image_seq_length, config.virtual_focal_length
    (576, 768.0)
    ```
    """

    model_type = "llmi3d"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="llama",
            init_kwargs={"vocab_size": 32064, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
        ),
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="clip_vision_model",
            init_kwargs={
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 336,
                "patch_size": 14,
                "projection_dim": 768,
            },
        ),
        "high_res_vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="timm_wrapper",
            init_kwargs={"architecture": "convnext_large_mlp", "do_pooling": False},
        ),
    }

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    image_size: int | None = None
    high_res_branch: bool = True
    high_res_vision_config: dict | PreTrainedConfig | None = None
    high_res_image_size: int = 768
    vision_feature_layer: int | list[int] = -2
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    projector_hidden_act: str = "gelu"
    multimodal_projector_bias: bool = True
    tie_word_embeddings: bool = False

    depth_branch: bool = True
    depth_map_stage: int = 1
    depth_predictor_dim: int = 256
    depth_embedding_dim: int = 128
    num_depth_bins: int = 80
    depth_min_virtual: float | int = 0.1
    depth_max_virtual: float | int = 200.0

    virtual_focal_length: float | int | None = None
    box_head_dim: int = 1024
    pointing: bool = False
    pointing_dim: int = 128
    depth_from_regression: bool = True
    depth_from_height: bool = True
    depth_from_map: bool = True

    image_token_id: int = 32000
    box_3d_token_id: int = 32001

    def __post_init__(self, **kwargs):
        self._refuse_unknown(kwargs)
        # A checkpoint names the pipeline code that it carries, and `pipeline()` would insist on that copy. Where
        # llmi3d is installed, its own registered pipeline is used instead, and no remote code needs to be trusted.
        if not type(self).__module__.startswith("transformers_modules."):
            kwargs.pop("custom_pipelines", None)
        if self.virtual_focal_length is None:
            self.virtual_focal_length = float(self.high_res_image_size)
        super().__post_init__(**kwargs)
        if self.image_size is None:
            self.image_size = getattr(self.vision_config, "image_size", self.high_res_image_size)
        # Whether embeddings are tied is stated in the language model's own configuration.
        if not self.tie_word_embeddings and getattr(self.text_config, "tie_word_embeddings", False):
            self.tie_word_embeddings = True

    def _refuse_unknown(self, kwargs: dict) -> None:
        from transformers import GenerationConfig

        known = _HOUSEKEEPING_KEYS | set(GenerationConfig._get_default_generation_params())
        for key in kwargs:
            if key not in known:
                close = get_close_matches(key, self.__dataclass_fields__, n=1)
                hint = f"; did you mean `{close[0]}`?" if close else "."
                raise ValueError(f"LLMI3DConfig: got the unknown key `{key}`={kwargs[key]!r}{hint}")

    def validate_sizes(self):
        """Refuse sizes that contradict each other."""
        vision = self.vision_config
        own = getattr(vision, "image_size", self.image_size)
        if self.image_size != own:
            raise ValueError(f"image_size: got {self.image_size}, but vision_config has {own}.")
        if self.image_size <= 0 or self.image_size % self.visual_token_side:
            side = "patch_size" if self.visual_token_side == vision.patch_size else "patch_size * spatial_merge_size ="
            raise ValueError(
                f"vision_config: image_size {self.image_size} is not a multiple of {side} {self.visual_token_side}."
            )
        grid, high = self.image_grid_size, self.high_res_image_size
        first, last = CNN_STRIDES[0], CNN_STRIDES[-1]
        if high <= 0 or (self.high_res_branch and (high % (first * grid) or high % last)):
            raise ValueError(
                f"high_res_image_size: got {high}, want a multiple of {last} (the CNN's last stride) "
                f"and of {first * grid} (its first stride times the ViT's {grid} tokens along a side), so that each "
                "token has its own window of cells."
            )
        for name in ("box_head_dim", "depth_predictor_dim", "depth_embedding_dim", "pointing_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, want at least 1.")
        if self.has_qwen_vision:
            self._validate_qwen()
            return
        if vision.model_type not in _CLASS_TOKENS:
            raise ValueError(
                f"vision_config: got a '{vision.model_type}', want one of {', '.join([*_CLASS_TOKENS, *_QWEN_VL])}."
            )
        has_prefix = self.num_prefix_tokens > 0
        if has_prefix != (self.vision_feature_select_strategy == "default"):
            raise ValueError(
                f"vision_feature_select_strategy: got '{self.vision_feature_select_strategy}' with a "
                f"'{vision.model_type}', want '{'default' if has_prefix else 'full'}' "
                f"({'it has a' if has_prefix else 'it has no'} class token to drop)."
            )
        layers = self.vision_feature_layer
        for layer in layers if isinstance(layers, list) else [layers]:
            if not -vision.num_hidden_layers - 1 <= layer <= vision.num_hidden_layers:
                raise ValueError(
                    f"vision_feature_layer: got {layer}, but the ViT has {vision.num_hidden_layers} layers."
                )
        if layers == []:
            raise ValueError("vision_feature_layer: got an empty list, want at least one layer.")

    def _validate_qwen(self):
        vision, text = self.vision_config, self.text_config
        if text.model_type != _QWEN_VL[vision.model_type]:
            raise ValueError(
                f"text_config: got a '{text.model_type}' with a '{vision.model_type}', want a "
                f"'{_QWEN_VL[vision.model_type]}', which reads its positions and features."
            )
        if vision.out_hidden_size != text.hidden_size:
            raise ValueError(
                f"vision_config: out_hidden_size is {vision.out_hidden_size}, but text_config.hidden_size is "
                f"{text.hidden_size}."
            )

    def validate_depth(self):
        """Refuse depth settings that contradict each other."""
        if not 0 < self.depth_min_virtual < self.depth_max_virtual:
            raise ValueError(
                f"depth_min_virtual, depth_max_virtual: got {self.depth_min_virtual} and {self.depth_max_virtual}, "
                "want 0 < depth_min_virtual < depth_max_virtual."
            )
        if self.num_depth_bins < 2:
            raise ValueError(f"num_depth_bins: got {self.num_depth_bins}, want at least 2.")
        if self.depth_map_stage not in range(4):
            raise ValueError(f"depth_map_stage: got {self.depth_map_stage}, want one of the CNN's 4 stages, 0 to 3.")
        if self.virtual_focal_length is not None and self.virtual_focal_length <= 0:
            raise ValueError(f"virtual_focal_length: got {self.virtual_focal_length}, want above 0 network pixels.")
        if not (self.depth_from_regression or self.depth_from_height or self.depth_from_map):
            raise ValueError("depth_from_regression, depth_from_height, depth_from_map: got all False, want one True.")
        if self.depth_branch and not self.high_res_branch:
            raise ValueError("depth_branch: got True with high_res_branch=False, but the CNN is what it looks at.")
        if self.depth_from_map and not self.depth_branch:
            raise ValueError("depth_from_map: got True with depth_branch=False, but there is no depth map to read.")

    def validate_special_tokens(self):
        """Refuse special tokens that are equal or outside the vocabulary."""
        vocab_size = self.text_config.vocab_size
        for name in ("image_token_id", "box_3d_token_id"):
            if not 0 <= getattr(self, name) < vocab_size:
                raise ValueError(f"{name}: got {getattr(self, name)}, but text_config.vocab_size is {vocab_size}.")
        if self.image_token_id == self.box_3d_token_id:
            raise ValueError(f"image_token_id and box_3d_token_id: both are {self.image_token_id}, want two tokens.")

    @property
    def has_qwen_vision(self) -> bool:
        """Whether the vision encoder is Qwen-VL's."""
        return self.vision_config.model_type in _QWEN_VL

    @property
    def visual_token_side(self) -> int:
        """Side of the image square that a visual token covers, low-resolution pixels: a patch, or several merged."""
        return self.vision_config.patch_size * getattr(self.vision_config, "spatial_merge_size", 1)

    @property
    def visual_token_dim(self) -> int:
        """Channels of a visual token before the projector."""
        if self.has_qwen_vision:
            return self.vision_config.out_hidden_size
        return self.vision_config.hidden_size * len(self.vision_feature_layers)

    @property
    def vision_feature_layers(self) -> list[int]:
        """Hidden states of the ViT that are read, counted from 0 (the embeddings)."""
        layers = (
            self.vision_feature_layer if isinstance(self.vision_feature_layer, list) else [self.vision_feature_layer]
        )
        return [layer % (self.vision_config.num_hidden_layers + 1) for layer in layers]

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens of the ViT before those of its patches: class and register tokens."""
        vision = self.vision_config
        return _CLASS_TOKENS.get(vision.model_type, 0) + getattr(vision, "num_register_tokens", 0)

    @property
    def place_px(self) -> float:
        """Side of a place that query tokens can point at, network pixels: a cell of the CNN, or a visual token."""
        if self.high_res_branch:
            return 4 * 2**self.depth_map_stage
        return self.high_res_image_size / self.image_grid_size

    @property
    def image_grid_size(self) -> int:
        """Visual tokens along one side of the image."""
        return self.image_size // self.visual_token_side

    @property
    def image_seq_length(self) -> int:
        """Visual tokens of one image."""
        return self.image_grid_size**2


__all__ = ["LLMI3DConfig"]
