# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Draws synthetic.jpg, views.jpg and tracked.jpg, which README and pages show, from the pictures of examples/.

    python docs/images/pictures.py

`views.jpg` needs Chromium, for the 3D view; `tracked.jpg` is a frame of what `llmi3d track` makes of a video: a
window that moves over a still picture, whose camera seems to turn.
"""

import argparse
import io
import itertools
import json
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from llmi3d.apps.video import track_video
from llmi3d.apps.video_files import VideoFrames, VideoWriter
from llmi3d.cli.console import open_pipeline
from llmi3d.processing.drawing import draw_3d, draw_birds_eye_view, draw_boxes, montage
from llmi3d.processing.drawing.styles import BACKGROUND

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "examples" / "pictures"
HEIGHT = 480  # of each view in views.jpg, pixels
WINDOW, FRAMES, FPS = (900, 300), 30, 10
PHRASES = ["the red pedestrian", "the truck", "the bicycle"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    entries = {one["image"]: one for one in json.loads((PICTURES / "pictures.json").read_text())}
    for name, drawn in {
        "synthetic": draw_synthetic(entries),
        "views": draw_views(entries["indoor-000020.jpg"], options.chromium),
        "tracked": draw_tracked(entries["driving-000041.jpg"]),
    }.items():
        drawn.save(options.out / f"{name}.jpg", quality=88)


def opened(entry: dict) -> tuple[Image.Image, list[dict]]:
    """Picture and true boxes, which are called by their categories."""
    boxes = [{**box, "label": box["category"].replace("_", " ")} for box in entry["boxes"]]
    return Image.open(PICTURES / entry["image"]).convert("RGB"), boxes


def draw_synthetic(entries: dict[str, dict]) -> Image.Image:
    """Two pictures of each domain with their true boxes."""
    drawn = []
    for name in sorted(entries):
        image, boxes = opened(entries[name])
        over = draw_boxes(image, boxes, entries[name]["intrinsics"])
        drawn.append(over.crop((0, 0, over.width, min(over.height, round(0.8 * over.width)))))  # below is table alone
    return montage(drawn)


def draw_views(entry: dict, chromium: str) -> Image.Image:
    """True boxes over the picture, from above, and in 3D as a browser shows it."""
    (image, boxes), k = opened(entry), entry["intrinsics"]
    html = draw_3d(image, boxes, k).to_html(include_plotlyjs=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]
        )
        window = browser.new_page(viewport={"width": 900, "height": 720})
        window.set_content(html)
        window.add_style_tag(content="body { margin: 0 }")
        window.wait_for_selector(".gl-container canvas")
        window.wait_for_timeout(3000)  # until the scene is drawn
        seen = Image.open(io.BytesIO(window.screenshot())).convert("RGB")
        browser.close()
    views = [draw_boxes(image, boxes, k), draw_birds_eye_view(boxes, k, image.size, size=(HEIGHT, HEIGHT)), seen]
    views = [view.resize((round(view.width * HEIGHT / view.height), HEIGHT)) for view in views]
    page = Image.new("RGB", (sum(view.width for view in views) + 8 * (len(views) - 1), HEIGHT), BACKGROUND)
    x = 0
    for view in views:
        page.paste(view, (x, 0))
        x += view.width + 8
    return page


def draw_tracked(entry: dict) -> Image.Image:
    """One of the overlay's frames."""
    image, _ = opened(entry)
    k = [row[:] for row in entry["intrinsics"]]
    top = image.height - WINDOW[1]
    k[1][2] -= top
    with tempfile.TemporaryDirectory() as folder:
        clip, out = Path(folder) / "clip.mp4", Path(folder) / "tracked.mp4"
        with clip.open("wb") as file, VideoWriter(file) as video:
            for i in range(FRAMES):
                left = round((image.width - WINDOW[0]) * i / FRAMES)
                video.write(image.crop((left, top, left + WINDOW[0], image.height)), i / FPS)
        k[0][2] = WINDOW[0] / 2
        ground = open_pipeline(str(ROOT / "model_cards" / "llmi3d-tiny"), "cpu")
        track_video(VideoFrames(str(clip)), out, ground, PHRASES, intrinsics=k, threshold=0.05)
        return next(itertools.islice(VideoFrames(str(out)), 23, None)).image


if __name__ == "__main__":
    main()
