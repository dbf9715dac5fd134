# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""A folder in which the pages' code and commands run as they stand: what they name is there, small."""

import json
import shutil
from collections.abc import Callable
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
from llmi3d.apps.video_files import VideoWriter
from llmi3d.data.build import build, open_source
from llmi3d.data.dataset import DATA_FOLDER, shard_name
from llmi3d.data.schema import IG3D_FEATURES, grounding_conversation, make_object
from llmi3d.training.recipe import read_recipe

CHECKPOINT = ROOT / "model_cards" / "llmi3d-tiny"
PICTURES = ROOT / "examples" / "pictures"
# Single pictures that pages name, of a size into which the K beside them fits.
NAMED = {"street.png": (1242, 375), "street.jpg": (1242, 375), "photo.jpg": (640, 480), "mug.jpg": (480, 640)}
# What boxes of the shipped pictures are called in made data, so that the protocols of the pages ask for them.
CATEGORIES = (("car", "barrier"), ("bus", "car"))


def write_rows(folder: Path, split: str, rows: list[dict]) -> None:
    """A split of a data set as `llmi3d data build` leaves it."""
    file = folder / DATA_FOLDER / shard_name(split, 0, 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(file)


def row_of(entry: dict, image_id: str, source: str, split: str, asked: dict[str, tuple[str, str]]) -> dict:
    """A row about a shipped picture.

    Args:
        entry: of pictures.json.
        asked: a category and a phrase by the number of a box; others are left out.
    """
    k = entry["intrinsics"]
    objects = [
        make_object(box["id"], asked[box["id"]][0], box["center"], box["size"], box["rotation"], k)
        for box in entry["boxes"]
        if box["id"] in asked
    ]
    return {
        **{"image": Image.open(PICTURES / entry["image"]), "image_id": image_id, "source": source, "split": split},
        **{"intrinsics": k, "objects": objects, "targets": list(asked), "task": ["grounding"] * len(asked)},
        **{"messages": grounding_conversation([phrase for _, phrase in asked.values()]), "meanings": None},
    }


def shipped_entries() -> list[dict]:
    return json.loads((PICTURES / "pictures.json").read_text())


def write_data(
    folder: Path, split: str, *ids: str, source: str = "kitti", categories=CATEGORIES, first: int = 0
) -> None:
    """A data set of shipped pictures from the `first` on, said to be another one's."""
    rows = []
    for image_id, entry, names in zip(ids, shipped_entries()[first:], categories, strict=False):
        asked = {box["id"]: (name, f"the {name}") for box, name in zip(entry["boxes"], names, strict=False)}
        rows.append(row_of(entry, image_id, source, split, asked))
    write_rows(folder, split, rows)


def write_video(path: Path, picture: Image.Image, frames: int = 3) -> None:
    """A clip of one picture that moves to the left; nothing where PyAV is not installed."""
    try:
        with VideoWriter(path) as video:
            for i in range(frames):
                video.write(picture.resize((340, 96)).crop((2 * i, 0, 2 * i + 320, 96)), i / 10)
    except ModuleNotFoundError:
        return


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory) -> Path:
    """A folder with pictures, lists, data sets and the tiny checkpoint under the names that the pages use."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("model_cards", "examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "CHECKPOINT").symlink_to(CHECKPOINT)
    (folder / "BASE").symlink_to(tmp_path_factory.mktemp("base"))  # a link, as it is copied for each test
    for part in load(str(ROOT / "model_cards" / "llmi3d-tiny-random"), torch.float32, torch.device("cpu")):
        part.save_pretrained(folder / "BASE")
    with Image.open(PICTURES / "driving-000005.jpg") as picture:
        for name, size in NAMED.items():
            picture.resize(size).save(folder / name)
        write_video(folder / "clip.mp4", picture)
        for name in ("photos", "pictures", "frames"):
            (folder / name).mkdir()
            for i in range(2):
                picture.resize((320 + i * (name != "frames"), 240)).save(folder / name / f"{i:04d}.jpg")
    line = {"id": "0", "image": "photos/0000.jpg", "prompts": ["the red mug"], "intrinsics": [300, 300, 160, 120]}
    (folder / "list.jsonl").write_text(json.dumps(line) + "\n")
    write_data(folder / "DIR", "val", "ID", "other")
    write_data(folder / "DATASET", "val", "0", "1")
    box = {"center": [0, 0, 9], "size": [4, 2, 2], "rotation": torch.eye(3).tolist(), "score": 0.5}
    (folder / "predictions.jsonl").write_text(json.dumps({"id": "ID#0", "boxes": [box]}) + "\n")
    config = {"model_name_or_path": "CHECKPOINT", "output_dir": "out", "datasets": [{"data": "DIR", "split": "val"}]}
    (folder / "CONFIG.yaml").write_text(json.dumps(config))
    return folder


# ------------------------------------------------------------------------------------- what few commands ask for


def write_recipe_data(name: str) -> Callable[[Path], None]:
    """A function: the data sets that a recipe names, in a folder; each judges by other pictures than it teaches."""

    def write(here: Path) -> None:
        recipe = read_recipe([str(ROOT / "examples" / "recipes" / f"{name}.yaml"), "--model_name_or_path", "BASE"])
        for part in recipe.last.data.datasets:
            write_data(here / part.data, part.split, "0", "1")
        for part in recipe.last.data.eval_datasets:
            write_data(here / part.data, part.split, "2", "3", first=2)

    return write


def write_kitti(here: Path) -> None:
    """A download of two frames, with lists of those to learn from and to judge by."""
    write_frames(here / "kitti", f000000=[label_line()], f000001=[label_line(z=30.0), label_line("Pedestrian")])
    (here / "train.txt").write_text("000000\n")
    (here / "val.txt").write_text("000001\n")


def write_nuscenes(here: Path) -> None:
    """A download of two scenes, with a list of their splits."""
    write_tables(here / "nuscenes", "scene-0001", "scene-0002")
    (here / "splits.json").write_text(json.dumps({"train": ["scene-0001"], "val": ["scene-0002"]}))


def link_the_repository(here: Path) -> None:
    """What `pip install .` reads, for a clone's folder."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "modeling_llmi3d", "processing", "training"):
        (here / name).symlink_to(ROOT / name)


