# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Streets: seen ahead from a car as in KITTI (`driving`), or by one of six cameras as in nuScenes (`surround`)."""

import math
from dataclasses import replace
from random import Random

import numpy as np

from llmi3d.data.synthetic import townscape, version1_scenery
from llmi3d.data.synthetic.camera_effects import draw_camera
from llmi3d.data.synthetic.scene import (
    Floor,
    Placed,
    Scene,
    Traits,
    camera,
    choose,
    dressed,
    tilt,
    turn,
    turned,
    upright,
)
from llmi3d.data.synthetic.version1_rendering import sensor

DRIVING_SIZES, DRIVING_FOCAL = ((1242, 375), (1238, 374), (1224, 370)), (0.52, 0.66)
# Version 2 has KITTI's own focal length in most images, and cameras of other makes.
OTHER_SIZES, OTHER_FOCAL, KITTI_FOCAL = ((1920, 1080), (1280, 720), (1600, 900), (1280, 960)), (0.5, 1.15), (0.57, 0.6)
SURROUND_SIZES, SURROUND_FOCAL = ((1600, 900),), (0.5, 0.8)
# Headings of nuScenes' six cameras relative to the car, degrees, clockwise.
HEADINGS = (0, 55, -55, 110, -110, 180)

ON_THE_ROAD = {"car": 5, "van": 1.5, "truck": 1.2, "bus": 1, "cyclist": 1.5, "motorcycle": 1.0}
PARKED = {"car": 5, "van": 1.5, "truck": 0.6, "motorcycle": 1.0, "bicycle": 1.0}
ON_THE_PAVEMENT = {"pedestrian": 5, "bicycle": 0.8, "bin": 0.8, "bench": 1.0, "cyclist": 0.5}
IN_THE_WAY = {"traffic_cone": 2.5, "barrier": 1.5, "pedestrian": 2, "cyclist": 1}
SEEN_UP_TO = 65.0  # metres


def driving(draw: Random, traits: Traits) -> Scene:
    """Draw a street ahead of the camera."""
    if traits.version == 1:
        return _street(draw, traits, draw.choice(DRIVING_SIZES), DRIVING_FOCAL, 0.0, (1.55, 1.75))
    # Roads bend and cars turn, so that what is parked along them shows its side.
    heading = math.radians(draw.gauss(0, 2) if draw.random() < 0.75 else draw.uniform(-40, 40))
    if not traits.focal and draw.random() < 0.65:
        return _street(draw, traits, draw.choice(DRIVING_SIZES), KITTI_FOCAL, heading, (1.6, 1.7))
    return _street(draw, traits, draw.choice(OTHER_SIZES), OTHER_FOCAL, heading, (1.2, 1.9))


def surround(draw: Random, traits: Traits) -> Scene:
    """Draw a street around one of six cameras."""
    heading = math.radians(draw.choice(HEADINGS) + draw.gauss(0, 1))
    return _street(draw, traits, draw.choice(SURROUND_SIZES), SURROUND_FOCAL, heading, (1.45, 1.85))


def _street(draw, traits, image_size, focal_range, heading: float, heights) -> Scene:
    intrinsics, zoom = camera(draw, image_size, focal_range, traits)
    height = draw.uniform(*heights)
    modern = traits.version > 1
    # Along the street is z; the camera stands in its own lane, at x = 0.
    lane = draw.uniform(3.0, 3.7)
    lanes = draw.choice((2, 2, 3, 4))
    own = draw.randrange(lanes)
    left, right = -(own + 0.5) * lane, (lanes - own - 0.5) * lane
    parking = draw.choice((0.0, 2.3, 2.3, 5.0) if modern else (0.0, 2.3))
    pavement = draw.uniform(2.0, 4.0)
    edges = (left, right, parking, pavement)
    to_view = turn(-heading)  # the street as seen by a camera that is turned to the right by `heading`
    tilted = tilt(math.radians(draw.gauss(0.5, 1.0)), math.radians(draw.gauss(0, 0.7)))
    half_view = 0.5 * image_size[0] / intrinsics[0, 0]
    reach = SEEN_UP_TO * (1 if heading == 0 or (modern and abs(heading) < 0.2) else 0.75) * min(1.4, max(1.0, zoom))
    if modern:  # as far as a long lens sees what KITTI's sees at 65 m
        reach *= min(1.6, max(1.0, intrinsics[0, 0] / image_size[0] / 0.6))
    nearest = 0.45 * reach if traits.far else 4.0

    floor, placed = Floor(gap=0.25), []
    wanted = draw.randint(12, 20) if traits.dense else draw.randint(4, 11)
    if modern and not traits.far:
        placed = _parked(draw, traits, edges, to_view, half_view, reach, height, floor)
        wanted = min(len(placed) + wanted, 18)
    for _ in range(40 * wanted):
        if len(placed) >= wanted:
            break
        # Denser near the camera, where the view is narrow.
        distance = nearest + (reach - nearest) * draw.random() ** 1.8
        bearing = math.atan(draw.uniform(-1.05, 1.05) * half_view)
        ahead = np.array((distance * math.sin(bearing), 0.0, distance * math.cos(bearing)))
        x, _, z = to_view.T @ ahead
        spot = _spot(x, lane, edges, draw, traits)
        if spot is None:
            continue
        x, yaw, pool = spot
        if floor.covers(x, z):
            continue
        if modern and pool is IN_THE_WAY and draw.random() < 0.5:
            pool = ON_THE_ROAD
        clothes = dressed(choose(pool, draw, traits), draw, traits)
        if math.hypot(x, z) < 3.2 + clothes["asset"].size[0] / 2 or not floor.take(x, z, clothes["asset"].size, yaw):
            continue
        placed.append(_seen_from(to_view, upright(x, z, height, yaw, clothes)))
    if not modern:
        drawn = (
            version1_scenery.street(draw, edges, lane, lanes, height),
            version1_scenery.daylight(draw),
            sensor(draw),
        )
    else:

        def seen(x: float, z: float) -> bool:
            right, _, ahead = to_view @ (x, 0.0, z)
            return ahead > -12 and abs(right) < 1.25 * half_view * max(ahead, 0) + 22

        scenery = townscape.street(draw, edges, lane, lanes, height, seen)
        drawn = scenery, townscape.daylight(draw), draw_camera(draw, moving=True)
    scenery, light, taken_by = drawn
    scenery = [turned(piece, to_view) for piece in scenery]
    return Scene(image_size, intrinsics, tilted, placed, scenery, light, taken_by)


