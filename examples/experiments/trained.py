# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Experiments with training: 1 mining, 2 query token, the first half of 3 (virtual depth), 4 domains, 7 LoRA."""

import json
import statistics
import time
from collections.abc import Sequence

import torch
from answers import Asked, Grounder
from arms import ARMS, COST, budget, load
from common import HEADLINE, Experiment, Place, expect, row, table
from evaluations import SYNTHETIC_DOMAINS, domain_of, split_of
from measure import Numbers, estimate, grounding, of_statistics

from llmi3d import LLMI3DProcessor
from llmi3d.data.schema import upright_image
from llmi3d.evaluation.bootstrap import Statistic
from llmi3d.evaluation.records import Record
from llmi3d.evaluation.report import write_whole

SEEDS = (0, 1, 2)
SMALL = 0.01  # share of the image
DISTANT = 20.0  # metres
FOUR_ERRORS = ("depth_error", "length_error", "width_error", "height_error")
LATENCY_QUESTIONS, WARM_UP = 20, 3


def mining(place: Place) -> dict:
    """What each part of Spatial-Enhanced Local Feature Mining is good for. Each arm is trained from nothing, on
    dense labels alone, so that none has to unlearn what it lacks and all of the budget goes into seeing. It is
    asked for every object that can be seen, at the visual token that shows most of it: without words, so that what
    is found is what mining finds. Without the CNN branch the ViT's tokens are all there is, and the depth map,
    which is read off the CNN, goes with it. Without the depth branch there is no depth map, neither in the
    attention nor as a source of depth. Without cross-branch attention each token gets the plain mean of its window.
    """
    names = {
        "full": "full",
        "no_cnn": "without CNN branch (ViT alone)",
        "no_depth": "without depth branch",
        "no_attention": "without cross-branch attention (windows averaged)",
    }
    subsets = {
        "all": lambda record: True,
        f"small, under {100 * SMALL:g} % of the image": lambda record: record.metadata["image_area"] < SMALL,
        f"distant, {DISTANT:g} m and more": lambda record: record.metadata["distance"] >= DISTANT,
    }
    by_arm = {name: [grounding(arm_records(place, name, seed), subsets) for seed in SEEDS] for name in names}
    far = {name: [grounding(arm_records(place, name, seed, "far"))["all"] for seed in SEEDS] for name in names}
    found = {label: {name: [one[label] for one in by_arm[name]] for name in names} for label in subsets}
    found["the split `far`"] = far
    tables = [
        table(label, [row(names[name], of[name], HEADLINE) for name in names], HEADLINE, "acc@0.25")
        for label, of in found.items()
    ]
    expected = [
        expect(f"full mining beats {names[name]}; {label}", metric, of[name], of["full"])
        for label, of in found.items()
        for name in list(names)[1:]
        for metric in ("acc@0.25", "mean_iou")
    ]
    return {"tables": tables, "expected": expected}


def query_token(place: Place) -> dict:
    """Three ways to answer from one pre-trained base, with the same images, turns, LoRA and steps. None of them
    was known to the base's language model: the query token's 3D heads start anew, the text arms learn to write on the
    language loss alone. All say what the virtual camera sees, so that no form is punished for not knowing K. But the
    base's visual tokens were trained with dense 3D labels, read by heads of the query token's make (and, where the
    base is made of the finished checkpoint's towers, for query tokens too), which may favour it. An answer that cannot
    be read counts as wrong.
    """
    names = {"token": "query token", "numbers": "plain numbers", "json": "Qwen3-VL's JSON"}
    metrics = ("acc@0.25", "acc@0.5", "mean_iou", *FOUR_ERRORS, "rotation_error")
    records = {name: [arm_records(place, name, seed) for seed in SEEDS] for name in names}
    found = {name: [grounding(one)["all"] for one in seeds] for name, seeds in records.items()}
    unreadable = {name: [_unreadable(one) for one in seeds] for name, seeds in records.items()}
    seconds = latency(place, list(names))
    rows = []
    for name, label in names.items():
        numbers = row(label, found[name], metrics)
        numbers["numbers"] |= estimate(unreadable[name]) | {"latency": _bare(seconds[name])}
        rows.append(numbers)
    expected = [
        expect(f"the query token beats {names[name]}", "acc@0.25", found[name], found["token"])
        for name in ("numbers", "json")
    ]
    expected += [
        expect(f"the query token's depth is nearer than that of {names[name]}", "depth_error", a, b, "less")
        for name, a, b in ((name, found[name], found["token"]) for name in ("numbers", "json"))
    ]
    note = (
        f"Latency is the median of {LATENCY_QUESTIONS} questions asked one by one (batch size 1) after {WARM_UP} that "
        "are not counted, towers included. Errors are over the answers that could be read."
    )
    return {
        "tables": [table("One base, data, LoRA and steps", rows, (*metrics, "unreadable", "latency"), "acc@0.25")],
        "expected": expected,
        "note": note,
    }


