# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Videos: every frame is asked about, its boxes are tracked, and both are written as an overlay and as JSON Lines.

One camera serves all frames, and the frames are upright: K is of what a player shows. What is held does not grow with
the length of a video. Needs PyAV and Stone Soup: pip install 'llmi3d[video]'.
"""

import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from llmi3d.apps.image_sources import ImageFolder
from llmi3d.apps.tracking import BoxTracker
from llmi3d.data.outputs import checkpoint_fingerprint, claim_folder, whole_file
from llmi3d.processing.cameras_llmi3d import exif_focal_length, resolve_camera
from llmi3d.processing.drawing import draw_birds_eye_view, draw_boxes, shrunk
from llmi3d.processing.drawing.styles import ABSENT, BACKGROUND, TEXT
from llmi3d.processing.drawing.surfaces import RasterSurface
from llmi3d.processing.geometry_llmi3d import Camera
from llmi3d.processing.image_processing_llmi3d import load_image

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: its place among all of the video, seconds since the first, and an upright RGB picture."""

    index: int
    time_s: float
    image: Image.Image


@dataclass(frozen=True)
class VideoReport:
    """What became of a video.

    Attributes:
        frames, boxes, tracks: how many frames were asked about, boxes found, and objects they were of.
        intrinsics_source: where K came from: `given`, `fov`, `exif` or `default`.
        problem: why reading stopped before the end of a broken video, or None.
    """

    frames: int
    boxes: int
    tracks: int
    intrinsics_source: str
    problem: str | None


