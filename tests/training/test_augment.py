# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Augmentation: pixels, camera, boxes and words move together, and words stay true."""

import copy
import io
import pickle
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from llmi3d.data.expressions import make_conversation, referents
from llmi3d.data.expressions.forms import make_things
from llmi3d.data.expressions.rewrite import same_meaning
from llmi3d.data.expressions.wording import say
from llmi3d.data.schema import grounding_conversation, make_object, turns_of, validate_row, with_turns
from llmi3d.processing.geometry_llmi3d import encode_boxes, quaternion_to_matrix
from llmi3d.training.augment import (
    GREY,
    Augment,
    ColorJitter,
    FocalZoom,
    HorizontalFlip,
    RandomCrop,
    RandomRoll,
    RandomScale,
    augment_from_config,
)

# Larger or smaller, not both: half a pixel of each would cancel out.
GEOMETRIC = {
    "flip": (HorizontalFlip(1),),
    "crop": (RandomCrop((0.6, 1.0), 1),),
    "zoom": (FocalZoom((1.2, 1.6), 1),),
    "zoom out": (FocalZoom((0.6, 0.8), 1),),
    "roll": (RandomRoll(5, 1),),
    "scale": (RandomScale((0.6, 0.8)),),
}
GEOMETRIC["all"] = (
    *(HorizontalFlip(1), RandomRoll(5, 1), FocalZoom((0.7, 0.9), 1), RandomCrop((0.8, 1.0), 1)),
    RandomScale((0.8, 1.0)),
)


# --------------------------------------------------------------------------------------------- pixels, camera, boxes


def random_row(draw, image):
    """Return three objects in front of a camera with unequal focal lengths and an off-centre principal point."""
    width, height = image.size
    fx = width * draw.uniform(0.7, 1.5)
    k = [
        [fx, 0, width * draw.uniform(0.35, 0.65)],
        [0, fx * draw.uniform(0.9, 1.1), height * draw.uniform(0.35, 0.65)],
    ]
    k.append([0, 0, 1])
    objects = []
    for name in ("box", "toy", "thing"):
        z = draw.uniform(3, 10)
        u, v = width * draw.uniform(0.1, 0.9), height * draw.uniform(0.1, 0.9)
        center = [(u - k[0][2]) / k[0][0] * z, (v - k[1][2]) / k[1][1] * z, z]
        rotation = quaternion_to_matrix(torch.tensor([draw.gauss(0, 1) for _ in range(4)], dtype=torch.float64))
        objects.append(make_object(name, name, center, [draw.uniform(0.2, 2) for _ in range(3)], rotation, k))
    return {
        "image": image,
        "image_id": f"made/{draw.random()}",
        "source": "made",
        "split": "train",
        "intrinsics": k,
        "objects": objects,
        "messages": grounding_conversation([f"the {entry['category']}" for entry in objects]),
        "targets": [entry["id"] for entry in objects],
        "task": ["grounding"] * 3,
        "meanings": None,
    }


def seen_at(row, flipped=False):
    """Project centres and corners, {object id: [9, 2]}, in numpy and without the package.

    When mirrored, the box's z axis is reversed: corners 4-7 are where 0-3 would be.
    """
    signs = [(x, y, z) for z in (-1, 1) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    signs = np.array([(0, 0, 0), *signs]) * (1, 1, -1 if flipped else 1)
    points = {}
    for entry in row["objects"]:
        local = signs * np.array(entry["size"]) / 2
        seen = (local @ np.array(entry["rotation"]).T + entry["center"]) @ np.array(row["intrinsics"]).T
        points[entry["id"]] = seen[:, :2] / seen[:, 2:]
    return points


def read(pixels, points):
    """Return values [N, 3] of pixels [H, W, 3] at points [N, 2] (x, y), with (0, 0) at the corner of the image.

    Bilinear, averaged over nine points around, so that an 8-bit ramp is read finely.
    """
    around = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1)), -1).reshape(9, 2)
    x, y = (points[:, None] - 0.5 + around).reshape(-1, 2).T
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = (x - x0)[:, None], (y - y0)[:, None]
    upper = pixels[y0, x0] * (1 - right) + pixels[y0, x0 + 1] * right
    lower = pixels[y0 + 1, x0] * (1 - right) + pixels[y0 + 1, x0 + 1] * right
    return (upper * (1 - down) + lower * down).reshape(-1, 9, 3).mean(1)


