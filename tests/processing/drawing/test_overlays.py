# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Overlays: what is drawn lies where projection puts it, and the rest of the image is unchanged."""

import math
import re
from xml.etree import ElementTree

import pytest
import torch
from drawn_boxes import (
    INTRINSICS,
    SIZE,
    K,
    changed_box,
    color_mass,
    corners_of,
    make_box,
    nearly,
    photograph,
    rotation,
)
from PIL import Image

from llmi3d.processing.drawing import draw_birds_eye_view, draw_boxes, draw_pointing, overlays, shrunk, surfaces
from llmi3d.processing.drawing.styles import FRONT_FACE, PALETTE, WHITE
from llmi3d.processing.geometry_llmi3d import EDGES, NEAR, project, project_box_2d, quaternion_to_matrix

SVG = "{http://www.w3.org/2000/svg}"


def test_only_the_extent_of_the_box_changes():
    image, box = photograph(), make_box((0.5, 0.3, 9.0))
    before = image.copy()
    drawn = draw_boxes(image, [box], INTRINSICS, show_labels=False)
    assert image.tobytes() == before.tobytes()
    assert drawn.mode == "RGB" and drawn.size == SIZE
    wanted = project_box_2d(corners_of(box), K).tolist()
    assert changed_box(image, drawn) == pytest.approx(wanted, abs=3)


def test_visible_edges_have_the_colour_of_the_box():
    box = make_box((0.5, 0.3, 9.0))
    drawn = draw_boxes(Image.new("RGB", SIZE), [box], INTRINSICS, show_labels=False)
    corners = corners_of(box)
    nearest = corners[:, 2].argmin().item()  # its edges are certainly not hidden
    u, v = project(corners[nearest], K).tolist()
    assert nearly(drawn.getpixel((int(u), int(v))), PALETTE[0])


def test_the_front_face_is_tinted_and_the_back_is_not():
    box = make_box((0.0, 0.0, 9.0), size=(3.0, 2.0, 2.0), yaw=math.pi / 4)  # both ends are seen
    drawn = draw_boxes(Image.new("RGB", SIZE), [box], INTRINSICS, show_labels=False)
    corners = corners_of(box)
    weights = torch.tensor([0.35, 0.15, 0.15, 0.35], dtype=torch.float64)  # off the cross
    front = project(weights @ corners[list(FRONT_FACE)], K)
    assert corners[list(FRONT_FACE), 0].mean() > 0
    u, v = front.tolist()
    assert sum(drawn.getpixel((int(u), int(v)))) > 60
    mirrored = draw_boxes(Image.new("RGB", SIZE), [{**box, "rotation": rotation(math.pi / 4 + math.pi)}], INTRINSICS)
    assert sum(mirrored.getpixel((int(u), int(v)))) == 0


@pytest.mark.parametrize(
    "box",
    [
        make_box((0.0, 0.0, -5.0)),
        make_box((0.0, 0.0, -1e-3), size=(0.001, 0.001, 0.001)),
        make_box((60.0, 0.0, 8.0)),
    ],
    ids=["behind", "just behind", "beside"],
)
def test_what_is_out_of_view_leaves_the_picture_alone(box):
    image = photograph()
    assert draw_boxes(image, [box], INTRINSICS).tobytes() == image.tobytes()
    assert draw_boxes(image, [], INTRINSICS).tobytes() == image.tobytes()


def test_edges_partly_behind_the_camera_go_straight():
    # A wall along the left, from 6 m behind the camera to 10 m before it. Its upper and lower edge leave the picture
    # on the left, where z = 520 * 1.9 / 310; nothing of it lies right of its far end.
    wall = {"label": "", "center": [-2.0, 0.0, 2.0], "size": [0.2, 2.0, 16.0], "rotation": torch.eye(3).tolist()}
    image = Image.new("RGB", SIZE)
    left, top, right, bottom = changed_box(image, draw_boxes(image, [wall], INTRINSICS, show_labels=False))
    reach = 540 * 310 / (520 * 1.9)
    assert (left, top, right, bottom) == pytest.approx((0, 250 - reach, 310 - 520 * 1.9 / 10, 250 + reach), abs=3)


