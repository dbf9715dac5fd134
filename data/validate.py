# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Looking at a built data set: is it sound, what is in it, and how do its boxes lie in its pictures?"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from llmi3d.data.dataset import find_splits, load_split
from llmi3d.data.outputs import write_whole
from llmi3d.data.schema import IG3D_FEATURES, turns_of, upright_image, validate_row
from llmi3d.processing.drawing.overlays import draw_boxes
from llmi3d.processing.geometry_llmi3d import box_2d_iou, box_corners, project_box_2d

# Projected against given 2D box; those that we write are projected, so others come from elsewhere and may be loose.
LEAST_IOU_2D = 0.5
# Pictures whose 64-bit perceptual hashes differ in no more bits are taken for the same.
SAME_PICTURE_BITS = 3
TILE = 480


@dataclass
class Problems:
    """What `validate` found.

    Attributes:
        rows: looked at, by split.
        errors: (image id, what is wrong): the row must not be used.
        duplicates: (image id, image id) of pictures that look the same within one split.
        overlaps: the same across splits: an evaluation on such a split is worthless.
        mean_iou_2d: of projected against given 2D boxes; None without any.
    """

    rows: dict[str, int] = field(default_factory=dict)
    errors: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    overlaps: list[tuple[str, str]] = field(default_factory=list)
    mean_iou_2d: float | None = None

    @property
    def sound(self) -> bool:
        """No error and no overlap of splits; duplicates within one split are for you to judge."""
        return not self.errors and not self.overlaps


def validate(folder: str | Path, progress: bool = True) -> Problems:
    """Checks every row of a built data set, and its splits against each other.

    Each row: the schema, finite values, boxes before the camera, rotations, the picture readable and of K's size,
    projected against given 2D boxes, and ids that are unique. All pictures: perceptual hashes.

    Raises:
        FileNotFoundError: no data set.
    """
    problems, hashes, seen, ious = Problems(), [], {}, []
    for split in find_splits(folder):
        rows = load_split(folder, split).select_columns(list(IG3D_FEATURES))  # a source may have columns of its own
        rows = rows.cast_column("image", datasets.Image(decode=False))
        problems.rows[split] = len(rows)
        for row in tqdm(rows, desc=f"validate {split}", unit="row", disable=not progress):
            name = row["image_id"]
            if name in seen:
                (problems.overlaps if seen[name] != split else problems.duplicates).append((name, name))
            seen[name] = split
            try:
                validate_row(row)
                image = upright_image(row["image"])
                overlap = _overlaps_2d(row)
                if overlap and min(overlap) < LEAST_IOU_2D:
                    raise ValueError(f"box_2d: its overlap with the projected box is {min(overlap):.2f}, want 0.5.")
            except ValueError as error:
                problems.errors.append((name, str(error)))
                continue
            ious += overlap
            hashes.append((_hash(image), name, split))
    problems.mean_iou_2d = sum(ious) / len(ious) if ious else None
    for first, second in _near(hashes):
        pair = (first[1], second[1])
        (problems.duplicates if first[2] == second[2] else problems.overlaps).append(pair)
    return problems


def _overlaps_2d(row: dict) -> list[float]:
    entries = [one for one in row["objects"] if one["box_2d"] is not None and not one["ignore"]]
    if not entries:
        return []
    parts = (
        torch.tensor([one[name] for one in entries], dtype=torch.float64) for name in ("center", "size", "rotation")
    )
    projected = project_box_2d(box_corners(*parts), torch.tensor(row["intrinsics"], dtype=torch.float64))
    given = torch.tensor([one["box_2d"] for one in entries], dtype=torch.float64)
    return box_2d_iou(projected, given).nan_to_num(nan=0.0).tolist()


def _hash(image: Image.Image) -> int:
    try:
        import imagehash
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("imagehash is not installed; this needs pip install 'llmi3d[data]'.") from error
    return int(str(imagehash.phash(image)), 16)


def _near(hashes: list[tuple[int, str, str]]) -> list[tuple]:
    """Pairs within SAME_PICTURE_BITS; two hashes so near agree in at least one of one more bands than bits."""
    bands, found = SAME_PICTURE_BITS + 1, {}
    width = 64 // bands
    buckets = {}
    for i, (value, *_) in enumerate(hashes):
        for band in range(bands):
            buckets.setdefault((band, value >> (band * width) & ((1 << width) - 1)), []).append(i)
    for members in buckets.values():
        for at, i in enumerate(members):
            for j in members[at + 1 :]:
                if (hashes[i][0] ^ hashes[j][0]).bit_count() <= SAME_PICTURE_BITS:
                    found[i, j] = (hashes[i], hashes[j])
    return list(found.values())


# ---------------------------------------------------------------------------------------------------------- statistics