class VideoFrames:
    """The frames of a video file, or of a folder of pictures in the order of the numbers in their names.

    Args:
        source: file or folder.
        fps: frames a second of a folder; a file has its own times.
        every: one frame of so many is taken.
        max_frames: as many are taken at most.

    Attributes:
        problem: while or after iterating: why reading stopped before the end, or None. What was read until then is
            sound.

    Raises:
        ValueError: while iterating: no frames, frames of several sizes, what is no video; at once: settings out of
            range.
        OSError: nothing there.
        ModuleNotFoundError: PyAV is not installed.
    """

    def __init__(self, source: str, fps: float = 10.0, every: int = 1, max_frames: int | None = None):
        self.source, self.fps, self.every, self.max_frames = Path(source), fps, every, max_frames
        self.problem: str | None = None
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps: got {fps}, want frames a second above 0.")
        for name, value in (("every", every), ("max_frames", max_frames)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, want 1 or more.")
        if not self.source.exists():
            raise FileNotFoundError(f"video: got {source!r}, and there is no such file or folder.")

    def identity(self) -> dict:
        """What tells these frames from others."""
        if self.source.is_dir():
            held = ImageFolder(self.source).digest
        else:
            held = [self.source.stat().st_size, self.source.stat().st_mtime_ns]
        return {"held": held, "fps": self.fps, "every": self.every, "max_frames": self.max_frames}

    def __iter__(self) -> Iterator[Frame]:
        self.problem, size, count = None, None, 0
        frames = self._of_folder() if self.source.is_dir() else self._of_file()
        for frame in frames:
            if size not in (None, frame.image.size):
                raise ValueError(
                    f"video: frame {frame.index} has {frame.image.size} pixels, want {size} as the first: one camera."
                )
            size, count = frame.image.size, count + 1
            yield frame
            if count == self.max_frames:
                break
        if not count:
            raise ValueError(f"video: got no frames in {self.source}{f' ({self.problem})' if self.problem else ''}.")

    def _of_folder(self) -> Iterator[Frame]:
        pictures = ImageFolder(self.source)
        order = sorted(range(len(pictures)), key=lambda index: _natural(pictures.names[index]))
        for number in range(0, len(order), self.every):
            image = ImageOps.exif_transpose(load_image(pictures[order[number]].image))
            yield Frame(number, number / self.fps, image)

    def _of_file(self) -> Iterator[Frame]:
        av = _pyav()
        number, last_s, start_s = 0, -1.0, None
        try:
            with av.open(str(self.source)) as container:
                if not container.streams.video:
                    raise ValueError(f"video: got {self.source}, which holds no pictures, or is cut off.")
                stream = container.streams.video[0]
                for decoded in container.decode(stream):
                    time_s = decoded.time if decoded.time is not None else number / float(stream.average_rate or 25)
                    start_s = time_s if start_s is None else start_s
                    time_s -= start_s
                    # Broken files repeat times, or go back.
                    if number % self.every == 0 and time_s > last_s:
                        last_s = time_s
                        yield Frame(number, time_s, _upright(decoded))
                    number += 1
        except av.error.FFmpegError as error:
            if not number:
                raise ValueError(f"video: cannot read {self.source} ({error.strerror}).") from error
            self.problem = f"frame {number}: {error.strerror}"


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
    """Asks about every frame, tracks the boxes, and writes `out` (.mp4) and beside it the same in JSON Lines.

    Each line of `NAME.jsonl` is a frame: `frame`, `time_s`, `intrinsics`, and `boxes` as the pipeline answers, each
    with its `prompt` and with `track`, `center_tracked` and `velocity` as in `BoxTracker.update`. The overlay draws
    boxes at `center_tracked`. Both files appear when they are complete. Until then answers are kept in
    `NAME.mp4.unfinished`: the same call goes on from there and asks about no frame twice.

    Args:
        ground: the pipeline `image-3d-grounding`, or what answers as it does.
        prompts: what to find in every frame.
        intrinsics, fov_deg: as the pipeline takes it, of the upright frames, all of them. Without either, what the
            first frame says (EXIF, in a folder) or the default.
        batch_size: frames to a forward pass.
        max_gap_s: as for `BoxTracker`.
        overwrite: replace files that are there already.
        progress: shows a bar.
        asked: further arguments of the pipeline, such as `mode` and `threshold`.

    Raises:
        ValueError: frames, cameras or phrases that cannot be used; files that are there already; an unfinished video
            of that name which was begun otherwise.
    """
    targets = [out, out.with_name(f"{out.stem}.jsonl")]
    if out.suffix != ".mp4" or out.resolve() == frames.source.resolve():
        raise ValueError(f"out: got {out}, want a name that ends in .mp4 and is not the video's own.")
    for target in targets:
        if target.exists() and not overwrite:
            raise ValueError(f"out: {target} is there already; choose another name or overwrite it.")
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
        return [[{"prompt": one["prompt"], "boxes": one["boxes"]} for one in of_frame] for of_frame in answers]

    bar = tqdm(desc=out.name, unit=" frames", disable=not progress)
    kept = KeptAnswers(out.with_name(f"{out.name}.unfinished"), job, ask)
    with kept, whole_file(targets[1]) as lines, whole_file(out, "wb") as file, VideoWriter(file) as video, bar:
        for batch in _batches(frames, batch_size):
            if camera is None:
                camera = _one_camera(batch[0].image, intrinsics, fov_deg)
                k = [list(row) for row in camera.intrinsics]
            for frame, of_frame in zip(batch, kept(batch), strict=True):
                found = [{**box, "prompt": one["prompt"]} for one in of_frame for box in one["boxes"]]
                boxes = tracker.update(found, frame.time_s)
                reach = max([reach, *(1.1 * box["center_tracked"][2] for box in boxes)])
                absent = [one["prompt"] for one in of_frame if not one["boxes"]]
                video.write(draw_frame(frame, boxes, k, absent, reach), frame.time_s)
                for box in boxes:
                    del box["trail"]  # it is what the lines before say
                line = {"frame": frame.index, "time_s": frame.time_s, "intrinsics": k, "boxes": boxes}
                lines.write(json.dumps(line) + "\n")
                count, boxes_count = count + 1, boxes_count + len(boxes)
                bar.update()
    if frames.problem:
        logger.warning("%s: reading stopped at %s.", frames.source, frames.problem)
    return VideoReport(count, boxes_count, tracker.count, camera.source, frames.problem)


def draw_frame(frame: Frame, boxes: list[dict], intrinsics, absent: list[str], reach: float) -> Image.Image:
    """One frame of an overlay: the picture, the bird's-eye view with trails, and a line of words (RGB).

    Args:
        boxes: of `BoxTracker.update`; drawn at `center_tracked`.
        intrinsics: [3, 3], of the frame, pixels.
        absent: phrases without a box.
        reach: metres that the bird's-eye view shows at least.
    """
    image, intrinsics = shrunk(frame.image, intrinsics)
    shown = [{**box, "center": box["center_tracked"]} for box in boxes]
    side = max(240, min(image.size))
    view = draw_birds_eye_view(shown, intrinsics, image.size, size=(side, max(side, image.height)), reach=reach)
    picture = draw_boxes(image, shown, intrinsics)
    page = RasterSurface(Image.new("RGB", (picture.width + view.width, view.height), BACKGROUND), factor=1)
    letter = page.font.size
    # Codecs want even sizes.
    width, height = (side + side % 2 for side in (page.size[0], page.size[1] + round(1.8 * letter)))
    page = RasterSurface(Image.new("RGB", (width, height), BACKGROUND), factor=1)
    page.paste(picture, (0, (view.height - picture.height) // 2))
    page.paste(view, (picture.width, 0))
    words = "; ".join([f"{frame.time_s:.2f} s", *(f"{' '.join(phrase.split())}: {ABSENT}" for phrase in absent)])
    page.text((0.6 * letter, height - 0.9 * letter), words, TEXT, "lm")
    return page.finish()


def _one_camera(image: Image.Image, intrinsics, fov_deg: float | None) -> Camera:
    """The camera that holds for all frames, from what is given or the first frame says; a guess is warned of once."""
    focal_length = None if intrinsics is not None or fov_deg is not None else exif_focal_length(image)
    return resolve_camera(image.size, 1, intrinsics, fov_deg, focal_length)


class KeptAnswers:
    """Asks about frames in their order, and keeps the answers in a folder until all are there.

    The folder holds the job and a file with a line of answers for each frame. A killed process may leave half a line.

    Args:
        folder: of that file.
        job: what decides the answers.
        ask: frames to a list of answers each.

    Raises:
        ValueError: on entering it: the folder belongs to another job.
    """

    def __init__(self, folder: Path, job: dict, ask: Callable[[list[Frame]], list]):
        self.folder, self.job, self.ask = folder, job, ask
        self._left = 0  # known answers that are still to be read

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
        """Their answers; those that are known are read."""
        answers = [json.loads(self._before.readline()) for _ in frames[: self._left]]
        self._left -= len(answers)
        if new := frames[len(answers) :]:
            found = self.ask(new)
            self._file.writelines(json.dumps(one) + "\n" for one in found)
            self._file.flush()
            answers += found
        return answers

    def __exit__(self, kind, error, trace):
        self._before.close()
        self._file.close()
        if error is None or self.path.stat().st_size == 0:
            shutil.rmtree(self.folder)


class VideoWriter:
    """An H.264 video in an MP4 file, frame by frame at its own time. A context manager; needs one frame at least.

    Args:
        file: a path, or a binary file open for writing that can be sought in.
    """

    def __init__(self, file):
        self.file, self._stream, self._container = file, None, None
        self._av = _pyav()

    def __enter__(self) -> "VideoWriter":
        self._container = self._av.open(self.file, "w", format="mp4")
        return self

    def write(self, image: Image.Image, time_s: float):
        """Adds an RGB picture of even width and height, `time_s` seconds after the first, later than the last."""
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=30, options={"crf": "23", "preset": "veryfast"})
            self._stream.width, self._stream.height = image.size
            self._stream.pix_fmt = "yuv420p"  # what every player shows
            self._stream.codec_context.time_base = Fraction(1, 90000)
            # Threads of its own would compete with the network's.
            self._stream.codec_context.thread_count = 1
        frame = self._av.VideoFrame.from_image(image)
        frame.pts, frame.time_base = round(90000 * time_s), Fraction(1, 90000)
        self._container.mux(self._stream.encode(frame))

    def __exit__(self, kind, error, trace):
        if error is None and self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()


def _pyav():
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("videos need PyAV: pip install 'llmi3d[video]'.", name="av") from error
    return av


def _upright(decoded) -> Image.Image:
    """A decoded frame as players show it: phones store theirs as the sensor lies and say how to turn them."""
    turns = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    turn = turns.get(decoded.rotation % 360)
    image = decoded.to_image()
    return image if turn is None else image.transpose(turn)


def _natural(name: str) -> list:
    """Sorts frame_2 before frame_10."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", name)]


def _batches(frames: VideoFrames, size: int) -> Iterator[list[Frame]]:
    rest = iter(frames)
    while batch := list(itertools.islice(rest, size)):
        yield batch