def test_a_box_around_the_camera_is_drawn():
    room = {
        "label": "room",
        "center": [0, 0, 1.0],
        "size": [4, 3, 6],
        "rotation": torch.eye(3).tolist(),
        "score": None,
    }
    image = Image.new("RGB", SIZE)
    drawn = draw_boxes(image, [room], INTRINSICS)
    assert changed_box(image, drawn) is not None


def random_boxes(count, reach, seed=0):
    """Boxes turned every way around the camera, at its side, before and behind it."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield {
            "label": "thing",
            "center": (reach * torch.randn(3, generator=draw)).tolist(),
            "size": (0.3 + 3 * torch.rand(3, generator=draw)).tolist(),
            "rotation": quaternion_to_matrix(torch.randn(4, generator=draw).double()).tolist(),
        }


def test_hidden_edges_are_those_that_a_ray_meets_behind_the_box():
    counts = {True: 0, False: 0, None: 0}
    for box in [*random_boxes(150, reach=3.0), *random_boxes(30, reach=0.5)]:
        corners = corners_of(box)
        local = torch.tensor(box["rotation"], dtype=torch.float64).T  # camera frame to the box's own
        center, half = torch.tensor(box["center"]).double(), torch.tensor(box["size"]).double() / 2
        eye = local @ -center
        if (eye.abs() < half).all():
            assert not any(overlays._hidden_edges(corners))
            counts[None] += 1
            continue
        for (a, b), hidden in zip(EDGES, overlays._hidden_edges(corners), strict=True):
            # From the eye to the middle of the edge: where the ray is inside all three slabs, it is in the box. The
            # edge itself is touched at t = 1.
            ray = local @ ((corners[a] + corners[b]) / 2)
            enter = torch.minimum((-half - eye) / ray, (half - eye) / ray).max().item()
            assert enter < 1 + 1e-9
            if not 1 - 1e-3 < enter < 1 - 1e-9:  # else it only grazes
                assert hidden == (enter < 1 - 1e-3)
                counts[hidden] += 1
    assert min(counts.values()) >= 5, counts


def strokes(monkeypatch, box, size=SIZE):
    """Ends (pixels) of what is drawn of each of the twelve edges, None where nothing is; and the line's width."""
    found = []

    class Recorder(surfaces.RasterSurface):
        def path(self, points, color, width, dash=0.0):
            found.append(points)

    surface = Recorder(Image.new("RGB", size))
    overlays._draw_wireframe(surface, corners_of(box), K, WHITE, dashed=True)
    return [points or None for points in found[:12]], surface.line_width


def test_what_is_drawn_of_an_edge_is_what_is_seen_of_it(monkeypatch):
    intrinsics, seen, cut = K, 0, 0
    shares = torch.linspace(0, 1, 101).double()[:, None]
    for box in random_boxes(120, reach=2.0, seed=1):
        corners = corners_of(box)
        drawn, width = strokes(monkeypatch, box)
        for (a, b), ends in zip(EDGES, drawn, strict=True):
            points = corners[a] * (1 - shares) + corners[b] * shares
            points = points[points[:, 2] > NEAR]
            places = project(points, intrinsics)
            places = places[((places > 0) & (places < torch.tensor(SIZE))).all(-1)]
            seen += len(places) > 0
            if ends is None:
                assert not len(places)
                continue
            ends = torch.tensor(ends, dtype=torch.float64)
            margin = 3 * width + 1e-6
            assert (ends > -margin).all() and (ends < torch.tensor(SIZE).double() + margin).all()
            # Both ends are in the plane through the eye and the edge ...
            rays = torch.cat(((ends - intrinsics[:2, 2]) / intrinsics.diagonal()[:2], torch.ones(2, 1).double()), 1)
            normal = torch.linalg.cross(corners[a], corners[b])
            assert (rays @ normal / normal.norm()).abs().max() < 1e-6
            cut += (project(corners[[a, b]], intrinsics) - ends).abs().max() > 1
            # ... and between them lies all of the edge that the picture shows.
            along = (ends[1] - ends[0]) / (ends[1] - ends[0]).norm()
            reached = (places - ends[0]) @ along
            assert (reached > -1e-6).all() and (reached < (ends[1] - ends[0]).norm() + 1e-6).all()
    assert seen > 50 and cut > 50


