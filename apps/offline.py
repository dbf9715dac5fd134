# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Boxes of many pictures as a table: one Parquet file, or batch by batch where pictures already pass in batches.

    OUT.parquet                     appears when everything is done
    OUT.parquet.parts/job.json      what is asked: written first, compared when a run goes on
    OUT.parquet.parts/part-*        answers so far, one file for every `part_size` pictures, each written whole

Batches are the same however often a run was interrupted and by however many processes it is done, hence so is the
file. Under `accelerate launch` or `torchrun` each process takes every n-th part of those that are left.
"""

import contextlib
import dataclasses
import functools
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from llmi3d.apps.image_sources import Picture, Pictures, as_text, prompts_of
from llmi3d.data.outputs import (
    checkpoint_fingerprint,
    claim_folder,
    on_main_process,
    process_state,
    refuse_other,
    whole_file,
    write_whole,
)
from llmi3d.processing.cameras_llmi3d import logger as camera_logger
from llmi3d.processing.cameras_llmi3d import parse_intrinsics, resolve_camera
from llmi3d.processing.image_processing_llmi3d import load_image

_VECTOR = pa.list_(pa.float64())

# A row is a box; a phrase without any has one row in which what is a box's is null, and so has one that failed.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("center", _VECTOR),  # metres, in the camera frame
        ("size", _VECTOR),  # length, height, width, metres
        ("rotation", pa.list_(_VECTOR)),  # box to camera
        ("box_2d", _VECTOR),  # x_min, y_min, x_max, y_max, pixels of the upright picture
        ("intrinsics", pa.list_(_VECTOR)),  # the K that was used, pixels of the upright picture
        ("intrinsics_source", pa.string()),  # given, fov, exif or default
        ("text", pa.string()),
        ("error", pa.string()),
    ]
)
_OF_BOX = ("label", "score", "center", "size", "rotation", "box_2d")
_METADATA = "llmi3d"


class BatchPredictor:
    """Answers batches: for `datasets.map(..., batched=True)`, Ray Data's `map_batches`, and `predict_pictures`.

    The weights are loaded by the first batch, and do not travel when the object is sent to another process.

    Args:
        checkpoint: folder or Hub name.
        prompts: a phrase or several, for pictures that bring none.
        intrinsics, fov_deg: the camera of pictures that bring none, as the pipeline takes it.
        mode, threshold, crop_padding: as in the pipeline.
        device: default the fastest there is.
        generate_kwargs: for the mode `generate`, such as max_new_tokens.

    Raises:
        ValueError: what no picture could be asked: bad phrases, a bad camera, an unknown mode.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        prompts: str | Sequence[str] = (),
        *,
        intrinsics: Any = None,
        fov_deg: float | None = None,
        mode: str = "direct",
        threshold: float = 0.0,
        crop_padding: bool | None = None,
        device: Any = None,
        **generate_kwargs,
    ):
        from transformers import AutoConfig, AutoProcessor

        self.prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        # A camera that fits no picture would make an error of each.
        if intrinsics is not None:
            intrinsics = parse_intrinsics(intrinsics, (math.inf, math.inf)).tolist()
        if fov_deg is not None:
            resolve_camera((2, 2), intrinsics=intrinsics, fov_deg=fov_deg)
        processor = AutoProcessor.from_pretrained(checkpoint)
        for phrase in self.prompts or ("it",):
            processor.grounding_prompt(phrase, mode)
        config = AutoConfig.from_pretrained(checkpoint)
        self.checkpoint, self.device, self.generate_kwargs = str(checkpoint), device, generate_kwargs
        self.intrinsics, self.fov_deg, self.mode, self.threshold = intrinsics, fov_deg, mode, threshold
        self.crop_padding = crop_padding
        self.recipe = {
            "checkpoint": checkpoint_fingerprint(checkpoint, config),
            "dtype": str(config.dtype),
            "prompts": self.prompts,
            "intrinsics": intrinsics,
            "fov_deg": fov_deg,
            "mode": mode,
            "threshold": threshold,
            **({} if crop_padding is None else {"crop_padding": crop_padding}),
            "generate": generate_kwargs,
        }

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "pipeline"}

    @functools.cached_property
    def pipeline(self):
        """The pipeline `image-3d-grounding`."""
        from transformers import pipeline

        return pipeline("image-3d-grounding", model=self.checkpoint, device=self.device)

    def __call__(self, batch: dict[str, Sequence]) -> dict[str, list]:
        """Columns of pictures in, the columns of `SCHEMA` out.

        Args:
            batch: `image` (whatever `Picture` takes), `image_id` or `id`, and if wanted `prompt` or `prompts`,
                `intrinsics`, `fov_deg`, each with an entry a picture. Other columns are left out.

        Returns:
            One entry a box, so that there may be more or fewer rows than pictures: `datasets.map` wants its
            `remove_columns` for that.

        Raises:
            ValueError: a column is missing. What is wrong with one picture stands in `error`.
        """
        name = next((column for column in ("image_id", "id") if column in batch), None)
        if name is None or "image" not in batch:
            raise ValueError(f"batch: got the columns {', '.join(batch)}, want image, and image_id or id.")
        columns = {key: batch[key] for key in ("image", "prompt", "prompts", "intrinsics", "fov_deg") if key in batch}
        entries = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        pictures = [
            Picture(str(key), entry["image"], prompts_of(entry), entry.get("intrinsics"), entry.get("fov_deg"))
            for key, entry in zip(batch[name], entries, strict=True)
        ]
        rows = self.answer([(picture, open_picture(picture)) for picture in pictures])
        return {column: [row[column] for row in rows] for column in SCHEMA.names}

    def answer(self, opened: Sequence[tuple[Picture, Image.Image | ValueError]]) -> list[dict]:
        """Rows of `SCHEMA` of one batch, in order.

        Args:
            opened: pictures, each with what `open_picture` gives.
        """
        samples = [
            {
                "image": image,
                "prompt": list(picture.prompts or self.prompts),
                "intrinsics": _plain(picture.intrinsics),
                "fov_deg": _plain(picture.fov_deg),
            }
            for picture, image in opened
        ]
        for sample in samples:
            if sample["intrinsics"] is None and sample["fov_deg"] is None:
                sample.update(intrinsics=self.intrinsics, fov_deg=self.fov_deg)
        answers = iter(self._ask([sample for sample in samples if not isinstance(sample["image"], ValueError)]))
        rows = []
        for (picture, image), sample in zip(opened, samples, strict=True):
            found = image if isinstance(image, ValueError) else next(answers)
            if isinstance(found, ValueError):
                rows += [_row(picture.id, phrase, error=str(found)) for phrase in sample["prompt"] or [None]]
                continue
            for answer in found:
                camera = {name: answer[name] for name in ("intrinsics", "intrinsics_source", "text")}
                for box in answer["boxes"] or [{}]:
                    rows.append(
                        _row(picture.id, answer["prompt"], **camera, **{name: box.get(name) for name in _OF_BOX})
                    )
        return rows

    def _ask(self, samples: list[dict]) -> list[list[dict] | ValueError]:
        """The pipeline's answers; what one picture cannot be asked costs the others nothing but their batch."""
        if not samples:
            return []
        ground = self.pipeline
        try:
            return ground(
                samples,
                mode=self.mode,
                threshold=self.threshold,
                crop_padding=self.crop_padding,
                batch_size=len(samples),
                **self.generate_kwargs,
            )
        except ValueError as error:
            if len(samples) == 1:
                return [error]
            return [answer for sample in samples for answer in self._ask([sample])]


