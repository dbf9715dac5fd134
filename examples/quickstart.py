# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""From an image and a sentence to a box in metres, drawn, in the fewest lines.

python examples/quickstart.py
python examples/quickstart.py photo.jpg --prompt "the red mug" --fov 65
"""

import argparse
from pathlib import Path

from PIL import ImageOps
from transformers import pipeline

import llmi3d  # noqa: F401 (registers the pipeline)
from llmi3d.processing.drawing import draw_answer
from llmi3d.processing.image_processing_llmi3d import load_image

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "examples" / "pictures" / "surround-000022.jpg"
INTRINSICS = [693.1, 697.9, 494.5, 263.2]  # fx, fy, cx, cy of that image, pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", help="your own; a shipped one by default")
    parser.add_argument("--prompt", default="the brown car", help="what to find")
    parser.add_argument("--fov", type=float, help="horizontal field of view of your image, degrees")
    parser.add_argument("--checkpoint", default=str(ROOT / "model_cards" / "llmi3d-tiny"))
    parser.add_argument("--out", type=Path, default=Path("quickstart.jpg"), help="drawing to write")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"--out: {options.out} exists already; choose another name.")

    ground = pipeline("image-3d-grounding", model=options.checkpoint, device="cpu")
    camera = {"fov_deg": options.fov} if options.image else {"intrinsics": INTRINSICS}
    try:
        image = load_image(options.image or IMAGE)
        answer = ground(image, prompt=options.prompt, **camera)
    except ValueError as error:
        parser.error(str(error))

    for box in answer["boxes"]:
        x, y, z = box["center"]
        print(f"{answer['prompt']}: {x:.1f} m right, {y:.1f} m down, {z:.1f} m forward, score {box['score']:.1f}")
    print(f"camera: {answer['intrinsics_source']}")
    draw_answer(ImageOps.exif_transpose(image).convert("RGB"), answer).save(options.out)


if __name__ == "__main__":
    main()
