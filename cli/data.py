# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d data`: build, validate, stats, show, split. Heavy imports stay inside the commands."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import fail

data_app = typer.Typer(
    no_args_is_help=True, help="Build data sets of pictures, cameras, boxes and words; look at them."
)

_Folder = Annotated[Path, typer.Argument(help="A data set that `llmi3d data build` wrote.", metavar="DIR")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")]


@data_app.callback()
def main() -> None:
    """Build data sets of pictures, cameras, boxes and words; look at them."""
    if importlib.util.find_spec("datasets") is None:
        fail("datasets is not installed; this needs pip install 'llmi3d[data]'.")


@data_app.command()
def build(
    source: Annotated[str, typer.Argument(help="Such as kitti, nuscenes, jsonl; an unknown name lists all.")],
    out: Annotated[Path, typer.Option(help="New folder for the data set.")],
    root: Annotated[
        Path | None, typer.Option(help="The download: its folder, or the JSON Lines file; none for synth.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of the source, such as split_file=val.txt. May be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of phrases and questions.")] = 0,
    max_turns: Annotated[int, typer.Option(help="Questions a picture.", min=1)] = 8,
    num_proc: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    rows_per_shard: Annotated[int, typer.Option(help="Records that one Parquet file is made from.", min=1)] = 500,
    captioner: Annotated[
        str | None, typer.Option(help="An image-text-to-text model that puts phrases in other words.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first record that cannot be used.")] = False,
    as_json: _Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Build a data set from a download. Goes on where an interrupted build of the same stopped."""
    from llmi3d.data.build import build as run
    from llmi3d.data.build import open_source

    try:
        made = open_source(source, root, **_options(option or []))
        model = None
        if captioner is not None:
            from transformers import pipeline

            model = pipeline("image-text-to-text", model=captioner)
        report = run(
            made,
            out,
            seed=seed,
            max_turns=max_turns,
            num_proc=num_proc,
            rows_per_shard=rows_per_shard,
            strict=strict,
            captioner=model,
            progress=not quiet,
        )
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps({"rows": report.rows, "skipped": len(report.skipped), "reasons": report.reasons()}))
        return
    typer.echo(f"{out}: " + ", ".join(f"{count} rows in {split}" for split, count in report.rows.items()))
    if report.skipped:
        typer.echo(f"{len(report.skipped)} records left out ({out / 'skipped.jsonl'}):")
        for reason, count in report.reasons().items():
            typer.echo(f"  {count} x {reason}")


@data_app.command()
def validate(
    folder: _Folder,
    sheet: Annotated[bool, typer.Option(help="Draw contact sheets.")] = True,
    as_json: _Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Check every row, look for duplicate pictures and overlapping splits, and draw contact sheets. 1 if not sound."""
    from llmi3d.data.validate import contact_sheet, find_splits, save_problems
    from llmi3d.data.validate import validate as run

    try:
        problems = run(folder, progress=not quiet)
        checks = folder / "checks"
        save_problems(problems, checks / "validation.json")
        for split in find_splits(folder) if sheet else ():
            contact_sheet(folder, split).save(checks / f"{split}.png")
            typer.echo(checks / f"{split}.png", err=as_json)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps({**asdict(problems), "sound": problems.sound}))
        raise typer.Exit(0 if problems.sound else 1)
    for name, pairs in (
        ("error", problems.errors),
        ("overlap", problems.overlaps),
        ("duplicate", problems.duplicates),
    ):
        for first, second in pairs[:20]:
            typer.echo(f"{name}: {first}: {second}")
        if len(pairs) > 20:
            typer.echo(f"{name}: and {len(pairs) - 20} more ({checks / 'validation.json'})")
    counts = ", ".join(f"{count} rows in {split}" for split, count in problems.rows.items())
    overlap = "" if problems.mean_iou_2d is None else f"; mean 2D overlap {problems.mean_iou_2d:.3f}"
    typer.echo(f"{folder}: {counts}{overlap}; {'sound' if problems.sound else 'NOT SOUND'}")
    raise typer.Exit(0 if problems.sound else 1)


@data_app.command()
def stats(
    folder: _Folder,
    as_json: _Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Count categories, distances, focal lengths and kinds of phrases; write JSON and a plot."""
    from llmi3d.data.outputs import write_whole
    from llmi3d.data.validate import plot_statistics, statistics

    try:
        found = statistics(folder, progress=not quiet)
        write_whole(folder / "checks" / "statistics.json", json.dumps(found, indent=1) + "\n")
        plot_statistics(found, folder / "checks" / "statistics.png")
    except (ValueError, OSError) as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for split, one in found.items():
        typer.echo(f"{split}: {one['rows']} rows, {sum(one['categories'].values())} objects")
        for name in ("categories", "tasks", "phrase_kinds", "question_kinds"):
            counts = ", ".join(f"{label} {count}" for label, count in list(one[name].items())[:20])
            typer.echo(f"  {name.replace('_', ' ')}: {counts or 'none'}")
    typer.echo(folder / "checks" / "statistics.png")


@data_app.command()
def show(
    folder: _Folder,
    image_id: Annotated[str, typer.Argument(help="Of the row, such as kitti/training/000008.", metavar="ID")],
    out: Annotated[Path | None, typer.Option(help="PNG to draw into; default DIR/checks/ID.png.")] = None,
) -> None:
    """Print a row's conversation and draw its boxes."""
    import re

    from llmi3d.data.validate import describe_row, draw_row, find_row

    try:
        row = find_row(folder, image_id)
        out = out or folder / "checks" / f"{re.sub(r'[^0-9A-Za-z_.-]', '_', image_id)}.png"
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_row(row).save(out)
    except (ValueError, OSError) as error:
        fail(error)
    typer.echo(describe_row(row))
    typer.echo(out)


@data_app.command()
def split(
    folder: _Folder,
    out: Annotated[Path, typer.Option(help="New folder for the data set.")],
    novel: Annotated[list[str] | None, typer.Option(help="A category to hold out. May be repeated.")] = None,
    share: Annotated[float, typer.Option(help="Of the categories to hold out, without --novel.", min=0, max=1)] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
) -> None:
    """Split by category: turns about base categories, and turns about novel ones, recorded in splits.json."""
    from llmi3d.data.splits import split_by_category

    try:
        record = split_by_category(folder, out, novel=novel, share=share, seed=seed)
    except (ValueError, OSError) as error:
        fail(error)
    typer.echo(f"novel: {', '.join(record['novel'])}")
    for name, count in record["rows"].items():
        typer.echo(f"{name}: {count} rows")


def _options(given: list[str]) -> dict[str, str]:
    options = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise ValueError(f"option: got {one!r}, want NAME=VALUE.")
        options[name] = value
    return options
