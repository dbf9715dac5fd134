# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Bird's-eye views: boxes lie where they are, at one scale."""

import math

import pytest
import torch
from drawn_boxes import INTRINSICS, SIZE, changed_box, color_mass, make_box, nearly, rotation

from llmi3d.processing.drawing.birds_eye import draw_birds_eye_view
from llmi3d.processing.drawing.styles import GRID, PALETTE
from llmi3d.processing.geometry_llmi3d import quaternion_to_matrix


def test_boxes_lie_where_they_are_from_above():
    boxes = [make_box((-5.0, 0.0, 10.0)), make_box((5.0, 0.0, 10.0)), make_box((0.0, 0.0, 20.0))]
    view = draw_birds_eye_view(boxes, INTRINSICS, SIZE, size=(400, 500))
    assert view.size == (400, 500)
    left, right, far = (color_mass(view, PALETTE[i]) for i in range(3))
    assert (left[0] + right[0]) / 2 == pytest.approx(200, abs=5)
    assert far[0] == pytest.approx(200, abs=5)
    assert left[1] == pytest.approx(right[1], abs=4)
    pixels_per_metre = (left[1] - far[1]) / 10
    assert (right[0] - left[0]) / 10 == pytest.approx(pixels_per_metre, rel=0.05)


def test_a_heading_mark_points_to_the_front():
    box = make_box((0.0, 0.0, 10.0), size=(6.0, 1.5, 3.0), yaw=0.0)  # the front points right
    right = draw_birds_eye_view([box], INTRINSICS, SIZE)
    left = draw_birds_eye_view([{**box, "rotation": rotation(math.pi)}], INTRINSICS, SIZE)
    assert color_mass(right, PALETTE[0])[0] > color_mass(left, PALETTE[0])[0] + 1


@pytest.mark.parametrize("center", [(0, 0, 0.3), (0, 0, 400), (70, 0, 5), (-70, 0, 5), (2, 0, -30), (0, 0, 0)])
def test_the_range_fits_the_box(center):
    size = (0.2, 0.2, 0.2) if center[2] < 1 else (4.0, 2.0, 2.0)
    view = draw_birds_eye_view([make_box(center, size)], INTRINSICS, SIZE, size=(300, 300))
    assert all(10 < place < 290 for place in color_mass(view, PALETTE[0], tolerance=90))


def test_an_empty_view_has_a_grid():
    view = draw_birds_eye_view([], INTRINSICS, SIZE)
    assert any(nearly(color, GRID, 2) for _, color in view.getcolors(1 << 20))


@pytest.mark.parametrize("size", [(30, 30), (120, 700), (1200, 90)])
def test_any_size_of_view_can_be_drawn(size):
    assert draw_birds_eye_view([make_box((1.0, 0.0, 9.0))], INTRINSICS, SIZE, size=size).size == size


def test_a_tilted_box_shows_its_outline():
    tilted = quaternion_to_matrix(torch.tensor([0.5, 0.5, 0.5, 0.5])).tolist()
    box = {**make_box((0.0, 0.0, 10.0)), "rotation": tilted}
    color_mass(draw_birds_eye_view([box], INTRINSICS, SIZE), PALETTE[0])


def test_views_of_a_video_are_to_one_scale():
    near, far = ([make_box((0.0, 0.0, depth), size=(2, 2, 2))] for depth in (10.0, 25.0))
    places = [
        color_mass(draw_birds_eye_view(boxes, INTRINSICS, SIZE, reach=40.0), PALETTE[0])[1] for boxes in (near, far)
    ]
    both = draw_birds_eye_view([*near, *far], INTRINSICS, SIZE, reach=40.0)
    assert color_mass(both, PALETTE[0])[1] == pytest.approx(places[0], abs=1)
    assert color_mass(both, PALETTE[1])[1] == pytest.approx(places[1], abs=1)


def test_a_trail_is_drawn():
    boxes = [make_box((0.0, 0.0, 10.0), size=(0.2, 0.2, 0.2))]
    still = draw_birds_eye_view(boxes, INTRINSICS, SIZE)
    moved = draw_birds_eye_view([{**boxes[0], "trail": [[-4.0, 0.0, 10.0], [0.0, 0.0, 10.0]]}], INTRINSICS, SIZE)
    left, _, right, _ = changed_box(still, moved)
    assert right - left == pytest.approx(4 * 432 / 10.1, rel=0.1)  # pixels a metre
