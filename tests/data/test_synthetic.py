"""The generator: pictures, masks, depth and boxes of one camera; the same in every process."""

import hashlib
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("embreex")

from llmi3d.data.build import build, open_source, read_row
from llmi3d.data.dataset import load_split
from llmi3d.data.schema import make_object, upright_image
from llmi3d.data.synthetic import camera_effects, textures, version1_rendering
from llmi3d.data.synthetic.assets import pooled_asset
from llmi3d.data.synthetic.ig3d_synth import DOMAINS, Synthetic
from llmi3d.data.synthetic.render import SCENERY, Light, Piece, Surface, Tracer, pixel_rays
from llmi3d.data.synthetic.scene import NOVEL_CATEGORIES, NOVEL_PAIRS, Floor, Traits, block, tilt, turn
from llmi3d.data.synthetic.shading import photograph
from llmi3d.data.synthetic.shapes import circle, loft
from llmi3d.processing.geometry_llmi3d import box_corners


def frames(count: int, **options):
    source = Synthetic(frames=f"train:{count}", **options)
    return [source.frame(image_id) for image_id in source.ids()]


@pytest.fixture(scope="module")
def some_frames():
    return frames(40, long_side=240)


# ------------------------------------------------------------ exactness


_SIDES = ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (2, 3, 7, 6), (0, 3, 7, 4), (1, 2, 6, 5))


def test_extents_of_masks_are_those_of_the_projected_corners():
    """500 objects: a label's own box, cast as a solid, covers the pixels that its `box_2d` says; so does the model."""
    faces = np.concatenate([[(a, b, c), (a, c, d)] for a, b, c, d in _SIDES])
    errors = {"box": [], "model": []}
    seed = 0
    while len(errors["box"]) < 500:
        scene = list(DOMAINS.values())[seed % 4](Random(seed), Traits())
        seed += 1
        for one in scene.placed:
            center, rotation = scene.to_camera @ one.position, scene.to_camera @ one.rotation
            corners = box_corners(*(torch.as_tensor(value) for value in (center, one.asset.size, rotation))).numpy()
            if corners[:, 2].min() < 0.2:
                continue
            entry = make_object("0", "thing", center, one.asset.size, rotation, scene.intrinsics)
            box = Tracer([Piece(corners, faces, Surface((1, 1, 1)), 0)], np.eye(3))
            model = Tracer(one.pieces(0), scene.to_camera)
            vertices = model.triangles.reshape(-1, 3) @ scene.intrinsics.T
            projected = vertices[:, :2] / vertices[:, 2:]
            extents = np.concatenate((projected.min(0), projected.max(0)))
            for name, tracer, wanted in (("box", box, entry["box_2d"]), ("model", model, extents)):
                found = _extents(tracer, scene, entry["box_2d"])
                if found is not None:
                    errors[name].append(np.abs(found - wanted).max())
    for name, found in errors.items():
        # A corner is a point, whose tip may pass between the centres of pixels.
        assert np.quantile(found, 0.95) <= 1.0, (name, np.quantile(found, (0.5, 0.9, 0.95, 1)))
        assert np.mean(found) < 0.7, name


def _extents(tracer: Tracer, scene, around) -> np.ndarray | None:
    """(x_min, y_min, x_max, y_max) of the pixels that an object covers, also beyond the picture; None for none."""
    low, high = np.floor(around[:2]).astype(int) - 4, np.ceil(around[2:]).astype(int) + 4
    if (high - low).max() > 1500:
        return None
    v, u = np.mgrid[low[1] : high[1], low[0] : high[0]] + 0.5
    seen = tracer.owners(pixel_rays(u, v, scene.intrinsics).reshape(-1, 3)).reshape(u.shape) == 0
    if not seen.any():
        return None
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return np.array([columns[0] + low[0], rows[0] + low[1], columns[-1] + 1 + low[0], rows[-1] + 1 + low[1]])


