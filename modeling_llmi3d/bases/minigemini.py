# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3D from an original Mini-Gemini checkpoint with both vision towers: `llmi3d convert minigemini`.

Mini-Gemini's "patch info mining" and LLMI3D's feature mining compute the same. With x a token, c the cells of its
window (all ConvNeXt stages, bilinearly enlarged to the first and concatenated) and d the token's width,

    x + softmax(query(x) . key(c) / sqrt(d)) value(c),   each of query, key, value a layer norm and a linear layer,

and then two linear layers with a GELU between them. LLMI3D's key has no biases: both of Mini-Gemini's add a constant
to every score of a window, which softmax cancels. The depth branch, which Mini-Gemini lacks, starts at zero.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig
from transformers.utils import logging

from llmi3d.bases.base_card import BaseInCard
from llmi3d.bases.checkpoint_io import (
    CheckpointReader,
    Matching,
    PlannedTensor,
    match_tensors,
    new_folder,
    write_shards,
)
from llmi3d.bases.convnext import convnext_config, match_convnext
from llmi3d.bases.llava import VOCABULARY_MULTIPLE
from llmi3d.configuration_llmi3d import LLMI3DConfig
from llmi3d.modeling_llmi3d import LLMI3DForConditionalGeneration
from llmi3d.processing.processing_llmi3d import BOX_3D_TOKEN, IMAGE_TOKEN, LLMI3DProcessor

# The older and the newer name of the family, both with a Llama.
FAMILIES = ("mini_gemini", "mgm")
# Fields of Mini-Gemini's config.json that belong to the Llama.
TEXT_FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "attention_bias"),
    *("attention_dropout", "mlp_bias", "rope_theta", "rope_scaling", "rope_parameters"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
)
CLIP = "model.vision_tower.vision_tower.vision_model."
CONVNEXT = "model.vision_tower_aux.vision_"
TOWER = "model.high_res_tower.timm_model."
MINING = "model.feature_mining.attention."
OLD_EMBEDDINGS = "model.embed_tokens.weight"
EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")
RENAMES = (
    (re.escape(CLIP) + r"(.+)", r"model.vision_tower.\1"),
    (re.escape(CONVNEXT) + r"((?:stem|stages)\..+)", rf"{TOWER}\1"),
    (r"model\.vlm_uni_query_projector\.0\.(.+)", rf"{MINING}query_norm.\1"),
    (r"model\.vlm_uni_query_projector\.1\.(.+)", rf"{MINING}query_proj.\1"),
    (r"model\.vlm_uni_aux_projector\.0\.(.+)", rf"{MINING}key_norm.\1"),
    (r"model\.vlm_uni_aux_projector\.1\.(.+)", rf"{MINING}key_proj.\1"),
    (r"model\.vlm_uni_val_projector\.0\.(.+)", rf"{MINING}value_norm.\1"),
    (r"model\.vlm_uni_val_projector\.1\.(.+)", rf"{MINING}value_proj.\1"),
    (r"model\.mm_projector\.0\.(.+)", r"model.multi_modal_projector.linear_1.\1"),
    (r"model\.mm_projector\.2\.(.+)", r"model.multi_modal_projector.linear_2.\1"),
    (r"model\.((?:embed_tokens|norm|layers)\..+)", r"model.language_model.\1"),
    (r"lm_head\.weight", "lm_head.weight"),
)
UNUSED = (
    (
        r"model\.vlm_uni_aux_projector\.[01]\.bias",
        "adds a constant to every score of a window, which softmax cancels",
    ),
    (r".+\.rotary_emb\.inv_freq|.+\.embeddings\.position_ids", "computed from the configuration"),
)
NEW = rf"box_head\..+|model\.feature_mining\.depth_.+|{re.escape(MINING)}depth_.+"
REPORT_NAME = "conversion.json"


@dataclass
class ConversionReport:
    """Record of what became of each tensor, saved beside the checkpoint as conversion.json.

    Attributes:
        source: names of the folder and of the family.
        dtype: of the weights.
        seed: of the new weights.
        num_parameters: of the new checkpoint.
        used: name in LLMI3D, by name in the source.
        unused: reason, by name in the source.
        new: tensors initialised as in a new model.
        resized: `[old rows, new rows]` by name; new rows are the mean of those with a token.
        assumed: settings that neither weights nor configuration give.
        files: sha256 and size in bytes of each file of weights, by name.
    """

    source: dict[str, str]
    dtype: str
    seed: int
    num_parameters: int = 0
    used: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    resized: dict[str, list[int]] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    files: dict[str, dict[str, str | int]] = field(default_factory=dict)

    def summary(self) -> str:
        """Return a summary of a few lines."""
        reasons: dict[str, int] = {}
        for reason in self.unused.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        return "\n".join(
            [
                f"{self.num_parameters:,} parameters, {self.dtype}, in {len(self.files)} files",
                f"{len(self.used):,} of {len(self.used) + len(self.unused):,} tensors taken over, {len(self.new)} new",
                *(f"left out: {count} x: {reason}" for reason, count in reasons.items()),
                *(f"{name}: {old} rows became {new}" for name, (old, new) in self.resized.items()),
                *(f"assumed: {what}" for what in self.assumed),
            ]
        )


