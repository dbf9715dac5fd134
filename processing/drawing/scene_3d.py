# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Interactive 3D views of answers: plotly figures that can be turned and name the box under the pointer.

    figure = draw_3d(image, answer["boxes"], answer["intrinsics"])
    figure.show()
    figure.write_html("view.html")                                # one file, works offline, some 5 MB
    figure.write_html("view.html", include_plotlyjs="directory")  # plotly.min.js beside it, shared by many views
    figure.write_html("view.html", include_plotlyjs="cdn")        # small, needs the network

The figure's axes are x (right), z (forward) and height (-y), so that it turns about the vertical. Needs plotly:
pip install 'llmi3d[plot]'.
"""

import html
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps

from llmi3d.processing.drawing.styles import (
    BACKGROUND,
    FRONT_FACE,
    GRID,
    TEXT,
    WHITE,
    box_color,
    checked_corners,
    label_of,
    round_step,
)
from llmi3d.processing.geometry_llmi3d import EDGES, back_project, check_intrinsics

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

IMAGE_VERTICES = 160  # of the mesh that shows the photograph, along its longer side
# The two triangles of each face; the first are those of the front.
_FACES = (FRONT_FACE, (0, 3, 7, 4), (0, 1, 5, 4), (3, 2, 6, 7), (0, 1, 2, 3), (4, 5, 6, 7))
_TRIANGLES = np.array([triangle for a, b, c, d in _FACES for triangle in ((a, b, c), (a, c, d))])


def draw_3d(
    image: Image.Image, boxes: list, intrinsics, ground_truth=(), image_depth: float | None = None
) -> "Figure":
    """Draw boxes, the camera's frustum with the photograph in it, and a metric grid in 3D.

    A click on a label hides its boxes. The front face (+x) is tinted more strongly. Buttons switch between an
    overview, the view from the camera and the view from above.

    Args:
        image: the photograph; a pending EXIF orientation is applied.
        boxes, intrinsics, ground_truth: as for `draw_boxes`.
        image_depth: distance in metres from the camera to the photograph; by default somewhat nearer than the nearest
            box.

    Raises:
        ValueError: invalid intrinsics or boxes, or a depth that is not above 0.
        ModuleNotFoundError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("3D views need plotly: pip install 'llmi3d[plot]'.", name="plotly") from error
    intrinsics = check_intrinsics(intrinsics)
    if image_depth is not None and not 0 < image_depth < math.inf:
        raise ValueError(f"image_depth: got {image_depth}, want metres above 0.")
    image = ImageOps.exif_transpose(image).convert("RGB")
    corners = [_scene(checked_corners(boxes, i)) for i in range(len(boxes))]
    truth = [_scene(checked_corners(ground_truth, i, "ground_truth")) for i in range(len(ground_truth))]
    if image_depth is None:
        image_depth = _free_depth([*corners, *truth])

    frame, tip = _image_plane(image.size, intrinsics, image_depth, (2, 2))[[0, 1, 3, 2]], np.zeros((1, 3))
    strokes = [np.concatenate((tip, frame[[i, (i + 1) % 4]], tip)) for i in range(4)]
    traces = [
        _image_mesh(go, image, intrinsics, image_depth),
        _lines(go, strokes, [_css(TEXT)] * 4, [""] * 4, name="camera", width=2, hoverinfo="skip"),
    ]
    labels = [label_of(box) for box in boxes]
    for group, label in enumerate(dict.fromkeys(labels)):
        which = [i for i, other in enumerate(labels) if other == label]
        shapes, colors = [corners[i] for i in which], [_css(box_color(boxes[i], i)) for i in which]
        shared = {"name": html.escape(label) or "box", "legendgroup": f"boxes {group}"}
        texts = [_hover_text(boxes[i]) for i in which]
        strokes = [_strokes(shape) for shape in shapes]
        traces.append(_lines(go, strokes, colors, texts, width=4, showlegend=False, **shared))
        # The legend takes the colour of a trace; lines of many colours have none.
        shared["color"] = colors[0]
        traces.append(_mesh(go, shapes, _TRIANGLES[:2], colors, texts, opacity=0.45, showlegend=True, **shared))
        traces.append(_mesh(go, shapes, _TRIANGLES[2:], colors, texts, opacity=0.12, showlegend=False, **shared))
    if truth:
        texts = [_hover_text(box, "ground truth") for box in ground_truth]
        shared = {"name": "ground truth", "legendgroup": "ground truth", "line_dash": "dash"}
        traces.append(_lines(go, [_strokes(shape) for shape in truth], [_css(WHITE)] * len(truth), texts, 3, **shared))
    return go.Figure(traces, _layout(np.concatenate((tip, frame, *corners, *truth))))


