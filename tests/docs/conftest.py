# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""A folder in which the pages' code and commands run unchanged: the files that they name exist in it, small."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
import pytest
import torch
from doc_pages import ROOT
from kitti_frames import label_line, write_frames
from minigemini_originals import TINY, original_state, write_original
from nuscenes_tables import write_tables
from objectron_videos import write_video as write_objectron
from PIL import Image
from safetensors.torch import load_file, save_file
from small_bases import build_base, build_convnext
from sunrgbd_scenes import write_votenet

from llmi3d.apps.benchmark_models import load
from llmi3d.apps.video import VideoWriter
from llmi3d.data.build import build, open_source
from llmi3d.data.dataset import DATA_FOLDER, shard_name
from llmi3d.data.schema import IG3D_FEATURES, grounding_conversation, make_object
from llmi3d.training.recipe import read_recipe

CHECKPOINT = ROOT / "model_cards" / "llmi3d-tiny"
IMAGES = ROOT / "examples" / "pictures"
# Images that pages name, with sizes that fit the K beside them.
NAMED = {"street.png": (1242, 375), "street.jpg": (1242, 375), "photo.jpg": (640, 480), "mug.jpg": (480, 640)}
# Categories given to boxes of the shipped images, so that the protocols of the pages ask for them.
CATEGORIES = (("car", "barrier"), ("bus", "car"))


