# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Export of direct grounding as one graph, for ONNX Runtime or torch.export, with description and processor.

    export(model, processor, "exported")
    exported = ExportedGrounding("exported")
    inputs = exported.processor.grounding_inputs(image, "the nearest car", intrinsics=[721.5, 721.5, 609.6, 172.9])
    answer = exported.processor.post_process_grounding_3d(exported.ground(**inputs), inputs.cameras)

Shapes: B images, T tokens of a sequence, Q 3D query tokens of a sequence (padded). All three may vary between calls;
the size of the images is fixed by the model.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from llmi3d.bases.checkpoint_io import new_folder
from llmi3d.box_heads_llmi3d import Box3DHeadOutput, find_queries
from llmi3d.configuration_llmi3d import LLMI3DConfig
from llmi3d.modeling_llmi3d import LLMI3DForConditionalGeneration as Model
from llmi3d.outputs_llmi3d import LLMI3DCausalLMOutputWithPast
from llmi3d.phrases_llmi3d import ANY_MASK, phrase_mask
from llmi3d.processing.processing_llmi3d import LLMI3DProcessor
from llmi3d.version import __version__

DESCRIPTION_NAME = "export.json"
FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
OPSET = 18  # of ONNX; supported by every ONNX Runtime since 2023
# Largest difference of an export from its model, absolute or relative, whichever is less.
TOLERANCE = 1e-3

INPUTS = {
    "input_ids": "prompts, each with visual tokens in place of <image>, ending in <|box_3d|>; several phrases about "
    "an image may share a sequence after the image",
    "phrase_ids": "0 for padding, 1 for the shared start of a sequence, 2, 3, ... for its phrases; with one phrase "
    "per sequence this is the attention mask",
    "position_ids": "counted along each phrase from the shared start; 0 for padding",
    "query_positions": "positions of the tokens <|box_3d|> in input_ids, in order, padded by any other position",
    "pixel_values": "low resolution: letterboxed, normalised RGB",
    "high_res_pixel_values": "high resolution: the same image, letterboxed, normalised RGB; its pixels are the "
    "network frame",
}
OUTPUTS = {
    "center_2d_px": "projected 3D centre (x, y), network pixels; may lie outside the image",
    "box_2d_px": "amodal 2D box (x_min, y_min, x_max, y_max), network pixels",
    "log_depths": "log virtual depth by regression, height and depth map",
    "depth_log_scales": "log of the Laplace scale of each source's error in log depth",
    "depth_weights": "share of each source in the fused depth",
    "depth_virtual": "fused depth, virtual metres: metres times virtual_focal_length over the focal length of the "
    "image in the network frame",
    "size": "length, height, width, metres, along the box's own x, y, z axes",
    "rotation_6d": "first two columns of the rotation as seen along the ray to the centre (allocentric)",
    "score_logits": "their sigmoid is the predicted 3D IoU",
}
# With pointing only.
POINTING_OUTPUTS = {
    "pointing": "probability of each visual token, row-major",
    "pointing_log_probs": "log-probability of each place, rows and columns over the network frame",
    "pointing_spread_px": "standard deviation of that distribution, network pixels",
}
FRAMES = (
    "Camera frame: x right, y down, z forward, metres. Network frame: pixels of high_res_pixel_values, (0, 0) at the "
    "top-left corner. The graph knows no camera: LLMI3DProcessor.post_process_grounding_3d turns its outputs into "
    "metric boxes, with the cameras of grounding_inputs."
)


class _Network(nn.Module):
    """The exported function of tensors, with the arguments `INPUTS` and the results `OUTPUTS`."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        phrase_ids: Tensor,
        position_ids: Tensor,
        query_positions: Tensor,
        pixel_values: Tensor,
        high_res_pixel_values: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        boxes = self.model.ground_at(
            input_ids=input_ids,
            query_positions=query_positions,
            query_mask=torch.ones_like(query_positions, dtype=torch.bool),
            pixel_values=pixel_values,
            high_res_pixel_values=high_res_pixel_values,
            attention_mask=phrase_mask(phrase_ids, self.model.dtype),
            position_ids=position_ids,
        ).boxes_3d
        return tuple(boxes[name] for name in outputs_of(self.model.config))


def outputs_of(config: LLMI3DConfig) -> dict[str, str]:
    """Return the names and meanings of a graph's outputs, in order."""
    return OUTPUTS | POINTING_OUTPUTS if config.pointing else OUTPUTS


def graph_inputs(inputs: Mapping[str, Tensor], box_3d_token_id: int) -> tuple[dict[str, Tensor], Tensor]:
    """Convert inputs of the processor to inputs of the graph.

    Args:
        inputs: from `LLMI3DProcessor.grounding_inputs`, with or without shared images.
        box_3d_token_id: of `<|box_3d|>`.

    Returns:
        (inputs of the graph, bool [B, Q]: False for a padded query).
    """
    phrase_ids, position_ids = inputs.get("phrase_ids"), inputs.get("position_ids")
    if phrase_ids is None:
        phrase_ids = inputs["attention_mask"]
    if position_ids is None:
        position_ids = (phrase_ids.cumsum(-1) - 1).clamp(min=0)
    positions, mask = find_queries(inputs["input_ids"] == box_3d_token_id)
    derived = {"phrase_ids": phrase_ids, "position_ids": position_ids, "query_positions": positions}
    return {name: derived.get(name, inputs.get(name)) for name in INPUTS}, mask


