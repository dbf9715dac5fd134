# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The 3D view: every coordinate of the figure is that of a box, the picture or the camera."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from llmi3d.processing.geometry_llmi3d import EDGES, box_corners, project, yaw_to_matrix

pytest.importorskip("plotly", reason="needs plotly: pip install 'llmi3d[plot]'")

from llmi3d.processing.drawing.scene_3d import IMAGE_VERTICES, draw_3d

K = [[520.0, 0.0, 310.0], [0.0, 540.0, 250.0], [0.0, 0.0, 1.0]]
SIZE = (640, 480)


def make_box(center, label="car", size=(4.0, 1.5, 1.8), **other):
    rotation = yaw_to_matrix(torch.tensor(0.5)).tolist()
    return {"label": label, "center": list(center), "size": list(size), "rotation": rotation, **other}


def corners_of(box):
    return box_corners(*(torch.tensor(box[name], dtype=torch.float64) for name in ("center", "size", "rotation")))


def photograph(size=SIZE):
    return Image.effect_noise(size, 60).convert("RGB")


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def camera_frame(trace):
    """The trace's points back in the camera's frame, [N, 3]."""
    right, forward, up = (np.asarray(getattr(trace, axis), float) for axis in "xyz")
    return np.stack((right, -up, forward), -1)


def test_meshes_and_lines_are_at_the_corners_of_the_boxes():
    boxes = [make_box((0.5, 0.3, 9.0)), make_box((-2.0, 0.3, 12.0)), make_box((1.0, 0.5, 7.0), "cone")]
    figure = draw_3d(photograph(), boxes, K)
    for name, shown in (("car", boxes[:2]), ("cone", boxes[2:])):
        lines, front, rest = traces(figure, name)
        corners = np.concatenate([corners_of(box).numpy() for box in shown])
        for mesh in (front, rest):
            assert camera_frame(mesh) == pytest.approx(corners)
        # A box has five faces beside its front; corners 1, 2, 6 and 5 are those of +x.
        assert len(rest.i) == 10 * len(shown) and len(front.i) == 2 * len(shown)
        assert set(np.concatenate((front.i, front.j, front.k)) % 8) == {1, 2, 5, 6}
        points = camera_frame(lines)
        for n in range(len(shown)):
            for a, b in EDGES:
                ends = corners[[8 * n + a, 8 * n + b]]
                assert any(points[i : i + 2] == pytest.approx(ends) for i in range(len(points) - 1))