def _scene(points) -> np.ndarray:
    """Convert points [..., 3] from the camera frame to the figure's (right, forward, up), metres."""
    points = np.asarray(points)
    return np.stack((points[..., 0], points[..., 2], -points[..., 1]), -1)


def _css(color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _free_depth(shapes: list) -> float:
    """Return a depth in metres at which the photograph hides little: near the camera, in front of the boxes."""
    ahead = [depth for shape in shapes if (depth := shape[:, 1].min()) > 0]
    farthest = max((shape[:, 1].max() for shape in shapes), default=10.0)
    return max(min([0.15 * farthest, *(0.8 * depth for depth in ahead)]), 0.05 * farthest, 0.05)


def _image_plane(size, intrinsics, depth: float, counts: tuple[int, int]) -> np.ndarray:
    """Return points [rows * columns, 3] of the figure, spread evenly over the image, row by row."""
    u, v = (torch.linspace(0, side, count, dtype=torch.float64) for side, count in zip(size, counts, strict=True))
    grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).flatten(0, 1)
    return _scene(back_project(grid, torch.full((len(grid),), float(depth), dtype=torch.float64), intrinsics))


def _image_mesh(go, image: Image.Image, intrinsics, depth: float):
    shrink = min(1.0, IMAGE_VERTICES / max(image.size))
    columns, rows = (max(2, round(side * shrink)) for side in image.size)
    pixels = np.asarray(image.resize((columns, rows), Image.Resampling.BOX)).reshape(-1, 3)
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.reshape(-1) for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    x, y, z = _image_plane(image.size, intrinsics, depth, (columns, rows)).astype(np.float32).T
    i, j, k = np.concatenate((np.stack((a, b, c)), np.stack((a, c, d))), axis=1).astype(np.int32)
    # Flat colours, the same from both sides.
    lighting = {"ambient": 1, "diffuse": 0, "specular": 0, "fresnel": 0}
    return go.Mesh3d(
        **{"x": x, "y": y, "z": z, "i": i, "j": j, "k": k, "vertexcolor": [_css(pixel) for pixel in pixels]},
        **{"name": "photograph", "hoverinfo": "skip", "showlegend": True, "lighting": lighting},
    )


def _strokes(corners: np.ndarray) -> np.ndarray:
    """Return the twelve edges and the cross of the front face as one line with gaps (NaN)."""
    gap = np.full((1, 3), np.nan)
    pairs = [*EDGES, FRONT_FACE[::2], FRONT_FACE[1::2]]
    return np.concatenate([part for pair in pairs for part in (corners[list(pair)], gap)])


def _lines(go, strokes: list, colors: list, texts: list, width: float, **more):
    """Return all strokes as one trace: hundreds of traces, one for each box, would be slow."""
    gap = np.full((1, 3), np.nan)
    x, y, z = np.concatenate([part for stroke in strokes for part in (stroke, gap)]).T
    counts = [len(stroke) + 1 for stroke in strokes]
    # A single colour is passed as such, so that the legend shows it.
    color = colors[0] if len(set(colors)) == 1 else np.repeat(colors, counts).tolist()
    line = {"color": color, "width": width}
    shown = {"hovertext": np.repeat(texts, counts).tolist(), "hoverinfo": "text", **more}
    return go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, **shown)


