# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Data sets derived from a built one: by held-out category, or in other words; the choice is seeded and recorded."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from random import Random

import datasets
import pyarrow.parquet as pq

from llmi3d.data.build import ROWS_PER_GROUP, make_table
from llmi3d.data.dataset import DATA_FOLDER, find_splits, load_split, shard_name
from llmi3d.data.dataset_card import write_dataset_card
from llmi3d.data.expressions.nouns import words
from llmi3d.data.expressions.paraphrases import SPLIT, paraphrase_row
from llmi3d.data.outputs import write_whole
from llmi3d.data.schema import IG3D_FEATURES, turns_of, with_turns


def novel_categories(categories: Iterable[str], share: float = 0.2, seed: int = 0) -> list[str]:
    """Return categories to hold out: a share of the sorted names, at least one, drawn from the seed.

    Raises:
        ValueError: fewer than two categories.
    """
    names = sorted(set(categories))
    if len(names) < 2:
        raise ValueError(f"categories: got {names}, want at least two to hold some out.")
    count = min(len(names) - 1, max(1, round(share * len(names))))
    return sorted(Random(f"novel categories {seed}").sample(names, count))


def keep_turns(row: dict, categories: set[str], novel: bool) -> dict | None:
    """Return a row with only the turns of one side of an open-vocabulary split, or None where none is left.

    Args:
        row: valid row.
        categories: the novel ones.
        novel: True keeps the turns about a novel category; False keeps those that name none, neither as what is meant
            nor as what it is compared with.
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
    """Write an open-vocabulary data set: each split SPLIT becomes SPLIT (base) and SPLIT_novel.

    Args:
        folder: built data set.
        out: new folder.
        novel: categories to hold out; default: `novel_categories` of those in the data set.
        share, seed: of that choice.

    Returns:
        The record in splits.json: `novel`, `base`, `seed`, and `rows` by split.

    Raises:
        ValueError: `out` exists, or a category that no object has.
    """
    splits = find_splits(folder)
    categories = set()
    for split in splits:
        for objects in load_split(folder, split).select_columns("objects"):
            categories |= {entry["category"] for entry in objects["objects"] if not entry["ignore"]}
    unknown = sorted(set(novel or ()) - categories)
    if unknown:
        raise ValueError(f"novel: got {unknown}, want some of {sorted(categories)}.")
    held = sorted(novel) if novel else novel_categories(categories, share, seed)
    changes = {
        name: (split, partial(keep_turns, categories=set(held), novel=side))
        for split in splits
        for name, side in ((split, False), (f"{split}_novel", True))
    }
    made = (
        f"Split by category with `llmi3d data split`, seed {seed}: SPLIT asks for nothing but base categories, "
        f"SPLIT_novel for {', '.join(held)}. `splits.json` lists both."
    )
    return _write_splits(
        folder, out, changes, {"novel": held, "base": sorted(categories - set(held)), "seed": seed}, made
    )


def split_paraphrases(folder: str | Path, out: str | Path, *, split: str = "test", seed: int = 0) -> dict:
    """Write a data set with the one split `paraphrase`: rows of a split, asked in words that training never contains.

    Args:
        folder: built data set.
        out: new folder.
        split: the rows to rephrase; `expressions.paraphrases` says how.
        seed: of the choice of words.

    Returns:
        The record in splits.json: `split`, `seed`, and `rows` by split.

    Raises:
        ValueError: `out` exists, no such split, or no phrase with a logical form in it.
    """
    if split not in find_splits(folder):
        raise ValueError(f"paraphrase: got {split!r}, want one of {', '.join(find_splits(folder))}.")
    made = (
        f"Made with `llmi3d data split --paraphrase {split}`, seed {seed}: images, boxes and targets of `{split}`, "
        "asked in other words. The `kind` of a turn's meaning says in which way."
    )
    changes = {SPLIT: (split, partial(paraphrase_row, seed=seed))}
    return _write_splits(folder, out, changes, {"split": split, "seed": seed}, made)


def _write_splits(
    folder: str | Path,
    out: str | Path,
    changes: dict[str, tuple[str, Callable[[dict], dict | None]]],
    record: dict,
    made: str,
) -> dict:
    """Write each new split from (split, row -> changed row or None), splits.json and a card; return the record."""
    out = Path(out)
    if out.exists():
        raise ValueError(f"out: {out} exists; choose a new folder.")
    record = {**record, "rows": {}}
    work = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    try:
        (work / DATA_FOLDER).mkdir(parents=True)
        for name, (split, change) in changes.items():
            record["rows"][name] = _write(folder, split, work / DATA_FOLDER / shard_name(name, 0, 1), change)
        if not any(record["rows"].values()):
            raise ValueError(f"data: no row of {folder} has a turn for {', '.join(changes)}.")
        write_whole(work / "splits.json", json.dumps(record, indent=1) + "\n")
        built = Path(folder) / "build.json"
        recipe = json.loads(built.read_text()) if built.is_file() else {"source": "own", "converter": "JsonLines"}
        source = "own" if recipe["converter"] == "JsonLines" else recipe["source"]
        features = load_split(folder, next(iter(find_splits(folder)))).features
        write_dataset_card(work, work / DATA_FOLDER, source, record["rows"], features, made)
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return record


def _write(folder: str | Path, split: str, path: Path, change: Callable[[dict], dict | None]) -> int:
    """Write the rows that `change` makes of a split; return how many."""
    rows = load_split(folder, split)
    extra = {name: feature for name, feature in rows.features.items() if name not in IG3D_FEATURES}
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):  # as it is stored
            rows = rows.cast_column(name, datasets.Image(decode=False))
    count = 0
    with pq.ParquetWriter(path, make_table([], extra).schema) as writer:
        for group in rows.iter(ROWS_PER_GROUP):
            stored = (dict(zip(group, values, strict=True)) for values in zip(*group.values(), strict=True))
            changed = [row for row in map(change, stored) if row is not None]
            if changed:
                writer.write_table(make_table(changed, extra))
            count += len(changed)
    return count


def _about(form: dict | None) -> list[str]:
    """Categories of a form's heads, not of what they are compared with."""
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
    """Held-out names that occur in a text; for phrases without a form."""
    return {name for name in held if f" {name} " in f" {text.lower()} ".replace(".", " ").replace("?", " ")}
