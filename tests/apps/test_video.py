# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Videos: frames at their times and upright, overlays that play, tracks in JSON Lines, and bad input."""

import json
import logging
import wave
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("av", reason="needs PyAV: pip install 'llmi3d[video]'")
pytest.importorskip("stonesoup", reason="needs Stone Soup: pip install 'llmi3d[video]'")

from llmi3d.apps.video import draw_frame, track_video
from llmi3d.apps.video_files import Frame, VideoFrames, VideoWriter
from llmi3d.cli import app

ROOT = Path(__file__).parents[2]
K = [[300.0, 0.0, 100.0], [0.0, 300.0, 60.0], [0.0, 0.0, 1.0]]
SIZE = (200, 120)


def gradient(shade, size=SIZE):
    """Red to the right, green downwards, one shade of blue: smooth, so that a codec keeps it."""
    x, y = np.meshgrid(np.linspace(20, 235, size[0]), np.linspace(20, 235, size[1]))
    return Image.fromarray(np.stack((x, y, np.full_like(x, shade)), -1).astype(np.uint8))


def write_video(path, times=None, size=SIZE):
    times = [i / 10 for i in range(12)] if times is None else times
    with VideoWriter(path) as video:
        for i, time_s in enumerate(times):
            video.write(gradient(20 * i, size), time_s)
    return path


def write_folder(folder, count=12, size=SIZE):
    folder.mkdir()
    for i in range(count):
        gradient(20 * i, size).save(folder / f"frame_{i}.png")
    return folder


class Ground:
    """Answers like the pipeline: one car that moves by half a metre per frame, and never a cone."""

    def __init__(self):
        self.seen, self.calls = [], []

    def __call__(self, images, prompt, intrinsics, batch_size, **asked):
        self.calls.append({"intrinsics": intrinsics, "batch_size": batch_size, **asked})
        answers = []
        for image, phrases in zip(images, prompt, strict=True):
            self.seen.append(image)
            box = {"label": "the car", "score": 0.7, "center": [0.5 * len(self.seen) - 3, 0.5, 12.0]}
            box |= {"size": [4.0, 1.5, 1.8], "rotation": np.eye(3).tolist()}
            answers.append([{"prompt": one, "boxes": [box] if one == "the car" else []} for one in phrases])
        return answers


def track(source, out, ground=None, prompts=("the car",), frames=None, **more):
    more = {"intrinsics": K, "progress": False, **more}
    return track_video(VideoFrames(str(source), **(frames or {})), out, ground or Ground(), list(prompts), **more)


# -------------------------------------------------------------------------------------------------------------- frames


def test_frames_come_at_their_times(tmp_path):
    times = [0.0, 0.1, 0.25, 1.0, 1.05]  # of no constant rate
    frames = list(VideoFrames(str(write_video(tmp_path / "a.mp4", times))))
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.time_s for frame in frames] == pytest.approx(times, abs=1e-3)
    for i, frame in enumerate(frames):
        assert frame.image.mode == "RGB" and frame.image.size == SIZE
        assert np.abs(np.asarray(frame.image, float) - np.asarray(gradient(20 * i), float)).mean() < 6


def test_one_of_several_frames_and_no_more_than_wanted(tmp_path):
    for source in (write_video(tmp_path / "a.mp4"), write_folder(tmp_path / "frames")):
        frames = list(VideoFrames(str(source), every=3, max_frames=3))
        assert [frame.index for frame in frames] == [0, 3, 6]
        assert [frame.time_s for frame in frames] == pytest.approx([0, 0.3, 0.6], abs=1e-3)


def test_a_folder_is_in_the_order_of_its_numbers(tmp_path):
    frames = list(VideoFrames(str(write_folder(tmp_path / "frames")), fps=4))
    assert [frame.image.getpixel((0, 0))[2] for frame in frames] == [20 * i for i in range(12)]  # frame_2 < frame_10
    assert [frame.time_s for frame in frames] == [i / 4 for i in range(12)]


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), Image.Transpose.ROTATE_270),
        ((-1, 0, 0, -1), Image.Transpose.ROTATE_180),
        ((0, -1, 1, 0), Image.Transpose.ROTATE_90),
    ],
    ids=["clockwise", "half", "counter-clockwise"],
)
def test_frames_that_are_stored_turned_are_turned(tmp_path, matrix, turn):
    path = write_video(tmp_path / "a.mp4", [0.0])
    stored = path.read_bytes()
    # The matrix of the track's header: (a, b, u, c, d, v, x, y, w), rows as MP4 has them, x' = a x + c y.
    one = 1 << 16
    a, b, c, d = (one * value for value in matrix)
    start = stored.index(np.array([one, 0, 0, 0, one], ">i4").tobytes(), stored.index(b"tkhd"))
    turned = np.array([a, b, 0, c, d], ">i4").tobytes()
    path.write_bytes(stored[:start] + turned + stored[start + len(turned) :])
    [frame] = VideoFrames(str(path))
    wanted = gradient(0).transpose(turn)
    assert frame.image.size == wanted.size
    assert np.abs(np.asarray(frame.image, float) - np.asarray(wanted, float)).mean() < 6


