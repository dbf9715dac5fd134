# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Renders the pictures of this folder, two of each domain of IG3D-Synth, with their truth in pictures.json, and draws
the true boxes of some in docs/images/synthetic.jpg.

    python examples/pictures/render.py

The seed is one that no training set uses. Of each picture some phrases are kept, something that is not there, and a
question with its answer, all from the expression generator.
"""

import json
from pathlib import Path

from PIL import Image

from llmi3d.data.expressions import make_conversation
from llmi3d.data.synthetic.ig3d_synth import Synthetic
from llmi3d.processing.drawing import draw_boxes, montage

SEED = 77
NAMES = ("indoor-000020", "indoor-000012", "driving-000041", "driving-000005", "surround-000022", "surround-000038")
NAMES += ("objects-000019", "objects-000027")
MOST_PHRASES = 6
SHOWN = ("indoor-000020", "driving-000041", "surround-000022", "driving-000005", "indoor-000012", "surround-000038")


def describe(source: Synthetic, frame) -> dict:
    """What pictures.json holds of a frame: camera, boxes, phrases of one object each, something absent, a question."""
    scene = {**frame.row, "complete": True}
    phrases, absent, question = {}, None, None
    for seed in range(20):  # until every kind of turn has come up
        turns = make_conversation(scene, frame.scene.image_size, seed=seed, max_turns=12, vocabulary=source.vocabulary)
        for turn in turns:
            if turn.task == "grounding" and turn.targets[0] not in phrases and len(phrases) < MOST_PHRASES:
                phrases[turn.targets[0]] = turn.phrase
            elif turn.task == "absent":
                absent = absent or turn.phrase
            elif turn.task == "vqa" and question is None:
                question = {"question": turn.question, "answer": turn.answer}
    boxes = [entry for entry in frame.row["objects"] if not entry["ignore"]]
    keys = ("id", "category", "center", "size", "rotation", "attributes")
    return {
        "intrinsics": frame.row["intrinsics"],
        "boxes": [{key: entry[key] for key in keys} for entry in boxes],
        "phrases": [{"phrase": phrase, "box": name} for name, phrase in phrases.items()],
        "absent": absent,
        "ask": question,
    }


def main() -> None:
    folder = Path(__file__).parent
    source = Synthetic(frames="test:64", seed=SEED, oversample=3, long_side=1000, version=1)
    pictures = []
    for name in NAMES:
        frame = source.frame(f"synthetic/test/{name}")
        (folder / f"{name}.jpg").write_bytes(frame.image)
        pictures.append({"image": f"{name}.jpg", **describe(source, frame)})
        print(name, [one["phrase"] for one in pictures[-1]["phrases"]])
    lines = ",\n".join(json.dumps(one) for one in pictures)
    (folder / "pictures.json").write_text(f"[\n{lines}\n]\n")
    shown = [one for name in SHOWN for one in pictures if one["image"] == f"{name}.jpg"]
    drawn = [draw_boxes(Image.open(folder / one["image"]), one["boxes"], one["intrinsics"]) for one in shown]
    images = folder.parents[1] / "docs" / "images"
    images.mkdir(exist_ok=True)
    montage(drawn).save(images / "synthetic.jpg", quality=85)


if __name__ == "__main__":
    main()
