# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""A folder in which the pages' code and commands run as they stand: what they name is there, small."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from doc_pages import ROOT
from PIL import Image

from llmi3d.training.ig3d.dataset import DATA_FOLDER, shard_name
from llmi3d.training.ig3d.schema import IG3D_FEATURES, grounding_conversation, make_object

CHECKPOINT = ROOT / "model_cards" / "llmi3d-tiny"
PICTURES = ROOT / "examples" / "pictures"
# Single pictures that pages name, of a size into which the K beside them fits.
NAMED = {"street.png": (1242, 375), "street.jpg": (1242, 375), "photo.jpg": (640, 480), "mug.jpg": (480, 640)}


def write_data(folder: Path, split: str, *ids: str) -> None:
    """A data set as `llmi3d data build` leaves it, of two shipped pictures, said to be KITTI's."""
    entries = [one for one in json.loads((PICTURES / "pictures.json").read_text()) if len(one["boxes"]) > 1]
    rows = []
    for image_id, entry, names in zip(ids, entries, (("car", "barrier"), ("bus", "car")), strict=False):
        k = entry["intrinsics"]
        objects = [
            make_object(box["id"], name, box["center"], box["size"], box["rotation"], k)
            for box, name in zip(entry["boxes"], names, strict=False)
        ]
        rows.append(
            {
                **{"image": Image.open(PICTURES / entry["image"]), "image_id": image_id, "source": "kitti"},
                **{"split": split, "intrinsics": k, "objects": objects, "targets": [one["id"] for one in objects]},
                **{"messages": grounding_conversation([f"the {name}" for name in names]), "task": ["grounding"] * 2},
                "meanings": None,
            }
        )
    file = folder / DATA_FOLDER / shard_name(split, 0, 1)
    file.parent.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(file)


def write_video(path: Path, picture: Image.Image, frames: int = 3) -> None:
    """A clip of one picture that moves to the left; nothing where PyAV is not installed."""
    try:
        import av
    except ModuleNotFoundError:
        return
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 320, 96
        for i in range(frames):
            frame = picture.resize((340, 96)).crop((2 * i, 0, 2 * i + 320, 96))
            file.mux(stream.encode(av.VideoFrame.from_image(frame)))
        file.mux(stream.encode(None))


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory) -> Path:
    """A folder with pictures, lists, data sets and the tiny checkpoint under the names that the pages use."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("model_cards", "examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "CHECKPOINT").symlink_to(CHECKPOINT)
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
    write_data(folder / "ig3d_kitti", "training", "0", "1")
    box = {"center": [0, 0, 9], "size": [4, 2, 2], "rotation": torch.eye(3).tolist(), "score": 0.5}
    (folder / "predictions.jsonl").write_text(json.dumps({"id": "ID#0", "boxes": [box]}) + "\n")
    config = {"model_name_or_path": "CHECKPOINT", "output_dir": "out", "datasets": [{"data": "DIR", "split": "val"}]}
    (folder / "CONFIG.yaml").write_text(json.dumps(config))
    return folder


@pytest.fixture
def workplace(tmp_path, monkeypatch, stand_ins) -> Path:
    """A copy of `stand_ins`, which is the current folder."""
    shutil.copytree(stand_ins, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)  # ten seconds a stream otherwise
    torch.manual_seed(0)
    return tmp_path / "here"