@pytest.mark.parametrize("kind", GEOMETRIC)
def test_a_box_is_projected_to_where_its_pixels_moved(kind):
    # Each pixel encodes where it was: red its x, green its y, and blue that it was in the image. Every other image
    # gets darker instead of lighter, so that rounding is not taken for a shift.
    draw, changed, errors = Random(kind), 0, []
    for case in range(144):
        sign, start = ((4.5, 0), (-4.5, 250))[case % 2]
        width, height = draw.randint(42, 55), draw.randint(42, 55)
        y, x = np.mgrid[0:height, 0:width] + 0.5
        ramp = np.stack((start + sign * x, start + sign * y, np.full_like(x, 255)), -1)
        row = random_row(draw, Image.fromarray(ramp.round().astype(np.uint8)))
        new = Augment(GEOMETRIC[kind])(row)
        validate_row(new)
        changed += new is not row
        before, after = seen_at(row), seen_at(new, flipped=kind in ("flip", "all"))
        for name, points in after.items():
            inside = ((points > 4) & (points < np.array(new["image"].size) - 4)).all(-1)
            old, new_points = before[name][inside], points[inside]
            x, y = new_points.astype(int).T
            # No grey nearby that would be mixed in.
            taken = np.asarray(new["image"].getchannel(2).filter(ImageFilter.MinFilter(7)))[y, x] >= 254
            values = read(np.asarray(new["image"], float), new_points[taken])
            errors.append((values[:, :2] - start) / sign - old[taken])
            box = next(entry["box_2d"] for entry in new["objects"] if entry["id"] == name)
            assert box == pytest.approx([*points[1:].min(0), *points[1:].max(0)], abs=1e-6)
    errors = np.concatenate(errors)
    assert changed > 120 and len(errors) > 800
    assert np.abs(errors).max() < 0.5
    # Half a pixel too far, everywhere, would still pass the line above.
    assert np.abs(errors.mean(0)).max() < 0.02


def test_painted_blobs_are_found_where_centres_are_projected():
    draw, errors = Random(0), []
    for transforms in GEOMETRIC.values():
        for _ in range(4):
            row = random_row(draw, Image.new("RGB", (320, 240)))
            y, x = np.mgrid[0:240, 0:320] + 0.5
            row["objects"] = row["objects"][:1]
            row.update(messages=row["messages"][:2], targets=row["targets"][:1], task=row["task"][:1])
            u, v = seen_at(row)["box"][0]
            blob = 250 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 18)
            row["image"] = Image.fromarray(blob.round().astype(np.uint8))
            new = Augment(transforms)(row)
            if new is row:
                continue
            shown = np.asarray(new["image"], float)[..., 0]
            shown = np.where(shown == GREY[0], 0, shown)  # the border
            near = (
                np.hypot(
                    *(
                        np.mgrid[0 : shown.shape[0], 0 : shown.shape[1]][::-1]
                        + 0.5
                        - seen_at(new)["box"][0][:, None, None]
                    )
                )
                < 15
            )
            y, x = np.mgrid[0 : shown.shape[0], 0 : shown.shape[1]] + 0.5
            weight = shown * near
            found = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
            inside = np.all((found > 16) & (found < np.array(new["image"].size) - 16))
            if inside:
                errors.append(np.abs(found - seen_at(new)["box"][0]).max())
    assert len(errors) > 15
    assert max(errors) < 0.5


def test_flipping_twice_changes_nothing(row):
    row["messages"] = grounding_conversation(["the car on the left", "the cone"])
    flip = HorizontalFlip(1)
    once = flip(row, Random(0))
    twice = flip(once, Random(0))
    assert once["messages"][0]["content"] == "<image>\nLocate the car on the right in 3D."
    assert once["image"].tobytes() != row["image"].tobytes() == twice["image"].tobytes()
    assert twice["messages"] == row["messages"]
    np.testing.assert_allclose(twice["intrinsics"], row["intrinsics"], rtol=0, atol=1e-10)
    for before, after in zip(row["objects"], twice["objects"], strict=True):
        for name in ("center", "size", "rotation", "box_2d"):
            np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-9)


