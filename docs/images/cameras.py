# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Draws docs/images/cameras.png: the frames, the box, yaw and the way into the network's square.

    python docs/images/cameras.py

Everything is placed by the package's own geometry, so that the picture cannot say otherwise than the code.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Arc, Polygon, Rectangle

from llmi3d.processing.geometry_llmi3d import (
    EDGES,
    back_project,
    box_corners,
    project,
    transform_intrinsics,
    yaw_to_matrix,
)

SIZE = (1242, 375)  # of the picture, pixels
K = torch.tensor([[721.5, 0, 609.6], [0, 721.5, 172.9], [0, 0, 1]], dtype=torch.float64)
CENTER = torch.tensor([1.2, 0.9, 9.0], dtype=torch.float64)  # a car, metres
BOX_SIZE = torch.tensor([4.2, 1.5, 1.8], dtype=torch.float64)  # length, height, width
YAW = -0.9  # radians
CANVAS = 768  # network pixels

AXES = {"x": "#c0392b", "y": "#1e8449", "z": "#1f5fa8"}
BOX, FRONT, PICTURE, GREY = "#d35400", "#f39c12", "#7d8fa3", "#666666"


def corners() -> torch.Tensor:
    """The car's corners [8, 3], camera frame."""
    return box_corners(CENTER, BOX_SIZE, yaw_to_matrix(torch.tensor(YAW, dtype=torch.float64)))


def arrow(ax, start, end, color, text="", shift=(0, 0), **kwargs):
    ax.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.8, **kwargs})
    if text:
        ax.text(end[0] + shift[0], end[1] + shift[1], text, color=color, fontsize=11, ha="center", va="center")


def draw_camera_frame(ax):
    """The scene as a second camera sees it, which stands behind and above to the left."""
    forward = torch.tensor([0.42, 0.3, 0.85], dtype=torch.float64)
    forward /= forward.norm()
    right = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), forward)
    right /= right.norm()
    turn = torch.stack((right, torch.linalg.cross(forward, right), forward))
    eye = torch.tensor([-3.4, -2.9, -4.2], dtype=torch.float64)
    view = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)

    def seen(points):
        return project((torch.as_tensor(points, dtype=torch.float64) - eye) @ turn.T, view)

    def line(points, **kwargs):
        ax.plot(*seen(points).T.tolist(), **kwargs)

    origin = torch.zeros(3, dtype=torch.float64)
    width, height = SIZE
    plane = back_project(
        torch.tensor([[0, 0], [width, 0], [width, height], [0, height]], dtype=torch.float64),
        torch.full((4,), 2.2, dtype=torch.float64),
        K,
    )
    for corner in plane:
        line(torch.stack((origin, corner)), color=PICTURE, lw=1)
    ax.add_patch(Polygon(seen(plane).tolist(), facecolor=PICTURE, edgecolor=PICTURE, alpha=0.35, lw=1.5))
    inside = back_project(project(corners(), K), torch.full((8,), 2.2, dtype=torch.float64), K)
    for a, b in EDGES:
        line(corners()[[a, b]], color=BOX, lw=2)
        line(inside[[a, b]], color=BOX, lw=0.8)
    line(torch.stack((origin, CENTER)), color=GREY, lw=1, ls=":")
    ax.plot(*seen(CENTER).tolist(), "o", color=BOX, ms=5)
    u, v = seen(CENTER).tolist()
    ax.text(u + 0.12, v - 0.05, "center (x, y, z)", color=BOX, fontsize=10, ha="left")
    lengths, shifts = {"x": 1.6, "y": 1.4, "z": 3.4}, {"x": (0.07, 0.0), "y": (0, 0.04), "z": (0.12, -0.01)}
    for i, (name, color) in enumerate(AXES.items()):
        tip = origin.clone()
        tip[i] = lengths[name]
        words = {"x": "x right", "y": "y down", "z": "z forward"}[name]
        line(torch.stack((origin, tip)), color=color, lw=1.8)  # arrows alone do not count for the limits
        arrow(ax, seen(origin).tolist(), seen(tip).tolist(), color, words, shifts[name])
    ax.plot(*seen(origin).tolist(), "s", color="black", ms=7)
    ax.text(*(seen(origin) + torch.tensor([0.03, 0.06])).tolist(), "camera", fontsize=10, ha="left")
    ax.set_aspect("equal")
    ax.invert_yaxis()
    ax.margins(0.06)
    ax.set_title("Camera frame, metres", fontsize=11)