def test_frames_stored_turned_are_turned(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient(0).save(folder / "0.jpg", exif=exif)
    [frame] = VideoFrames(str(folder))
    assert frame.image.size == SIZE[::-1]


def test_what_holds_no_frames_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "nothing.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(write_video(tmp_path / "a.mp4").read_bytes()[:2000])
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    for name, message in (
        ("empty", "video: got no frames in"),
        ("text.mp4", "video: cannot read"),
        ("nothing.mp4", "video: cannot read"),
        ("cut.mp4", "or is cut off"),
        ("sound.wav", "which has no video stream"),
    ):
        with pytest.raises(ValueError, match=message):
            list(VideoFrames(str(tmp_path / name)))
    with pytest.raises(FileNotFoundError, match=r"video: got .*none\.mp4"):
        VideoFrames(str(tmp_path / "none.mp4"))


def test_frames_of_several_sizes_are_refused(tmp_path):
    folder = write_folder(tmp_path / "frames")
    gradient(0, (90, 60)).save(folder / "frame_5.png")
    with pytest.raises(ValueError, match=r"frame 5 has \(90, 60\) pixels, want \(200, 120\)"):
        list(VideoFrames(str(folder)))


@pytest.mark.parametrize("wrong", [{"fps": 0.0}, {"fps": float("nan")}, {"every": 0}, {"max_frames": 0}])
def test_settings_out_of_range_are_refused(tmp_path, wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name}: got {value}"):
        VideoFrames(str(tmp_path), **wrong)


def test_a_broken_video_is_read_up_to_where_it_breaks(tmp_path):
    import av

    noise = np.random.default_rng(0)
    with VideoWriter(tmp_path / "a.mp4") as video:
        for i in range(40):
            video.write(Image.fromarray(noise.integers(0, 255, (120, 200, 3), np.uint8)), i / 10)
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    stored = bytearray((tmp_path / "a.mp4").read_bytes())
    for position, size in packets[20:]:
        stored[position : position + size] = bytes([255]) * size
    (tmp_path / "b.mp4").write_bytes(stored)
    frames = VideoFrames(str(tmp_path / "b.mp4"))
    count = len(list(frames))
    assert 0 < count < 40 and frames.problem.startswith(f"frame {count}: ")


# -------------------------------------------------------------------------------------------------------------- tracks


def test_every_frame_is_a_line_and_is_drawn(tmp_path):
    ground = Ground()
    report = track(
        write_video(tmp_path / "a.mp4"), tmp_path / "out.mp4", ground, ["the car", "the cone"], batch_size=5
    )
    assert (report.frames, report.boxes, report.tracks) == (12, 12, 1)
    assert report.intrinsics_source == "given" and report.problem is None
    assert [call["batch_size"] for call in ground.calls] == [5, 5, 2]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(12))
    assert [line["time_s"] for line in lines] == pytest.approx([i / 10 for i in range(12)], abs=1e-3)
    for i, line in enumerate(lines):
        [box] = line["boxes"]
        assert line["intrinsics"] == K
        assert box["track"] == 1 and box["prompt"] == "the car" and box["center"] == [0.5 * (i + 1) - 3, 0.5, 12.0]
    assert box["velocity"] == pytest.approx([5.0, 0.0, 0.0], abs=0.5)  # metres a second
    drawn = list(VideoFrames(str(tmp_path / "out.mp4")))
    assert [frame.time_s for frame in drawn] == pytest.approx([line["time_s"] for line in lines], abs=1e-3)
    overlay = drawn[3].image.crop((0, 60, 200, 180))  # in the middle of the view's 240 pixels
    changed = np.abs(np.asarray(overlay, float) - np.asarray(gradient(60), float)).max(-1) > 60
    columns = changed.any(0).nonzero()[0]
    # The car of frame 3 is 4 m long at 1 m to the left, its near face at 11.1 m.
    assert columns.min() == pytest.approx(100 - 300 * 3 / 11.1, abs=8)
    assert columns.max() == pytest.approx(100 + 300 * 1 / 11.1, abs=8)