def test_visible_surface_lies_inside_the_box(some_frames):
    checked = 0
    for frame in some_frames:
        height, width = frame.rendered.depth.shape
        v, u = np.mgrid[0:height, 0:width] + 0.5
        points = pixel_rays(u, v, frame.scene.intrinsics) * frame.rendered.depth[..., None]
        for entry in frame.row["objects"]:
            own = points[frame.rendered.owners == int(entry["id"])].astype(np.float64)
            local = (own - entry["center"]) @ np.array(entry["rotation"])
            beyond = np.abs(local) - np.array(entry["size"]) / 2
            assert beyond.max() < 1e-4 * np.linalg.norm(entry["center"]) + 1e-4
            checked += 1
    assert checked > 150


RENDERERS = pytest.mark.parametrize("render", (version1_rendering.render, photograph))


@RENDERERS
def test_label_of_the_nearer_owner_wins(render):
    near, far = (block((0, 0, z), (1, 1, 0.1), Surface((0.5, 0.5, 0.5))) for z in (2.0, 4.0))
    pieces = [Piece(solid.vertices, solid.faces, solid.surface, owner) for owner, solid in ((7, far), (3, near))]
    intrinsics = np.array([[100.0, 0, 50], [0, 100.0, 50], [0, 0, 1]])
    rendered = render(Tracer(pieces, np.eye(3)), intrinsics, (100, 100), Light((0, -5, 0)))
    assert rendered.owners[50, 50] == 3
    assert rendered.depth[50, 50] == pytest.approx(1.95, abs=1e-5)
    assert rendered.owners[0, 0] == SCENERY
    assert np.isinf(rendered.depth[0, 0])


def test_visibility_and_truncation_are_shares_of_the_projected_area():
    """A wall hides half of what the picture's edge leaves of an object."""
    frame = next(
        one
        for one in frames(24, domains="driving", long_side=160)
        if any(entry["truncation"] > 0.2 for entry in one.row["objects"])
    )
    for entry in frame.row["objects"]:
        assert 0 <= entry["visibility"] <= 1 - entry["truncation"] + 1e-9
    inside = [
        entry
        for entry in frame.row["objects"]
        if entry["box_2d"][0] >= 0
        and entry["box_2d"][2] <= frame.scene.image_size[0]
        and entry["box_2d"][1] >= 0
        and entry["box_2d"][3] <= frame.scene.image_size[1]
    ]
    assert inside
    assert all(entry["truncation"] == 0 for entry in inside)


@RENDERERS
def test_shadow_falls_away_from_the_light(render):
    """A block between light and floor darkens the floor behind it, and nothing else."""
    floor = block((0, 1.5, 5), (8, 0.1, 8), Surface((0.8, 0.8, 0.8)))
    intrinsics = np.array([[150.0, 0, 100], [0, 150.0, 60], [0, 0, 1]])
    light = Light((-6, -6, 5), ambient=(0.2, 0.2, 0.2), reach=0.2)
    empty = render(Tracer([floor], np.eye(3)), intrinsics, (200, 120), light).color
    thing = block((0, 1.0, 5), (0.6, 0.9, 0.6), Surface((0.8, 0.8, 0.8)))
    shown = render(Tracer([floor, thing], np.eye(3)), intrinsics, (200, 120), light)
    darker = (shown.color.mean(-1) < 0.6 * empty.mean(-1)) & (shown.depth > 0)
    columns = np.flatnonzero(darker[85:].any(0))
    assert columns.size
    assert columns.mean() > 100  # the light stands left, so the shadow falls to the right of the middle


