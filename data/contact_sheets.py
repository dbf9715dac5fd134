# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Rows of a built data set, drawn and described, one by one or on contact sheets."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from llmi3d.data.dataset import find_splits, load_split
from llmi3d.data.schema import turns_of, upright_image
from llmi3d.processing.drawing import draw_boxes

TILE = 480


def find_row(folder: str | Path, image_id: str) -> dict:
    """Return the row with an id.

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
    """Return a row's image with its boxes drawn over it."""
    objects = [entry for entry in row["objects"] if not entry["ignore"]]
    return draw_boxes(upright_image(row["image"]), objects, row["intrinsics"])


def describe_row(row: dict) -> str:
    """Return a row's conversation as text, one turn per line."""
    lines = [f"{row['image_id']}: {len(row['objects'])} objects"]
    for turn in turns_of(row):
        kind = turn.meaning.get("kind")
        lines.append(f"  [{turn.task}{f', {kind}' if kind else ''}] {turn.question} -> {turn.answer}")
    return "\n".join(lines)


def contact_sheet(folder: str | Path, split: str, most: int = 24, columns: int = 3) -> Image.Image:
    """Return up to `most` rows of a split, evenly spread, on one image, with boxes and first phrases."""
    rows = load_split(folder, split)
    count = min(most, len(rows))
    places = [round(i * (len(rows) - 1) / max(1, count - 1)) for i in range(count)]
    font = ImageFont.load_default(13)
    tiles = []
    for row in (rows[place] for place in dict.fromkeys(places)):
        image = draw_row(row)
        image.thumbnail((TILE, TILE))
        lines = describe_row(row).splitlines()[:4]
        tile = Image.new("RGB", (TILE, image.height + 18 * len(lines) + 6), "white")
        tile.paste(image, ((TILE - image.width) // 2, 0))
        draw = ImageDraw.Draw(tile)
        for i, line in enumerate(lines):
            draw.text((4, image.height + 2 + 18 * i), line.strip()[:76], fill="black", font=font)
        tiles.append(tile)
    heights = [max(tile.height for tile in tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    sheet = Image.new("RGB", (columns * (TILE + 8), sum(heights) + 8 * len(heights)), "#cccccc")
    y = 4
    for i, height in zip(range(0, len(tiles), columns), heights, strict=True):
        for j, tile in enumerate(tiles[i : i + columns]):
            sheet.paste(tile, (4 + j * (TILE + 8), y))
        y += height + 8
    return sheet
