# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Boxes of many images as a table: one Parquet file, or batch by batch inside another data pipeline.

    OUT.parquet                     appears when all images are done
    OUT.parquet.parts/job.json      the job: written first, compared when a run resumes
    OUT.parquet.parts/part-*        answers so far, one file per `part_size` images, each written atomically

Batches, and so the file, are the same however often a run is interrupted and however many processes share it. Under
`accelerate launch` or `torchrun` each process takes every n-th of the remaining parts.
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

from llmi3d.apps.image_sources import ImageSource, SourceImage, as_text, prompts_of
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

# One row per box; a phrase without boxes, and one that failed, has one row whose box columns are null.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("center", _VECTOR),  # metres, in the camera frame
        ("size", _VECTOR),  # length, height, width, metres
        ("rotation", pa.list_(_VECTOR)),  # box to camera
        ("box_2d", _VECTOR),  # x_min, y_min, x_max, y_max, pixels of the upright image
        ("intrinsics", pa.list_(_VECTOR)),  # the K used, pixels of the upright image
        ("intrinsics_source", pa.string()),  # given, fov, exif or default
        ("text", pa.string()),
        ("error", pa.string()),
    ]
)
_OF_BOX = ("label", "score", "center", "size", "rotation", "box_2d")
_METADATA = "llmi3d"