def test_a_zoom_is_another_lens(row):
    new = FocalZoom((1.5, 1.5), 1)(row, Random(0))
    wanted = np.array(row["intrinsics"]) * [[1.5, 1, 1], [1, 1.5, 1], [1, 1, 1]]
    np.testing.assert_allclose(new["intrinsics"], wanted, atol=1e-10)
    assert new["image"].size == row["image"].size

    def encoded(row, entry):
        box = (torch.tensor(entry[name], dtype=torch.float64) for name in ("center", "size", "rotation"))
        return encode_boxes(*box, torch.tensor(row["intrinsics"], dtype=torch.float64), 500.0)

    for before, after in zip(row["objects"], new["objects"], strict=True):
        assert (after["center"], after["size"]) == (before["center"], before["size"])
        depths = encoded(row, before).depth_virtual, encoded(new, after).depth_virtual
        torch.testing.assert_close(depths[1], depths[0] / 1.5)


def test_the_border_of_a_wider_lens_is_grey(row):
    new = FocalZoom((0.5, 0.5), 1)(row, Random(0))
    assert new["image"].getpixel((0, 0)) == new["image"].getpixel((319, 199)) == GREY
    assert len(new["objects"]) == 2 and new["targets"] == row["targets"]


def test_how_much_is_seen_follows_a_crop(row):
    cut = 0
    for seed in range(20):
        for entry in row["objects"]:
            entry.update(visibility=0.8, truncation=0.2)
        new = RandomCrop((0.5, 0.8), 1)(row, Random(seed))
        if new is row:
            continue
        # The window in pixels of the original image.
        left, top = np.array(row["intrinsics"])[:2, 2] - np.array(new["intrinsics"])[:2, 2]
        window = left, top, left + new["image"].width, top + new["image"].height
        for entry in new["objects"]:
            old = next(one for one in row["objects"] if one["id"] == entry["id"])["box_2d"]
            shown = area(old, (0, 0, *row["image"].size))
            share = (
                area(
                    old, tuple(f(a, b) for f, a, b in zip((max, max, min, min), window, (0, 0, 320, 200), strict=True))
                )
                / shown
            )
            assert entry["visibility"] == pytest.approx(0.8 * share, abs=0.06)
            assert entry["truncation"] == pytest.approx(1 - 0.8 * share, abs=0.06)
            cut += share < 0.9
    assert cut > 3


def area(box, window):
    low, high = np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])
    return float(np.prod(np.maximum(high - low, 0)))


# ------------------------------------------------------------------------------------------------------------ words


def said(*turns):
    """Return messages and task of (question, answer, task)."""
    messages = []
    for i, (question, answer, _) in enumerate(turns):
        messages.append({"role": "user", "content": ("<image>\n" if i == 0 else "") + question})
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages, "task": [task for *_, task in turns]}


REWRITTEN = [
    ("the leftmost car", "the rightmost car"),
    ("the car farthest to the left", "the car farthest to the right"),
    ("the second car from the right", "the second car from the left"),
    ("the second nearest car", "the second nearest car"),
    ("the car in the left third of the picture", "the car in the right third of the picture"),
    ("The left-hand car, top right", "The right-hand car, top left"),
    ("the car to the left of the upright cone on the right", "the car to the right of the upright cone on the left"),
    ("the right red car", "the left red car"),
    ("a bright copyright", "a bright copyright"),
]


@pytest.mark.parametrize("phrase, mirrored", REWRITTEN)
def test_left_and_right_change_places_in_phrases(row, phrase, mirrored):
    row["messages"] = grounding_conversation([phrase, "the cone"])
    new = HorizontalFlip(1)(row, Random(0))
    assert new["messages"] == grounding_conversation([mirrored, "the cone"])
    assert HorizontalFlip(1)(new, Random(0))["messages"] == row["messages"]


NOT_CERTAIN = [
    *("the second car", "the last car", "the 3rd car", "the car left behind", "the car right behind the bus"),
    *("the car at 3 o'clock", "the car facing west", "the car on the driver's side", "the left over cone"),
    *("das linke Auto", "la voiture de droite", "左边的车", "the car at pixel (30, 20)", "the sign that says stop"),
]


@pytest.mark.parametrize("phrase", NOT_CERTAIN)
def test_a_row_that_cannot_be_rewritten_for_certain_is_not_mirrored(row, phrase):
    row["messages"] = grounding_conversation([phrase, "the cone"])
    assert HorizontalFlip(1)(row, Random(0)) is row


