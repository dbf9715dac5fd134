# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Builds an IG3D data set from a download: Parquet shards with images, cameras, boxes and conversations.

    OUT/data/SPLIT-00000-of-00003.parquet   the rows; `datasets.load_dataset(OUT)` reads them
    OUT/build.json                          source, settings and counts
    OUT/skipped.jsonl                       every skipped record, {"id", "reason"}
    OUT/README.md                           dataset card

One process builds each shard from a fixed part of the ids, so the bytes depend neither on the number of processes nor
on interruptions. Work in progress is in OUT/.building; OUT/data appears at once, when everything is done.
"""

import hashlib
import importlib
import inspect
import io
import json
import multiprocessing
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import torch
from PIL import Image
from tqdm.auto import tqdm

from llmi3d.data.dataset import DATA_FOLDER, shard_name
from llmi3d.data.dataset_card import write_dataset_card
from llmi3d.data.expressions import make_conversation
from llmi3d.data.expressions.wording import WORDINGS
from llmi3d.data.outputs import claim_folder, refuse_other, write_whole
from llmi3d.data.schema import IG3D_FEATURES, image_size, validate_row, with_turns
from llmi3d.data.source import Source

# Name on the command line -> converter, imported only when it is used.
SOURCES = {
    "kitti": "sources.kitti:Kitti",
    "kitti-tracking": "sources.kitti_tracking:KittiTracking",
    "nuscenes": "sources.nuscenes:NuScenes",
    "sunrgbd-votenet": "sources.sunrgbd:SunRgbdVoteNet",
    "sunrgbd-raw": "sources.sunrgbd_raw:SunRgbdRaw",
    "sunrgbd-mat": "sources.sunrgbd_raw:SunRgbdMat",
    "objectron": "sources.objectron:Objectron",
    "omni3d": "sources.omni3d:Omni3D",
    "mono3drefer": "sources.mono3drefer:Mono3DRefer",
    "qwen3vl": "sources.qwen3vl:Qwen3VL",
    "jsonl": "sources.jsonl:JsonLines",
    "synth": "synthetic.ig3d_synth:Synthetic",
}
ROWS_PER_SHARD = 500
# Rows in memory at a time, and in each row group of the Parquet file.
ROWS_PER_GROUP = 25
BUILDING = ".building"
# Errors of reading code on records of an unexpected form: a missing key, null for a list, ...
DAMAGE = (KeyError, TypeError, IndexError, AttributeError, ArithmeticError, RuntimeError)
# More than any camera of this field has; an image that claims more is damaged, or an attack.
MOST_PIXELS = 100_000_000


@dataclass(frozen=True)
class BuildReport:
    """Result of a build.

    Attributes:
        rows: number of rows written, by split.
        skipped: (id, reason) of every skipped record.
    """

    rows: dict[str, int]
    skipped: list[tuple[str, str]]

    def reasons(self) -> dict[str, int]:
        """Return the count of each reason, with numbers and names replaced by an ellipsis."""
        counted = Counter(re.sub(r"'[^']*'|\S*[/\\]\S*|[-+]?\d[\d.e+-]*", "…", reason) for _, reason in self.skipped)
        return dict(counted.most_common())


def open_source(name: str, root: str | Path | None, /, **options) -> Source:
    """Open a converter by its name on the command line. Only generated data needs no root.

    Raises:
        ValueError: an unknown name or option; the known ones are listed.
        FileNotFoundError: a download that lacks what the converter needs.
    """
    if name not in SOURCES:
        raise ValueError(f"source: got {name!r}, want one of {', '.join(SOURCES)}.")
    module, _, class_name = SOURCES[name].partition(":")
    source = getattr(importlib.import_module(f"{__package__}.{module}"), class_name)
    parameters = inspect.signature(source).parameters
    if root is None and parameters["root"].default is inspect.Parameter.empty:
        raise ValueError(f"root: got none, want the folder of a {name} download.")
    known = [option for option in parameters if option != "root"]
    for option in options:
        if option not in known:
            raise ValueError(f"option: got {option!r} for {name}, want one of {', '.join(known) or 'none'}.")
    try:
        return source(root, **options)
    except DAMAGE as error:
        raise ValueError(f"root: {root} is not in the layout of {name}: {error!r}.") from error


def build(
    source: Source,
    out: str | Path,
    *,
    seed: int = 0,
    max_turns: int = 8,
    num_proc: int = 1,
    rows_per_shard: int = ROWS_PER_SHARD,
    strict: bool = False,
    captioner: Callable | None = None,
    progress: bool = True,
) -> BuildReport:
    """Build a data set, or resume an interrupted build of the same.

    Args:
        source: converter of a download.
        out: new folder, or one in which the same build was interrupted or is complete.
        seed: of the conversations.
        max_turns: maximum number of questions per image.
        num_proc: number of processes.
        rows_per_shard: records per Parquet file.
        strict: stop at the first unusable record instead of skipping it.
        captioner: rewrites phrases (`expressions.rewrite_phrases`); needs num_proc=1.
        progress: show a bar.

    Raises:
        ValueError: `out` holds something else; with `strict`, an unusable record; no usable record at all.
    """
    out = Path(out)
    if source.wording not in WORDINGS:
        raise ValueError(f"wording: got {source.wording!r}, want one of {', '.join(WORDINGS)}.")
    if captioner is not None and num_proc != 1:
        raise ValueError(f"num_proc: got {num_proc} with a captioner, want 1.")
    ids = source.ids()
    shards = _plan(ids, rows_per_shard)
    recipe = {
        "source": source.name,
        "converter": type(source).__name__,
        "ids": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        "records": len(ids),
        "seed": seed,
        "max_turns": max_turns,
        "rows_per_shard": rows_per_shard,
        "rewritten": captioner is not None,
        "wording": source.wording,
        **source.recipe(),
    }
    done = _claim(out, recipe)
    if done is not None:
        return done
    work = out / BUILDING
    jobs = [
        (source, name, part, work, seed, max_turns, strict, captioner)
        for name, part in shards.items()
        if not (work / f"{name}.json").exists()
    ]
    with tqdm(total=len(ids), desc=f"build {source.name}", unit="record", disable=not progress) as bar:
        bar.update(len(ids) - sum(len(job[2]) for job in jobs))
        if num_proc == 1:
            for job in jobs:
                _build_shard(*job, bar.update)
        else:
            # Not forked: torch's threads do not survive that.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(
                num_proc, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                futures = {pool.submit(_build_shard, *job): len(job[2]) for job in jobs}
                try:
                    for future in as_completed(futures):
                        future.result()
                        bar.update(futures[future])
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
    return _finish(out, recipe, list(shards), source.extra_features)


def _plan(ids: list[str], rows_per_shard: int) -> dict[str, list[str]]:
    """Return the ids of each shard by its file name."""
    if not ids:
        raise ValueError("source: got no record, want at least one.")
    by_split = {}
    for name in ids:
        parts = name.split("/")
        # "all" means every split to the data sets library.
        if len(parts) < 3 or not re.fullmatch(r"\w+", parts[1]) or parts[1] == "all":
            raise ValueError(
                f"source: got the id {name!r}, want SOURCE/SPLIT/NAME with a split of letters and digits."
            )
        by_split.setdefault(parts[1], []).append(name)
    shards = {}
    for split, names in by_split.items():
        count = -(-len(names) // rows_per_shard)
        for i in range(count):
            shards[shard_name(split, i, count)] = names[i * rows_per_shard : (i + 1) * rows_per_shard]
    return shards


def _claim(out: Path, recipe: dict) -> BuildReport | None:
    """Make `out` this build's; return the report if it is complete already."""
    complete = out / "build.json"
    if not complete.exists():
        claim_folder(out, f"{BUILDING}/recipe.json", recipe, kind="a build")
        return None
    held = json.loads(complete.read_text())
    refuse_other(out, "a build", {name: held.get(name) for name in recipe}, recipe)
    if not (out / DATA_FOLDER).exists():
        return None
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    return BuildReport(held["rows"], [(one["id"], one["reason"]) for one in skipped])


