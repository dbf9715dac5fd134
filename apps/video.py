# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Tracking in videos: asks about every frame, tracks the boxes, and writes an overlay and JSON Lines.

One camera serves all frames: K belongs to the upright frame, as a player shows it. Needs PyAV and Stone Soup:
pip install 'llmi3d[video]'.
"""

import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from llmi3d.apps.tracking import BoxTracker
from llmi3d.apps.video_files import Frame, VideoFrames, VideoWriter
from llmi3d.data.outputs import checkpoint_fingerprint, claim_folder, whole_file
from llmi3d.processing.cameras_llmi3d import exif_focal_length, resolve_camera
from llmi3d.processing.drawing import draw_birds_eye_view, draw_boxes, shrunk
from llmi3d.processing.drawing.styles import ABSENT, BACKGROUND, TEXT
from llmi3d.processing.drawing.surfaces import RasterSurface
from llmi3d.processing.geometry_llmi3d import Camera

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoReport:
    """Summary of a tracked video.

    Attributes:
        frames, boxes, tracks: numbers of frames, of boxes, and of objects they belong to.
        intrinsics_source: where K came from: `given`, `fov`, `exif` or `default`.
        problem: why reading stopped before the end of a broken video, or None.
    """

    frames: int
    boxes: int
    tracks: int
    intrinsics_source: str
    problem: str | None


def track_video(
    frames: VideoFrames,
    out: Path,
    ground: Callable,
    prompts: list[str],
    *,
    intrinsics=None,
    fov_deg: float | None = None,
    batch_size: int = 8,
    max_gap_s: float = 1.0,
    overwrite: bool = False,
    progress: bool = True,
    **asked,
) -> VideoReport:
    """Track objects in a video; write the overlay `out` (.mp4) and JSON Lines beside it.

    Each line of `NAME.jsonl` is a frame: `frame`, `time_s`, `intrinsics`, and the `boxes` of the pipeline, each with
    its `prompt` and with `track`, `center_tracked` and `velocity` as in `BoxTracker.update`. The overlay shows boxes
    at `center_tracked`. Both files appear when they are complete. Until then answers are kept in
    `NAME.mp4.unfinished`, from which the same call resumes.

    Args:
        frames: the video.
        out: NAME.mp4.
        ground: the pipeline `image-3d-grounding`, or a function that answers like it.
        prompts: what to find in every frame.
        intrinsics, fov_deg: camera of all upright frames, as the pipeline takes it; by default from the EXIF data of
            the first image of a folder, or assumed.
        batch_size: frames per forward pass.
        max_gap_s: as for `BoxTracker`.
        overwrite: whether to replace existing files.
        progress: whether to show a bar.
        asked: further arguments of the pipeline, such as `mode` and `threshold`.

    Raises:
        ValueError: invalid frames, camera or phrases; files that exist; or an unfinished video of that name from
            another job.
    """
    targets = [out, out.with_name(f"{out.stem}.jsonl")]
    if out.suffix != ".mp4" or out.resolve() == frames.source.resolve():
        raise ValueError(f"out: got {out}, want a name that ends in .mp4 and is not the video's own.")
    for target in targets:
        if target.exists() and not overwrite:
            raise ValueError(f"out: {target} exists already; choose another name or overwrite it.")
    tracker, count, boxes_count, camera, reach = BoxTracker(max_gap_s), 0, 0, None, 0.0
    model = getattr(ground, "model", None)
    job = {
        "frames": frames.identity(),
        "checkpoint": model and checkpoint_fingerprint(model.name_or_path, model.config),
        "intrinsics": None if intrinsics is None else np.asarray(intrinsics).tolist(),
        **{"fov_deg": fov_deg, "prompts": list(prompts), "asked": asked},
    }

    def ask(batch: list[Frame]) -> list[list[dict]]:
        images, phrases = [frame.image for frame in batch], [list(prompts)] * len(batch)
        answers = ground(images, prompt=phrases, intrinsics=[k] * len(batch), batch_size=len(batch), **asked)
        return [[{name: answer[name] for name in ("prompt", "boxes")} for answer in group] for group in answers]

    bar = tqdm(desc=out.name, unit=" frames", disable=not progress)
    kept = KeptAnswers(out.with_name(f"{out.name}.unfinished"), job, ask)
    with kept, whole_file(targets[1]) as lines, whole_file(out, "wb") as file, VideoWriter(file) as video, bar:
        for batch in _batches(frames, batch_size):
            if camera is None:
                camera = _one_camera(batch[0].image, intrinsics, fov_deg)
                k = [list(row) for row in camera.intrinsics]
            for frame, answers in zip(batch, kept(batch), strict=True):
                boxes = [{**box, "prompt": answer["prompt"]} for answer in answers for box in answer["boxes"]]
                boxes = tracker.update(boxes, frame.time_s)
                reach = max([reach, *(1.1 * box["center_tracked"][2] for box in boxes)])
                absent = [answer["prompt"] for answer in answers if not answer["boxes"]]
                video.write(draw_frame(frame, boxes, k, absent, reach), frame.time_s)
                for box in boxes:
                    del box["trail"]  # the lines before have it
                line = {"frame": frame.index, "time_s": frame.time_s, "intrinsics": k, "boxes": boxes}
                lines.write(json.dumps(line) + "\n")
                count, boxes_count = count + 1, boxes_count + len(boxes)
                bar.update()
    if frames.problem:
        logger.warning("%s: reading stopped at %s.", frames.source, frames.problem)
    return VideoReport(count, boxes_count, tracker.count, camera.source, frames.problem)


def draw_frame(frame: Frame, boxes: list[dict], intrinsics, absent: list[str], reach: float) -> Image.Image:
    """Draw one frame of an overlay: the image, the bird's-eye view with trails, and a line of text (RGB).

    Args:
        frame: the frame.
        boxes: from `BoxTracker.update`; drawn at `center_tracked`.
        intrinsics: [3, 3], of the frame, pixels.
        absent: phrases without a box.
        reach: depth in metres that the bird's-eye view shows at least.
    """
    image, intrinsics = shrunk(frame.image, intrinsics)
    shown = [{**box, "center": box["center_tracked"]} for box in boxes]
    side = max(240, min(image.size))
    view = draw_birds_eye_view(shown, intrinsics, image.size, size=(side, max(side, image.height)), reach=reach)
    overlay = draw_boxes(image, shown, intrinsics)
    page = RasterSurface(Image.new("RGB", (overlay.width + view.width, view.height), BACKGROUND), factor=1)
    letter = page.font.size
    # Codecs need even sizes.
    width, height = (side + side % 2 for side in (page.size[0], page.size[1] + round(1.8 * letter)))
    page = RasterSurface(Image.new("RGB", (width, height), BACKGROUND), factor=1)
    page.paste(overlay, (0, (view.height - overlay.height) // 2))
    page.paste(view, (overlay.width, 0))
    words = "; ".join([f"{frame.time_s:.2f} s", *(f"{' '.join(phrase.split())}: {ABSENT}" for phrase in absent)])
    page.text((0.6 * letter, height - 0.9 * letter), words, TEXT, "lm")
    return page.finish()


def _one_camera(image: Image.Image, intrinsics, fov_deg: float | None) -> Camera:
    """Return the camera of all frames, as given or from the first frame; a guess is warned about once."""
    focal_length = None if intrinsics is not None or fov_deg is not None else exif_focal_length(image)
    return resolve_camera(image.size, 1, intrinsics, fov_deg, focal_length)


class KeptAnswers:
    """Asks about frames in order and keeps the answers in a folder until the video is complete.

    The folder holds the job and a file with one line per frame; a killed process may leave an incomplete line.

    Args:
        folder: of that file.
        job: everything that the answers depend on.
        ask: returns a list of answers for each frame.

    Raises:
        ValueError: on entry, if the folder belongs to another job.
    """

    def __init__(self, folder: Path, job: dict, ask: Callable[[list[Frame]], list]):
        self.folder, self.job, self.ask = folder, job, ask
        self._left = 0  # kept answers that are still to be read

    def __enter__(self) -> "KeptAnswers":
        claim_folder(self.folder, "job.json", self.job, kind="a video", place="name, or delete it")
        self.path, whole = self.folder / "answers.jsonl", 0
        self._file = self.path.open("a")
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    whole, self._left = whole + len(line), self._left + 1
        os.truncate(self.path, whole)
        self._before = self.path.open()
        return self

    def __call__(self, frames: list[Frame]) -> list:
        """Return the answers to frames, read from the file where they are kept."""
        answers = [json.loads(self._before.readline()) for _ in frames[: self._left]]
        self._left -= len(answers)
        if new := frames[len(answers) :]:
            fresh = self.ask(new)
            self._file.writelines(json.dumps(answer) + "\n" for answer in fresh)
            self._file.flush()
            answers += fresh
        return answers

    def __exit__(self, kind, error, trace):
        self._before.close()
        self._file.close()
        if error is None or self.path.stat().st_size == 0:
            shutil.rmtree(self.folder)


def _batches(frames: VideoFrames, size: int) -> Iterator[list[Frame]]:
    rest = iter(frames)
    while batch := list(itertools.islice(rest, size)):
        yield batch