def plates(monkeypatch, boxes, size=SIZE):
    """The label plates (x_min, y_min, x_max, y_max) that a drawing of `boxes` puts down, and their texts."""
    taken, texts = [], []

    class Recorder(surfaces.RasterSurface):
        def plate(self, *place):
            taken.append(place[:4])

        def text(self, position, text, color, anchor):
            texts.append(text)

    monkeypatch.setattr(surfaces, "RasterSurface", Recorder)
    draw_boxes(Image.new("RGB", size), boxes, INTRINSICS)
    return taken, texts


def test_labels_stay_inside_and_apart(monkeypatch):
    boxes = [make_box((0.1 * i, 0.3, 9.0 + i), score=0.5) for i in range(12)]
    boxes += [make_box((-5.4, -3.5, 9.0)), make_box((5.4, 3.5, 9.0)), make_box((0.3, 0.3, 1.2))]
    taken, _ = plates(monkeypatch, boxes)
    assert len(taken) == len(boxes)
    for i, (x_min, y_min, x_max, y_max) in enumerate(taken):
        assert 0 <= x_min < x_max <= SIZE[0] and 0 <= y_min < y_max <= SIZE[1]
        for other in taken[:i]:
            assert x_max <= other[0] or other[2] <= x_min or y_max <= other[1] or other[3] <= y_min


def test_labels_without_room_are_left_out(monkeypatch):
    boxes = [make_box((0.2 * (i % 50) - 5, 0.5, 6.0 + 0.1 * i), yaw=0.1 * i, score=0.5) for i in range(300)]
    taken, texts = plates(monkeypatch, boxes)
    assert 20 < len(taken) == len(texts) < 300
    assert texts[0] == f"car  0.50  {min(math.hypot(*box['center']) for box in boxes):.1f} m"  # the nearest first
    for i, (x_min, y_min, x_max, y_max) in enumerate(taken):
        for other in taken[:i]:
            assert x_max <= other[0] or other[2] <= x_min or y_max <= other[1] or other[3] <= y_min
    assert plates(monkeypatch, [make_box((0.0, 0.0, 9.0))], size=(40, 30))[0] == []


def test_long_names_are_cut_and_distances_kept(monkeypatch):
    boxes = [make_box((0.0, 0.0, 9.0), score=0.5, label="the car that stands left of the tree " * 4, track=7)]
    [(x_min, _, x_max, _)], [text] = plates(monkeypatch, boxes)
    assert text.startswith("#7 the car") and text.endswith("...  0.50  9.0 m")
    assert x_max - x_min < 0.6 * SIZE[0]


@pytest.mark.parametrize("change", [{"center": [0, math.nan, 9]}, {"size": [1, 2]}, {"rotation": None}])
def test_boxes_that_are_none_are_refused(change):
    [name] = change
    boxes = [make_box((0.0, 0.0, 9.0)), {**make_box((0.0, 0.0, 9.0)), **change}]
    for draw in (
        lambda: draw_boxes(photograph(), boxes, INTRINSICS),
        lambda: draw_birds_eye_view(boxes, INTRINSICS, SIZE),
    ):
        with pytest.raises(ValueError, match=rf"boxes\[1\].{name}: got .* want 3(x3)? finite numbers"):
            draw()
    with pytest.raises(ValueError, match=rf"ground_truth\[1\].{name}: got"):
        draw_boxes(photograph(), [], INTRINSICS, ground_truth=boxes)


