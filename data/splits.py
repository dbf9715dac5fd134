# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Open-vocabulary and cross-domain splits: what is held out is chosen from a seed and written down."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

import pyarrow.parquet as pq

from llmi3d.data.build import ROWS_PER_GROUP, make_table
from llmi3d.data.dataset import DATA_FOLDER, find_splits, load_split, shard_name
from llmi3d.data.dataset_card import write_dataset_card
from llmi3d.data.expressions.nouns import words
from llmi3d.data.outputs import write_whole
from llmi3d.data.schema import IG3D_FEATURES, turns_of, with_turns


def novel_categories(categories: Iterable[str], share: float = 0.2, seed: int = 0) -> list[str]:
    """Categories to hold out: a share of the sorted names, at least one, drawn from the seed.

    Raises:
        ValueError: fewer than two categories.
    """
    names = sorted(set(categories))
    if len(names) < 2:
        raise ValueError(f"categories: got {names}, want at least two to hold some out.")
    count = min(len(names) - 1, max(1, round(share * len(names))))
    return sorted(Random(f"novel categories {seed}").sample(names, count))


def keep_turns(row: dict, categories: set[str], novel: bool) -> dict | None:
    """A row with only the turns of one side of an open-vocabulary split, or None where none is left.

    Args:
        row: an IG3D row.
        categories: the novel ones.
        novel: True keeps the turns that are about a novel category, False those that name none, neither as what is
            meant nor as what it is compared with.
    """
    held = {words(name) for name in categories}
    category = {entry["id"]: words(entry["category"]) for entry in row["objects"]}
    kept = []
    for turn in turns_of(row):
        form = turn.meaning.get("form")
        about = {category[name] for name in turn.targets} or {words(name) for name in _about(form)}
        named = about | {words(name) for name in _named(form)} | _spoken(turn.question, held)
        if (about & held) if novel else not (named & held):
            kept.append(turn)
    return with_turns(row, kept) if kept else None


def split_by_category(
    folder: str | Path,
    out: str | Path,
    *,
    novel: Sequence[str] | None = None,
    share: float = 0.2,
    seed: int = 0,
) -> dict:
    """Writes an open-vocabulary data set: each split SPLIT becomes SPLIT (base) and SPLIT_novel.

    Args:
        folder: a built data set.
        out: new folder.
        novel: categories to hold out; default: `novel_categories` of those that are there.
        share, seed: of that choice.

    Returns:
        The record that splits.json holds: `novel`, `base`, `seed`, `rows` by split.

    Raises:
        ValueError: `out` is there already, or a category that no object has.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"out: {out} is there already; choose a new folder.")
    splits = find_splits(folder)
    categories = set()
    for split in splits:
        for objects in load_split(folder, split).select_columns("objects"):
            categories |= {entry["category"] for entry in objects["objects"] if not entry["ignore"]}
    unknown = sorted(set(novel or ()) - categories)
    if unknown:
        raise ValueError(f"novel: got {unknown}, want some of {sorted(categories)}.")
    held = sorted(novel) if novel else novel_categories(categories, share, seed)
    record = {"novel": held, "base": sorted(categories - set(held)), "seed": seed, "rows": {}}
    work = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    try:
        (work / DATA_FOLDER).mkdir(parents=True)
        for split in splits:
            for name, side in ((split, False), (f"{split}_novel", True)):
                path = work / DATA_FOLDER / shard_name(name, 0, 1)
                record["rows"][name] = _write(folder, split, path, set(held), side)
        write_whole(work / "splits.json", json.dumps(record, indent=1) + "\n")
        built = Path(folder) / "build.json"
        recipe = json.loads(built.read_text()) if built.is_file() else {"source": "own", "converter": "JsonLines"}
        made = (
            f"Split by category with `llmi3d data split`, seed {seed}: SPLIT asks for nothing but base categories, "
            f"SPLIT_novel for {', '.join(held)}. `splits.json` lists both."
        )
        source = "own" if recipe["converter"] == "JsonLines" else recipe["source"]
        features = load_split(folder, next(iter(splits))).features
        write_dataset_card(work, work / DATA_FOLDER, source, record["rows"], features, made)
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return record


def _write(folder: str | Path, split: str, path: Path, held: set[str], novel: bool) -> int:
    import datasets

    rows = load_split(folder, split)
    extra = {name: feature for name, feature in rows.features.items() if name not in IG3D_FEATURES}
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):  # as it is stored
            rows = rows.cast_column(name, datasets.Image(decode=False))
    count, group = 0, []
    with pq.ParquetWriter(path, make_table([], extra).schema) as writer:
        for row in rows:
            kept = keep_turns(row, held, novel)
            if kept is not None:
                group.append(kept)
                count += 1
            if len(group) == ROWS_PER_GROUP:
                writer.write_table(make_table(group, extra))
                group = []
        if group:
            writer.write_table(make_table(group, extra))
    return count


def _about(form: dict | None) -> list[str]:
    """Categories that a form is about: of its head, not of what it is compared with."""
    if not form:
        return []
    return [one["category"] for one in form["of"]] if "question" in form else [form["category"]]


def _named(form: dict | None) -> list[str]:
    """All categories in a form."""
    if not form:
        return []
    if "question" in form:
        return [name for one in form["of"] for name in _named(one)]
    anchors = [name for one in form["conditions"] if "to" in one for name in _named(one["to"])]
    return [form["category"], *anchors]


def _spoken(text: str, held: set[str]) -> set[str]:
    """Held names that stand in a text; for phrases without a form."""
    return {name for name in held if f" {name} " in f" {text.lower()} ".replace(".", " ").replace("?", " ")}