def statistics(folder: str | Path, progress: bool = True) -> dict:
    """Counts and values of a built data set, by split: rows, objects, categories, distances, focal lengths, tasks,
    kinds of phrases and questions. Pictures are not decoded.
    """
    found = {}
    for split in find_splits(folder):
        rows = load_split(folder, split).remove_columns("image")
        one = {
            **{name: Counter() for name in ("sources", "categories", "tasks", "phrase_kinds", "question_kinds")},
            **{name: [] for name in ("distances", "focal_lengths", "objects_per_picture", "turns_per_picture")},
        }
        for row in tqdm(rows, desc=f"stats {split}", unit="row", disable=not progress):
            objects = [entry for entry in row["objects"] if not entry["ignore"]]
            one["sources"][row["source"]] += 1
            one["categories"].update(entry["category"] for entry in objects)
            one["distances"] += [sum(value**2 for value in entry["center"]) ** 0.5 for entry in objects]
            one["focal_lengths"].append(row["intrinsics"][0][0])
            one["objects_per_picture"].append(len(objects))
            one["turns_per_picture"].append(len(row["task"]))
            one["tasks"].update(row["task"])
            for turn in turns_of(row):
                one["question_kinds" if turn.task == "vqa" else "phrase_kinds"][
                    turn.meaning.get("kind", "unknown")
                ] += 1
        found[split] = {
            "rows": len(rows),
            **{
                name: dict(value.most_common()) if isinstance(value, Counter) else value for name, value in one.items()
            },
        }
    return found


def plot_statistics(found: dict, path: str | Path) -> None:
    """Bars and histograms of `statistics`, all splits together."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 12), layout="constrained")
    axes = figure.subplots(3, 2).ravel()
    for ax, name in zip(axes, ("categories", "phrase_kinds", "question_kinds"), strict=False):
        counts = sum((Counter(one[name]) for one in found.values()), Counter()).most_common(25)
        ax.barh([label for label, _ in counts][::-1], [count for _, count in counts][::-1], color="#0072B2")
        ax.set_title(name.replace("_", " "))
    for ax, (name, unit) in zip(
        axes[3:], (("distances", "m"), ("focal_lengths", "px"), ("objects_per_picture", "")), strict=True
    ):
        ax.hist([one[name] for one in found.values()], bins=30, stacked=True, label=list(found))
        ax.set_title(name.replace("_", " "))
        ax.set_xlabel(unit)
        ax.legend()
    rows = ", ".join(f"{split}: {one['rows']} rows" for split, one in found.items())
    figure.suptitle(rows)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


# ------------------------------------------------------------------------------------------------------------ pictures


def find_row(folder: str | Path, image_id: str) -> dict:
    """The row of an id.

    Raises:
        ValueError: no row has it.
    """
    for split in find_splits(folder):
        rows = load_split(folder, split)
        names = rows.data.column("image_id").to_pylist()
        if image_id in names:
            return rows[names.index(image_id)]
    raise ValueError(f"id: got {image_id!r}, which no row of {folder} has.")


def draw_row(row: dict) -> Image.Image:
    """A row's boxes over its picture."""
    objects = [entry for entry in row["objects"] if not entry["ignore"]]
    return draw_boxes(upright_image(row["image"]), objects, row["intrinsics"])


def describe_row(row: dict) -> str:
    """A row's conversation, one turn a line."""
    lines = [f"{row['image_id']}: {len(row['objects'])} objects"]
    for turn in turns_of(row):
        kind = turn.meaning.get("kind")
        lines.append(f"  [{turn.task}{f', {kind}' if kind else ''}] {turn.question} -> {turn.answer}")
    return "\n".join(lines)


def contact_sheet(folder: str | Path, split: str, most: int = 24, columns: int = 3) -> Image.Image:
    """Up to `most` rows of a split, evenly spread, with boxes and first phrases."""
    rows = load_split(folder, split)
    count = min(most, len(rows))
    places = [round(i * (len(rows) - 1) / max(1, count - 1)) for i in range(count)]
    font = ImageFont.load_default(13)
    tiles = []
    for row in (rows[place] for place in dict.fromkeys(places)):
        picture = draw_row(row)
        picture.thumbnail((TILE, TILE))
        lines = describe_row(row).splitlines()[:4]
        tile = Image.new("RGB", (TILE, picture.height + 18 * len(lines) + 6), "white")
        tile.paste(picture, ((TILE - picture.width) // 2, 0))
        draw = ImageDraw.Draw(tile)
        for i, line in enumerate(lines):
            draw.text((4, picture.height + 2 + 18 * i), line.strip()[:76], fill="black", font=font)
        tiles.append(tile)
    heights = [max(tile.height for tile in tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    sheet = Image.new("RGB", (columns * (TILE + 8), sum(heights) + 8 * len(heights)), "#cccccc")
    y = 4
    for i, height in zip(range(0, len(tiles), columns), heights, strict=True):
        for j, tile in enumerate(tiles[i : i + columns]):
            sheet.paste(tile, (4 + j * (TILE + 8), y))
        y += height + 8
    return sheet


def save_problems(problems: Problems, path: str | Path) -> None:
    """As JSON; the name appears once it is complete."""
    write_whole(path, json.dumps({"sound": problems.sound, **vars(problems)}, indent=1) + "\n")