def _build_shard(
    source: Source,
    name: str,
    ids: list[str],
    work: Path,
    seed: int,
    max_turns: int,
    strict: bool,
    captioner: Callable | None,
    advance: Callable[[int], object] = lambda count: None,
) -> None:
    skipped, count = [], 0
    unfinished = work / f"{name}.unfinished"
    schema = make_table([], source.extra_features).schema
    with pq.ParquetWriter(unfinished, schema) as writer:
        for start in range(0, len(ids), ROWS_PER_GROUP):
            group = []
            for image_id in ids[start : start + ROWS_PER_GROUP]:
                try:
                    group.append(read_row(source, image_id, seed=seed, max_turns=max_turns))
                except ValueError as error:
                    if strict:
                        raise ValueError(f"{image_id}: {error}") from error
                    skipped.append({"id": image_id, "reason": str(error)})
            if captioner is not None and group:
                from llmi3d.data.expressions import rewrite_phrases

                group = rewrite_phrases(group, captioner)
            if group:
                writer.write_table(make_table(group, source.extra_features))
            count += len(group)
            advance(len(ids[start : start + ROWS_PER_GROUP]))
    os.replace(unfinished, work / name)
    write_whole(work / f"{name}.json", json.dumps({"rows": count, "skipped": skipped}))