def write_rows(folder: Path, split: str, rows: list[dict]) -> None:
    """Write a split of a data set as `llmi3d data build` does."""
    file = folder / DATA_FOLDER / shard_name(split, 0, 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(file)


def row_of(entry: dict, image_id: str, source: str, split: str, asked: dict[str, tuple[str, str]]) -> dict:
    """Return a row about a shipped image.

    Args:
        entry: of pictures.json.
        asked: category and phrase by box id; other boxes are left out.
    """
    k = entry["intrinsics"]
    objects = [
        make_object(box["id"], asked[box["id"]][0], box["center"], box["size"], box["rotation"], k)
        for box in entry["boxes"]
        if box["id"] in asked
    ]
    return {
        "image": Image.open(IMAGES / entry["image"]),
        "image_id": image_id,
        "source": source,
        "split": split,
        "intrinsics": k,
        "objects": objects,
        "targets": list(asked),
        "task": ["grounding"] * len(asked),
        "messages": grounding_conversation([phrase for _, phrase in asked.values()]),
        "meanings": None,
    }


def shipped_entries() -> list[dict]:
    return json.loads((IMAGES / "pictures.json").read_text())


def write_data(
    folder: Path, split: str, *ids: str, source: str = "kitti", categories=CATEGORIES, first: int = 0
) -> None:
    """Write a data set of shipped images, from number `first` on, under another source's name."""
    rows = []
    for image_id, entry, names in zip(ids, shipped_entries()[first:], categories, strict=False):
        asked = {box["id"]: (name, f"the {name}") for box, name in zip(entry["boxes"], names, strict=False)}
        rows.append(row_of(entry, image_id, source, split, asked))
    write_rows(folder, split, rows)


def write_video(path: Path, image: Image.Image, frames: int = 3) -> None:
    """Write a clip of an image that moves to the left, or nothing without PyAV."""
    try:
        with VideoWriter(path) as video:
            for i in range(frames):
                video.write(image.resize((340, 96)).crop((2 * i, 0, 2 * i + 320, 96)), i / 10)
    except ModuleNotFoundError:
        return


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory) -> Path:
    """A folder with images, lists, data sets and the tiny checkpoint under the names that the pages use."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("model_cards", "examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "CHECKPOINT").symlink_to(CHECKPOINT)
    (folder / "BASE").symlink_to(tmp_path_factory.mktemp("base"))  # a link, since it is copied for each test
    for part in load(str(ROOT / "model_cards" / "llmi3d-tiny-random"), torch.float32, torch.device("cpu")):
        part.save_pretrained(folder / "BASE")
    with Image.open(IMAGES / "driving-000005.jpg") as image:
        for name, size in NAMED.items():
            image.resize(size).save(folder / name)
        write_video(folder / "clip.mp4", image)
        for name in ("photos", "pictures", "frames"):
            (folder / name).mkdir()
            for i in range(2):
                image.resize((320 + i * (name != "frames"), 240)).save(folder / name / f"{i:04d}.jpg")
    line = {"id": "0", "image": "photos/0000.jpg", "prompts": ["the red mug"], "intrinsics": [300, 300, 160, 120]}
    (folder / "list.jsonl").write_text(json.dumps(line) + "\n")
    write_data(folder / "DIR", "val", "ID", "other")
    write_data(folder / "DATASET", "val", "0", "1")
    write_data(folder / "DATASET", "train", "2", "3", first=2)
    box = {"center": [0, 0, 9], "size": [4, 2, 2], "rotation": torch.eye(3).tolist(), "score": 0.5}
    (folder / "predictions.jsonl").write_text(json.dumps({"id": "ID#0", "boxes": [box]}) + "\n")
    config = {"model_name_or_path": "CHECKPOINT", "output_dir": "out", "datasets": [{"data": "DIR", "split": "val"}]}
    (folder / "CONFIG.yaml").write_text(json.dumps(config))
    return folder


# --------------------------------------------------------------------------------------- stand-ins for few commands


def write_recipe_data(name: str, here: Path) -> None:
    """Write the data sets that a recipe names; evaluation data has other images than training data."""
    recipe = read_recipe([str(ROOT / "examples" / "recipes" / f"{name}.yaml"), "--model_name_or_path", "BASE"])
    for part in recipe.last.data.datasets:
        write_data(here / part.data, part.split, "0", "1")
    for part in recipe.last.data.eval_datasets:
        write_data(here / part.data, part.split, "2", "3", first=2)


def write_splits(name: str, splits: tuple[str, ...], here: Path, **settings) -> None:
    """Write a data set with these splits, no image in two of them."""
    for i, split in enumerate(splits):
        write_data(here / name, split, f"{2 * i}", f"{2 * i + 1}", first=2 * i, **settings)


def write_kitti(here: Path) -> None:
    """Write a download of two frames, with lists for training and validation."""
    write_frames(here / "kitti", f000000=[label_line()], f000001=[label_line(z=30.0), label_line("Pedestrian")])
    (here / "train.txt").write_text("000000\n")
    (here / "val.txt").write_text("000001\n")


def write_nuscenes(here: Path) -> None:
    """Write a download of two scenes, with a list of their splits."""
    write_tables(here / "nuscenes", "scene-0001", "scene-0002")
    (here / "splits.json").write_text(json.dumps({"train": ["scene-0001"], "val": ["scene-0002"]}))


def link_the_repository(here: Path) -> None:
    """Link what `pip install .` reads."""
    folders = ("modeling_llmi3d", "processing", "data", "evaluation", "training", "apps", "cli")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", *folders):
        (here / name).symlink_to(ROOT / name)


def render(split: str, name: str, here: Path) -> None:
    build(open_source("synth", None, frames=f"{split}:2", long_side=64, masks="true"), here / name, max_turns=4)


def take_the_base(here: Path) -> None:
    """Replace CHECKPOINT by a smaller one with random weights, for slow commands."""
    (here / "CHECKPOINT").unlink()
    (here / "CHECKPOINT").symlink_to("BASE")


def write_held_out(here: Path) -> None:
    """Write all shipped images as DIR's split `validation`, and a CHECKPOINT that is far too modest.

    Its score is certainly better after calibration, on few answers, so there is something to store.
    """
    rows = []
    for i, entry in enumerate(shipped_entries()):
        categories = {box["id"]: box["category"] for box in entry["boxes"]}
        asked = {phrase["box"]: (categories[phrase["box"]], phrase["phrase"]) for phrase in entry["phrases"]}
        rows.append(row_of(entry, str(i), "synthetic", "validation", asked))
    write_rows(here / "DIR", "validation", rows)
    (here / "CHECKPOINT").unlink()
    shutil.copytree(CHECKPOINT, here / "CHECKPOINT")
    weights = load_file(here / "CHECKPOINT" / "model.safetensors")
    weights["box_head.outputs.score.bias"] -= 5
    save_file(weights, here / "CHECKPOINT" / "model.safetensors", {"format": "pt"})


def write_own_images(here: Path) -> None:
    """Write lines about images, as docs/your_data.md describes them."""
    box = {"category": "mug", "center": [0.1, 0.2, 3.0], "size": [0.8, 1.0, 0.8], "yaw": 0.3}
    lines = [
        {"image": f"pictures/{i:04d}.jpg", "intrinsics": [300, 300, 160, 120], "boxes": [box], "split": split}
        for i, split in enumerate(("train", "validation"))
    ]
    (here / "pictures.jsonl").write_text("\n".join(map(json.dumps, lines)))


def link_final(name: str, here: Path) -> None:
    """Link the result of a recipe's training."""
    (here / "outputs" / name).mkdir(parents=True)
    (here / "outputs" / name / "final").symlink_to(CHECKPOINT)


