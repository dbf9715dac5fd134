# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Cards of data sets: what the Hub reads of them, and that their own library loads by them."""

import datasets
import pytest
from huggingface_hub import DatasetCard

from llmi3d.data.dataset_card import LICENCES, write_dataset_card
from llmi3d.data.schema import IG3D_FEATURES
from llmi3d.data.splits import split_by_category


@pytest.fixture
def data(row, tmp_path):
    """A folder with two splits, as `llmi3d data build` leaves it."""
    out = tmp_path / "set"
    (out / "data").mkdir(parents=True)
    for split, count in (("train", 3), ("val", 1)):
        rows = [{**row, "image_id": f"test/{split}/{i}", "split": split} for i in range(count)]
        table = datasets.Dataset.from_list(rows, features=IG3D_FEATURES)
        table.to_parquet(out / "data" / f"{split}-00000-of-00001.parquet")
    return out


def test_the_hub_reads_it_and_the_library_loads_by_it(data):
    write_dataset_card(data, data / "data", "nuscenes", {"train": 3, "val": 1}, IG3D_FEATURES, "Made here.")
    card = DatasetCard.load(data / "README.md")  # raises on metadata that is none
    read = card.data
    assert (read.license, read.size_categories, read.language) == ("cc-by-nc-sa-4.0", ["n<1K"], "en")
    assert read.task_categories == ["object-detection", "visual-question-answering"]
    assert [one["split"] for one in read.configs[0]["data_files"]] == ["train", "val"]
    assert [(one["name"], one["num_examples"]) for one in read.dataset_info["splits"]] == [("train", 3), ("val", 1)]
    assert "not for commercial use" in card.text and "| train | 3 |" in card.text and "Made here." in card.text
    loaded = datasets.load_dataset(str(data), cache_dir=str(data.parent / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3, "val": 1}
    assert loaded["train"].features == IG3D_FEATURES


def test_counts_that_are_not_the_files_are_noticed_by_the_library(data):
    write_dataset_card(data, data / "data", "own", {"train": 4, "val": 1}, IG3D_FEATURES, "")
    with pytest.raises(datasets.exceptions.NonMatchingSplitsSizesError):
        datasets.load_dataset(str(data), cache_dir=str(data.parent / "cache"))


def test_sources_without_a_known_licence_say_so(data):
    write_dataset_card(data, data / "data", "own", {"train": 3, "val": 1}, IG3D_FEATURES, "")
    card = DatasetCard.load(data / "README.md")
    assert card.data.license == "unknown" and "Not stated." in card.text
    write_dataset_card(data, data / "data", "sunrgbd", {"train": 3, "val": 1}, IG3D_FEATURES, "")
    data_of_other = DatasetCard.load(data / "README.md").data
    assert (data_of_other.license, data_of_other.license_name) == ("other", "sunrgbd-terms")


def test_every_source_is_thought_of():
    from importlib import import_module

    from llmi3d.data.build import SOURCES

    names = set()
    for place in SOURCES.values():
        module, _, name = place.partition(":")
        pytest.importorskip("scipy")
        names.add(getattr(import_module(f"llmi3d.data.{module}"), name).name)
    assert names - set(LICENCES) == {"own", "qwen3vl"}  # their pictures are the user's


def test_a_split_by_category_has_a_card_too(data, tmp_path):
    split_by_category(data, tmp_path / "split", novel=["cone"])
    card = DatasetCard.load(tmp_path / "split" / "README.md")
    assert [one["split"] for one in card.data.configs[0]["data_files"]] == ["train", "train_novel", "val", "val_novel"]
    assert "SPLIT_novel for cone" in card.text
    loaded = datasets.load_dataset(str(tmp_path / "split"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train", "train_novel", "val", "val_novel"]