def test_corners_get_less_light_from_all_sides():
    floor = block((0, 1.05, 5), (8, 0.1, 8), Surface((0.8, 0.8, 0.8)))
    wall = block((0, -1, 6), (8, 4, 0.1), Surface((0.8, 0.8, 0.8)))
    intrinsics = np.array([[150.0, 0, 100], [0, 150.0, 60], [0, 0, 1]])
    light = Light((0, -9, 0), color=(0, 0, 0), bounce=(0.4, 0.4, 0.4), reach=0.5)
    rendered = photograph(Tracer([floor, wall], np.eye(3)), intrinsics, (200, 120), light)
    column = rendered.color[:, 100].mean(-1)
    corner = round(60 + 150 / 5.95)
    assert column[corner + 1] < 0.85 * column[110]
    assert column[corner - 2] < 0.85 * column[30]


def test_round_things_are_shaded_smoothly():
    """Within a cylinder's flank no facet shows; its caps keep their edge."""
    flank = loft([circle((0, y, 5), 1, 1) for y in (-1, 1)], "body")
    piece = Piece(flank.vertices, flank.faces, Surface((0.7, 0.7, 0.7)))
    intrinsics = np.array([[300.0, 0, 100], [0, 300.0, 50], [0, 0, 1]])
    light = Light((-20, -1, 0), ambient=(0, 0, 0), bounce=(0, 0, 0))
    steps = {}
    for render in (version1_rendering.render, photograph):
        row = render(Tracer([piece], np.eye(3)), intrinsics, (200, 100), light).color[50, 50:150].mean(-1)
        steps[render] = np.abs(np.diff(row)).max()
    assert steps[photograph] < 0.3 * steps[version1_rendering.render]


def test_edges_are_mixed_where_they_are():
    """Left of a slanted edge it is dark, right of it bright: each row's light says where the edge crosses it."""
    sheet = np.array([(-9, -9, 2), (-0.3, -9, 2), (0.6, 9, 2), (-9, 9, 2)], float)
    piece = Piece(sheet, np.array([[0, 1, 2], [0, 2, 3]]), Surface((0, 0, 0)), 0)
    behind = block((0, 0, 3), (40, 40, 0.1), Surface((1, 1, 1), glow=10.0))
    intrinsics = np.array([[60.0, 0, 40], [0, 60.0, 40], [0, 0, 1]])
    light = Light((0, -9, 0), color=(0, 0, 0), ambient=(0, 0, 0), bounce=(0, 0, 0))
    color = photograph(Tracer([piece, behind], np.eye(3)), intrinsics, (80, 80), light).color.mean(-1)
    rows = np.arange(1, 79)
    middle = (0.15 + (rows + 0.5 - 40) / 60 * 2 * 0.05) / 2 * 60 + 40
    error = 80 - np.minimum(color[rows], 4).sum(1) / 4 - middle
    assert abs(error.mean()) < 0.05
    assert np.abs(error).mean() < 0.15  # a quarter of a pixel without the additional rays


# ------------------------------------------------------------ reproducibility


def test_pictures_are_the_same_in_another_process():
    source = Synthetic(frames="train:4", long_side=320, masks=True)
    here = [_digest(source.read(image_id)) for image_id in source.ids()]
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_synthetic import Synthetic, _digest\n"
        "source = Synthetic(frames='train:4', long_side=320, masks=True)\n"
        "print(*[_digest(source.read(one)) for one in reversed(source.ids())])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert there[::-1] == here
    assert len(set(here)) == 4


def _digest(row: dict) -> str:
    whole = row["image"]["bytes"] + row["instance_map"]["bytes"] + repr(row["objects"]).encode()
    return hashlib.sha256(whole).hexdigest()


def test_parts_of_a_set_are_frames_of_the_whole():
    whole, part = Synthetic(frames="train:6", long_side=48), Synthetic(frames="train:2", long_side=48, start=3)
    assert part.ids() == [name for name in whole.ids() if name.endswith(("3", "4"))]
    assert part.read(part.ids()[0]) == whole.read(part.ids()[0])


def test_version_1_has_the_objects_it_had():
    """Sums over objects, as the first release rendered them."""
    source = Synthetic(frames="test:12", long_side=96, version=1, seed=1000)
    objects = [entry for name in source.ids() for entry in source.frame(name).row["objects"]]
    assert len(objects) == 69
    assert np.sum([entry["center"] for entry in objects]) == pytest.approx(655.4845599485665)
    assert np.sum([entry["size"] for entry in objects]) == pytest.approx(235.21930650785737)


