# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Counts and distributions of a built data set, and their plot."""

from collections import Counter
from pathlib import Path

from tqdm.auto import tqdm

from llmi3d.data.dataset import find_splits, load_split
from llmi3d.data.schema import turns_of

_COUNTED = ("sources", "categories", "tasks", "phrase_kinds", "question_kinds")


def statistics(folder: str | Path, progress: bool = True) -> dict:
    """Return counts and values of a built data set by split; images are not decoded.

    Counts: rows, sources, categories, tasks, kinds of phrases and questions. Lists of values: distances in metres,
    focal lengths in pixels, objects and turns per image.
    """
    by_split = {}
    for split in find_splits(folder):
        rows = load_split(folder, split).remove_columns("image")
        counted = {
            **{name: Counter() for name in _COUNTED},
            **{name: [] for name in ("distances", "focal_lengths", "objects_per_image", "turns_per_image")},
        }
        for row in tqdm(rows, desc=f"stats {split}", unit="row", disable=not progress):
            objects = [entry for entry in row["objects"] if not entry["ignore"]]
            counted["sources"][row["source"]] += 1
            counted["categories"].update(entry["category"] for entry in objects)
            counted["distances"] += [sum(value**2 for value in entry["center"]) ** 0.5 for entry in objects]
            counted["focal_lengths"].append(row["intrinsics"][0][0])
            counted["objects_per_image"].append(len(objects))
            counted["turns_per_image"].append(len(row["task"]))
            counted["tasks"].update(row["task"])
            for turn in turns_of(row):
                counted["question_kinds" if turn.task == "vqa" else "phrase_kinds"][
                    turn.meaning.get("kind", "unknown")
                ] += 1
        plain = {name: dict(value.most_common()) if name in _COUNTED else value for name, value in counted.items()}
        by_split[split] = {"rows": len(rows), **plain}
    return by_split


def plot_statistics(by_split: dict, path: str | Path) -> None:
    """Plot bars and histograms of `statistics`, all splits together."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 12), layout="constrained")
    axes = figure.subplots(3, 2).ravel()
    for ax, name in zip(axes, ("categories", "phrase_kinds", "question_kinds"), strict=False):
        counts = sum((Counter(split[name]) for split in by_split.values()), Counter()).most_common(25)
        ax.barh([label for label, _ in counts][::-1], [count for _, count in counts][::-1], color="#0072B2")
        ax.set_title(name.replace("_", " "))
    for ax, (name, unit) in zip(
        axes[3:], (("distances", "m"), ("focal_lengths", "px"), ("objects_per_image", "")), strict=True
    ):
        ax.hist([split[name] for split in by_split.values()], bins=30, stacked=True, label=list(by_split))
        ax.set_title(name.replace("_", " "))
        ax.set_xlabel(unit)
        ax.legend()
    figure.suptitle(", ".join(f"{name}: {split['rows']} rows" for name, split in by_split.items()))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