def test_the_triangles_of_each_box_cover_it_once():
    boxes = [make_box((0.5, 0.3, 9.0)), make_box((-2.0, 0.3, 12.0), size=(1.0, 2.0, 3.0))]
    _, front, rest = traces(draw_3d(photograph(), boxes, K), "car")
    areas = np.zeros(2)
    for mesh in (front, rest):
        triangles = np.stack((mesh.i, mesh.j, mesh.k), -1)
        assert (triangles // 8 == triangles[:, :1] // 8).all()  # none spans two boxes
        assert len({frozenset(triangle) for triangle in triangles.tolist()}) == len(triangles)
        a, b, c = camera_frame(mesh)[triangles].transpose(1, 0, 2)
        np.add.at(areas, triangles[:, 0] // 8, np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2)
    assert areas == pytest.approx([2 * (4.0 * 1.5 + 1.5 * 1.8 + 1.8 * 4.0), 2 * (1 * 2 + 2 * 3 + 3 * 1)])


def test_the_picture_stands_where_the_camera_sees_it():
    image = photograph()
    [mesh] = traces(draw_3d(image, [], K, image_depth=2.0), "photograph")
    points = camera_frame(mesh)
    columns, rows = IMAGE_VERTICES, IMAGE_VERTICES * 480 // 640
    assert points[:, 2] == pytest.approx(2.0)
    places = project(torch.tensor(points), torch.tensor(K).double()).reshape(rows, columns, 2)
    assert places[0, 0].tolist() == pytest.approx([0, 0], abs=1e-3)
    assert places[-1, -1].tolist() == pytest.approx([640, 480], abs=1e-3)
    shrunk = np.asarray(image.resize((columns, rows), Image.Resampling.BOX))
    assert mesh.vertexcolor[columns + 3] == "#{:02x}{:02x}{:02x}".format(*shrunk[1, 3])
    [frustum] = traces(draw_3d(image, [], K, image_depth=2.0), "camera")
    corners = camera_frame(frustum)[1::5]
    corners = project(torch.tensor(corners), torch.tensor(K).double()).numpy()
    assert corners == pytest.approx(np.array([[0, 0], [640, 0], [640, 480], [0, 480]]), abs=1e-6)


@pytest.mark.parametrize("depth", [0.5, 60.0])
def test_the_picture_hides_no_box(depth):
    [mesh] = traces(draw_3d(photograph(), [make_box((0.0, 0.0, depth), size=(0.1, 0.1, 0.1))], K), "photograph")
    assert 0 < camera_frame(mesh)[0, 2] < depth - 0.1


def test_everything_lies_within_axes_to_scale():
    boxes = [make_box((20.0, 0.3, 40.0)), make_box((0.0, 3.0, -5.0))]
    figure = draw_3d(photograph(), boxes, K, ground_truth=[make_box((0.0, -9.0, 12.0))])
    scene = figure.layout.scene
    ranges = [scene.xaxis.range, scene.yaxis.range, scene.zaxis.range]
    for trace in figure.data:
        for axis, (low, high) in zip("xyz", ranges, strict=True):
            values = np.asarray(getattr(trace, axis), float)
            assert low < np.nanmin(values) and np.nanmax(values) < high
    lengths = np.array([high - low for low, high in ranges])
    aspect = np.array([scene.aspectratio.x, scene.aspectratio.y, scene.aspectratio.z])
    assert aspect / lengths == pytest.approx(aspect[0] / lengths[0])
    # From the camera, the eye is at the origin of its frame; the figure counts from its middle, in its own units.
    [button] = [one for one in figure.layout.updatemenus[0].buttons if one.label == "from the camera"]
    eye = button.args[1]["scene.camera"]["eye"]
    middle = np.mean(ranges, axis=1)
    assert middle + np.array([eye[axis] for axis in "xyz"]) * lengths / aspect == pytest.approx(0, abs=1e-9)


def test_the_pointer_shows_label_score_distance_and_size():
    _, front, _ = traces(draw_3d(photograph(), [make_box((3.0, 0.0, 4.0), score=0.914)], K), "car")
    text = front.hovertext[0]
    for part in ("<b>car</b>", "score 0.91", "distance 5.00 m", "x +3.00, y +0.00, z +4.00", "length 4.00"):
        assert part in text


def test_ground_truth_is_dashed_and_named():
    figure = draw_3d(photograph(), [], K, ground_truth=[make_box((0.0, 0.0, 9.0))])
    [lines] = traces(figure, "ground truth")
    assert lines.line.dash == "dash" and "ground truth" in lines.hovertext[0]


def test_hundreds_of_boxes_are_a_few_traces():
    boxes = [make_box((i % 20 - 10, 1.0, 5 + i), f"kind {i % 3}") for i in range(300)]
    figure = draw_3d(photograph(), boxes, K)
    assert len(figure.data) == 2 + 3 * 3
    colors = traces(figure, "kind 1")[1].facecolor
    assert len(colors) == 2 * 100 and len(set(colors)) == 2  # of 6 colours every third


def test_labels_are_never_markup(tmp_path):
    label = "</script><script>alert(1)</script><a href='x'>"
    figure = draw_3d(photograph(), [make_box((0.0, 0.0, 9.0), label)], K)
    figure.write_html(tmp_path / "view.html", include_plotlyjs="cdn")
    assert "<script>alert" not in (tmp_path / "view.html").read_text()
    shown = json.dumps([trace.to_plotly_json() for trace in figure.data[1:]], default=str)
    assert "<a href" not in shown and "&lt;a href" in shown


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (300, 4000)])
def test_any_size_of_picture_can_stand_there(size):
    k = [[500.0, 0.0, size[0] / 2], [0.0, 500.0, size[1] / 2], [0.0, 0.0, 1.0]]
    [mesh] = traces(draw_3d(photograph(size), [], k), "photograph")
    assert max(mesh.i) < len(mesh.x) <= IMAGE_VERTICES**2


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="image_depth: got -1"):
        draw_3d(photograph(), [], K, image_depth=-1)
    with pytest.raises(ValueError, match=r"boxes\[0\]\.center: got \[nan"):
        draw_3d(photograph(), [make_box((math.nan, 0.0, 1.0))], K)
    with pytest.raises(ValueError, match="intrinsics: got shape"):
        draw_3d(photograph(), [], [[1.0]])


def test_without_plotly_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'llmi3d\[plot\]'"):
        draw_3d(photograph(), [], K)