def test_models_of_a_pool_are_drawn_again_in_other_sizes():
    drawn = [pooled_asset("mug", Random(seed), "0") for seed in range(30)]
    assert len({asset.size for asset in drawn}) == 30
    for asset in drawn:
        vertices = np.concatenate([part.vertices for part in asset.parts])
        np.testing.assert_allclose(np.ptp(vertices, axis=0), asset.size)
    assert pooled_asset("mug", Random(3), "1").size != drawn[3].size


def test_seed_changes_everything():
    one, other = (Synthetic(frames="train:1", long_side=320, seed=seed) for seed in (0, 1))
    assert one.read(one.ids()[0])["image"]["bytes"] != other.read(other.ids()[0])["image"]["bytes"]


def test_resolution_keeps_the_scene():
    """Fewer pixels show the same objects in the same places."""
    large, small = (Synthetic(frames="train:4", long_side=long_side) for long_side in (400, 320))
    for image_id in large.ids():
        first, second = large.frame(image_id), small.frame(image_id)
        assert max(second.scene.image_size) == 320
        placed = {entry["id"]: entry for entry in first.row["objects"]}
        for entry in second.row["objects"]:
            assert entry["center"] == placed[entry["id"]]["center"]
            ratio = second.scene.image_size[0] / first.scene.image_size[0]
            if entry["box_2d"] is not None:
                assert entry["box_2d"][0] == pytest.approx(placed[entry["id"]]["box_2d"][0] * ratio, abs=1e-6)


# ------------------------------------------------------------ splits


def test_held_out_things_appear_in_novel_alone():
    source = Synthetic(frames="train:60,dense:12,novel:48", long_side=48)
    held = {"train": 0, "dense": 0, "novel": 0}
    for image_id in source.ids():
        scene = source.frame(image_id).scene
        held[image_id.split("/")[1]] += sum(
            one.asset.category in NOVEL_CATEGORIES or (one.color, one.asset.category) in NOVEL_PAIRS
            for one in scene.placed
        )
    assert held["train"] == held["dense"] == 0
    assert held["novel"] > 50


@pytest.mark.parametrize("domain", DOMAINS)
def test_focal_lengths_of_the_split_camera_lie_outside_the_usual_ones(domain):
    source = Synthetic(frames="train:30,camera:30", domains=domain, long_side=48)
    focal = {"train": [], "camera": []}
    for image_id in source.ids():
        scene = source.frame(image_id).scene
        focal[image_id.split("/")[1]].append(scene.intrinsics[0, 0] / scene.image_size[0])
    low, high = min(focal["train"]), max(focal["train"])
    assert high > 1.1 * low
    outside = [one < low * 0.99 or one > high * 1.01 for one in focal["camera"]]
    assert sum(outside) >= 0.9 * len(outside)


def test_far_and_dense_are_what_they_say():
    source = Synthetic(frames="test:24,far:24,dense:24", long_side=160)
    counts, sides = {}, {}
    for image_id in source.ids():
        row = source.frame(image_id).row
        split = row["split"]
        counts.setdefault(split, []).append(len(row["objects"]))
        sides.setdefault(split, []).extend(
            one["box_2d"][3] - one["box_2d"][1] for one in row["objects"] if one["box_2d"] is not None
        )
    assert np.mean(counts["dense"]) > 1.5 * np.mean(counts["test"])
    assert np.median(sides["far"]) < 0.7 * np.median(sides["test"])


# ------------------------------------------------------------ objects