def export(model: Model, processor: LLMI3DProcessor, out: str | Path, format: str = "onnx") -> dict:
    """Write a folder with the graph, `export.json` and the processor; it appears when all is written and verified.

    Args:
        model: in float32.
        processor: the model's.
        out: new folder.
        format: `onnx`, or `torch` for a program that `torch.export.load` reads.

    Returns:
        The content of export.json: inputs and outputs with shapes, meanings and units; frames; and the largest
        difference of outputs from the model on random images.

    Raises:
        ValueError: the format, dtype or kind of model is not supported, the folder exists, or outputs differ from the
            model's by more than `TOLERANCE`.
        ModuleNotFoundError: a package of the extra `export` is missing.
    """
    if format not in FILES:
        raise ValueError(f"format: got '{format}', want one of {', '.join(FILES)}.")
    if model.dtype != torch.float32:
        raise ValueError(f"model: got {model.dtype}, want torch.float32; load it with dtype=torch.float32.")
    if model.config.has_qwen_vision:
        raise ValueError("model: got Qwen-VL's encoder, whose shapes depend on its data; want CLIP's or SigLIP's.")
    processor.check_model(model.config)
    processor = copy.deepcopy(processor)
    processor.image_processor.crop_padding = False  # the graph has one size: the square canvas
    if format == "onnx":
        import onnxruntime  # noqa: F401  (fail before the work, not after)
        import onnxscript  # noqa: F401
    model = model.eval()
    if model.config.text_config._attn_implementation not in ANY_MASK:
        model.set_attn_implementation("sdpa")
    with new_folder(out) as folder:
        program = _trace(model, _sample(model, processor, images=2, phrases=3))
        if format == "onnx":
            _write_onnx(program, folder / FILES[format], list(outputs_of(model.config)))
        else:
            torch.export.save(program, folder / FILES[format])
        processor.save_pretrained(folder)
        description = _describe(model, format)
        (folder / DESCRIPTION_NAME).write_text(json.dumps(description, indent=2) + "\n")
        description["difference"] = _difference(model, ExportedGrounding(folder))
        if not description["difference"] < TOLERANCE:
            raise ValueError(f"model: outputs of its export differ by {description['difference']:.1e}.")
        (folder / DESCRIPTION_NAME).write_text(json.dumps(description, indent=2) + "\n")
    return description


class ExportedGrounding:
    """Runs an export; only the processor and the graph are loaded.

    Args:
        folder: written by `export`.
        session_options: `onnxruntime.SessionOptions`, such as the number of threads.
        providers: of ONNX Runtime, such as `["CUDAExecutionProvider"]`; the CPU by default.

    Raises:
        ValueError: the folder holds no export.
    """

    def __init__(self, folder: str | Path, session_options=None, providers=("CPUExecutionProvider",)):
        folder = Path(folder)
        if not (folder / DESCRIPTION_NAME).is_file():
            raise ValueError(f"folder: {folder} has no {DESCRIPTION_NAME}; want what `llmi3d export` wrote.")
        self.description = json.loads((folder / DESCRIPTION_NAME).read_text())
        self.processor = LLMI3DProcessor.from_pretrained(folder)
        file = folder / FILES[self.description["format"]]
        if self.description["format"] == "torch":
            self._program = torch.export.load(file).module()
            return
        import onnxruntime

        self._program = None
        self._session = onnxruntime.InferenceSession(file, session_options, providers=list(providers))

    @torch.no_grad()
    def ground(self, **inputs: Tensor) -> LLMI3DCausalLMOutputWithPast:
        """Return `boxes_3d` as the model's `ground` does: one row per sequence, or per phrase of shared sequences.

        Raises:
            ValueError: images of another size than the graph's, or too many tokens or phrases.
        """
        given, mask = graph_inputs(inputs, self.processor.box_3d_token_id)
        given = {name: given[name] for name in self.description["inputs"]}
        self._check(given)
        if self._program is not None:
            values = self._program(**given)
        else:
            arrays = {name: value.numpy() for name, value in given.items()}
            values = map(torch.from_numpy, self._session.run(list(self.description["outputs"]), arrays))
        boxes = {"mask": mask, **dict(zip(self.description["outputs"], values, strict=True))}
        if "phrase_ids" in inputs:
            boxes = {name: value[mask][:, None] for name, value in boxes.items()}
        return LLMI3DCausalLMOutputWithPast(boxes_3d=Box3DHeadOutput(**boxes))

    def _check(self, given: dict[str, Tensor]) -> None:
        for name, entry in self.description["inputs"].items():
            sides = [side for side in entry["shape"] if isinstance(side, int)]
            if sides and list(given[name].shape[1:]) != sides:
                raise ValueError(
                    f"{name}: got {list(given[name].shape[1:])}, want {sides}, for which it was exported."
                )
        for name, which in (("input_ids", "tokens"), ("query_positions", "queries")):
            count, (least, most) = given[name].shape[1], self.description[which]
            if not least <= count <= most:
                raise ValueError(f"{name}: got {count} {which} in a sequence, want {least} to {most}.")