def convert_minigemini(
    src: str | Path,
    out: str | Path,
    high_res_weights: str | Path | None = None,
    vision_tower: str | Path | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    max_shard_bytes: int = 5_000_000_000,
    licence: str | None = None,
) -> ConversionReport:
    """Convert an original Mini-Gemini checkpoint to LLMI3D, in the memory of one shard at most.

    Args:
        src: folder with config.json, the tokenizer and the weights, safetensors or PyTorch.
        out: new folder; it appears once it is complete.
        high_res_weights: file or folder of OpenCLIP or timm whose ConvNeXt replaces the one in `src`. It must expect
            images normalised as for CLIP.
        vision_tower: folder of the CLIP that the model was made with, for its config.json. By default a folder of
            that name inside `src` or beside it, or else sizes from the weights' shapes and OpenAI's common settings.
        dtype: of all weights except the 3D heads', which are float32; by default each keeps its own.
        seed: of the weights that Mini-Gemini lacks.
        max_shard_bytes: maximum size of a file of weights.
        licence: of the weights; by default the one in `src`'s README.md.

    Raises:
        ValueError: an existing `out`; another family; a variant of Mini-Gemini that LLMI3D cannot express; unreadable
            files; tensors that are missing, misshapen or without a place in LLMI3D.
    """
    src = Path(src)
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype: got {dtype}, want float32, bfloat16 or float16.")
    with new_folder(out) as folder:
        original = read_original_config(src)
        reader = CheckpointReader(src)
        cnn = None if high_res_weights is None else CheckpointReader(high_res_weights)
        tokenizer, known = read_tokenizer(src)
        old_rows = _shape(reader.tensors, OLD_EMBEDDINGS, 2)[0]
        image_id, box_id = tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, BOX_3D_TOKEN])
        config, assumed = minigemini_config(
            original,
            reader.tensors,
            vocab_size=max(old_rows, math.ceil(len(tokenizer) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE),
            image_token_id=image_id,
            box_3d_token_id=box_id,
            vision_config=_read_vision_config(src, original, vision_tower),
            cnn_tensors=None if cnn is None else cnn.tensors,
        )
        processor = LLMI3DProcessor.for_model(config, tokenizer)
        with torch.device("meta"):
            model = LLMI3DForConditionalGeneration(config)
        shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}

        matching = match_minigemini(reader.tensors, shapes, config.tie_word_embeddings, cnn is not None, str(src))
        main_dtype = dtype or reader.tensors[OLD_EMBEDDINGS].dtype
        report = ConversionReport(
            source={"folder": src.resolve().name, "family": original["model_type"]},
            dtype=str(main_dtype).removeprefix("torch."),
            seed=seed,
            num_parameters=model.num_parameters(),
            used={source: target for target, source in matching.source_of.items()},
            unused=dict(matching.unused),
            new=matching.new,
            resized={
                name: [old_rows, config.text_config.vocab_size] for name in EMBEDDINGS if name in matching.source_of
            },
            assumed=assumed,
        )
        planned = _plan(reader, matching.source_of, shapes, dtype, min(known, old_rows))
        if cnn is not None:
            inner = {name.removeprefix(TOWER): shape for name, shape in shapes.items() if name.startswith(TOWER)}
            of_cnn = match_convnext(cnn, inner)
            source_of = {TOWER + target: source for target, source in of_cnn.source_of.items()}
            planned += _plan(cnn, source_of, shapes, dtype, 0)
            report.used |= {source: target for target, source in source_of.items()}
            report.unused |= of_cnn.unused
        for name, weight in new_weights(model, matching.new, seed).items():
            # The heads stay in float32 (`_keep_in_fp32_modules_strict`).
            exact = torch.float32 if name.startswith("box_head.") else main_dtype
            planned.append(PlannedTensor(name, shapes[name], exact, weight.clone))
        _write_the_rest(folder, model.to(main_dtype), processor)  # first: `save_pretrained` deletes shards
        taken = "Both towers, feature mining's attention, projector and language model come from it."
        BaseInCard(src, original["model_type"], taken).write(folder / "README.md", licence)
        report.files = write_shards(folder, planned, max_shard_bytes)
        (folder / REPORT_NAME).write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    return report


