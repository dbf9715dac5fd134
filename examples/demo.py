# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Ground phrases with the shipped checkpoint, in the shipped images or in your own.

    python examples/demo.py
    python examples/demo.py photo.jpg --prompt "the red mug" --fov 65
    python examples/demo.py photo.jpg --prompt "the red mug" --intrinsics 610,610,320,240

Writes a drawing with boxes and a bird's-eye view for each image, and results.json. The shipped images were rendered
from a seed that training never used. Their ground truth is drawn dashed and compared by exact 3D IoU.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from transformers import pipeline

import llmi3d  # noqa: F401 (registers the pipeline)
from llmi3d.processing.drawing import draw_answer, montage
from llmi3d.processing.geometry_llmi3d import box_corners
from llmi3d.processing.image_processing_llmi3d import load_image

HERE = Path(__file__).parent
CHECKPOINT = HERE.parent / "model_cards" / "llmi3d-tiny"


def iou_with(box: dict, truth: dict) -> float:
    """Return the exact 3D IoU of a predicted box with the true one."""
    from llmi3d.evaluation.iou3d import box3d_iou

    true = box_corners(*(torch.tensor(truth[name], dtype=torch.float64) for name in ("center", "size", "rotation")))
    return box3d_iou(torch.tensor([box["corners"]], dtype=torch.float64), true[None], paired=True).item()


def ask(ground, image: Image.Image, question: str, intrinsics) -> str:
    """Return the model's text answer to a question about an image."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = ground.processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"intrinsics": [intrinsics]},
    )
    kept = {name: inputs[name] for name in ground.processor.model_input_names if name in inputs}
    answer = ground.model.generate_boxes(**kept, max_new_tokens=24, do_sample=False).sequences
    return ground.processor.batch_decode(answer[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[
        0
    ].strip()


def shipped_image(ground, entry: dict, out: Path) -> dict:
    """Answer the phrases and the question of an entry of pictures.json, print them beside the truth, and draw them."""
    image = Image.open(HERE / "pictures" / entry["image"]).convert("RGB")
    truth = {box["id"]: box for box in entry["boxes"]}
    phrases = [meant["phrase"] for meant in entry["phrases"]]
    answers = ground(image, prompt=phrases, intrinsics=entry["intrinsics"])
    found = []
    print(f"\n{entry['image']:<55}{'IoU':>6}{'score':>7}{'depth m':>9}{'true m':>8}")
    for meant, answer in zip(entry["phrases"], answers, strict=True):
        box, true = answer["boxes"][0], truth[meant["box"]]
        found.append({"phrase": meant["phrase"], "iou": iou_with(box, true), "box": box})
        depths = f"{box['center'][2]:>9.2f}{true['center'][2]:>8.2f}"
        print(f"  {meant['phrase']:<53}{found[-1]['iou']:>6.2f}{box['score']:>7.2f}{depths}")
    refusal = ground(image, prompt=entry["absent"], intrinsics=entry["intrinsics"], mode="generate", max_new_tokens=16)
    said = refusal["text"] or f"{len(refusal['boxes'])} box"
    print(f"  not there: {entry['absent']} -> {said}")
    question = entry["ask"]["question"]
    words = ask(ground, image, question, entry["intrinsics"])
    print(f"  {question} -> {words}   (true: {entry['ask']['answer']})")
    boxes = [{**box, "label": answer["prompt"]} for answer in answers for box in answer["boxes"]]
    together = {**answers[0], "prompt": "", "boxes": boxes}
    asked = [truth[meant["box"]] for meant in entry["phrases"]]
    draw_answer(image, together, ground_truth=asked).save(out / f"{Path(entry['image']).stem}.png")
    return {
        "image": entry["image"],
        "found": found,
        "absent": {"phrase": entry["absent"], "answer": said, "boxes": len(refusal["boxes"])},
        "question": {**entry["ask"], "said": words},
    }


def own_image(ground, path: str, prompts: list[str], intrinsics, fov_deg: float | None, out: Path) -> dict:
    """Ground the user's phrases in the user's image."""
    answers = ground(path, prompt=prompts, intrinsics=intrinsics, fov_deg=fov_deg)
    print(f"\n{path}   (camera: {answers[0]['intrinsics_source']})")
    for answer in answers:
        for box in answer["boxes"]:
            x, y, z = box["center"]
            print(f"  {answer['prompt']:<53} score {box['score']:.2f}   {x:.2f}, {y:.2f}, {z:.2f} m")
    together = {**answers[0], "prompt": "", "boxes": [box for answer in answers for box in answer["boxes"]]}
    draw_answer(load_image(path), together).save(out / f"{Path(path).stem}.png")
    return {"image": path, "answers": answers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", help="your own; the shipped ones by default")
    parser.add_argument("--prompt", action="append", default=[], help="what to find; may be repeated")
    parser.add_argument("--intrinsics", help="fx,fy,cx,cy in pixels, of all your images")
    parser.add_argument("--fov", type=float, help="horizontal field of view, degrees")
    parser.add_argument("--checkpoint", default=str(CHECKPOINT))
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"))
    options = parser.parse_args()
    if options.images and not options.prompt:
        sys.exit("--prompt: got none; say what to find in your images.")
    intrinsics = [float(value) for value in options.intrinsics.split(",")] if options.intrinsics else None
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    ground = pipeline("image-3d-grounding", model=options.checkpoint, device="cpu")
    if options.images:
        try:
            results = [
                own_image(ground, path, options.prompt, intrinsics, options.fov, options.out)
                for path in options.images
            ]
        except ValueError as error:
            sys.exit(f"Error: {error}")
    else:
        entries = json.loads((HERE / "pictures" / "pictures.json").read_text())
        results = [shipped_image(ground, entry, options.out) for entry in entries]
        ious = [box["iou"] for result in results for box in result["found"]]
        print(f"\nAcc@0.25 {sum(iou > 0.25 for iou in ious) / len(ious):.2f} over {len(ious)} phrases")
        drawn = [Image.open(options.out / f"{Path(entry['image']).stem}.png") for entry in entries]
        montage(drawn).save(options.out / "all.jpg", quality=88)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"{time.perf_counter() - start:.0f} s   pictures and results.json: {options.out}")


if __name__ == "__main__":
    main()