def _unreadable(records: Sequence[Record]) -> Numbers:
    values = torch.tensor([record.predicted is None for record in records], dtype=torch.float64)
    clusters = [record.image_id for record in records]
    statistic = {"unreadable": Statistic.of(values)}
    return of_statistics(statistic, clusters, {"all": torch.ones(len(records))})["all"]


def _bare(value: float | None) -> dict:
    """An estimate without interval."""
    return {"value": value, "low": None, "high": None, "seeds": [value], "spread": None, "count": 1}


def latency(place: Place, names: Sequence[str]) -> dict[str, float]:
    """Median seconds an answer of each arm's first seed, measured one after another; kept once measured."""
    path = place.out / "latency.json"
    if path.is_file():
        return json.loads(path.read_text())
    split = place.split("test")
    asked = [
        Asked(upright_image(row["image"]), records[0].intrinsics, (record.phrase,))
        for row, records in zip(split.rows, split.records, strict=True)
        for record in records
        if record.task == "grounding"
    ]
    asked = asked[:: max(len(asked) // (LATENCY_QUESTIONS + WARM_UP), 1)][: LATENCY_QUESTIONS + WARM_UP]
    seconds = {}
    for name in names:
        grounder, taken = grounder_of(place, name, SEEDS[0]), []
        for one in asked:
            start = time.perf_counter()
            grounder.ground([one])
            taken.append(time.perf_counter() - start)
        seconds[name] = statistics.median(taken[WARM_UP:])
    write_whole(path, json.dumps(seconds))
    return seconds


def virtual_depth(place: Place) -> dict:
    """Depth in one virtual camera against depth in metres. The second arm is trained as if every image had been
    taken with the virtual focal length: the network must say metres without knowing the lens. Its answers keep
    their z and their pixels, and get x and y from the true K. Both arms are trained from nothing on dense labels,
    and asked as in 1.
    """
    names = {"full": "virtual depth", "metric_depth": "metric depth (no virtual camera)"}
    subsets = {"all domains": lambda record: True} | {
        domain: (lambda record, domain=domain: domain_of(record) == domain) for domain in SYNTHETIC_DOMAINS
    }
    by_arm = {name: [grounding(arm_records(place, name, seed), subsets) for seed in SEEDS] for name in names}
    of_camera = {
        name: [grounding(arm_records(place, name, seed, "camera"))["all"] for seed in SEEDS] for name in names
    }
    found = {label: {name: [one[label] for one in by_arm[name]] for name in names} for label in subsets}
    found["the split `camera` (focal lengths outside those trained on)"] = of_camera
    tables = [
        table(label, [row(names[name], of[name], HEADLINE) for name in names], HEADLINE, "relative_depth_error")
        for label, of in found.items()
    ]
    expected = [
        expect(f"virtual depth beats metric depth; {label}", metric, of["metric_depth"], of["full"], better)
        for label, of in found.items()
        for metric, better in (("acc@0.25", "more"), ("relative_depth_error", "less"))
    ]
    return {"tables": tables, "expected": expected}


def domains(place: Place) -> dict:
    """One of the four domains left out of training, and all four, tested on each. Arms are trained from nothing,
    since a base would have seen what is left out; all see as many images. One seed: intervals are over images
    alone.
    """
    arms = {"full": "all four"} | {f"no_{domain}": f"all but {domain}" for domain in SYNTHETIC_DOMAINS}
    subsets = {domain: (lambda record, domain=domain: domain_of(record) == domain) for domain in SYNTHETIC_DOMAINS}
    found = {name: grounding(arm_records(place, name, 0), subsets) for name in arms}
    tables = [
        table(
            f"Tested on {domain}",
            [row(label, [found[name][domain]], HEADLINE) for name, label in arms.items()],
            HEADLINE,
            "acc@0.25",
        )
        for domain in SYNTHETIC_DOMAINS
    ]
    expected = [
        expect(f"a domain is harder unseen; {domain}", "acc@0.25", [found[f"no_{domain}"][domain]], [full])
        for domain, full in found["full"].items()
    ]
    return {"tables": tables, "expected": expected}


def lora(place: Place) -> dict:
    """Adapters on the language model, with mining, projector, 3D heads and output layer in full, against training
    every weight, from the pre-trained base, which is asked as well. Memory is the peak of the process, next to what it
    held before training. The loss is the mean over the first and the last tenth of the steps.
    """
    names = {"lora": "LoRA", "all_weights": "full fine-tuning"}
    found = {name: [grounding(arm_records(place, name, 0))["all"]] for name in names}
    base = [grounding(base_records(place))["all"]]
    costs = {name: json.loads((place.arm(name, 0) / "model" / COST).read_text()) for name in names}
    for cost in costs.values():
        losses = [line["loss"] for line in cost["log"] if "loss" in line]
        cost["first_loss"], cost["last_loss"] = losses[0], losses[-1]
    kept = ("trained_parameters", "seconds_per_step", "peak_memory_mb", "memory_before_mb", "first_loss", "last_loss")
    rows = [row("the base as it is", base, HEADLINE)]
    for name, label in names.items():
        numbers = row(label, found[name], HEADLINE)
        numbers["numbers"] |= {cost: _bare(costs[name][cost]) for cost in kept}
        rows.append(numbers)
    expected = [
        expect("LoRA is more accurate than the base", "acc@0.25", base, found["lora"]),
        expect("full fine-tuning is more accurate than LoRA", "acc@0.25", found["lora"], found["all_weights"]),
    ]
    return {
        "tables": [table("The same base, data and steps", rows, (*HEADLINE, *kept), "acc@0.25")],
        "expected": expected,
    }


# ---------------------------------------------------------------------------------------------------------------- arms


def grounder_of(place: Place, name: str, seed: int) -> Grounder:
    """A trained arm."""
    arm = ARMS[name]
    processor = LLMI3DProcessor.from_pretrained(place.base / "base")
    return Grounder(load(place.arm(name, seed) / "model"), processor, arm.form, arm.metric_depth)


def base_records(place: Place) -> list[Record]:
    """What the base of the arms answers, untuned, to what arms of the base are asked."""
    path, processor = place.out / "base.jsonl", LLMI3DProcessor.from_pretrained(place.base / "base")
    grounder = None if path.is_file() else Grounder(load(place.base / "run" / "words" / "model"), processor)
    return split_of(place.data, "test", place.pictures // 2).answered(grounder, path)


def answer_arm(place: Place, name: str, seed: int, splits: Sequence[str]) -> None:
    """Asks a trained arm everything that experiments want to know of it."""
    left = [split for split in splits if not (place.arm(name, seed) / f"{split}.jsonl").is_file()]
    grounder = grounder_of(place, name, seed) if left else None
    for split in left:
        arm_records(place, name, seed, split, grounder)


def arm_records(
    place: Place, name: str, seed: int, split: str = "test", grounder: Grounder | None = None
) -> list[Record]:
    """What an arm answered: arms from nothing at the objects' places, arms of the base to phrases.

    The latter, some of which write at length, are asked on half of the images.
    """
    path = place.arm(name, seed) / f"{split}.jsonl"
    if ARMS[name].start == "nothing":
        return split_of(place.data, split, place.pictures).looked_at(grounder, path)
    return split_of(place.data, split, place.pictures // 2).answered(grounder, path)


def trained(place: Place, experiment: Experiment) -> dict:
    """Seeds, budgets, and what each was trained with: the commit and machine of every seed's own record."""
    found = {}
    for name, seeds in experiment.arms.items():
        records = [json.loads((place.arm(name, seed) / "arm.json").read_text()) for seed in seeds]
        found[name] = {
            "seeds": list(seeds),
            "budget": budget(ARMS[name], place.scale),
            "base": records[0]["base"],
            "commits": sorted({one["commit"] for one in records}),
            "machines": sorted({one["machine"] for one in records}),
        }
    return found