def _plan(
    reader: CheckpointReader,
    source_of: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype | None,
    known_rows: int,
) -> list[PlannedTensor]:
    """Plan the tensors of one source, in the order of its shards."""
    planned = []
    for target, source in sorted(source_of.items(), key=lambda pair: reader.files[pair[1]]):
        own = reader.tensors[source].dtype
        if not own.is_floating_point or own.itemsize < 2:
            raise ValueError(f"{reader.path}: {source} is {own}, want weights that are not quantized.")
        load = partial(reader.read, source)
        if target in EMBEDDINGS:
            load = partial(_enlarged, reader, source, shapes[target][0], known_rows)
        planned.append(PlannedTensor(target, shapes[target], dtype or own, load))
    return planned


def read_original_config(src: Path) -> dict[str, Any]:
    """Read Mini-Gemini's config.json.

    Raises:
        ValueError: no such file; another family; a variant that LLMI3D cannot express.
    """
    path = src / "config.json"
    try:
        original = json.loads(path.read_text(encoding="utf-8"))
        family = original["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"src: {path} is no configuration of a model, want Mini-Gemini's config.json.") from error
    if family not in FAMILIES:
        raise ValueError(f"src: got the family '{family}', want one of {', '.join(FAMILIES)} (with a Llama).")
    wanted = {
        "mm_projector_type": ("mlp2x_gelu", "linear"),
        "mm_vision_select_feature": ("patch", "patch"),
        "image_grid": (1, 1),
        "image_global": (False, False),
    }
    for name, (want, default) in wanted.items():
        given = original.get(name, default)
        if given != want:
            raise ValueError(f"src: {name} is {given!r} in config.json, want {want!r}: LLMI3D has no other form.")
    return original


def read_tokenizer(src: Path) -> tuple[Any, int]:
    """Return the tokenizer of `src` with LLMI3D's two special tokens added, and its length before.

    Raises:
        ValueError: no tokenizer that can be read.
    """
    try:
        # With a configuration transformers does not look up the unknown family.
        tokenizer = AutoTokenizer.from_pretrained(
            str(src), config=LlamaConfig(), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"src: the tokenizer in {src} cannot be read ({reason}); want tokenizer.json, or tokenizer.model and "
            "pip install sentencepiece."
        ) from error
    known = len(tokenizer)
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [IMAGE_TOKEN, BOX_3D_TOKEN]}, replace_extra_special_tokens=False
    )
    if tokenizer.pad_token is None:  # as in LLaVA
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer, known


def minigemini_config(
    original: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    vocab_size: int,
    image_token_id: int,
    box_3d_token_id: int,
    vision_config: CLIPVisionConfig | None = None,
    cnn_tensors: Mapping[str, Tensor] | None = None,
) -> tuple[LLMI3DConfig, list[str]]:
    """Return the configuration of a LLMI3D with Mini-Gemini's weights, and the assumptions it rests on.

    Args:
        original: Mini-Gemini's config.json.
        tensors: Mini-Gemini's tensors; only their shapes are read.
        vocab_size, image_token_id, box_3d_token_id: of LLMI3D.
        vision_config: of Mini-Gemini's CLIP, if it is known.
        cnn_tensors: tensors of the file whose ConvNeXt replaces Mini-Gemini's.

    Raises:
        ValueError: sizes that contradict each other or cannot be determined.
    """
    assumed = []
    if vision_config is None:
        vision_config = _guess_vision_config(tensors)
        assumed.append(
            f"{vision_config.num_attention_heads} heads and {vision_config.hidden_act} in the ViT, as OpenAI's CLIPs "
            "have (pass the ViT's config.json by --vision-tower to be sure)"
        )
    stem = r"(?:visual\.trunk\.)?((?:stem|stages)\..+)" if cnn_tensors is not None else re.escape(CONVNEXT) + "(.+)"
    cnn_shapes = {
        found[1]: tuple(tensor.shape)
        for name, tensor in (tensors if cnn_tensors is None else cnn_tensors).items()
        if (found := re.fullmatch(stem, name))
    }
    high_res = convnext_config(cnn_shapes)
    channels = sum(cnn_shapes[f"stages.{stage}.blocks.0.conv_dw.weight"][0] for stage in range(4))
    for name, got in (("mm_hidden_size", vision_config.hidden_size), ("mm_hidden_size_aux", channels)):
        if original.get(name, got) != got:
            raise ValueError(f"src: {name} is {original[name]} in config.json, but the tower's is {got}.")
    text = {name: original[name] for name in TEXT_FIELDS if original.get(name) is not None}
    try:
        config = LLMI3DConfig(
            text_config={**text, "model_type": "llama", "vocab_size": vocab_size},
            vision_config=vision_config.to_dict(),
            high_res_vision_config=high_res,
            high_res_image_size=original.get("image_size_aux", 320),  # Mini-Gemini's own default
            vision_feature_layer=original.get("mm_vision_select_layer", -2),
            tie_word_embeddings=bool(original.get("tie_word_embeddings", False)),
            image_token_id=image_token_id,
            box_3d_token_id=box_3d_token_id,
        )
    except StrictDataclassError as error:
        raise ValueError(f"src: config.json and weights do not fit LLMI3D: {error.__cause__ or error}") from error
    return config, assumed


