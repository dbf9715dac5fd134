# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Every model's box is exact, its front is where it should be, and its category cannot be read off its size."""

from functools import cache
from random import Random

import numpy as np
import pytest

from llmi3d.data.synthetic.assets import CATEGORIES, PAINTS, SURFACES, make_asset, support

DOMAINS = {"indoor", "tabletop", "driving", "objects"}
MATERIALS = {"wooden", "metal", "plastic", "fabric", "leather", "ceramic", "glass"}
VARIANTS = 20


@cache
def variants(name: str, count: int = VARIANTS):
    return [make_asset(name, Random(f"{name} {i}")) for i in range(count)]


def points(asset, *paints):
    return np.concatenate([part.vertices for part in asset.parts if not paints or part.paint in paints])


def volume(part):
    """Of a closed mesh, by the tetrahedra from the origin; negative if its faces look inwards."""
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    return np.einsum("ij,ij->", a, np.cross(b, c)) / 6


def is_closed(part):
    """Every edge is walked as often one way as the other; vertices that coincide are one."""
    _, same = np.unique(part.vertices.round(9), axis=0, return_inverse=True)
    faces = same.reshape(-1)[part.faces]
    edges = {}
    for face in faces:
        for a, b in zip(face, np.roll(face, -1), strict=True):
            edges[a, b] = edges.get((a, b), 0) + 1
    return all(edges.get((b, a), 0) == count for (a, b), count in edges.items())


def half_turn_gap(asset):
    """How far a vertex lands, at most, from any of its paint after half a turn, in lengths of the box's diagonal."""
    worst = 0.0
    for paint in {part.paint for part in asset.parts}:
        cloud = points(asset, paint)
        turned = cloud * [-1, 1, -1]
        worst = max(worst, np.sqrt(((turned[:, None] - cloud[None]) ** 2).sum(-1)).min(1).max())
    return worst / np.linalg.norm(asset.size)


@pytest.mark.parametrize("name", CATEGORIES)
def test_models_are_sound(name):
    for asset in variants(name):
        cloud = points(asset)
        np.testing.assert_allclose(cloud.max(0), np.array(asset.size) / 2, atol=1e-9)
        np.testing.assert_allclose(cloud.min(0), -np.array(asset.size) / 2, atol=1e-9)
        assert asset.category == name and all(type(length) is float for length in asset.size)
        assert 20 <= sum(len(part.faces) for part in asset.parts) <= 2000
        for part in asset.parts:
            assert part.paint in PAINTS
            assert part.vertices.dtype == np.float64 and np.isfinite(part.vertices).all()
            assert part.faces.shape[1:] == (3,) and part.faces.min() >= 0 and part.faces.max() < len(part.vertices)
            assert volume(part) > 0


@pytest.mark.parametrize("name", CATEGORIES)
def test_meshes_are_closed(name):
    assert all(is_closed(part) for asset in variants(name)[:4] for part in asset.parts)


@pytest.mark.parametrize("name", CATEGORIES)
def test_symmetric_is_what_half_a_turn_leaves_alone(name):
    for asset in variants(name):
        gap = half_turn_gap(asset)
        assert gap < 1e-5 if asset.symmetric else gap > 5e-3, (asset.symmetric, gap)


@pytest.mark.parametrize("name", CATEGORIES)
def test_sizes_spread(name):
    boxes = np.array([asset.size for asset in variants(name, 50)])
    assert np.ptp(np.log(boxes.prod(1))) > np.log(1.5)
    assert (boxes.max(0) / boxes.min(0) > 1.12).all()


def test_same_seed_same_model():
    for name in CATEGORIES:
        once, again = (make_asset(name, Random(7)) for _ in range(2))
        assert once.size == again.size and len(once.parts) == len(again.parts)
        for a, b in zip(once.parts, again.parts, strict=True):
            assert a.paint == b.paint and np.array_equal(a.vertices, b.vertices) and np.array_equal(a.faces, b.faces)
        assert make_asset(name, Random(8)).size != once.size


# (category, length, height, width), metres: what things of everyday life measure, with room for small and large ones
EVERYDAY = {
    "car": ((3.4, 5.2), (1.2, 1.95), (1.5, 2.1)),
    "bus": ((5.5, 14), (2.2, 3.8), (2.0, 3.2)),
    "pedestrian": ((0.15, 1.1), (0.95, 2.0), (0.3, 0.9)),
    "cyclist": ((1.4, 2.0), (1.4, 2.0), (0.4, 0.9)),
    "bicycle": ((1.4, 2.0), (0.75, 1.15), (0.4, 0.7)),
    "chair": ((0.35, 0.75), (0.7, 1.15), (0.35, 0.75)),
    "bed": ((1.6, 2.5), (0.7, 1.25), (0.75, 2.0)),
    "mug": ((0.07, 0.16), (0.07, 0.14), (0.06, 0.13)),
    "laptop": ((0.18, 0.5), (0.15, 0.32), (0.25, 0.42)),
    "shoe": ((0.2, 0.38), (0.07, 0.25), (0.07, 0.14)),
}


