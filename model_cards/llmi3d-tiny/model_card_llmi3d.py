# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The model card that `save_pretrained` writes beside a checkpoint that has none."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .configuration_llmi3d import LLMI3DConfig

TEMPLATE = """---
{{ card_data }}
---

# LLMI3D checkpoint

Give it one photograph, its camera and a sentence; it answers with metric, oriented 3D boxes and a confidence.
LLMI3D follows "MLLM-based 3D Perception from a Single 2D Image" ([arXiv 2408.07422](https://arxiv.org/abs/2408.07422)).

## Use

```python
import llmi3d  # or pass trust_remote_code=True below: the code lies beside the weights
from transformers import pipeline

ground = pipeline("image-3d-grounding", model="PATH_OR_NAME_OF_THIS_REPOSITORY")
answer = ground("street.jpg", prompt="the nearest car", intrinsics=[fx, fy, cx, cy])
answer["boxes"][0]["center"]  # metres: right, down, forward
```

`intrinsics` are in pixels of the picture as stored; without them EXIF is read, and without that a field of view of 60
degrees across the longer side is assumed, with a warning. `answer["intrinsics_source"]` says which it was. Depth is
metric: the virtual camera is already undone.

## Architecture

| part | size |
|---|---|
| language model | {{ text }} |
| low-resolution branch | {{ vision }} |
| high-resolution branch | {{ high_res }} |
| visual tokens | {{ tokens }} |
| depth bins | {{ bins }} |
| depth sources | {{ sources }} |
| parameters | {{ parameters }} |

## Training data, evaluation, licence of the weights, limits

Not stated yet by whoever trained these weights. A camera or scene unlike those trained on gives boxes that look sure
and are wrong; do not rely on them where people could be hurt.
"""


def write_model_card(directory: str | Path, config: LLMI3DConfig, num_parameters: int) -> None:
    """Writes `README.md` from the configuration, unless the directory has one already."""
    path = Path(directory) / "README.md"
    if path.exists():
        return
    text, vision, high_res = config.text_config, config.vision_config, config.high_res_vision_config
    sources = {
        "regression": config.depth_from_regression,
        "projected height": config.depth_from_height,
        "depth map": config.depth_from_map,
    }
    merge = config.visual_token_side // vision.patch_size
    merged = f", merged by {merge} x {merge}" if merge > 1 else ""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["llmi3d", "image-3d-grounding", "3d-object-detection", "monocular"],
    )
    ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        text=f"{text.model_type}, {text.num_hidden_layers} layers of {text.hidden_size}",
        vision=f"{vision.model_type}, {vision.num_hidden_layers} layers of {vision.hidden_size}, "
        f"{config.image_size} px in patches of {vision.patch_size}{merged}",
        high_res=f"{high_res.architecture} at {config.high_res_image_size} px" if config.high_res_branch else "none",
        tokens=str(config.image_seq_length),
        bins=f"{config.num_depth_bins} from {config.depth_min_virtual:g} to {config.depth_max_virtual:g} virtual "
        f"metres at a focal length of {config.virtual_focal_length:g} px",
        sources=", ".join(name for name, used in sources.items() if used),
        parameters=f"{num_parameters:,}",
    ).save(path)