def test_one_camera_serves_all_frames(tmp_path, caplog):
    source, ground = write_video(tmp_path / "a.mp4"), Ground()
    with caplog.at_level(logging.WARNING):
        report = track(source, tmp_path / "a2.mp4", ground, intrinsics=None, batch_size=4)
    assert report.intrinsics_source == "default"
    assert len([record for record in caplog.records if "is assumed" in record.message]) == 1
    assert {str(k) for call in ground.calls for k in call["intrinsics"]} == {str(ground.calls[0]["intrinsics"][0])}
    report = track(source, tmp_path / "a3.mp4", ground, intrinsics=None, fov_deg=90.0)
    assert report.intrinsics_source == "fov" and ground.calls[-1]["intrinsics"][0][0] == pytest.approx([100, 0, 100])
    with pytest.raises(ValueError, match="principal point"):
        track(source, tmp_path / "a4.mp4", intrinsics=[300, 300, 900, 60])


def test_the_camera_of_a_folder_may_be_in_its_exif(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28  # mm on 35 mm film
    for i in range(2):
        gradient(0).save(folder / f"{i}.jpg", exif=exif)
    ground = Ground()
    assert track(folder, tmp_path / "out.mp4", ground, intrinsics=None).intrinsics_source == "exif"
    wanted = 28 / np.hypot(36, 24) * np.hypot(*SIZE)
    assert ground.calls[0]["intrinsics"][1][0][0] == pytest.approx(wanted)


def test_what_is_there_is_not_lost(tmp_path):
    source = write_video(tmp_path / "a.mp4")
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(ValueError, match=r"out: .*out\.jsonl exists already"):
        track(source, tmp_path / "out.mp4")

    def broken(images, **more):
        raise ValueError("broken")

    for overwrite, ground in ((True, broken), (False, broken)):
        name = "out" if overwrite else "new"
        with pytest.raises(ValueError, match="broken"):
            track(source, tmp_path / f"{name}.mp4", ground, overwrite=overwrite)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no frames"):
        track(tmp_path / "empty", tmp_path / "new.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "empty", "out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    assert track(source, tmp_path / "out.mp4", overwrite=True).frames == 12
    with pytest.raises(ValueError, match=r"out: got .*out\.avi, want a name that ends in \.mp4 and is not"):
        track(source, tmp_path / "out.avi")


PLAYED = ("out.mp4", "whole.mp4")


class Killed(BaseException):
    """Not an error that anything handles."""


@pytest.mark.parametrize("half", [False, True])
def test_an_interrupted_video_goes_on_and_asks_about_no_frame_twice(tmp_path, half):
    source = write_video(tmp_path / "a.mp4")
    track(source, tmp_path / "whole.mp4", batch_size=4)
    ground, out = Ground(), tmp_path / "out.mp4"
    more = {"batch_size": 4}

    def break_off(images, *args, **asked):
        if len(ground.seen) == 8:
            raise Killed
        return ground(images, *args, **asked)

    with pytest.raises(Killed):
        track(source, out, break_off, **more)
    unfinished = tmp_path / "out.mp4.unfinished"
    answers = unfinished / "answers.jsonl"
    assert not out.exists() and len(answers.read_text().splitlines()) == 8
    if half:  # of a line is what a killed process may leave
        answers.write_bytes(answers.read_bytes()[:-30])
        ground.seen.pop()
    with pytest.raises(ValueError, match=r"unfinished holds a video with other prompts; choose a new name, or"):
        track(source, out, ground, prompts=["the cone"], **more)
    report = track(source, out, ground, **more)
    assert report.frames == len(ground.seen) == 12
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not unfinished.exists()
    drawn, whole = ([np.asarray(one.image, int) for one in VideoFrames(str(tmp_path / name))] for name in PLAYED)
    assert len(drawn) == 12 and np.abs(np.stack(drawn) - np.stack(whole)).mean() < 0.1  # x264 is not exact


def test_what_failed_at_once_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="principal point"):
        track(write_video(tmp_path / "a.mp4"), tmp_path / "out.mp4", intrinsics=[[300, 0, 900], *K[1:]])
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_no_more_than_a_batch_of_frames_is_held(tmp_path):
    alive, most = weakref.WeakSet(), 0

    class Frames(VideoFrames):
        def __iter__(self):
            nonlocal most
            for frame in super().__iter__():
                alive.add(frame)
                most = max(most, len(alive))
                yield frame
                del frame

    class Forgetful(Ground):
        def __call__(self, images, **more):
            answers = super().__call__(images, **more)
            self.seen = [None] * len(self.seen)
            return answers

    frames = Frames(str(write_folder(tmp_path / "frames", 40)))
    track_video(frames, tmp_path / "out.mp4", Forgetful(), ["the car"], intrinsics=K, progress=False, batch_size=4)
    assert most <= 2 * 4 + 1


@pytest.mark.parametrize("size", [(40, 30), (2000, 1001), (301, 901)])
def test_frames_of_any_size_are_drawn_with_even_sides(size):
    k = [[size[0], 0, size[0] / 2], [0, size[0], size[1] / 2], [0, 0, 1]]
    drawn = draw_frame(Frame(0, 0.0, gradient(0, size)), [], k, ["the cone"], reach=10.0)
    assert drawn.width % 2 == drawn.height % 2 == 0 and drawn.width < 2600


def test_boxes_of_large_frames_shrink_with_them():
    from llmi3d.apps.video import Frame
    from llmi3d.processing.drawing.overlays import DRAWN_SIDE

    k = [[2000.0, 0.0, 1000.0], [0.0, 2000.0, 500.0], [0.0, 0.0, 1.0]]
    box = {"label": "", "center_tracked": [0.0, 0.0, 10.0], "size": [2.0, 2.0, 0.1], "rotation": np.eye(3).tolist()}
    frame, boxes = Frame(0, 0.0, Image.new("RGB", (2000, 1000))), [{**box, "center": [9.0, 9.0, 9.0], "track": 1}]
    drawn, empty = (np.asarray(draw_frame(frame, some, k, [], 20.0), int) for some in (boxes, []))
    rows, columns = (np.abs(drawn - empty)[:640, :DRAWN_SIDE].max(-1) > 60).nonzero()
    reach = DRAWN_SIDE / 2000 * 2000 / 9.95  # pixels of a metre on its near face
    assert (columns.min(), columns.max()) == pytest.approx((640 - reach, 640 + reach), abs=5)
    assert rows.max() == pytest.approx(320 + reach, abs=5)


# -------------------------------------------------------------------------------------------------------- command line


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_tracks_what_moves_in_a_rendered_video(tmp_path):
    image = Image.open(ROOT / "examples" / "pictures" / "driving-000041.jpg")
    with VideoWriter(tmp_path / "street.mp4") as video:
        for i in range(10):  # the camera turns to the right: what it sees moves to the left
            video.write(image.crop((8 * i, 0, 8 * i + 900, 300)), i / 10)
    asked = ("--prompt", "the red pedestrian", "--intrinsics", "634,630,450,154", "--device", "cpu", "--json")
    checkpoint = ROOT / "model_cards" / "llmi3d-tiny"
    done = run("track", tmp_path / "street.mp4", *asked, "--checkpoint", checkpoint, "--out", tmp_path / "o" / "t.mp4")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["frames"], report["boxes"], report["tracks"]) == (10, 10, 1)
    lines = [json.loads(line) for line in (tmp_path / "o" / "t.jsonl").read_text().splitlines()]
    boxes = [line["boxes"][0] for line in lines]
    left = boxes[0]["box_2d"][0] - boxes[-1]["box_2d"][0]
    assert left == pytest.approx(72, abs=15)  # pixels
    assert boxes[-1]["center_tracked"][0] < boxes[0]["center_tracked"][0] - 0.3
    assert len(list(VideoFrames(str(tmp_path / "o" / "t.mp4")))) == 10


def test_the_command_says_what_a_video_needs(tmp_path):
    source = write_video(tmp_path / "a.mp4")
    asked = ("--checkpoint", ROOT / "model_cards" / "llmi3d-tiny", "--prompt", "the car", "--fov", "60")
    for arguments, message in (
        (("track", source, *asked[:2], "--out", tmp_path / "out.mp4"), "--prompt: got none"),
        (("track", tmp_path / "none.mp4", *asked, "--out", tmp_path / "out.mp4"), "there is no such file"),
        (("track", source, *asked, "--out", source, "--overwrite"), "is not the video's own"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2 and message in done.output, done.output
    assert source.stat().st_size > 0
