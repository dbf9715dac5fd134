# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d data`: build, validate, count, show and split data sets."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import AsJson, require, user_errors

data_app = typer.Typer(no_args_is_help=True)

_Folder = Annotated[Path, typer.Argument(help="A data set written by `llmi3d data build`.", metavar="DIR")]
_NoBar = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


@data_app.callback()
def main() -> None:
    """Build data sets of images, cameras, boxes and text, and inspect them."""
    require("datasets", extra="data", task="llmi3d data")


@data_app.command()
def build(
    source: Annotated[str, typer.Argument(help="Such as kitti, nuscenes, jsonl; an unknown name lists all.")],
    out: Annotated[Path, typer.Option(help="New folder for the data set.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the download, or the JSON Lines file; none for synth.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the source, such as split_file=val.txt. May be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of phrases and questions.")] = 0,
    max_turns: Annotated[int, typer.Option(help="Maximum number of questions per image.", min=1)] = 8,
    num_proc: Annotated[int, typer.Option(help="Number of processes.", min=1)] = 1,
    rows_per_shard: Annotated[int, typer.Option(help="Records per Parquet file.", min=1)] = 500,
    captioner: Annotated[
        str | None, typer.Option(help="An image-text-to-text model that rephrases the phrases.")
    ] = None,
    wording: Annotated[
        str | None,
        typer.Option(help="Wording of phrases: plain or varied. Default: varied for synth, else plain."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unusable record.")] = False,
    as_json: AsJson = False,
    quiet: _NoBar = False,
) -> None:
    """Build a data set from a download. Resumes an interrupted build of the same."""
    with user_errors("data", "this source"):
        from llmi3d.data.build import build as run
        from llmi3d.data.build import open_source

        opened = open_source(source, root, **_options(option or []))
        opened.wording = wording or opened.wording
        model = None
        if captioner is not None:
            from transformers import pipeline

            model = pipeline("image-text-to-text", model=captioner)
        report = run(
            opened,
            out,
            seed=seed,
            max_turns=max_turns,
            num_proc=num_proc,
            rows_per_shard=rows_per_shard,
            strict=strict,
            captioner=model,
            progress=not quiet,
        )
    if as_json:
        typer.echo(json.dumps({"rows": report.rows, "skipped": len(report.skipped), "reasons": report.reasons()}))
        return
    typer.echo(f"{out}: " + ", ".join(f"{count} rows in {split}" for split, count in report.rows.items()))
    if report.skipped:
        typer.echo(f"{len(report.skipped)} records skipped ({out / 'skipped.jsonl'}):")
        for reason, count in report.reasons().items():
            typer.echo(f"  {count} x {reason}")


@data_app.command()
def validate(
    folder: _Folder,
    sheet: Annotated[bool, typer.Option(help="Draw contact sheets.")] = True,
    as_json: AsJson = False,
    quiet: _NoBar = False,
) -> None:
    """Check every row, find duplicate images and overlapping splits, and draw contact sheets.

    Exit code 1 if the data set is not sound.
    """
    with user_errors("data", "llmi3d data validate"):
        from llmi3d.data.contact_sheets import contact_sheet
        from llmi3d.data.dataset import find_splits
        from llmi3d.data.validate import save_problems
        from llmi3d.data.validate import validate as run

        problems = run(folder, progress=not quiet)
        checks = folder / "checks"
        save_problems(problems, checks / "validation.json")
        for split in find_splits(folder) if sheet else ():
            contact_sheet(folder, split).save(checks / f"{split}.png")
            typer.echo(checks / f"{split}.png", err=as_json)
    if as_json:
        typer.echo(json.dumps({**asdict(problems), "sound": problems.sound}))
        raise typer.Exit(0 if problems.sound else 1)
    kinds = {"error": problems.errors, "overlap": problems.overlaps, "duplicate": problems.duplicates}
    for name, pairs in kinds.items():
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
    as_json: AsJson = False,
    quiet: _NoBar = False,
) -> None:
    """Count categories, distances, focal lengths and kinds of phrases; write JSON and a plot."""
    with user_errors("data", "llmi3d data stats"):
        from llmi3d.data.dataset_statistics import plot_statistics, statistics
        from llmi3d.data.outputs import write_whole

        counted = statistics(folder, progress=not quiet)
        write_whole(folder / "checks" / "statistics.json", json.dumps(counted, indent=1) + "\n")
        plot_statistics(counted, folder / "checks" / "statistics.png")
    if as_json:
        typer.echo(json.dumps(counted))
        return
    for split, counts in counted.items():
        typer.echo(f"{split}: {counts['rows']} rows, {sum(counts['categories'].values())} objects")
        for name in ("categories", "tasks", "phrase_kinds", "question_kinds"):
            labels = ", ".join(f"{label} {count}" for label, count in list(counts[name].items())[:20])
            typer.echo(f"  {name.replace('_', ' ')}: {labels or 'none'}")
    typer.echo(folder / "checks" / "statistics.png")


@data_app.command()
def show(
    folder: _Folder,
    image_id: Annotated[str, typer.Argument(help="Image id of the row, such as kitti/training/000008.", metavar="ID")],
    out: Annotated[Path | None, typer.Option(help="PNG to write; DIR/checks/ID.png by default.")] = None,
) -> None:
    """Print a row's conversation and draw its boxes."""
    with user_errors("data", "llmi3d data show"):
        from llmi3d.data.contact_sheets import describe_row, draw_row, find_row

        row = find_row(folder, image_id)
        out = out or folder / "checks" / f"{re.sub(r'[^0-9A-Za-z_.-]', '_', image_id)}.png"
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_row(row).save(out)
    typer.echo(describe_row(row))
    typer.echo(out)


@data_app.command()
def split(
    folder: _Folder,
    out: Annotated[Path, typer.Option(help="New folder for the data set.")],
    novel: Annotated[list[str] | None, typer.Option(help="A category to hold out. May be repeated.")] = None,
    share: Annotated[
        float, typer.Option(help="Share of the categories to hold out, without --novel.", min=0, max=1)
    ] = 0.2,
    paraphrase: Annotated[
        str | None, typer.Option(help="Instead: ask this split, such as test, in words that training never contains.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 0,
) -> None:
    """Split turns by category, base against novel ones, or rephrase a split; splits.json records the choice."""
    with user_errors("data", "llmi3d data split"):
        from llmi3d.data.splits import split_by_category, split_paraphrases

        if paraphrase is not None and novel:
            raise ValueError("paraphrase: got --novel as well, want one of the two.")
        if paraphrase is not None:
            record = split_paraphrases(folder, out, split=paraphrase, seed=seed)
        else:
            record = split_by_category(folder, out, novel=novel, share=share, seed=seed)
    if "novel" in record:
        typer.echo(f"novel: {', '.join(record['novel'])}")
    for name, count in record["rows"].items():
        typer.echo(f"{name}: {count} rows")


def _options(given: list[str]) -> dict[str, str]:
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"option: got {text!r}, want NAME=VALUE.")
        options[name] = value
    return options