def read_row(source: Source, image_id: str, *, seed: int = 0, max_turns: int = 8) -> dict:
    """Return a complete, validated row with the image's own bytes.

    Raises:
        ValueError: says why the record cannot be used.
    """
    try:
        scene = source.read(image_id)
        if isinstance(scene["image"], dict):  # made, not read
            content, name = scene["image"]["bytes"], scene["image"]["path"]
        else:
            content, name = Path(scene["image"]).read_bytes(), Path(scene["image"]).name
    except OSError as error:
        raise ValueError(f"image: {error}") from error
    except DAMAGE as error:
        raise ValueError(f"record: is not in the form of {source.name}: {error!r}.") from error
    _check_image(content, name)
    scene["image"] = {"bytes": content, "path": name}
    scene.setdefault("complete", source.complete)
    turns = make_conversation(
        scene,
        image_size(scene["image"]),
        seed=seed,
        max_turns=max_turns,
        vocabulary=source.vocabulary,
        wording=source.wording,
    )
    if not turns:
        raise ValueError("objects: got none that can be asked for, want at least one.")
    for name in ("phrases", "complete"):
        scene.pop(name, None)
    row = with_turns(scene, turns)
    validate_row({key: value for key, value in row.items() if key not in source.extra_features})
    return row


def _check_image(content: bytes, name: str) -> None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(
                    f"image: got {name!r} of {image.width}x{image.height}, want {MOST_PIXELS:,} pixels at most."
                )
            image.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"image: cannot read {name!r} ({error}).") from error


def make_table(rows: Iterable[dict], extra_features: dict | None = None):
    """Return rows, with images as {"path", "bytes"}, as an Arrow table with the features in its schema."""
    features = datasets.Features({**IG3D_FEATURES, **(extra_features or {})})
    columns = {name: [row[name] for row in rows] for name in features}
    return datasets.Dataset.from_dict(columns, features=features).data.table.combine_chunks()


def _finish(out: Path, recipe: dict, names: list[str], extra_features: dict) -> BuildReport:
    work, ready = out / BUILDING, out / BUILDING / DATA_FOLDER
    rows, skipped = {}, []
    ready.mkdir(exist_ok=True)
    for name in names:
        made = json.loads((work / f"{name}.json").read_text())
        split = name.rsplit("-", 3)[0]
        rows[split] = rows.get(split, 0) + made["rows"]
        skipped += made["skipped"]
        if (work / name).exists():
            os.replace(work / name, ready / name)
    if not any(rows.values()):
        reasons = BuildReport(rows, [(one["id"], one["reason"]) for one in skipped]).reasons()
        shutil.rmtree(work)
        raise ValueError(f"source: got {len(skipped)} records, none of which can be used: {reasons}")
    report = BuildReport(rows, [(one["id"], one["reason"]) for one in skipped])
    write_whole(out / "skipped.jsonl", "".join(json.dumps(one) + "\n" for one in skipped))
    record = {**recipe, "rows": rows, "skipped": len(skipped), "reasons": report.reasons()}
    write_whole(out / "build.json", json.dumps(record, indent=1) + "\n")
    _write_card(out, ready, recipe, rows, len(skipped), extra_features)
    os.rename(ready, out / DATA_FOLDER)
    shutil.rmtree(work)
    return report


def _write_card(out: Path, folder: Path, recipe: dict, rows: dict[str, int], skipped: int, extra_features) -> None:
    made = (
        f"Built with `llmi3d data build` by {recipe['converter']} from {recipe['records']:,} records, seed "
        f"{recipe['seed']}, at most {recipe['max_turns']} questions per image; {skipped:,} records were skipped "
        "(`skipped.jsonl` says why). `build.json` has every setting."
    )
    own = recipe["converter"] == "JsonLines"  # whatever its user calls it
    features = datasets.Features({**IG3D_FEATURES, **(extra_features or {})})
    write_dataset_card(out, folder, "own" if own else recipe["source"], rows, features, made)
