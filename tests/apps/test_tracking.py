# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Tracks: one object keeps one number, two keep two, and smoothed centres are nearer to the truth."""

import sys

import numpy as np
import pytest

pytest.importorskip("stonesoup", reason="needs Stone Soup: pip install 'llmi3d[video]'")

from llmi3d.apps.tracking import BoxTracker


def make_box(center, label="car"):
    return {"label": label, "center": list(center), "size": [4.0, 1.5, 1.8], "rotation": np.eye(3).tolist()}


def measured(center, generator):
    """Return a centre as measured in an image: uncertain by a twentieth in distance, far less in direction."""
    center = np.array(center, float)
    distance = np.linalg.norm(center)
    return (center * (1 + 0.05 * generator.normal()) + 0.005 * distance * generator.normal(size=3)).tolist()


def numbers(boxes):
    return [box["track"] for box in boxes]


def test_a_moving_box_keeps_its_number():
    tracker = BoxTracker()
    for i in range(30):
        [box] = tracker.update([make_box((-5 + 0.3 * i, 1.0, 20.0))], i / 10)
        assert box["track"] == 1 and box["size"] == [4.0, 1.5, 1.8]
    assert tracker.count == 1
    assert box["velocity"] == pytest.approx([3.0, 0.0, 0.0], abs=0.05)
    assert box["center_tracked"] == pytest.approx([-5 + 0.3 * 29, 1.0, 20.0], abs=0.05)


@pytest.mark.parametrize(("gap", "number"), [(9, 1), (12, 2)])
def test_a_gap_is_bridged_up_to_its_limit(gap, number):
    tracker = BoxTracker(max_gap_s=1.0)
    for i in range(20):
        tracker.update([make_box((-5 + 0.3 * i, 1.0, 20.0))], i / 10)
    for i in range(20, 19 + gap):
        assert tracker.update([], i / 10) == []
    [box] = tracker.update([make_box((-5 + 0.3 * (19 + gap), 1.0, 20.0))], (19 + gap) / 10)
    assert box["track"] == number


@pytest.mark.parametrize("scale", [1.0, 0.02], ids=["street", "desk"])
def test_crossing_objects_keep_their_numbers(scale):
    generator, tracker = np.random.default_rng(0), BoxTracker()
    for i in range(90):
        left = scale * np.array([-6 + 2.0 * i / 15, 1.0, 15.0])
        right = scale * np.array([6 - 2.0 * i / 15, 1.0, 19.0])
        boxes = [make_box(measured(left, generator)), make_box(measured(right, generator))]
        order = [1, 0] if i % 2 else [0, 1]  # what comes first says nothing
        assert numbers(tracker.update([boxes[n] for n in order], i / 15)) == [n + 1 for n in order]
    assert left[0] > right[0]


def test_smoothed_centres_are_nearer_to_the_truth():
    generator, tracker, errors = np.random.default_rng(1), BoxTracker(), []
    for i in range(90):
        true = np.array([-3 + 0.5 * i / 15, 1.0, 30 - 4.0 * i / 15])
        [box] = tracker.update([make_box(measured(true, generator))], i / 15)
        errors.append([np.linalg.norm(np.array(box[name]) - true) for name in ("center", "center_tracked")])
    raw, smoothed = np.mean(errors[15:], axis=0)
    assert smoothed < 0.6 * raw


def test_only_like_is_taken_for_like():
    tracker = BoxTracker()
    assert numbers(tracker.update([make_box((0, 1, 20)), make_box((0, 1, 20), "cone")], 0.0)) == [1, 2]
    assert numbers(tracker.update([make_box((0, 1, 20), "cone"), make_box((0, 1, 20))], 0.1)) == [2, 1]


def test_what_is_far_away_is_another():
    tracker = BoxTracker()
    for i in range(10):
        tracker.update([make_box((0, 1, 20))], i / 10)
    assert numbers(tracker.update([make_box((9, 1, 20)), make_box((0, 1, 20))], 1.0)) == [2, 1]


def test_memory_does_not_grow_with_time():
    tracker = BoxTracker(trail_s=1.0)
    for i in range(120):
        boxes = tracker.update([make_box((0, 1, 20)), make_box((0, 1, 10), f"thing {i}")], i / 10)
    assert len(boxes[0]["trail"]) <= 11 and boxes[0]["trail"][-1] == boxes[0]["center_tracked"]
    assert tracker.count == 121 and len(tracker._objects) <= 12
    assert all(len(one.track) == 1 for one in tracker._objects)


def test_boxes_are_not_changed():
    box = make_box((0, 1, 20))
    BoxTracker().update([box], 0.0)
    assert set(box) == {"label", "center", "size", "rotation"}


def test_what_cannot_be_tracked_is_refused():
    tracker = BoxTracker()
    tracker.update([], 1.0)
    with pytest.raises(ValueError, match=r"time_s: got 1\.0 after 1\.0"):
        tracker.update([], 1.0)
    with pytest.raises(ValueError, match="boxes: got a center of"):
        tracker.update([make_box((0, float("nan"), 1))], 2.0)
    with pytest.raises(ValueError, match="max_gap_s: got -1"):
        BoxTracker(max_gap_s=-1)


def test_without_stone_soup_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "stonesoup.measures", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'llmi3d\[video\]'"):
        BoxTracker()