# Written only for commands with this argument, unless it is the value of --out. A local path precedes a Hub name.
STAND_INS: dict[str, Callable[[Path], object]] = {
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": lambda here: build_base(
        "llava_onevision", here / "llava-hf" / "llava-onevision-qwen2-0.5b-ov-hf"
    ),
    "open_clip_model.safetensors": lambda here: build_convnext(here / "open_clip_model.safetensors"),
    "MINI_GEMINI_FOLDER": lambda here: write_original(here / "MINI_GEMINI_FOLDER", original_state(TINY)),
    "base": lambda here: (here / "base").symlink_to("BASE"),
    **dict.fromkeys(("export", "bench", "train"), take_the_base),
    "calibrate": write_held_out,
    ".": link_the_repository,
    "kitti": write_kitti,
    "nuscenes": write_nuscenes,
    "sunrgbd": lambda here: write_votenet(here / "sunrgbd"),
    "objectron": lambda here: write_objectron(here / "objectron"),
    "pictures.jsonl": write_own_images,
    "ig3d_own": partial(write_splits, "ig3d_own", ("train", "validation", "test")),
    "ig3d_kitti": partial(write_splits, "ig3d_kitti", ("training",)),
    "ig3d_kitti_val": partial(write_splits, "ig3d_kitti_val", ("val",)),
    "ig3d_objectron": partial(
        write_splits, "ig3d_objectron", ("test",), source="objectron", categories=[("bottle", "chair")] * 2
    ),
    "outputs/tiny_test": partial(render, "test", "outputs/tiny_test"),
    "outputs/tiny/train": partial(render, "train", "outputs/tiny/train"),
}
for recipe_name in ("ig3d", "kitti", "multi_node", "own_pictures"):
    STAND_INS[f"examples/recipes/{recipe_name}.yaml"] = partial(write_recipe_data, recipe_name)
    STAND_INS[f"outputs/{recipe_name}/final"] = partial(link_final, recipe_name)


@pytest.fixture
def workplace(tmp_path, monkeypatch, stand_ins, request) -> Path:
    """A copy of `stand_ins` as the current folder, with what the arguments of the test's `command` name."""
    here = tmp_path / "here"
    shutil.copytree(stand_ins, here, symlinks=True)
    command = request.node.callspec.params.get("command", ()) if hasattr(request.node, "callspec") else ()
    if isinstance(command, list):
        read = {word for before, word in zip(["", *command], command, strict=False) if before != "--out"}
        read |= {"." for word in read if word.startswith(".[")}  # this folder, with extras
        for word in STAND_INS.keys() & read:
            STAND_INS[word](here)
    monkeypatch.chdir(here)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)  # ten seconds per stream otherwise
    torch.manual_seed(0)
    return here