@pytest.mark.parametrize("name", EVERYDAY)
def test_sizes_are_everyday(name):
    for asset in variants(name, 50):
        for length, (low, high) in zip(asset.size, EVERYDAY[name], strict=True):
            assert low < length < high, asset.size


@pytest.mark.parametrize(
    "small, large",
    [
        ("night_stand", "cabinet"),
        ("car", "van"),
        ("van", "truck"),
        ("truck", "bus"),
        ("bowl", "vase"),
        ("bottle", "vase"),
        ("stool", "table"),
        ("table", "desk"),
        ("bookshelf", "wardrobe"),
        ("monitor", "television"),
        ("cyclist", "motorcycle"),
        ("traffic_cone", "bin"),
    ],
)
def test_a_size_does_not_name_its_category(small, large):
    volumes, extents = [], []
    for name in (small, large):
        boxes = np.array([asset.size for asset in variants(name, 50)])
        volumes.append(boxes.prod(1))
        extents.append((boxes.min(0), boxes.max(0)))
    assert volumes[0].max() > volumes[1].min() and volumes[1].max() > volumes[0].min()
    (low, high), (other_low, other_high) = extents
    assert (np.minimum(high, other_high) > np.maximum(low, other_low)).sum() >= 2  # along two axes at least


@pytest.mark.parametrize(
    "name, ahead, behind",
    [
        ("car", "light", "red_light"),
        ("van", "light", "red_light"),
        ("truck", "light", "red_light"),
        ("bus", "light", "red_light"),
        ("motorcycle", "light", "red_light"),
        ("television", "screen", "trim"),
        ("monitor", "screen", "trim"),
        ("camera", "glass", "screen"),
        ("pedestrian", "skin", "hair"),
    ],
)
def test_fronts_look_along_x(name, ahead, behind):
    seen = 0
    for asset in variants(name):
        if {ahead, behind} <= {part.paint for part in asset.parts}:
            seen += 1
            rear = points(asset, behind)
            front = points(asset, ahead)
            if name == "pedestrian":  # of the head alone
                front = front[front[:, 1] < rear[:, 1].max()]
            assert front[:, 0].mean() > rear[:, 0].mean()
    assert seen >= 5


def test_seats_open_to_the_front():
    for name in ("chair", "armchair", "sofa", "bed"):
        for asset in variants(name):
            cloud = points(asset)
            assert cloud[cloud[:, 1] < -0.42 * asset.size[1], 0].mean() < 0  # the back, or the headboard, is high


def test_y_points_down_and_z_to_the_left():
    for asset in variants("car"):
        assert points(asset, "rubber")[:, 1].mean() > 0 > points(asset, "glass")[:, 1].mean()
    for asset in variants("camera"):  # who looks along x has the grip in the right hand
        assert points(asset, "dark_fabric")[:, 2].mean() < 0


@pytest.mark.parametrize("name", SURFACES)
def test_support_is_a_flat_top_within_the_box(name):
    for asset in variants(name):
        y, length, width = support(asset)
        assert y == -asset.size[1] / 2
        assert 0.25 * asset.size[0] < length <= asset.size[0] / 2 + 1e-9
        assert 0.25 * asset.size[2] < width <= asset.size[2] / 2 + 1e-9
        # straight below each corner and the middle there is a face at that height
        for x, z in [(sx * 0.999 * length, sz * 0.999 * width) for sx in (-1, 1) for sz in (-1, 1)] + [(0.001, 0.002)]:
            assert any(covers(part, x, y, z) for part in asset.parts)


def covers(part, x, y, z):
    """Whether a level face at height y holds (x, z)."""
    for face in part.vertices[part.faces]:
        if np.abs(face[:, 1] - y).max() < 1e-6:
            edges = np.roll(face, -1, 0) - face
            side = edges[:, 0] * (z - face[:, 2]) - edges[:, 2] * (x - face[:, 0])
            if (side >= -1e-9).all() or (side <= 1e-9).all():
                return True
    return False


def test_no_support_on_other_things():
    assert all(support(variants(name)[0]) is None for name in CATEGORIES if name not in SURFACES)


def test_the_table_of_categories():
    assert set(SURFACES) <= set(CATEGORIES)
    for name, category in CATEGORIES.items():
        assert category.name == name and category.domains and set(category.domains) <= DOMAINS
        assert set(category.materials) <= MATERIALS
        if category.colors:
            assert all(any(part.paint == "body" for part in asset.parts) for asset in variants(name))
    assert all(sum(domain in c.domains for c in CATEGORIES.values()) >= 10 for domain in DOMAINS)


def test_unknown_category():
    with pytest.raises(ValueError, match="category: got 'unicorn', want one of chair"):
        make_asset("unicorn", Random(0))