def write_rendered(here: Path) -> None:
    """Two pictures of what the tiny checkpoint is judged by."""
    source = open_source("synth", None, frames="test:2", long_side=64)
    build(source, here / "outputs" / "tiny_test", max_turns=4)


def take_the_base(here: Path) -> None:
    """Lets CHECKPOINT be smaller yet, with drawn weights, for what takes long."""
    (here / "CHECKPOINT").unlink()
    (here / "CHECKPOINT").symlink_to("BASE")


def write_held_out(here: Path) -> None:
    """All shipped pictures as DIR's split `validation`, and a CHECKPOINT of its own that is far too modest.

    So its score is surely better once calibrated, on few answers, and there is something to store.
    """
    rows = []
    for i, entry in enumerate(shipped_entries()):
        categories = {box["id"]: box["category"] for box in entry["boxes"]}
        asked = {one["box"]: (categories[one["box"]], one["phrase"]) for one in entry["phrases"]}
        rows.append(row_of(entry, str(i), "synthetic", "validation", asked))
    write_rows(here / "DIR", "validation", rows)
    (here / "CHECKPOINT").unlink()
    shutil.copytree(CHECKPOINT, here / "CHECKPOINT")
    weights = load_file(here / "CHECKPOINT" / "model.safetensors")
    weights["box_head.outputs.score.bias"] -= 5
    save_file(weights, here / "CHECKPOINT" / "model.safetensors", {"format": "pt"})


def write_own_pictures(here: Path) -> None:
    """Lines about pictures, as docs/your_data.md describes them."""
    box = {"category": "mug", "center": [0.1, 0.2, 3.0], "size": [0.8, 1.0, 0.8], "yaw": 0.3}
    lines = [
        {"image": f"pictures/{i:04d}.jpg", "intrinsics": [300, 300, 160, 120], "boxes": [box], "split": split}
        for i, split in enumerate(("train", "validation"))
    ]
    (here / "pictures.jsonl").write_text("\n".join(map(json.dumps, lines)))


def end_of(name: str) -> Callable[[Path], None]:
    """A function: what a recipe's training leaves behind, in a folder."""

    def write(here: Path) -> None:
        (here / "outputs" / name).mkdir(parents=True)
        (here / "outputs" / name / "final").symlink_to(CHECKPOINT)

    return write


# Written for those commands alone in which these words stand. A path like a name on the Hub is taken before the Hub.
WHEN_NAMED: dict[str, Callable[[Path], object]] = {
    "llava-hf/llava-1.5-7b-hf": lambda here: build_base("llava", here / "llava-hf" / "llava-1.5-7b-hf"),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": lambda here: build_base(
        "llava_onevision", here / "llava-hf" / "llava-onevision-qwen2-0.5b-ov-hf"
    ),
    "llmi3d init": lambda here: build_convnext(here / "open_clip_model.safetensors"),
    "MINI_GEMINI_FOLDER": lambda here: write_original(here / "MINI_GEMINI_FOLDER", original_state(TINY)),
    "--model_name_or_path base": lambda here: (here / "base").symlink_to("BASE"),
    **dict.fromkeys(("llmi3d export", "llmi3d bench CHECKPOINT", "--model_name_or_path CHECKPOINT"), take_the_base),
    "--root kitti": write_kitti,
    "--root sunrgbd": lambda here: write_votenet(here / "sunrgbd"),
    "--root nuscenes": write_nuscenes,
    "--root objectron": lambda here: write_objectron(here / "objectron"),
    "--data outputs/tiny_test": write_rendered,
    "pip install .": link_the_repository,
    "--root pictures.jsonl": write_own_pictures,
    "llmi3d calibrate": write_held_out,
    **{f"recipes/{name}.yaml": write_recipe_data(name) for name in ("ig3d", "kitti", "multi_node", "own_pictures")},
    **{f"outputs/{name}/final": end_of(name) for name in ("ig3d", "kitti", "own_pictures")},
    **{
        f"{words} ig3d_kitti": lambda here: write_data(here / "ig3d_kitti", "training", "0", "1")
        for words in ("validate", "CHECKPOINT")
    },
    "validate ig3d_own": write_recipe_data("own_pictures"),
    "final ig3d_own": lambda here: [write_data(here / "ig3d_own", one, "0", "1") for one in ("validation", "test")],
    "final ig3d_kitti_val": lambda here: write_data(here / "ig3d_kitti_val", "val", "0", "1"),
    "final ig3d_objectron": lambda here: write_data(
        here / "ig3d_objectron", "test", "0", source="objectron", categories=[("bottle", "chair")]
    ),
}


@pytest.fixture
def workplace(tmp_path, monkeypatch, stand_ins, request) -> Path:
    """A copy of `stand_ins`, which is the current folder, with what the test's `command` asks for besides."""
    here = tmp_path / "here"
    shutil.copytree(stand_ins, here, symlinks=True)
    command = " ".join(request.node.callspec.params.get("command", ())) if hasattr(request.node, "callspec") else ""
    for words, write in WHEN_NAMED.items():
        if words in command:
            write(here)
    monkeypatch.chdir(here)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)  # ten seconds a stream otherwise
    torch.manual_seed(0)
    return here
