# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Template of all model cards, and the card that `save_pretrained` writes if there is none.

Training fills the same template (`llmi3d.training.training_card`); `llmi3d evaluate --card` fills its section
Evaluation.
"""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .configuration_llmi3d import LLMI3DConfig

TAGS = ("llmi3d", "image-3d-grounding", "3d-object-detection", "monocular")
PIPELINE_TAG = "image-text-to-text"
UNSTATED = "Not stated by whoever trained these weights."

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

Give it one photograph, its camera and a sentence; it answers with metric, oriented 3D boxes and a confidence.
LLMI3D follows "MLLM-based 3D Perception from a Single 2D Image" ([arXiv
2408.07422](https://arxiv.org/abs/2408.07422)). {{ made_of }}

## Use

```python
import llmi3d  # or pass trust_remote_code=True below: the code lies beside the weights
from transformers import pipeline

ground = pipeline("image-3d-grounding", model="PATH_OR_NAME_OF_THIS_REPOSITORY")
answer = ground("street.jpg", prompt="the nearest car", intrinsics=[fx, fy, cx, cy])
answer["boxes"][0]["center"]  # metres: right, down, forward
```

`intrinsics` are in pixels of the stored image. Without them EXIF is read; without EXIF, a field of view of 60 degrees
across the longer side is assumed, with a warning. `answer["intrinsics_source"]` says which one was used. Depth is
metric: the virtual camera is already undone.

## Architecture

{{ architecture }}

## Training data

{{ training_data }}

## Evaluation

{{ evaluation }}

## Training

{{ training }}

## Licences

{{ licences }}

## Intended use and limits

For research on 3D perception from one image, and as a base for fine-tuning. Expect it to work on images like those it
was trained on: other cameras, scenes or categories give boxes that look certain and are wrong. One image cannot tell a
large, distant object from a small, near one, and distances scale with K: a focal length that is off by 10 % moves
every box by 10 %. Images must be undistorted, from a pinhole camera. Do not rely on it where people could be hurt.
"""


def fill_card(data: ModelCardData, **sections: str) -> ModelCard:
    """Fill the template of all cards.

    Args:
        data: front matter.
        sections: `title`, `made_of`, `architecture`, `training_data`, `evaluation`, `training`, `licences`; the last
            four say that nothing is stated if they are left out.
    """
    unstated = dict.fromkeys(("training_data", "evaluation", "training", "licences"), UNSTATED)
    return ModelCard.from_template(data, template_str=TEMPLATE, **{**unstated, **sections})


def describe_architecture(config: LLMI3DConfig, num_parameters: int) -> str:
    """Describe the parts and their sizes in a table."""
    text, vision, high_res = config.text_config, config.vision_config, config.high_res_vision_config
    sources = {
        "regression": config.depth_from_regression,
        "projected height": config.depth_from_height,
        "depth map": config.depth_from_map,
    }
    merge = config.visual_token_side // vision.patch_size
    merged = f", merged by {merge} x {merge}" if merge > 1 else ""
    rows = {
        "language model": f"{text.model_type}, {text.num_hidden_layers} layers of {text.hidden_size}",
        "low-resolution branch": f"{vision.model_type}, {vision.num_hidden_layers} layers of {vision.hidden_size}, "
        f"{config.image_size} px in patches of {vision.patch_size}{merged}",
        "high-resolution branch": f"{high_res.architecture} at {config.high_res_image_size} px"
        if config.high_res_branch
        else "none",
        "visual tokens": str(config.image_seq_length),
        "depth bins": f"{config.num_depth_bins} from {config.depth_min_virtual:g} to {config.depth_max_virtual:g} "
        f"virtual metres at a focal length of {config.virtual_focal_length:g} px",
        "depth sources": ", ".join(name for name, used in sources.items() if used),
        "parameters": f"{num_parameters:,}",
    }
    return "\n".join(["| part | size |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def write_model_card(directory: str | Path, config: LLMI3DConfig, num_parameters: int) -> None:
    """Write `README.md` from the configuration, unless the directory has one already."""
    path = Path(directory) / "README.md"
    if path.exists():
        return
    data = ModelCardData(library_name="transformers", pipeline_tag=PIPELINE_TAG, tags=list(TAGS))
    architecture = describe_architecture(config, num_parameters)
    fill_card(data, title="LLMI3D checkpoint", made_of="", architecture=architecture).save(path)