def match_minigemini(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    tied: bool = False,
    without_cnn: bool = False,
    where: str = "src",
) -> Matching:
    """Match Mini-Gemini's tensors with LLMI3D's shapes (see `match_tensors`).

    Args:
        tied: whether input and output embeddings are one tensor.
        without_cnn: whether the high-resolution tower comes from elsewhere.
    """
    unused = list(UNUSED)
    if tied:
        shapes = {name: shape for name, shape in shapes.items() if name != "lm_head.weight"}
        unused.append((r"lm_head\.weight", "the same as the input embeddings"))
    if without_cnn:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(TOWER)}
        unused.append((re.escape(CONVNEXT) + ".+", "replaced by --high-res-weights"))
    return match_tensors(tensors, shapes, RENAMES, unused, NEW, EMBEDDINGS, where)


def new_weights(model: nn.Module, names: list[str], seed: int) -> dict[str, Tensor]:
    """Initialise some tensors as in a new model.

    Args:
        model: on the meta device; the modules that own the tensors move to the CPU.
        names: names of the tensors, all or none of each module's.
    """
    owners = {name.rpartition(".")[0] for name in names}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            if name in owners:
                module.to_empty(device="cpu", recurse=False)
                module.reset_parameters()  # for what `_init_weights` leaves to torch
                model._init_weights(module)
    state = model.state_dict()
    return {name: state[name] for name in names}


def _enlarged(reader: CheckpointReader, name: str, rows: int, known: int) -> Tensor:
    """Return embeddings [rows, C]: the first `known` rows are the source's, the others their mean."""
    old = reader.read(name)[:known]
    new = old.new_empty(rows, old.shape[1])
    new[:known] = old
    new[known:] = old.mean(0, dtype=torch.float32)
    return new


def _shape(tensors: Mapping[str, Tensor], name: str, dims: int) -> tuple[int, ...]:
    shape = tuple(tensors[name].shape) if name in tensors else None
    if shape is None or len(shape) != dims:
        got = "is missing" if shape is None else f"is of shape {list(shape)}"
        raise ValueError(f"src: {name} {got}, want {dims} dimensions, which determine the model's size.")
    return shape


def _guess_vision_config(tensors: Mapping[str, Tensor]) -> CLIPVisionConfig:
    """Derive the ViT's sizes from the shapes of its weights, with 64 channels per head."""
    dim, _, patch, _ = _shape(tensors, f"{CLIP}embeddings.patch_embedding.weight", 4)
    positions = _shape(tensors, f"{CLIP}embeddings.position_embedding.weight", 2)[0]
    grid = math.isqrt(positions - 1)
    if dim % 64 or grid**2 != positions - 1:
        raise ValueError(
            f"src: a ViT of {dim} channels and {positions} positions is none of OpenAI's; pass the folder of its "
            "config.json as vision_tower (--vision-tower)."
        )
    layers = [
        int(found[1]) for name in tensors if (found := re.match(re.escape(CLIP) + r"encoder\.layers\.(\d+)", name))
    ]
    return CLIPVisionConfig(
        hidden_size=dim,
        intermediate_size=_shape(tensors, f"{CLIP}encoder.layers.0.mlp.fc1.weight", 2)[0],
        num_hidden_layers=max(layers) + 1,
        num_attention_heads=dim // 64,
        image_size=grid * patch,
        patch_size=patch,
        projection_dim=768,
    )


def _read_vision_config(
    src: Path, original: Mapping[str, Any], vision_tower: str | Path | None
) -> CLIPVisionConfig | None:
    if vision_tower is None:
        # The name is data: only its last part is used, and only inside `src` or beside it.
        name = Path(str(original.get("mm_vision_tower", ""))).name
        folders = [folder for folder in (src / name, src.parent / name) if name and (folder / "config.json").is_file()]
        if not folders:
            return None
        vision_tower = folders[0]
    try:
        config = CLIPVisionConfig.from_pretrained(str(vision_tower), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"vision_tower: {vision_tower} contains no config.json of a CLIP.") from error
    config.dtype = None  # the checkpoint's applies, not the published CLIP's
    return config


def _write_the_rest(folder: Path, model: LLMI3DForConditionalGeneration, processor: LLMI3DProcessor) -> None:
    """Write configuration, code, card and processor: all of a checkpoint except its weights."""
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # there are no shards to count
    try:
        model.save_pretrained(folder, state_dict={})
    finally:
        if bar:
            logging.enable_progress_bar()
    processor.save_pretrained(folder)