def open_picture(picture: Picture) -> Image.Image | ValueError:
    """A picture read, or why it cannot be: what a broken file makes of its decoder is anything."""
    image = picture.image
    try:
        if isinstance(image, np.ndarray):
            return Image.fromarray(image)
        if isinstance(image, dict):
            source = image["path"] if image.get("bytes") is None else io.BytesIO(image["bytes"])
            return ImageOps.exif_transpose(load_image(source))
        return load_image(image)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        # Without addresses in memory, so that the same picture has the same error again.
        return ValueError(as_text(kind + re.sub(r" (object )?at 0x[0-9a-f]+", "", str(error))))


@dataclass(frozen=True)
class OfflineReport:
    """What was done.

    Attributes:
        pictures: asked about.
        boxes: found.
        errors: pictures that could not be read or asked about.
        guessed_cameras: pictures whose K is the default, so that every distance is a guess.
    """

    pictures: int
    boxes: int = 0
    errors: int = 0
    guessed_cameras: int = 0


def predict_pictures(
    pictures: Pictures,
    predictor: BatchPredictor,
    out: str | Path,
    *,
    batch_size: int = 8,
    part_size: int = 256,
    progress: bool = True,
) -> OfflineReport:
    """Writes the boxes of all pictures, in order, each once; goes on where an interrupted run of the same stopped.

    Args:
        pictures: from `open_pictures`.
        predictor: what answers.
        out: a Parquet file that is not there yet, or is of the same job.
        batch_size: pictures to a forward pass. Part of the job, since sums are rounded by it.
        part_size: pictures to a part: at most so many are done again by a process that was killed.
        progress: shows a bar.

    Raises:
        ValueError: pictures without phrases; `out` or its parts are of another job, whose differences are named.
    """
    if not predictor.prompts and not pictures.prompted:
        raise ValueError("prompt: got none, want one, or pictures that all bring phrases of their own.")
    for name, value in (("batch_size", batch_size), ("part_size", part_size)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, want at least 1.")
    out, state = Path(out), process_state()
    folder = out.with_name(f"{out.name}.parts")
    sizes = {"count": len(pictures), "batch_size": batch_size, "part_size": part_size}
    job = json.loads(json.dumps({"pictures": pictures.digest, **predictor.recipe, **sizes}))
    parts = [folder / f"part-{i:08d}.parquet" for i in range(-(-len(pictures) // part_size))]
    found = on_main_process(state, lambda: (job, _claim(out, folder, job, parts)))
    refuse_other(folder, "a job that the first process began", found[0], job)  # other pictures on another machine
    if isinstance(found[1], OfflineReport):
        return found[1]
    share = found[1][state.process_index :: state.num_processes]
    with (
        _one_warning(),
        tqdm(
            total=sum(len(_span(i, part_size, len(pictures))) for i in share),
            desc=out.name,
            unit="picture",
            disable=not (progress and state.is_main_process),
        ) as bar,
    ):
        _answer_parts(pictures, predictor, parts, share, batch_size, part_size, bar.update)
    state.wait_for_everyone()
    return on_main_process(state, lambda: _join(out, folder, job, parts))


# --------------------------------------------------------------------------------------------------------------- parts


def _span(part: int, part_size: int, count: int) -> range:
    return range(part * part_size, min((part + 1) * part_size, count))


def _answer_parts(
    pictures: Pictures,
    predictor: BatchPredictor,
    paths: Sequence[Path],
    share: Iterable[int],
    batch_size: int,
    part_size: int,
    advance: Callable[[int], object],
) -> None:
    def batches() -> Iterator[tuple[int, range, bool]]:
        for part in share:
            span = _span(part, part_size, len(pictures))
            for start in range(0, len(span), batch_size):
                yield part, span[start : start + batch_size], start + batch_size >= len(span)

    def read(batch: tuple[int, range, bool]) -> list[tuple[Picture, Image.Image | ValueError]]:
        chosen = [pictures[i] for i in batch[1]]
        return [(picture, open_picture(picture)) for picture in chosen]

    rows = []
    for (part, span, ends), opened in _ahead(read, batches()):
        rows += predictor.answer(opened)
        if ends:
            file = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file)
            write_whole(paths[part], file.getvalue())
            rows = []
        advance(len(span))


def _ahead(function: Callable, items: Iterable) -> Iterator[tuple]:
    """(item, function(item)) of each in order; a thread works on the next one meanwhile, and no further ahead."""
    with ThreadPoolExecutor(1) as pool:
        current = None
        for item in items:
            following = item, pool.submit(function, item)
            if current is not None:
                yield current[0], current[1].result()
            current = following
        if current is not None:
            yield current[0], current[1].result()


@contextlib.contextmanager
def _one_warning() -> Iterator[None]:
    """Lets a warning about an assumed camera through once; the table tells it of each picture."""
    seen = set()

    def new(record) -> bool:
        known = record.msg in seen
        seen.add(record.msg)
        return not known

    camera_logger.addFilter(new)
    try:
        yield
    finally:
        camera_logger.removeFilter(new)


# ------------------------------------------------------------------------------------------------------------ the file


def _claim(out: Path, folder: Path, job: dict, parts: Sequence[Path]) -> OfflineReport | list[int]:
    """Makes `out` this job's, or finds that it is: the parts that are left, or the report if it is complete."""
    record = folder / "job.json"
    if out.exists():
        held = _read_record(out)
        refuse_other(out, "boxes", held["job"], job, place="file")
        if record.exists():  # killed between the last two steps
            shutil.rmtree(folder)
        return OfflineReport(**held["report"])
    claim_folder(folder, record.name, job, kind="a job", place="file")
    return [i for i, path in enumerate(parts) if not path.exists()]


def _read_record(out: Path) -> dict:
    try:
        return json.loads(pq.read_metadata(out).metadata[_METADATA.encode()])
    except (OSError, ValueError, KeyError, TypeError) as error:  # no Parquet, or without our metadata
        raise ValueError(f"out: {out} holds something else; choose a new file.") from error


def _join(out: Path, folder: Path, job: dict, parts: Sequence[Path]) -> OfflineReport:
    """One file of all parts, of which one at a time is in memory."""
    boxes, errors, guessed = 0, 0, 0
    joined = folder / "joined.parquet"
    with whole_file(joined, "wb") as file, pq.ParquetWriter(file, SCHEMA) as writer:
        for path in parts:
            table = pq.read_table(path, schema=SCHEMA)
            writer.write_table(table)
            boxes += len(table) - table["score"].null_count
            errors += len(set(table.filter(pc.is_valid(table["error"]))["id"].to_pylist()))
            default = pc.equal(table["intrinsics_source"], "default")
            guessed += len(set(table.filter(default)["id"].to_pylist()))
        report = OfflineReport(job["count"], boxes, errors, guessed)
        record = {"job": job, "report": dataclasses.asdict(report)}
        writer.add_key_value_metadata({_METADATA: json.dumps(record)})
    os.replace(joined, out)
    shutil.rmtree(folder)
    return report


# ------------------------------------------------------------------------------------------------------------- helpers


def _row(name: str, prompt: str | None, **values) -> dict:
    return {**dict.fromkeys(SCHEMA.names), "id": name, "prompt": prompt, **values}


def _plain(value: Any) -> Any:
    """An array's entries as numbers and lists, as they come from other batches; a list of arrays, too."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