class BatchPredictor:
    """Answers batches, for `datasets.map(..., batched=True)`, Ray Data's `map_batches` and `predict_images`.

    The first batch loads the weights; they are not pickled with the object.

    Args:
        checkpoint: folder or Hub name.
        prompts: a phrase or several, for images without their own.
        intrinsics, fov_deg: camera of images without their own, as the pipeline takes it.
        mode, threshold, crop_padding: as in the pipeline.
        device: the fastest by default.
        generate_kwargs: for mode `generate`, such as max_new_tokens.

    Raises:
        ValueError: an invalid phrase or camera, or an unknown mode.
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
        # A camera that fits no image would fail for every one.
        if intrinsics is not None:
            intrinsics = parse_intrinsics(intrinsics, (math.inf, math.inf)).tolist()
        if fov_deg is not None:
            resolve_camera((2, 2), intrinsics=intrinsics, fov_deg=fov_deg)
        processor = AutoProcessor.from_pretrained(checkpoint)
        for phrase in self.prompts or ("it",):
            processor.grounding_prompt(phrase, mode)
        config = AutoConfig.from_pretrained(checkpoint)
        self.checkpoint, self.device, self.generate_kwargs = str(checkpoint), device, generate_kwargs
        self.intrinsics, self.fov_deg = intrinsics, fov_deg
        self.asked = {"mode": mode, "threshold": threshold}
        if crop_padding is not None:
            self.asked["crop_padding"] = crop_padding
        self.recipe = {
            "checkpoint": checkpoint_fingerprint(checkpoint, config),
            "dtype": str(config.dtype),
            "prompts": self.prompts,
            "intrinsics": intrinsics,
            "fov_deg": fov_deg,
            **self.asked,
            "generate": generate_kwargs,
        }

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "pipeline"}

    @functools.cached_property
    def pipeline(self):
        """Pipeline `image-3d-grounding`."""
        from transformers import pipeline

        return pipeline("image-3d-grounding", model=self.checkpoint, device=self.device)

    def __call__(self, batch: dict[str, Sequence]) -> dict[str, list]:
        """Answer a batch: columns of images in, the columns of `SCHEMA` out.

        Args:
            batch: `image` (as in `SourceImage`), `image_id` or `id`, and optionally `prompt` or `prompts`,
                `intrinsics` and `fov_deg`, each with an entry per image. Other columns are ignored.

        Returns:
            One entry per box. Since rows and images differ in number, `datasets.map` needs `remove_columns`.

        Raises:
            ValueError: a column is missing. Problems with single images are reported in `error`.
        """
        name = next((column for column in ("image_id", "id") if column in batch), None)
        if name is None or "image" not in batch:
            raise ValueError(f"batch: got the columns {', '.join(batch)}, want image, and image_id or id.")
        columns = {key: batch[key] for key in ("image", "prompt", "prompts", "intrinsics", "fov_deg") if key in batch}
        entries = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        images = [
            SourceImage(str(key), entry["image"], prompts_of(entry), entry.get("intrinsics"), entry.get("fov_deg"))
            for key, entry in zip(batch[name], entries, strict=True)
        ]
        rows = self.answer([(image, open_image(image)) for image in images])
        return {column: [row[column] for row in rows] for column in SCHEMA.names}

    def answer(self, opened: Sequence[tuple[SourceImage, Image.Image | ValueError]]) -> list[dict]:
        """Return the rows of `SCHEMA` of one batch, in order.

        Args:
            opened: images, each with the result of `open_image`.
        """
        samples = [
            {
                "image": image,
                "prompt": list(source.prompts or self.prompts),
                "intrinsics": _plain(source.intrinsics),
                "fov_deg": _plain(source.fov_deg),
            }
            for source, image in opened
        ]
        for sample in samples:
            if sample["intrinsics"] is None and sample["fov_deg"] is None:
                sample.update(intrinsics=self.intrinsics, fov_deg=self.fov_deg)
        answers = iter(self._ask([sample for sample in samples if not isinstance(sample["image"], ValueError)]))
        rows = []
        for (source, image), sample in zip(opened, samples, strict=True):
            outcome = image if isinstance(image, ValueError) else next(answers)
            if isinstance(outcome, ValueError):
                rows += [_row(source.id, phrase, error=str(outcome)) for phrase in sample["prompt"] or [None]]
                continue
            for answer in outcome:
                camera = {name: answer[name] for name in ("intrinsics", "intrinsics_source", "text")}
                for box in answer["boxes"] or [{}]:
                    rows.append(
                        _row(source.id, answer["prompt"], **camera, **{name: box.get(name) for name in _OF_BOX})
                    )
        return rows

    def _ask(self, samples: list[dict]) -> list[list[dict] | ValueError]:
        """Ask the pipeline; if the batch fails, ask about each image alone, so that only invalid ones fail."""
        if not samples:
            return []
        ground = self.pipeline
        try:
            return ground(samples, batch_size=len(samples), **self.asked, **self.generate_kwargs)
        except ValueError as error:
            if len(samples) == 1:
                return [error]
            return [answer for sample in samples for answer in self._ask([sample])]


def open_image(source: SourceImage) -> Image.Image | ValueError:
    """Read an image, or return the error: decoders raise all kinds of exceptions on broken files."""
    image = source.image
    try:
        if isinstance(image, np.ndarray):
            return Image.fromarray(image)
        if isinstance(image, dict):
            file = image["path"] if image.get("bytes") is None else io.BytesIO(image["bytes"])
            return ImageOps.exif_transpose(load_image(file))
        return load_image(image)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        # Without memory addresses, so that an image always has the same error.
        return ValueError(as_text(kind + re.sub(r" (object )?at 0x[0-9a-f]+", "", str(error))))


@dataclass(frozen=True)
class OfflineReport:
    """Counts of a finished job.

    Attributes:
        images: all images.
        boxes: all boxes.
        errors: images that could not be read or answered.
        guessed_cameras: images whose K is the default, so that every distance is a guess.
    """

    images: int
    boxes: int = 0
    errors: int = 0
    guessed_cameras: int = 0


def predict_images(
    images: ImageSource,
    predictor: BatchPredictor,
    out: str | Path,
    *,
    batch_size: int = 8,
    part_size: int = 256,
    progress: bool = True,
) -> OfflineReport:
    """Write the boxes of all images, in order; an interrupted run of the same job resumes.

    Args:
        images: from `open_images`.
        predictor: answers the batches.
        out: Parquet file, new or of the same job.
        batch_size: images per forward pass; part of the job, since rounding depends on it.
        part_size: images per part; at most one part is lost if a process is killed.
        progress: whether to show a bar.

    Raises:
        ValueError: images without phrases, or `out` belongs to another job; the message names the differences.
    """
    if not predictor.prompts and not images.prompted:
        raise ValueError("prompt: got none, want one, or images that all have their own phrases.")
    for name, value in (("batch_size", batch_size), ("part_size", part_size)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, want at least 1.")
    out, state = Path(out), process_state()
    folder = out.with_name(f"{out.name}.parts")
    sizes = {"count": len(images), "batch_size": batch_size, "part_size": part_size}
    job = json.loads(json.dumps({"images": images.digest, **predictor.recipe, **sizes}))
    parts = [folder / f"part-{i:08d}.parquet" for i in range(-(-len(images) // part_size))]
    first_job, claimed = on_main_process(state, lambda: (job, _claim(out, folder, job, parts)))
    refuse_other(folder, "a job that the first process began", first_job, job)  # other images on another machine
    if isinstance(claimed, OfflineReport):
        return claimed
    share = claimed[state.process_index :: state.num_processes]
    with (
        _one_warning(),
        tqdm(
            total=sum(len(_span(i, part_size, len(images))) for i in share),
            desc=out.name,
            unit=" images",
            disable=not (progress and state.is_main_process),
        ) as bar,
    ):
        _answer_parts(images, predictor, parts, share, batch_size, part_size, bar.update)
    state.wait_for_everyone()
    return on_main_process(state, lambda: _join(out, folder, job, parts))


# --------------------------------------------------------------------------------------------------------------- parts


def _span(part: int, part_size: int, count: int) -> range:
    return range(part * part_size, min((part + 1) * part_size, count))


def _answer_parts(
    images: ImageSource,
    predictor: BatchPredictor,
    paths: Sequence[Path],
    share: Iterable[int],
    batch_size: int,
    part_size: int,
    advance: Callable[[int], object],
) -> None:
    def batches() -> Iterator[tuple[int, range, bool]]:
        for part in share:
            span = _span(part, part_size, len(images))
            for start in range(0, len(span), batch_size):
                yield part, span[start : start + batch_size], start + batch_size >= len(span)

    def read(batch: tuple[int, range, bool]) -> list[tuple[SourceImage, Image.Image | ValueError]]:
        chosen = [images[i] for i in batch[1]]
        return [(image, open_image(image)) for image in chosen]

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
    """Yield (item, function(item)) in order; a thread works on the next item meanwhile, and no further ahead."""
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
    """Pass a warning about an assumed camera once; the table has the source of every K."""
    seen = set()

    def is_new(record) -> bool:
        known = record.msg in seen
        seen.add(record.msg)
        return not known

    camera_logger.addFilter(is_new)
    try:
        yield
    finally:
        camera_logger.removeFilter(is_new)


# ------------------------------------------------------------------------------------------------------------ the file


def _claim(out: Path, folder: Path, job: dict, parts: Sequence[Path]) -> OfflineReport | list[int]:
    """Claim `out` for this job; return the indices of the remaining parts, or the report of a complete file."""
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
    except (OSError, ValueError, KeyError, TypeError) as error:  # not Parquet, or without our metadata
        raise ValueError(f"out: {out} holds something else; choose a new file.") from error


def _join(out: Path, folder: Path, job: dict, parts: Sequence[Path]) -> OfflineReport:
    """Join all parts into one file, with one part in memory at a time."""
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
    """Convert arrays, and lists of arrays, to numbers and lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