def test_objects_do_not_stand_in_one_another(some_frames):
    """No sampled point of a placed object's box, a little shrunk, lies in another's."""
    grid = np.stack(np.meshgrid(*[np.linspace(-0.4, 0.4, 5)] * 3), -1).reshape(-1, 3)
    for frame in some_frames:
        if frame.row["image_id"].split("/")[-1].startswith("indoor"):
            continue  # what stands on a table may reach into the box of its chair
        for i, one in enumerate(frame.scene.placed):
            for other in frame.scene.placed[i + 1 :]:
                points = (grid * one.asset.size) @ one.rotation.T + one.position
                local = np.abs((points - other.position) @ other.rotation)
                assert not (local < 0.4 * np.array(other.asset.size)).all(1).any()


def test_floor_refuses_what_overlaps():
    thing = (2.0, 1.0, 1.0)  # length, height, width
    floor = Floor(gap=0.0)
    assert floor.take(0, 0, thing, 0.0)
    assert not floor.take(0.9, 0.9, thing, np.pi / 4)
    assert floor.take(0, 1.01, thing, 0.0)
    assert not floor.take(1.4, 0.0, thing, np.pi / 4)
    assert floor.take(1.51, 0.0, thing, np.pi / 2)


def test_turn_and_tilt_are_rotations_with_the_stated_sense():
    np.testing.assert_allclose(turn(-np.pi / 2) @ [1, 0, 0], [0, 0, 1], atol=1e-12)
    down = tilt(0.3, 0.0) @ [0, 0, 1]
    assert down[1] < 0  # a camera that looks down sees the level line above its middle
    for rotation in (turn(0.7), tilt(0.3, -0.2)):
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)


# ------------------------------------------------------------ rendering


@pytest.mark.parametrize("name", version1_rendering.TEXTURES)
def test_textures_of_version_1_are_shares(name):
    points = np.random.default_rng(0).uniform(-30, 30, (4000, 3)).astype(np.float32)
    shares = version1_rendering.TEXTURES[name](points, np.arange(4000) % 3, 0.4)
    assert shares.shape == (4000,)
    assert shares.min() >= 0
    assert shares.max() <= 1 + 1e-6
    assert (shares.std() > 0.05) == (name != "plain")


@pytest.mark.parametrize("name", textures.TEXTURES)
def test_textures_are_colours_that_fade_with_the_size_of_a_pixel(name):
    a, b = np.random.default_rng(0).uniform(-30, 30, (2, 4000)).astype(np.float32)
    surface = Surface((0.6, 0.5, 0.4), name, second=(0.2, 0.3, 0.5), scale=0.4)
    near, far = (textures.TEXTURES[name](surface, a, b, np.full(4000, size, np.float32)) for size in (0.001, 30.0))
    for color in (near, far):
        assert color.shape == (3, 4000) or color.shape == (3, 1)
        assert color.min() > -0.3 and color.max() < 1.5  # cut to [0, 1] where they are used
    assert near.std(1).mean() > 0.005
    assert far.std(1).mean() < 1.02 * near.std(1).mean()


@pytest.mark.parametrize("kind", ("clouds", "grain", "fibres"))
def test_fields_are_even_and_repeat(kind):
    texels = textures.field(kind)
    assert np.histogram(texels, 10, (0, 1))[0].std() < 0.01 * len(texels)
    a, b = np.random.default_rng(1).uniform(-3, 3, (2, 500)).astype(np.float32)
    np.testing.assert_allclose(textures.noise(kind, a, b), textures.noise(kind, a + 2, b - 1), atol=0.05)


def test_noise_of_version_1_is_smooth_and_varied():
    points = np.random.default_rng(1).uniform(-50, 50, (5000, 3))
    values = version1_rendering.noise(points)
    assert 0.4 < values.mean() < 0.6
    assert values.std() > 0.1
    assert np.abs(version1_rendering.noise(points + 1e-3) - values).max() < 0.02