@pytest.mark.parametrize(
    "question, answer, mirrored",
    [
        ("Is the car left or right of the cone?", "Left.", ("Is the car right or left of the cone?", "Right.")),
        ("Is the car red?", "Right.", None),
        ("Which is the right tool?", "The cone.", None),
        ("What is left of the cake?", "Nothing.", None),
        ("How far is it?", "It is 3.2 m away, to its right.", ("How far is it?", "It is 3.2 m away, to its left.")),
    ],
)
def test_questions_are_mirrored_with_their_answers(row, question, answer, mirrored):
    row.update(said((question, answer, "vqa")), targets=[])
    new = HorizontalFlip(1)(row, Random(0))
    assert (new is row) if mirrored is None else (new["messages"] == said((*mirrored, "vqa"))["messages"])


def test_a_row_with_a_left_shoe_is_not_mirrored(row):
    row["objects"][0]["category"] = "left_shoe"
    assert HorizontalFlip(1)(row, Random(0)) is row


@pytest.fixture
def street(photograph):
    """Return a scene of cars and a cone, spaced for every kind of phrase, with conversations about it."""
    k = [[250.0, 0.0, 160.0], [0.0, 250.0, 100.0], [0.0, 0.0, 1.0]]
    places = [(-4, 9, "red"), (-1.5, 6, "blue"), (0.4, 14, "red"), (3.2, 12, "blue"), (2.3, 5, "white")]
    objects = [
        make_object(f"car{i}", "car", [x, 0.4, z], [1, 0.6 + 0.2 * i, 1.2], np.eye(3), k, attributes={"color": color})
        for i, (x, z, color) in enumerate(places)
    ]
    objects.append(make_object("cone", "traffic_cone", [-0.8, 0.4, 9.5], [0.4, 0.6, 0.4], np.eye(3), k))
    scene = {"image": photograph, "source": "made", "split": "train", "intrinsics": k, "objects": objects}

    def talk(seed):
        row = {**scene, "image_id": f"made/{seed}"}
        turns = make_conversation(row, photograph.size, seed=seed, max_turns=12, vocabulary=("car", "bus"))
        return with_turns(row, turns)

    return talk


def things_of(row):
    return make_things(row["objects"], row["intrinsics"], row["image"].size)


def test_mirrored_forms_mean_the_same_objects_and_say_what_the_words_say(street):
    sides = 0
    for seed in range(25):
        row = street(seed)
        new = HorizontalFlip(1)(row, Random(0))
        assert new is not row and new["targets"] == row["targets"]
        things = things_of(new)
        for turn, old in zip(turns_of(new), turns_of(row), strict=True):
            form = turn.meaning["form"]
            if turn.task == "vqa":
                if form["question"] == "side":
                    first, second = (referents(one, things).ids[0] for one in form["of"])
                    u = {thing.id: thing.u for thing in things}
                    side = "left" if u[first] < u[second] else "right"
                    assert form["answer"] == side == turn.answer.strip(".").lower() != old.answer
                    sides += 1
                continue
            assert set(referents(form, things).ids) == set(turn.targets)
            if turn.task == "grounding":
                assert same_meaning(turn.phrase, say(form, Random(1)))
                sides += turn.question != old.question
        validate_row(new)
        again = HorizontalFlip(1)(new, Random(0))
        assert (again["messages"], again["meanings"]) == (row["messages"], row["meanings"])
    assert sides > 30


@pytest.mark.parametrize("kind", ["crop", "zoom", "roll"])
def test_a_turn_with_a_form_is_kept_only_if_it_is_still_true(street, kind):
    kept = dropped = 0
    for seed in range(25):
        row = street(seed)
        (transform,) = GEOMETRIC[kind]
        new = transform(row, Random(seed))
        validate_row(new)
        things, was = things_of(new), things_of(row)
        for turn in turns_of(new):
            if turn.task == "vqa":
                for one in turn.meaning["form"]["of"]:
                    assert referents(one, things) == referents(one, was)
            else:
                assert sorted(referents(turn.meaning["form"], things).ids) == sorted(turn.targets)
        kept, dropped = kept + len(new["task"]), dropped + len(row["task"]) - len(new["task"])
    assert kept > 50
    assert dropped > 20 or kind == "roll"  # which moves nothing past anything here


def crop_without(row, lost):
    """Return the row cropped so that only the object `lost` leaves it."""
    want = {entry["id"] for entry in row["objects"]} - {lost}
    for seed in range(300):
        new = RandomCrop((0.6, 0.9), 1)(row, Random(seed))
        if {entry["id"] for entry in new["objects"]} == want:
            return new
    raise AssertionError(f"no crop without {lost} alone")