def _sample(model: Model, processor: LLMI3DProcessor, images: int, phrases: int) -> dict[str, Tensor]:
    """Return inputs of the processor about random images."""
    noise = np.random.default_rng(images).integers(0, 255, (images, 120, 200, 3), np.uint8)
    asked = [f"the {' '.join(['big'] * count)} car" for count in range(1, phrases + 1)]
    return dict(
        processor.grounding_inputs(
            [Image.fromarray(pixels) for pixels in noise], [asked] * images, fov_deg=60, share_images=True
        ).to(model.device)
    )


@torch.no_grad()
def _trace(model: Model, sample: dict[str, Tensor]) -> torch.export.ExportedProgram:
    config = model.config
    given, _ = graph_inputs(sample, config.box_3d_token_id)
    if not config.high_res_branch:
        given["high_res_pixel_values"] = None
    # The bounds keep the two lengths apart, which the tracer cannot decide by itself.
    visual = config.image_seq_length
    tokens = Dim("tokens", min=visual + 2, max=config.text_config.max_position_embeddings)
    batch, queries = Dim("batch"), Dim("queries", max=visual)
    shapes = {name: {0: batch} if "pixel" in name else {0: batch, 1: tokens} for name in INPUTS}
    shapes["query_positions"] = {0: batch, 1: queries}
    if not config.high_res_branch:
        shapes["high_res_pixel_values"] = None
    maybe_install_capturing_hooks(model.model.vision_tower)  # see `compile_grounding`
    program = torch.export.export(_Network(model).eval(), (), given, dynamic_shapes=shapes, strict=False)
    for graph in program.graph_module.modules():  # drop paths of this machine
        for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
                node.meta.pop(key, None)
    return program


def _write_onnx(program: torch.export.ExportedProgram, file: Path, outputs: list[str]) -> None:
    written = torch.onnx.export(program, dynamo=True, output_names=outputs, opset_version=OPSET, verbose=False)
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()
    written.save(file)  # with weights in a second file if they are too large for one


def _describe(model: Model, format: str) -> dict:
    config = model.config
    low, high = config.image_size, config.high_res_image_size
    shapes = {name: ["batch", "tokens"] for name in INPUTS} | {"query_positions": ["batch", "queries"]}
    shapes |= {"pixel_values": ["batch", 3, low, low], "high_res_pixel_values": ["batch", 3, high, high]}
    if not config.high_res_branch:
        del shapes["high_res_pixel_values"]
    places = round(high / config.place_px)
    last = {"center_2d_px": [2], "box_2d_px": [4], "size": [3], "rotation_6d": [6]}
    last |= {name: [3] for name in ("log_depths", "depth_log_scales", "depth_weights")}
    last |= {"pointing": [config.image_seq_length], "pointing_log_probs": [places, places]}
    return {
        "format": format,
        "file": FILES[format],
        "llmi3d": __version__,
        "torch": torch.__version__,
        "inputs": {
            name: {
                "shape": shape,
                "dtype": "float32" if "pixel" in name else "int64",
                "meaning": INPUTS[name],
            }
            for name, shape in shapes.items()
        },
        "outputs": {
            name: {
                "shape": ["batch", "queries", *last.get(name, [])],
                "dtype": "float32",
                "meaning": meaning,
            }
            for name, meaning in outputs_of(config).items()
        },
        "tokens": [config.image_seq_length + 2, config.text_config.max_position_embeddings],
        "queries": [1, config.image_seq_length],
        "box_3d_token_id": config.box_3d_token_id,
        "virtual_focal_length": config.virtual_focal_length,
        "frames": FRAMES,
        "made_by": "LLMI3DProcessor.grounding_inputs, then llmi3d.apps.graph_export.graph_inputs",
    }


def _difference(model: Model, exported: ExportedGrounding) -> float:
    """Return the largest difference of outputs, absolute or relative, whichever is less, at shapes not traced."""
    worst = 0.0
    for images, phrases in ((1, 1), (3, 2)):
        inputs = _sample(model, exported.processor, images, phrases)
        wanted = model.ground(**inputs).boxes_3d
        for name, value in exported.ground(**inputs).boxes_3d.items():
            if value.is_floating_point():
                apart = (value - wanted[name]).abs() / wanted[name].abs().clamp(min=1)
                worst = max(worst, apart.max().item())
    return worst