def draw_image_frame(ax):
    width, height = SIZE
    ax.add_patch(Rectangle((0, 0), width, height, facecolor=PICTURE, alpha=0.25, edgecolor=PICTURE, lw=1.5))
    points = project(corners(), K)
    for a, b in EDGES:
        ax.plot(*points[[a, b]].T.tolist(), color=BOX, lw=1.8)
    cx, cy = K[0, 2].item(), K[1, 2].item()
    ax.plot(cx, cy, "+", color="black", ms=13, mew=2)
    ax.text(cx - 12, cy - 14, "(cx, cy)", fontsize=10, ha="right")
    u, v = project(CENTER, K).tolist()
    ax.plot(u, v, "o", color=BOX, ms=5)
    ax.text(u, height + 62, "u = fx x/z + cx,   v = fy y/z + cy", color=BOX, fontsize=10, ha="center", va="center")
    ax.plot([u, u], [v, height + 40], color=BOX, lw=0.8)
    arrow(ax, (0, 0), (330, 0), AXES["x"], "u", (30, 0))
    arrow(ax, (0, 0), (0, 200), AXES["y"], "v", (0, 28))
    ax.text(0, -22, "(0, 0): the corner, not the middle, of the first pixel", fontsize=10, ha="left", va="bottom")
    ax.text(width, height + 10, f"({width}, {height})", fontsize=10, ha="right", va="top", color=GREY)
    ax.set_xlim(-60, width + 60)
    ax.set_ylim(height + 80, -90)
    ax.set_aspect("equal")
    ax.set_title("Image frame, pixels of the picture as stored", fontsize=11)


def draw_yaw(ax):
    """From above: x to the right, z upwards on the page."""
    around = corners()[[0, 1, 5, 4]][:, [0, 2]]
    ax.add_patch(Polygon(around.tolist(), facecolor=BOX, alpha=0.2, edgecolor=BOX, lw=2))
    rotation = yaw_to_matrix(torch.tensor(YAW, dtype=torch.float64))
    x, z = CENTER[0].item(), CENTER[2].item()
    front = CENTER + rotation[:, 0] * (BOX_SIZE[0] / 2 + 0.9)
    side = CENTER + rotation[:, 2] * (BOX_SIZE[2] / 2 + 0.9)
    arrow(ax, (x, z), (front[0].item(), front[2].item()), FRONT, "length: the box's own x", (0.1, 0.45))
    arrow(ax, (x, z), (side[0].item(), side[2].item()), AXES["z"], "width:\nits own z", (-1.0, 0.3))
    ax.plot([x, x + 3.4], [z, z], color=GREY, lw=1, ls="--")
    degrees = -torch.rad2deg(torch.tensor(YAW)).item()
    ax.add_patch(Arc((x, z), 3.4, 3.4, theta1=0, theta2=degrees, color="black", lw=1.5))
    ax.text(x + 2.0, z + 0.75, f"yaw = {YAW} rad", fontsize=10, ha="left")
    ax.text(x + 3.5, z, "yaw = 0", fontsize=10, va="center", color=GREY)
    ax.text(x + 0.2, z - 3.0, "yaw = +pi/2 would point at the camera", fontsize=10, ha="center", color=GREY)
    arrow(ax, (0, 3.6), (1.6, 3.6), AXES["x"], "x", (0.3, 0))
    arrow(ax, (0, 3.6), (0, 5.2), AXES["z"], "z", (0, 0.35))
    ax.plot(0, 3.6, "s", color="black", ms=7)
    ax.text(-0.25, 3.6, "camera, seen from above", fontsize=10, ha="right", va="center")
    ax.set_xlim(-5.2, 7.2)
    ax.set_ylim(3.0, 12.6)
    ax.set_aspect("equal")
    ax.set_title("Yaw: about y, from z towards x (KITTI's rotation_y)", fontsize=11)


def draw_network_frame(ax):
    width, height = SIZE
    scale = CANVAS / max(SIZE)
    top = (CANVAS - height * scale) / 2
    k = transform_intrinsics(K, (scale, scale), (0, top))
    ax.add_patch(Rectangle((0, 0), CANVAS, CANVAS, facecolor="#eeeeee", edgecolor="black", lw=1.5))
    ax.add_patch(Rectangle((0, top), CANVAS, height * scale, facecolor=PICTURE, alpha=0.35, edgecolor=PICTURE))
    points = project(corners(), k)
    for a, b in EDGES:
        ax.plot(*points[[a, b]].T.tolist(), color=BOX, lw=1.8)
    ax.plot(k[0, 2].item(), k[1, 2].item(), "+", color="black", ms=13, mew=2)
    ax.text(CANVAS / 2, top / 2, "padding", fontsize=10, ha="center", va="center", color=GREY)
    words = (
        f"scale s = {CANVAS} / {width}, offset t = {top:.0f}\n"
        "K' = (s fx, s fy, s cx, s cy + t)\n\n"
        "The network sees these pixels, never K.\n"
        f"It answers a virtual depth, as if f' were {CANVAS}:\n"
        "z = virtual depth x s fy / f'\n\n"
        "This is undone before you get an answer."
    )
    ax.text(CANVAS + 40, CANVAS / 2, words, fontsize=10, ha="left", va="center", linespacing=1.4)
    ax.set_xlim(-20, CANVAS * 2.35)
    ax.set_ylim(CANVAS + 20, -20)
    ax.set_aspect("equal")
    ax.set_title("Network frame: one square, one virtual camera", fontsize=11)


def draw() -> plt.Figure:
    figure, axes = plt.subplots(2, 2, figsize=(12.4, 7.6), layout="constrained")
    for ax, panel in zip(axes.flat, (draw_camera_frame, draw_image_frame, draw_yaw, draw_network_frame), strict=True):
        panel(ax)
        ax.set_axis_off()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    draw().savefig(parser.parse_args().out, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