def test_the_turn_of_an_object_that_is_cut_away_is_dropped(row):
    row["messages"] = [{"role": "system", "content": "Be brief."}, *grounding_conversation(["the cone", "the car"])]
    row["targets"], row["meanings"] = ["b", "a"], [{"kind": "given"}, {}]
    new = crop_without(row, "b")
    assert new["messages"] == [{"role": "system", "content": "Be brief."}, *grounding_conversation(["the car"])]
    assert (new["targets"], new["task"], new["meanings"]) == (["a"], ["grounding"], [{}])


@pytest.mark.parametrize(
    "question, answer, task, targets",
    [
        ("How many cars are there?", "One.", "vqa", []),
        ("Describe the picture.", "A car and a cone.", "caption", []),
        ("Locate the car on the left in 3D.", "<box_3d>", "grounding", ["a"]),
        ("Locate the car next to the cone in 3D.", "<box_3d>", "grounding", ["a"]),
        ("Locate the second car from the front in 3D.", "<box_3d>", "grounding", ["a"]),
        ("Locate the car and the cone in 3D.", "<box_3d><box_3d>", "multi", ["a", "b"]),
    ],
)
def test_without_a_form_what_a_cut_may_make_false_is_dropped(row, question, answer, task, targets):
    row.update(
        said(("Locate the nearest car in 3D.", "<box_3d>", "grounding"), (question, answer, task)),
        targets=["a", *targets],
    )
    new = crop_without(row, "b")
    assert (new["messages"], new["targets"]) == (grounding_conversation(["the nearest car"]), ["a"])


def test_a_question_that_leans_on_a_dropped_one_is_dropped(row):
    row["messages"] = grounding_conversation(["the cone", "the same car again", "the car"])
    row.update(targets=["b", "a", "a"], task=["grounding"] * 3)
    assert crop_without(row, "b")["messages"] == grounding_conversation(["the car"])


def test_a_row_of_which_no_turn_would_be_left_stays_as_it_is(row):
    row.update(said(("How many cars are there?", "One.", "vqa")), targets=[])
    for transform in (RandomCrop((0.5, 0.6), 1), FocalZoom(p=1), RandomRoll(p=1)):
        assert transform(row, Random(0)) is row
    assert RandomScale()(row, Random(0))["messages"] == row["messages"]


# ------------------------------------------------------------------------------------------------ colours, the whole


def test_colours_change_and_nothing_else(row):
    new = ColorJitter(0.3)(row, Random(0))
    assert new["image"].tobytes() != row["image"].tobytes()
    assert {**new, "image": None} == {**row, "image": None}


@pytest.mark.parametrize("phrase, tinted", [("the car", True), ("the silver car", False), ("the crimson car", False)])
def test_nothing_is_tinted_where_a_colour_is_named(row, phrase, tinted):
    row["objects"][0]["attributes"] = {"color": "crimson"}
    row.update(
        image=Image.new("RGB", (320, 200), (120, 120, 120)), messages=grounding_conversation([phrase, "the cone"])
    )
    colors = {ColorJitter(0.5)(row, Random(seed))["image"].getpixel((0, 0)) for seed in range(5)}
    assert len(colors) == 5
    assert any(len(set(color)) > 1 for color in colors) == tinted


CONFIG = {"color": 0.2, "flip": 0.5, "roll_deg": 3, "zoom": [0.8, 1.25], "crop": [0.7, 1.0], "scale": [0.8, 1.25]}


def test_seed_epoch_and_id_decide_everything(street):
    rows = [street(seed) for seed in range(3)]
    augment = augment_from_config({**CONFIG, "seed": 3})
    augment.set_epoch(1)
    first = [augment(row) for row in rows]
    again = pickle.loads(pickle.dumps(augment))
    again = [again(row) for row in reversed(rows)][::-1]
    for one, other in zip(first, again, strict=True):
        assert one["image"].tobytes() == other["image"].tobytes()
        assert {**one, "image": None} == {**other, "image": None}
    augment.set_epoch(2)
    assert all(augment(row)["image"].tobytes() != one["image"].tobytes() for row, one in zip(rows, first, strict=True))


