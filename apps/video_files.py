# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Video files and folders of frames: reading frames at their times, and writing an MP4 file.

Frames are upright, as a player shows them. Memory does not grow with the length of a video. Needs PyAV:
pip install 'llmi3d[video]'.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from PIL import Image, ImageOps

from llmi3d.apps.image_sources import ImageFolder
from llmi3d.processing.image_processing_llmi3d import load_image


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: its index in the video, seconds since the first frame, and an upright RGB image."""

    index: int
    time_s: float
    image: Image.Image


class VideoFrames:
    """Frames of a video file, or of a folder of images in the order of the numbers in their names.

    Args:
        source: file or folder.
        fps: frames per second of a folder; a file has its own times.
        every: takes one frame out of so many.
        max_frames: takes at most so many frames.

    Attributes:
        problem: why reading stopped before the end of a broken video, or None. Frames before that are sound.

    Raises:
        ValueError: settings out of range; while iterating: no frames, frames of several sizes, or no video.
        OSError: the source does not exist.
        ModuleNotFoundError: PyAV is not installed.
    """

    def __init__(self, source: str, fps: float = 10.0, every: int = 1, max_frames: int | None = None):
        self.source, self.fps, self.every, self.max_frames = Path(source), fps, every, max_frames
        self.problem: str | None = None
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps: got {fps}, want frames per second above 0.")
        for name, value in (("every", every), ("max_frames", max_frames)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, want 1 or more.")
        if not self.source.exists():
            raise FileNotFoundError(f"video: got {source!r}, and there is no such file or folder.")

    def identity(self) -> dict:
        """Return what distinguishes these frames from others."""
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
        images = ImageFolder(self.source)
        order = sorted(range(len(images)), key=lambda index: _natural(images.names[index]))
        for number in range(0, len(order), self.every):
            image = ImageOps.exif_transpose(load_image(images[order[number]].image))
            yield Frame(number, number / self.fps, image)

    def _of_file(self) -> Iterator[Frame]:
        av = _pyav()
        number, last_s, start_s = 0, -1.0, None
        try:
            with av.open(str(self.source)) as container:
                if not container.streams.video:
                    raise ValueError(f"video: got {self.source}, which has no video stream, or is cut off.")
                stream = container.streams.video[0]
                for decoded in container.decode(stream):
                    time_s = decoded.time if decoded.time is not None else number / float(stream.average_rate or 25)
                    start_s = time_s if start_s is None else start_s
                    time_s -= start_s
                    # Times of broken files repeat or decrease.
                    if number % self.every == 0 and time_s > last_s:
                        last_s = time_s
                        yield Frame(number, time_s, _upright(decoded))
                    number += 1
        except av.error.FFmpegError as error:
            if not number:
                raise ValueError(f"video: cannot read {self.source} ({error.strerror}).") from error
            self.problem = f"frame {number}: {error.strerror}"


class VideoWriter:
    """H.264 video in an MP4 file, written frame by frame. A context manager; needs at least one frame.

    Args:
        file: path, or seekable binary file open for writing.
    """

    def __init__(self, file):
        self.file, self._stream, self._container = file, None, None
        self._av = _pyav()

    def __enter__(self) -> "VideoWriter":
        self._container = self._av.open(self.file, "w", format="mp4")
        return self

    def write(self, image: Image.Image, time_s: float):
        """Add an RGB image of even width and height at `time_s` seconds, later than the last one."""
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=30, options={"crf": "23", "preset": "veryfast"})
            self._stream.width, self._stream.height = image.size
            self._stream.pix_fmt = "yuv420p"  # which every player supports
            self._stream.codec_context.time_base = Fraction(1, 90000)
            # Its own threads would compete with the network's.
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
    """Turn a decoded frame upright: phones store frames as the sensor lies, with the rotation to apply."""
    turns = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    turn = turns.get(decoded.rotation % 360)
    image = decoded.to_image()
    return image if turn is None else image.transpose(turn)


def _natural(name: str) -> list:
    """Return a sort key that puts frame_2 before frame_10."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", name)]
