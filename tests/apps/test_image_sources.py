# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Many images by index: folders, lists, datasets, and their errors."""

import json
import os

import pytest
from datasets import Dataset, Features, Image, Value

from llmi3d.apps.image_sources import SourceImage, open_images


@pytest.fixture
def folder(photograph, tmp_path):
    root = tmp_path / "photos"
    for name in ("b.JPG", "a/2.png", "a/10.png", ".hidden/x.png", "._b.jpg", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photograph.resize((32, 20)).save(root / name, format="png")
    return root


def write_list(path, *entries):
    path.write_text("\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries) + "\n\n")
    return str(path)


def write_dataset(folder, images, split="train", **columns):
    rows = {"image": images, **columns}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    features = Features({"image": Image(), **Dataset.from_dict(columns).features})
    Dataset.from_dict(rows, features=features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


def test_folders_are_read_with_their_folders_in_order(folder):
    images = open_images(str(folder))
    assert [image.id for image in images] == ["a/10.png", "a/2.png", "b.JPG"]
    assert images[2] == SourceImage("b.JPG", str(folder / "b.JPG")) and not images.prompted


def test_a_changed_file_changes_the_digest(folder):
    before = open_images(str(folder)).digest
    assert open_images(str(folder)).digest == before
    os.utime(folder / "b.JPG", ns=(1, 1))
    assert open_images(str(folder)).digest != before


def test_file_names_that_are_no_text(folder):
    os.rename(folder / "b.JPG", os.fsencode(folder) + b"/b\xff.jpg")
    (last,) = [image for image in open_images(str(folder)) if image.id.startswith("b")]
    assert last.id == "b\\xff.jpg" and os.path.exists(last.image)


def test_a_list_brings_phrases_and_cameras(tmp_path):
    lines = (
        {"id": "one", "image": "photos/1.jpg", "prompt": "the cär", "intrinsics": [1, 2, 3, 4]},
        "",
        {"id": "two", "image": "https://example.org/2.jpg", "prompts": ["a", "b"], "fov_deg": 60},
    )
    images = open_images(write_list(tmp_path / "list.jsonl", *lines))
    assert images[0] == SourceImage("one", str(tmp_path / "photos/1.jpg"), ("the cär",), [1, 2, 3, 4])
    assert images[1] == SourceImage("two", "https://example.org/2.jpg", ("a", "b"), None, 60)
    assert len(images) == 2 and images.prompted


def test_a_list_is_prompted_only_if_every_image_is(tmp_path):
    lines = ({"id": "1", "image": "1.jpg", "prompt": "it"}, {"id": "2", "image": "2.jpg"})
    assert not open_images(write_list(tmp_path / "list.jsonl", *lines)).prompted


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "2"', r"list.jsonl:2: got b.*, want a JSON object"),
        ([1], "want a JSON object"),
        ({"id": "1", "image": "2.jpg"}, "id: got '1' a second time"),
        ({"id": 2, "image": "2.jpg"}, "id: got 2, want text"),
        ({"id": "2"}, "image: got None, want text"),
        ({"id": "2", "image": "2.jpg", "intrinsic": [1, 2, 3, 4]}, "got the field 'intrinsic', want only id, image"),
        ({"id": "2", "image": "2.jpg", "prompts": [1]}, r"prompts: got \[1\], want a phrase"),
        ({"id": "2", "image": "2.jpg", "prompt": "a", "prompts": ["b"]}, "prompt and prompts: got both"),
        ({"id": "2", "image": "2.jpg", "fov_deg": "wide"}, "intrinsics, fov_deg: got None, 'wide'"),
        ({"id": "2", "image": "2.jpg", "fov_deg": 60, "intrinsics": [1, 2, 3, 4]}, "got both, want at most one"),
    ],
)
def test_broken_lists_are_refused_by_line(tmp_path, line, problem):
    with pytest.raises(ValueError, match=problem):
        open_images(write_list(tmp_path / "list.jsonl", {"id": "1", "image": "1.jpg"}, line))


def test_data_sets_bring_ids_phrases_and_cameras(photograph, tmp_path):
    columns = {"image_id": ["x", "y"], "prompt": ["it", None], "intrinsics": [[1.0, 2.0, 3.0, 4.0], None]}
    name = write_dataset(tmp_path / "set", [photograph] * 2, **columns)
    images = open_images(name)
    assert (images[0].id, images[0].prompts, images[0].intrinsics) == ("x", ("it",), [1, 2, 3, 4])
    assert (images[1].id, images[1].prompts, images[1].intrinsics) == ("y", (), None)
    assert images[1].image["bytes"][1:4] == b"PNG"  # not decoded
    assert open_images(name).digest == images.digest


def test_rows_without_ids_are_numbered(photograph, tmp_path):
    images = open_images(write_dataset(tmp_path / "set", [photograph] * 2))
    assert [image.id for image in images] == ["00000000", "00000001"]


def test_a_split_is_chosen_by_name(photograph, tmp_path):
    for split in ("train", "val"):
        name = write_dataset(tmp_path / "set", [photograph], split, id=[split])
    assert open_images(name, "val")[0].id == "val"
    with pytest.raises(ValueError, match="split: got none, want one of train, val"):
        open_images(name)
    with pytest.raises(ValueError, match="split: got 'test', want one of train, val"):
        open_images(name, "test")


def test_data_sets_that_do_not_fit_are_refused(photograph, tmp_path):
    with pytest.raises(ValueError, match="image_id: got 'x' a second time"):
        open_images(write_dataset(tmp_path / "twice", [photograph] * 2, image_id=["x", "x"]))
    (tmp_path / "words" / "data").mkdir(parents=True)
    words = Dataset.from_dict({"id": ["x"]}, features=Features({"id": Value("string")}))
    words.to_parquet(tmp_path / "words" / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="has the columns id, want a column of images called image"):
        open_images(str(tmp_path / "words"))


def test_other_places_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="images: got none in"):
        open_images(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"want a folder, a \.jsonl list or a dataset"):
        open_images(str(folder / "b.JPG"))
    with pytest.raises(ValueError, match="split: got 'val' for"):
        open_images(str(folder), "val")
    for missing in ("list.jsonl", str(tmp_path / "nothing")):
        with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
            open_images(missing)