def test_rows_are_not_modified_and_images_come_in_every_form(street, tmp_path):
    row, stored = street(0), io.BytesIO()
    row["image"].save(stored, "PNG")
    (tmp_path / "street.png").write_bytes(stored.getvalue())
    augment = augment_from_config({**CONFIG, "flip": 1, "p": 1})
    wanted = augment(row)
    forms = [row["image"], tmp_path / "street.png", {"path": None, "bytes": stored.getvalue()}]
    for image in forms:
        given = {**row, "image": image}
        kept = copy.deepcopy(given)
        new = augment(given)
        assert {**given, "image": None} == {**kept, "image": None}
        assert new["image"].tobytes() == wanted["image"].tobytes() and new["objects"] == wanted["objects"]
    assert row["image"].tobytes() == forms[0].tobytes()


def test_a_turned_photograph_is_augmented_as_it_is_seen(row):
    stored, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # stored on its side
    row["image"].transpose(Image.Transpose.ROTATE_90).save(stored, "PNG", exif=exif)
    new = HorizontalFlip(1)({**row, "image": {"path": None, "bytes": stored.getvalue()}}, Random(0))
    assert new["image"].tobytes() == row["image"].transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    validate_row(new)


def test_an_image_without_objects_is_augmented(row):
    row.update(said(("Locate the bear in 3D.", "There is none.", "absent")), objects=[], targets=[])
    for transforms in GEOMETRIC.values():
        new = Augment(transforms)(row)
        validate_row(new)
        assert new is not row and new["messages"] == row["messages"]


@pytest.mark.parametrize("kind", GEOMETRIC)
@pytest.mark.parametrize("scale", [1, 2])
def test_an_instance_map_moves_with_its_image(row, kind, scale):
    colors = {"a": (250, 0, 0), "b": (0, 250, 0)}
    image, instances = Image.new("RGB", (320, 200), (0, 0, 250)), Image.new("L", (320 * scale, 200 * scale))
    for index, entry in enumerate(row["objects"]):
        box = [round(side) for side in entry["box_2d"]]
        image.paste(colors[entry["id"]], tuple(box))
        instances.paste(index + 1, tuple(side * scale for side in box))
    row.update(image=image, instance_map=instances)
    new = Augment(GEOMETRIC[kind])(row)
    assert new is not row
    assert new["instance_map"].size == tuple(side * scale for side in new["image"].size)
    shown = np.asarray(new["instance_map"])[::scale, ::scale]
    pixels = np.asarray(new["image"])
    for index, entry in enumerate(new["objects"]):
        seen = (np.abs(pixels.astype(int) - colors[entry["id"]]) < 100).all(-1)
        assert (seen != (shown == index + 1)).mean() < 0.01 and seen.sum() > 100


def test_objects_in_a_map_are_counted_anew_where_one_is_lost(row):
    instances = Image.new("L", (320, 200), 1)
    row["objects"] = row["objects"][::-1]
    row.update(instance_map=instances, messages=grounding_conversation(["the car", "the cone"]))
    new = crop_without(row, "b")
    assert not np.asarray(new["instance_map"]).any(), "index 1 was b's"
    new = crop_without({**row, "instance_map": Image.new("L", (320, 200), 2)}, "b")
    assert (np.asarray(new["instance_map"]) == 1).all()


@pytest.mark.parametrize(
    "config, message",
    [
        (["flip"], r"augment: got \['flip'\], want a mapping"),
        ({"hue": 0.1}, "augment: got the unknown hue, want some of color, flip"),
        ({"flip": 2}, "augment.flip: p: got 2, want a number from 0 to 1"),
        ({"flip": True}, "augment.flip: p: got True"),
        ({"roll_deg": 90}, "augment.roll_deg: degrees: got 90, want a number from 0 to 15"),
        ({"crop": 0.7}, r"augment.crop: share: got 0.7, want two numbers, \[least, most\]"),
        ({"crop": [0.7, 1.2]}, "augment.crop: share: got 1.2, want a number from 0.05 to 1"),
        ({"zoom": [1.25, 0.8]}, r"augment.zoom: factor: got \[1.25, 0.8\], want the least before the most"),
        ({"scale": ["small", 2]}, "augment.scale: factor: got 'small'"),
        ({"color": float("nan")}, "augment.color: strength: got nan"),
        ({"p": -1}, "augment.p: got -1"),
        ({"seed": 0.5}, "augment.seed: got 0.5, want a whole number"),
    ],
)
def test_a_wrong_setting_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        augment_from_config(config)