def _mesh(go, shapes: list, triangles: np.ndarray, colors: list, texts: list, **more):
    x, y, z = np.concatenate(shapes).T
    i, j, k = np.concatenate([triangles + 8 * n for n in range(len(shapes))]).T
    return go.Mesh3d(
        **{"x": x, "y": y, "z": z, "i": i, "j": j, "k": k, "flatshading": True},
        **{"facecolor": np.repeat(colors, len(triangles)).tolist(), "hovertext": np.repeat(texts, 8).tolist()},
        **{"hoverinfo": "text", "lighting": {"ambient": 1, "diffuse": 0, "specular": 0}, **more},
    )


def _hover_text(box: dict, kind: str = "") -> str:
    """Return the text shown at the pointer, with line breaks; labels are escaped."""
    score = "" if box.get("score") is None else f"score {box['score']:.2f}"
    (x, y, z), (length, height, width) = box["center"], box["size"]
    lines = (
        *(f"<b>{html.escape(label_of(box))}</b>", kind, score, f"distance {math.hypot(x, y, z):.2f} m"),
        f"centre x {x:+.2f}, y {y:+.2f}, z {z:+.2f} m",
        f"length {length:.2f}, height {height:.2f}, width {width:.2f} m",
    )
    return "<br>".join(line for line in lines if line)


def _layout(points: np.ndarray) -> dict:
    """Return the layout: axes to scale around all points, grid lines at round metres, and viewpoints."""
    low, high = points.min(0), points.max(0)
    room = 0.03 * max(1.0, (high - low).max())
    low, high = low - room, high + room
    low[0], high[0] = -max(-low[0], high[0]), max(-low[0], high[0])  # the camera in the middle
    # Plotly measures the eye from the middle of the axes, in units in which their box has a volume of 1.
    middle, unit = (low + high) / 2, 1 / np.prod(high - low) ** (1 / 3)
    step = round_step((high - low).max() / 12)
    axis = {"tick0": 0, "dtick": step, "gridcolor": _css(GRID), "zeroline": False, "color": _css(TEXT)}
    axis |= {"backgroundcolor": _css(BACKGROUND), "showspikes": False}
    axes = {
        f"{name}axis": {**axis, "title": {"text": title}, "range": [low[i], high[i]], "showbackground": name == "z"}
        for i, (name, title) in enumerate((("x", "x, right (m)"), ("y", "z, forward (m)"), ("z", "-y, up (m)")))
    }

    def eye(at, towards, kind="perspective"):
        """Return a viewpoint of the figure from metres."""
        named = {"eye": (np.array(at) - middle) * unit, "center": (np.array(towards) - middle) * unit}
        named = {name: dict(zip("xyz", map(float, value), strict=True)) for name, value in named.items()}
        return {**named, "up": {"x": 0, "y": 0, "z": 1}, "projection": {"type": kind}}

    width, depth, _ = high - low
    above = middle[2] + 2 * max(width, depth)
    # Each view with the opacity of the photograph, which would hide everything as seen from the camera.
    views = {
        "overview": (eye((0.4 * width, low[1] - 0.45 * depth, middle[2] + 0.5 * depth), (0, middle[1], middle[2])), 1),
        "from the camera": (eye((0, 0, 0), (0, max(high[1], 1.0), 0)), 0.4),
        # Not quite vertical: exactly from above, the up direction would be undefined.
        "from above": (eye((0, middle[1] - 1e-3 * above, above), (0, middle[1], 0), "orthographic"), 1),
    }
    buttons = [
        {"label": name, "method": "update", "args": [{"opacity": opacity}, {"scene.camera": camera}, [0]]}
        for name, (camera, opacity) in views.items()
    ]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1}
    menu |= {"yanchor": "top", "bgcolor": _css(GRID), "font": {"color": _css(TEXT)}, "showactive": False}
    return {
        "scene": {
            **axes,
            "aspectmode": "manual",
            "aspectratio": dict(zip("xyz", map(float, (high - low) * unit), strict=True)),
            "camera": views["overview"][0],
            "dragmode": "turntable",
        },
        "paper_bgcolor": _css(BACKGROUND),
        "font": {"color": _css(TEXT)},
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "legend": {"bgcolor": "rgba(0,0,0,0)", "itemsizing": "constant", "y": 0.93},
        "updatemenus": [menu],
        "uirevision": "kept",  # a new answer on the same page keeps the chosen view
    }