def test_a_track_keeps_its_colour():
    boxes = [make_box((0.0, 0.0, 9.0), track=4)]
    drawn = draw_boxes(Image.new("RGB", SIZE), boxes, INTRINSICS, show_labels=False)
    color_mass(drawn, PALETTE[4])


def test_labels_grow_with_the_picture(monkeypatch):
    heights = []
    for size in ((640, 480), (2560, 1920)):
        with monkeypatch.context() as patch:
            ((_, y_min, _, y_max),), _ = plates(patch, [make_box((0.0, 0.0, 9.0))], size)
        heights.append(y_max - y_min)
    assert heights[1] > 3 * heights[0]


def test_a_label_says_name_score_and_distance(monkeypatch):
    boxes = [
        make_box((3.0, 0.0, 4.0), size=(1, 1, 1), score=0.914),
        {"category": "chair", "center": [-1.0, 0.0, 9.0], "size": [1, 1, 1], "rotation": rotation(0.0)},
    ]
    _, texts = plates(monkeypatch, boxes)
    assert texts == ["car  0.91  5.0 m", "chair  9.1 m"]


def test_a_hundred_boxes_are_drawn():
    boxes = [make_box((0.1 * (i % 50) - 2, 1.0, 4.0 + 0.5 * i), yaw=0.1 * i, score=0.5) for i in range(100)]
    assert draw_boxes(photograph(), boxes, INTRINSICS).size == SIZE


def test_ground_truth_is_white():
    image = Image.new("RGB", SIZE, (90, 90, 90))
    drawn = draw_boxes(image, [], INTRINSICS, ground_truth=[make_box((0.0, 0.0, 9.0))])
    colors = {color for _, color in drawn.getcolors(1 << 20)}
    assert any(nearly(color, WHITE, 5) for color in colors)
    assert all(max(color) - min(color) < 12 for color in colors)  # and nothing is coloured


def test_a_picture_that_is_stored_turned_is_turned():
    stored = photograph((480, 640))
    stored.getexif()[0x0112] = 6
    assert draw_boxes(stored, [], INTRINSICS).size == (640, 480)


def test_other_modes_of_pictures_are_drawn():
    for mode in ("L", "RGBA", "P"):
        assert draw_boxes(Image.new(mode, SIZE), [make_box((0.0, 0.0, 9.0))], INTRINSICS).mode == "RGB"


def test_wrong_intrinsics_are_refused():
    for draw in (
        lambda k: draw_boxes(photograph(), [], k),
        lambda k: draw_birds_eye_view([], k, SIZE),
    ):
        with pytest.raises(ValueError, match="intrinsics: got shape"):
            draw([[1.0, 2.0]])


def test_svg_has_the_lines_of_the_picture():
    boxes = [make_box((0.5, 0.3, 9.0), score=0.5), make_box((-2.0, 0.3, 12.0))]
    root = ElementTree.fromstring(draw_boxes(photograph(), boxes, INTRINSICS, svg=True))
    assert (root.get("width"), root.get("height")) == tuple(map(str, SIZE))
    assert root.find(f"{SVG}image").get("href").startswith("data:image/jpeg;base64,")
    assert [text.text for text in root.findall(f"{SVG}text")] == ["car  0.50  9.0 m", "car  12.2 m"]
    for i, box in enumerate(boxes):
        color = "#{:02x}{:02x}{:02x}".format(*PALETTE[i])
        lines = [path.get("d") for path in root.findall(f"{SVG}path") if path.get("stroke") == color]
        ends = [[float(number) for number in re.findall(r"-?[\d.]+", line)] for line in lines]
        corners = project(corners_of(box), K)
        for a, b in EDGES:
            wanted = [*corners[a].tolist(), *corners[b].tolist()]
            assert any(end == pytest.approx(wanted, abs=0.01) for end in ends)