def _parked(draw: Random, traits: Traits, edges, to_view, half_view: float, reach: float, height: float, floor: Floor):
    """Draw rows of parked vehicles on either side: in line, or side by side where there is room."""
    left, right, parking, _ = edges
    placed = []
    for side, edge in ((-1, left), (1, right)):
        if not parking or draw.random() < 0.25:
            continue
        across = parking > 3
        angle = math.radians(draw.choice((90, 90, 60, -60))) if across else 0.0
        taken, nose_in = draw.uniform(0.3, 0.95), draw.random() < 0.5
        z = draw.uniform(-8, 0)
        while z < reach and len(placed) < 11:
            step = draw.uniform(2.5, 3.0) / abs(math.sin(angle)) if across else draw.uniform(5.0, 6.2)
            x = edge + side * (parking / 2 + draw.gauss(0, 0.12))
            seen = to_view @ np.array((x, 0.0, z))
            z += step
            if draw.random() > taken or seen[2] < 3 or abs(seen[0]) > 1.1 * half_view * seen[2] + 2:
                continue
            # With the traffic of that side, or turned towards the pavement.
            yaw = (-math.pi / 2 if side > 0 else math.pi / 2) + (side * angle if nose_in else -side * angle)
            yaw += math.radians(draw.gauss(0, 2)) + (math.pi if draw.random() < 0.12 else 0)
            clothes = dressed(choose({**PARKED, "car": 12}, draw, traits), draw, traits)
            size = clothes["asset"].size
            if math.hypot(x, z - step) < 3.2 + size[0] / 2 or not floor.take(x, z - step, size, yaw):
                continue
            placed.append(_seen_from(to_view, upright(x, z - step, height, yaw, clothes)))
    return placed


def _seen_from(to_view: np.ndarray, item: Placed) -> Placed:
    """Return an object of the street in the frame of a turned camera."""
    return replace(item, position=to_view @ item.position, rotation=to_view @ item.rotation)


def _spot(x: float, lane: float, edges, draw: Random, traits: Traits) -> tuple[float, float, dict] | None:
    """Draw the x, yaw and possible categories of an object near x; None where buildings are."""
    left, right, parking, pavement = edges
    along, against = -math.pi / 2, math.pi / 2
    if left < x < right:
        if draw.random() < 0.2:
            return x, draw.uniform(-math.pi, math.pi), IN_THE_WAY
        number = math.floor((x - left) / lane)
        middle = left + (number + 0.5) * lane
        with_us = middle > -0.6 * lane
        yaw = along if with_us else against
        if draw.random() < 0.08:  # crossing or turning
            yaw += draw.uniform(-1.6, 1.6)
        return middle + draw.gauss(0, 0.25), yaw + math.radians(draw.gauss(0, 2)), ON_THE_ROAD
    side = 1 if x >= right else -1
    beyond = (x - right) if side > 0 else (left - x)
    edge = right if side > 0 else left
    if beyond < parking:
        yaw = along if draw.random() < (0.8 if side > 0 else 0.2) else against
        return edge + side * (parking / 2 + draw.gauss(0, 0.1)), yaw + math.radians(draw.gauss(0, 2)), PARKED
    if beyond < parking + pavement:
        return x, draw.choice((along, against, draw.uniform(-math.pi, math.pi))), ON_THE_PAVEMENT
    return None