def test_sensor_noise_has_its_seed():
    color, depth = np.full((32, 32, 3), 0.3, np.float32), np.ones((32, 32), np.float32)
    camera = camera_effects.draw_camera(Random(0))
    files = [camera_effects.develop(color, depth, camera, seed) for seed in (1, 1, 2)]
    assert files[0] == files[1] != files[2]
    sensor = version1_rendering.Sensor(noise=0.02)
    files = [version1_rendering.develop(color, sensor, seed) for seed in (1, 1, 2)]
    assert files[0] == files[1] != files[2]


def test_cameras_leave_things_where_they_are():
    """A bright disc's centre of mass stays within a third of a pixel, whatever the lens, motion and fringes."""
    v, u = np.mgrid[0:96, 0:128]
    disc = ((u - 90) ** 2 + (v - 30) ** 2 < 64).astype(np.float32)
    light = np.repeat((0.02 + 0.3 * disc)[..., None], 3, 2)
    for seed in range(60):
        camera = replace(camera_effects.draw_camera(Random(seed), shallow=True), noise=0.0, vignette=0.0, quality=95)
        file = camera_effects.develop(light, np.where(disc > 0, 1.0, 3.0).astype(np.float32), camera, seed)
        shown = np.asarray(Image.open(io.BytesIO(file)).convert("L"), float)
        shown = np.maximum(shown - (shown.min() + shown.max()) / 2, 0)
        assert abs((shown * u).sum() / shown.sum() - 90) < 0.34, camera
        assert abs((shown * v).sum() / shown.sum() - 30) < 0.34, camera


def test_oversampling_smooths_edges_alone():
    frame = frames(1, long_side=160)[0]
    tracer = Tracer(frame.scene.pieces(), frame.scene.to_camera)
    fine = photograph(tracer, frame.scene.intrinsics, frame.scene.image_size, frame.scene.light, oversample=3)
    np.testing.assert_array_equal(fine.owners, frame.rendered.owners)
    assert 0 < np.abs(fine.color - frame.rendered.color).mean() < 0.1


# ------------------------------------------------------------ building


def test_built_rows_have_everything(tmp_path):
    report = build(
        open_source("synth", None, frames="train:8,test:4", long_side="320", masks="true"), tmp_path, progress=False
    )
    assert report.rows["train"] + report.rows["test"] + len(report.skipped) == 12
    assert report.rows["train"] >= 6
    for row in load_split(tmp_path, "train"):
        image = upright_image(row["image"])
        mask = np.asarray(row["instance_map"])
        assert mask.shape == (image.height, image.width)
        assert mask.max() <= len(row["objects"])
        for place, entry in enumerate(row["objects"]):
            assert (mask == place + 1).any(), entry
        assert row["messages"]


def test_another_rendering_is_another_build(tmp_path):
    build(Synthetic(frames="train:2", long_side=64), tmp_path, progress=False)
    with pytest.raises(ValueError, match="other rendering"):
        build(Synthetic(frames="train:2", long_side=96), tmp_path, progress=False)


def test_rows_are_valid_and_can_be_talked_about():
    source = Synthetic(frames="test:12", long_side=320)
    kinds = set()
    for image_id in source.ids():
        kinds |= {one["kind"] for one in read_row(source, image_id, max_turns=12)["meanings"]}
    assert len(kinds) > 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": "train:0"}, "frames: got '0', want a whole number of at least 1"),
        ({"frames": "training:5"}, "frames: got 'training', want some of train"),
        ({"domains": "indoor,sea"}, "domains: got 'sea', want some of indoor"),
        ({"long_side": "big"}, "long_side: got 'big'"),
        ({"oversample": "9"}, "at least 1 and at most 4"),
        ({"version": "3"}, "version: got '3', want a whole number of at least 1 and at most 2"),
        ({"start": "-1"}, "start: got '-1', want a whole number of at least 0"),
        ({"masks": "maybe"}, "masks: got 'maybe', want true or false"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        open_source("synth", None, **options)


def test_what_is_read_needs_a_root():
    with pytest.raises(ValueError, match="root: got none, want the folder of a kitti download"):
        open_source("kitti", None)
