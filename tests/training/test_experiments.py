# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The experiments: texts and cameras turn back, arms change what they say and no more, numbers carry their spread."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from llmi3d.data.dataset import DATA_FOLDER, shard_name
from llmi3d.data.schema import IG3D_FEATURES
from llmi3d.evaluation.iou3d import box3d_iou
from llmi3d.evaluation.records import make_record, with_predictions
from llmi3d.processing.geometry_llmi3d import (
    box_corners,
    decode_boxes,
    egocentric_to_allocentric,
    encode_boxes,
    project,
)
from llmi3d.training.dense import DenseLabels
from llmi3d.training.experimental import text_boxes

EXPERIMENTS = Path(__file__).parents[2] / "examples" / "experiments"
MODULES = ("answers", "arms", "asked", "common", "evaluations", "measure", "page", "run", "trained")
TINY = ("new_model",)


@pytest.fixture(scope="module")
def experiments():
    """The scripts' modules, which import one another by their bare names."""
    before = list(sys.path)
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in MODULES})
    finally:
        sys.path[:] = before
        for name in (*MODULES, *TINY):
            sys.modules.pop(name, None)


# --------------------------------------------------------------------------------------------------------------- texts

CANVAS = 256
K = torch.tensor([[310.0, 0.0, 120.0], [0.0, 300.0, 135.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def some_boxes(count=40):
    draw = torch.Generator().manual_seed(0)

    def between(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=draw, dtype=torch.float64)

    depth = between(0.5, 60, count)
    center = torch.stack((depth * between(-0.4, 0.4, count), depth * between(-0.3, 0.3, count), depth), 1)
    left, _, right = torch.linalg.svd(torch.randn(count, 3, 3, generator=draw, dtype=torch.float64))
    rotation = left @ right
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    return center, between(0.2, 4, count, 3), rotation


@pytest.mark.parametrize("form", ["numbers", "json"])
def test_boxes_are_read_as_they_were_written(form):
    center, size, rotation = some_boxes()
    truth = encode_boxes(center, size, rotation, K, 256.0)
    seen = text_boxes.SeenBoxes(truth.center_2d_px, truth.depth_virtual, truth.size, truth.rotation_allocentric)
    text = text_boxes.write_boxes(form, seen, ["car"] * len(center), CANVAS)
    read = text_boxes.read_boxes(form, text, CANVAS)
    assert read.malformed == 0 and len(read.boxes.size) == len(center)
    fields = (getattr(read.boxes, name) for name in text_boxes.SeenBoxes.__dataclass_fields__)
    found = decode_boxes(*fields, K, 256.0)
    # Of small boxes far away a pixel is a large part: whole pixels cost IoU, but never the box.
    apart = (found[0] - center).norm(dim=1) / center.norm(dim=1)
    assert apart.max() < 0.01
    near = center[:, 2] < 10
    iou = box3d_iou(box_corners(*found), box_corners(center, size, rotation), paired=True)
    assert iou[near].min() > 0.7 and iou[near].median() > 0.9


@pytest.mark.parametrize(
    "form, text, boxes, malformed",
    [
        ("numbers", "123 98 5.31 4.20 1.52 1.80 -35 0 1", 1, 0),
        ("numbers", "123 98 5.31 4.20 1.52 1.80 -35 0 1; 1 2 3", 1, 1),
        ("numbers", "123 98 5.31 4.20 1.52 1.80 -35 0", 0, 1),
        ("numbers", "123 98 5.31 -4.20 1.52 1.80 -35 0 1", 0, 1),
        ("numbers", "It is not in the picture.", 0, 1),
        ("numbers", "", 0, 1),
        ("json", '[{"bbox_3d": [0, 0, 5, 1, 1, 1, 0, 0, 0], "label": "car"}]', 1, 0),
        ("json", '[{"bbox_3d": [0, 0, -5, 1, 1, 1, 0, 0, 0], "label": "car"}]', 0, 1),
        ("json", '[{"bbox_3d": [0, 0, 5, 1, 1, 1, 0, 0], "label": "car"}]', 0, 1),
        ("json", '[{"bbox_3d": [0, 0, 5,', 0, 1),
        ("json", "", 0, 1),
    ],
)
def test_what_cannot_be_read_is_counted(form, text, boxes, malformed):
    read = text_boxes.read_boxes(form, text, CANVAS)
    assert (len(read.boxes.size), read.malformed) == (boxes, malformed)


def test_under_another_camera_pixels_depth_and_looks_stay(experiments):
    center, _, rotation = some_boxes()
    other = K.clone()
    other[0, 0] = other[1, 1] = 256.0
    moved, turned = experiments.answers.under_camera(center, rotation, K, other)
    torch.testing.assert_close(project(moved, other), project(center, K))
    torch.testing.assert_close(moved[:, 2], center[:, 2])
    torch.testing.assert_close(egocentric_to_allocentric(turned, moved), egocentric_to_allocentric(rotation, center))
    back = experiments.answers.under_camera(moved, turned, other, K)
    torch.testing.assert_close(back[0], center)
    torch.testing.assert_close(back[1], rotation)


# ------------------------------------------------------------------------------------------------------------- answers

PHRASES = (("the car", "the nearest cone"), ("the long red car on the left", "it", "the second cone from the right"))


@pytest.fixture
def asked(experiments, photograph):
    k = torch.tensor([[250.0, 0.0, 150.0], [0.0, 260.0, 110.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    wide = photograph.resize((300, 120))
    return [
        experiments.answers.Asked(image, k, words) for image, words in zip((photograph, wide), PHRASES, strict=True)
    ]


def test_answers_are_the_pipelines(experiments, chain, asked):
    from transformers import pipeline

    model, processor = chain
    found = experiments.answers.Grounder(model, processor).ground(asked)
    ask = pipeline("image-3d-grounding", model=model, processor=processor, device="cpu")
    for one, answers in zip(asked, found, strict=True):
        wanted = ask(one.image, prompt=list(one.words), intrinsics=one.intrinsics.tolist())
        for answer, want in zip(answers, wanted, strict=True):
            [box], [right] = answer["boxes"], want["boxes"]
            for name in ("center", "size", "rotation", "score"):
                np.testing.assert_allclose(box[name], right[name], rtol=2e-3, atol=2e-4, err_msg=name)


def test_metric_depth_is_read_as_metres_in_the_same_pixels(experiments, chain, asked):
    model, processor = chain
    virtual = experiments.answers.Grounder(model, processor).ground(asked)
    metric = experiments.answers.Grounder(model, processor, metric_depth=True).ground(asked)
    for one, first, second in zip(asked, virtual, metric, strict=True):
        a, b = (torch.tensor([x["boxes"][0]["center"] for x in of], dtype=torch.float64) for of in (first, second))
        torch.testing.assert_close(project(b, one.intrinsics), project(a, one.intrinsics))
        # Virtual depth becomes metres by f / f_v, which metric depth must not be multiplied with.
        [camera] = processor.image_processor([one.image], intrinsics=[one.intrinsics.tolist()]).cameras
        factor = camera.network_intrinsics()[1, 1] / processor.virtual_focal_length
        torch.testing.assert_close(a[:, 2], b[:, 2] * factor)


def test_objects_are_looked_at_where_they_are_seen(experiments, chain, asked):
    """Cells by hand: the heads' answer at one cell of one picture, whatever else is asked beside it."""
    model, processor = chain
    grounder = experiments.answers.Grounder(model, processor)
    grid, canvas = model.config.image_grid_size, model.config.high_res_image_size
    width, height = asked[0].image.size  # 320x200, letterboxed: bars above and below
    shown = np.zeros((height, width), np.uint8)
    shown[30:60, 300:320] = 2  # right, above the middle
    shown[100:140, 0:8] = 1  # left, in the middle
    shown[0, 0] = 1
    cells = grounder.cells_of(shown, asked[0].intrinsics, [0, 1])
    bar = (canvas - height * canvas / width) / 2
    rows = [int((bar + y * canvas / width) * grid / canvas) for y in (120, 45)]
    assert cells == [rows[0] * grid, rows[1] * grid + grid - 1]
    looks = [replace(asked[0], cells=tuple(cells)), replace(asked[1], cells=(3,))]
    found = grounder.look(looks)
    assert [len(one) for one in found] == [2, 1]
    pixels = processor.image_processor(
        [asked[0].image], intrinsics=[asked[0].intrinsics.tolist()], return_tensors="pt"
    )
    with torch.no_grad():
        image = model.get_image_features(**pixels)
        width = image.cells.shape[-1]
        y, x = (int((side + 0.5) * width / grid) for side in divmod(cells[1], grid))
        mask, places = torch.ones(1, 1, dtype=torch.bool), torch.tensor([[y * width + x]])
        raw = model.box_head(None, mask, **image.sight._asdict(), places=places)
    [want] = processor.post_process_grounding_3d(SimpleNamespace(boxes_3d=raw), pixels.cameras)
    [box] = found[0][1]["boxes"]
    np.testing.assert_allclose(box["center"], want["centers"][0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(box["size"], want["sizes"][0], rtol=1e-3, atol=1e-4)


def test_questions_are_answered_in_words(experiments, chain, asked):
    texts = experiments.answers.Grounder(*chain).ask(asked, most_tokens=4)
    assert [len(one) for one in texts] == [len(words) for words in PHRASES]
    again = experiments.answers.Grounder(*chain).ask(asked[1:], most_tokens=4)
    assert texts[1:] == again  # whatever else is in the batch


# ---------------------------------------------------------------------------------------------------------------- arms


def pixels_of(model, seed=0):
    draw = torch.Generator().manual_seed(seed)
    low, high = model.config.vision_config.image_size, model.config.high_res_image_size
    return torch.randn(1, 3, low, low, generator=draw), torch.randn(1, 3, high, high, generator=draw)


def learn_a_step(model):
    """One step on whatever the visual tokens and the depth map are, as training would take it."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    features = model.get_image_features(*pixels_of(model), return_dict=True)
    (features.pooler_output.square().sum() + sum(p.sum() for p in model.box_head.parameters())).backward()
    optimizer.step()
    model.eval()


def test_without_cnn_the_fine_picture_says_nothing(experiments, new_chain):
    model, _ = new_chain
    low, high = pixels_of(model)
    other = pixels_of(model, seed=1)[1]
    assert not torch.equal(*(model.get_image_features(low, one).pooler_output for one in (high, other)))
    experiments.arms.switch_off(model, "cnn")
    learn_a_step(model)
    with torch.no_grad():
        first, second = (model.get_image_features(low, one) for one in (high, other))
    torch.testing.assert_close(first.pooler_output, second.pooler_output, rtol=0, atol=0)
    assert first.depth_logits is None and not model.config.depth_from_map


def test_without_attention_the_token_does_not_choose(experiments, new_chain):
    model, _ = new_chain
    experiments.arms.switch_off(model, "attention")
    learn_a_step(model)
    attention, tokens = model.model.feature_mining.attention, torch.randn(2, 4, model.config.vision_config.hidden_size)
    cells = torch.randn(2, 4, 6, attention.key_norm.normalized_shape[0])
    depth = torch.randn(2, 4, 6, model.config.depth_embedding_dim)
    with torch.no_grad():
        found = attention.reference_forward(tokens, cells, depth)
        torch.testing.assert_close(attention.reference_forward(torch.randn_like(tokens), cells, depth), found)
        assert not torch.allclose(attention.reference_forward(tokens, torch.randn_like(cells), depth), found)


def test_without_depth_branch_there_is_no_map_after_saving_either(experiments, new_chain, tmp_path):
    from llmi3d import LLMI3DForConditionalGeneration

    model, _ = new_chain
    experiments.arms.switch_off(model, "depth")
    model.save_pretrained(tmp_path)
    loaded = LLMI3DForConditionalGeneration.from_pretrained(tmp_path).eval()
    experiments.arms.switch_off(loaded, "depth")  # once more changes nothing
    with torch.no_grad():
        wanted, found = (one.eval().get_image_features(*pixels_of(model)) for one in (model, loaded))
    assert found.depth_logits is None
    torch.testing.assert_close(found.pooler_output, wanted.pooler_output)


def test_metric_arm_learns_metres_at_the_true_pixels(experiments, chain, row):
    instances = np.repeat(np.arange(1, 3, dtype=np.uint8), 160)[None].repeat(200, 0)
    batches = []
    for kind in (experiments.arms.UnorderedCollator, experiments.arms.MetricDepthCollator):
        torch.manual_seed(0)
        collate = kind(chain[1], dense=DenseLabels(4), words=False)
        batches.append(collate([{**row, "instance_map": Image.fromarray(instances)}]))
    focal_length = chain[1].virtual_focal_length
    for targets_of in (lambda batch: batch["targets_3d"],):
        usual, metric = map(targets_of, batches)
        truth = [
            encode_boxes(one["center"], one["size"], one["rotation"], one["intrinsics"][:, None], focal_length)
            for one in (usual, metric)
        ]
        torch.testing.assert_close(truth[1].center_2d_px, truth[0].center_2d_px)
        torch.testing.assert_close(truth[1].rotation_allocentric, truth[0].rotation_allocentric, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(truth[1].depth_virtual, usual["center"][..., 2])
        assert not torch.allclose(truth[0].depth_virtual, usual["center"][..., 2], rtol=0.05)
        torch.testing.assert_close(metric["painted_boxes_2d_px"], usual["painted_boxes_2d_px"])
        z = sorted(entry["center"][2] for entry in row["objects"])
        assert sorted(metric["painted_depths_virtual"][0].tolist()) == pytest.approx(z)


@pytest.mark.parametrize("form", ["numbers", "json"])
def test_text_arm_learns_the_box_in_words(experiments, chain, row, form):
    processor = chain[1]
    batch = experiments.arms.TextCollator(form, processor, pack_turns=True)([row])
    assert not (batch["input_ids"] == processor.box_3d_token_id).any()
    assert not batch["targets_3d"]["mask"].any()
    learned = batch["labels"][0]
    text = processor.tokenizer.decode(learned[learned >= 0]).split(processor.tokenizer.eos_token)
    canvas, focal_length = processor.image_processor.high_res_size["height"], processor.virtual_focal_length
    depths = []
    for answer in filter(None, text):
        seen = text_boxes.read_boxes(form, answer, canvas).boxes
        fields = (getattr(seen, name) for name in text_boxes.SeenBoxes.__dataclass_fields__)
        center, _, _ = decode_boxes(*fields, batch["targets_3d"]["intrinsics"][0].double(), focal_length)
        depths += center[:, 2].tolist()
    assert sorted(depths) == pytest.approx(sorted(entry["center"][2] for entry in row["objects"]), rel=0.01)
    assert form == "numbers" or '"label": "cone"' in "".join(text)


def test_every_experiment_has_its_arms_and_they_their_budget(experiments):
    run, arms = experiments.run, experiments.arms
    assert {one.number[0] for one in run.EXPERIMENTS.values()} == set("12345678")
    asked = {name for one in run.EXPERIMENTS.values() for name in one.arms}
    assert asked == set(arms.ARMS)
    for one in run.EXPERIMENTS.values():
        assert len({json.dumps(arms.budget(arms.ARMS[name], 1.0)) for name in one.arms}) <= 1
        if one.number[0] in "123":
            assert all(len(seeds) >= 3 for seeds in one.arms.values())
    changed = run.parse(["plan", "--out", "nowhere"]).place
    assert "in all" in run.plan(changed)


# ------------------------------------------------------------------------------------------------------------- measure


def record_of(index, shift):
    box = {"center": [0.0, 0.0, 10.0], "size": [4.0, 1.5, 1.8], "rotation": np.eye(3).tolist(), "category": "car"}
    found = {**box, "center": [shift, 0.0, 10.0], "score": 1.0}
    record = make_record(f"{index:02d}#0", "grounding", [box], K.tolist(), image_id=f"{index // 2:02d}")
    return with_predictions([record], [{"id": record.id, "boxes": [found]}])[0]


def test_differences_are_paired_and_spreads_are_kept(experiments):
    measure = experiments.measure
    # The same questions are hard for both arms; the second is right on each that the first is right on, and on more.
    hard = [5.0 * (i % 3 == 0) for i in range(60)]
    better = [5.0 * (i % 6 == 0) for i in range(60)]
    first, second = ([measure.grounding([record_of(i, s) for i, s in enumerate(of)])["all"]] for of in (hard, better))
    one = measure.estimate(first)["acc@0.25"]
    assert one["value"] == pytest.approx(40 / 60) and one["low"] < 40 / 60 < one["high"] and one["spread"] is None
    apart = measure.difference(first, second)["acc@0.25"]
    assert apart["value"] == pytest.approx(10 / 60) and apart["low"] > 0
    assert measure.difference(first, first)["acc@0.25"]["high"] == 0
    assert experiments.common.verdict(apart, "more") == "as expected"
    assert experiments.common.verdict(apart, "less") == "the opposite"
    assert experiments.common.verdict({**apart, "low": -0.1}, "more") == "not decided"
    # Seeds that disagree widen the interval beyond that of either.
    both = measure.estimate([*first, *second])["acc@0.25"]
    assert both["value"] == pytest.approx(45 / 60) and both["spread"] == pytest.approx(10 / 60 / 2**0.5)
    assert both["low"] < one["value"] and both["high"] > measure.estimate(second)["acc@0.25"]["value"]


def test_subsets_hold_what_they_say(experiments):
    records = [record_of(i, 5.0 * (i < 20)) for i in range(40)]
    found = experiments.measure.grounding(
        records, {"early": lambda record: int(record.id[:2]) < 20, "late": lambda record: int(record.id[:2]) >= 20}
    )
    assert found["early"]["acc@0.25"].value == 0 and found["late"]["acc@0.25"].value == 1
    assert found["early"]["acc@0.25"].count == 20
    assert found["late"]["relative_depth_error"].value == 0


# ---------------------------------------------------------------------------------------------------------------- page


def test_page_says_what_the_files_say(experiments, tmp_path):
    number = {"value": 0.4321, "low": 0.4, "high": 0.46, "seeds": [0.4, 0.46], "spread": 0.042, "count": 77}
    opposite = {"claim": "more mining is better", "metric": "acc@0.25", "better": "more", "verdict": "the opposite"}
    result = {
        "number": "1",
        "title": "Feature mining",
        "how": "Somehow.",
        "tables": [
            {"title": "All", "metrics": ["acc@0.25"], "plot": "acc@0.25", "rows": [row_of("full", number)]},
            {
                **{"title": "Sweep", "metrics": ["acc@0.25"], "plot": "acc@0.25", "xlabel": "severity"},
                "rows": [row_of("0", number, x=0), row_of("1", number, x=1)],
            },
        ],
        "expected": [{**opposite, "difference": {**number, "value": -0.1, "low": -0.2, "high": -0.05}}],
        "provenance": {
            **{"command": "run mining", "machine": "2 cores", "commit": "abc", "date": "today", "checkpoint": ""},
            **{"pictures": 9, "training": {}},
        },
    }
    (tmp_path / "mining.json").write_text(json.dumps(result))
    experiments.page.save_plot(result, tmp_path / "mining.png")
    page = tmp_path / "page.md"
    experiments.page.write_page(["mining", "lora"], {"mining": "1: M", "lora": "7: L"}, tmp_path, page)
    text = page.read_text()
    assert "| full | 43.2 (40.0 to 46.0) ± 4.2 | 77 |" in text
    assert "the other way round: more mining is better." in text and "-10.0 (-20.0 to -5.0)" in text
    assert "## 7: L\n\nNot run yet" in text and "commit abc" in text
    assert (tmp_path / "mining.png").stat().st_size > 5000


def row_of(label, number, **more):
    return {"label": label, "numbers": {"acc@0.25": number}, **more}


def test_page_in_docs_is_that_of_its_files(experiments, tmp_path):
    results = EXPERIMENTS.parents[1] / "docs" / "experiments"
    shutil.copytree(results, tmp_path / "experiments") if results.is_dir() else (tmp_path / "experiments").mkdir()
    experiments.run.make_page(tmp_path / "experiments")
    assert (tmp_path / "experiments.md").read_text() == results.with_suffix(".md").read_text()


def test_no_path_of_this_machine_is_told(experiments, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["run.py", "mining", "--base", str(tmp_path / "here")])
    options = experiments.run.parse(sys.argv[1:])
    told = experiments.run.provenance(options.place)
    assert told["command"] == "python examples/experiments/run.py mining --base here"
    assert str(tmp_path) not in json.dumps(told)


def test_another_budget_is_refused(experiments, row, tmp_path):
    options = experiments.run.parse(["arm", "full", "0", "--out", str(tmp_path), "--scale", "0.5"])
    path = options.place.arm("full", 0) / "arm.json"
    path.parent.mkdir(parents=True)
    base = {"pictures": 3, "model": ""}
    rows = [{**row, "image_id": name} for name in "abc"]
    file = options.place.base / "train" / DATA_FOLDER / shard_name("train", 0, 1)
    file.parent.mkdir(parents=True)
    Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(file)
    budget = experiments.arms.budget(experiments.arms.ARMS["full"], 1.0)
    held = {"budget": budget, "pictures": 400, "seed": 0, "base": base}
    path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match="holds an arm with other budget"):
        experiments.run.run_arm(options.place, "full", 0)


@pytest.mark.slow
def test_experiments_from_end_to_end(tmp_path):
    """A few frames and steps: both starts, all that ask a checkpoint, and nothing made twice."""
    pytest.importorskip("embreex")

    def call(*words):
        subprocess.run([sys.executable, *map(str, words)], check=True, cwd=tmp_path)

    frames = "test:8,novel:8,camera:8,dense:8,far:8"
    common = ("--option", "long_side=320", "--max-turns", "12", "--quiet")
    for out, given in (("data", frames), ("train", "train:24")):
        call("-m", "llmi3d", "data", "build", "synth", "--out", out, "--option", f"frames={given}", *common,
             "--option", "masks=true")  # fmt: skip
    shutil.copytree(tmp_path / "train", tmp_path / "base" / "train")
    call(EXPERIMENTS.parent / "tiny" / "new_model.py", "--data", "train", "--out", "base/base")
    call("-m", "llmi3d.training.run", EXPERIMENTS.parent / "recipes" / "tiny.yaml", "--output_dir", "base/run",
         "--model_name_or_path", "base/base", "--datasets", "train", "--max_steps", "2", "--stages",
         "{name: words, tuning: full, turns: first_words}")  # fmt: skip
    shutil.copytree(tmp_path / "base" / "run" / "final", tmp_path / "checkpoint")
    given = ("--data", "data", "--base", "base", "--checkpoint", "checkpoint", "--out", "out", "--results", "docs")
    given += ("--pictures", "8", "--scale", "0.001")
    for words in (("arm", "metric_depth", "0"), ("lora",), ("evaluations",)):
        call(EXPERIMENTS / "run.py", *words, *given)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for words in (("arm", "metric_depth", "0"), ("lora",)):
        call(EXPERIMENTS / "run.py", *words, *given)
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    results = [json.loads(path.read_text()) for path in (tmp_path / "docs").glob("*.json")]
    assert len(results) == 5 and all(one["tables"] for one in results)
    page = (tmp_path / "docs.md").read_text()
    assert page.count("Not run yet") == 4 and str(tmp_path) not in page