def test_svg_takes_labels_as_text():
    label = "<script>alert('&')</script>\0\n"
    box = make_box((0.5, 0.3, 9.0), label=label, size=(1, 1, 1))
    drawn = draw_boxes(photograph((1600, 900)), [box], INTRINSICS, svg=True)
    assert "<script" not in drawn
    assert ElementTree.fromstring(drawn).find(f"{SVG}text").text.startswith("<script>alert('&')</script>")


def test_real_boxes_are_drawn_on_real_frames(samples):
    from llmi3d.data.sources.kitti import read_kitti_frames

    for row in list(read_kitti_frames(samples / "kitti"))[:3]:
        image = Image.open(row["image"])
        drawn = draw_boxes(image, row["objects"], row["intrinsics"], show_labels=False)
        lows_highs = torch.tensor([entry["box_2d"] for entry in row["objects"]])
        wanted = [*lows_highs[:, :2].amin(0).tolist(), *lows_highs[:, 2:].amax(0).tolist()]
        assert changed_box(image, drawn) == pytest.approx(wanted, abs=4)


def test_a_shrunk_picture_has_its_k():
    k = [[3000.0, 0, 2000], [0, 3000, 1500], [0, 0, 1]]
    image, small = shrunk(Image.new("L", (4000, 3000)), k)
    assert image.size == (1280, 960) and image.mode == "RGB"
    point = torch.tensor([[1.0, -0.5, 4.0]], dtype=torch.float64)
    full, drawn = (project(point, torch.as_tensor(one, dtype=torch.float64))[0] for one in (k, small))
    assert (full * 0.32).tolist() == pytest.approx(drawn.tolist())
    assert shrunk(Image.new("RGB", SIZE), INTRINSICS)[1].tolist() == INTRINSICS


def test_letters_of_a_font_of_ones_own(monkeypatch, tmp_path):
    import matplotlib

    box = make_box((0, 0, 12), label="\u0436\u0449")

    def label():
        return draw_boxes(Image.new("RGB", SIZE), [box], INTRINSICS).tobytes()

    without = label()
    monkeypatch.setenv("LLMI3D_FONT", str(matplotlib.get_data_path() + "/fonts/ttf/DejaVuSans.ttf"))
    assert label() != without
    (tmp_path / "broken.ttf").write_text("no font")
    monkeypatch.setenv("LLMI3D_FONT", str(tmp_path / "broken.ttf"))
    with pytest.raises(ValueError, match="LLMI3D_FONT: got"):
        label()


# ----------------------------------------------------------------------------------------------------------- pointing


def test_heat_lies_where_the_network_points():
    heat = torch.zeros(6, 8)
    heat[1, 6] = 0.9
    boxes = [make_box((0.0, 0.0, 9.0), pointing=heat.tolist()), make_box((1.0, 0.0, 9.0), pointing=heat.T.flip(0))]
    image = Image.new("RGB", SIZE, (10, 10, 10))
    for answer in ({"boxes": boxes[:1]}, [{"boxes": []}, {"boxes": boxes[:1]}], {"pointing": [heat]}):
        drawn = draw_pointing(image, answer)
        assert drawn.size == SIZE and color_mass(drawn, PALETTE[0], 80) == pytest.approx((519.5, 119.5), abs=2)
        left, top, right, bottom = changed_box(image, drawn)
        assert left >= 400 and right <= 640 and top >= 40 and bottom <= 200  # bilinear: half a cell further
    color_mass(draw_pointing(image, {"boxes": boxes}), PALETTE[1], 80)


@pytest.mark.parametrize("answer", [{"boxes": [make_box((0.0, 0.0, 9.0))]}, [], {"labels": []}])
def test_an_answer_without_pointing_draws_nothing(answer):
    image = photograph()
    assert draw_pointing(image, answer).tobytes() == image.tobytes()
