# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Exported direct grounding: one graph that answers as the model does, whatever the counts; whole or not at all."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor
from llmi3d.apps.graph_export import INPUTS, ExportedGrounding, export, graph_inputs, outputs_of
from llmi3d.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[pytest.param("onnx", marks=pytest.mark.slow), "torch"])
def exported(request, chain, tmp_path_factory):
    """(description, folder, what answers with it) of each format."""
    if request.param == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package, reason="needs pip install 'llmi3d[export]'")
    folder = tmp_path_factory.mktemp("exports") / request.param
    description = export(*chain, folder, request.param)
    return description, folder, ExportedGrounding(folder)


@pytest.fixture
def traced(exported, monkeypatch):
    """The program of `chain`, for tests of what is around it."""
    description, folder, _ = exported
    if description["format"] == "onnx":
        pytest.skip("once is enough")
    program = torch.export.load(folder / "model.pt2")
    monkeypatch.setattr("llmi3d.apps.graph_export._trace", lambda *_: program)


def ask(processor, image, *phrases, images=1, shared=True):
    return processor.grounding_inputs(
        [image] * images,
        [list(phrases)] * images,
        intrinsics=[(250, 260, 150, 110)] * images,
        share_images=shared,
    )


@pytest.mark.parametrize(
    ("phrases", "images", "shared"),
    [
        (["the car"], 1, True),
        (["the car", "it", "the red cone there", "a"], 1, True),
        (["the car", "it"], 3, True),
        (["the car", "the red cone over there"], 1, False),
    ],
    ids=["one", "together", "batch", "padded"],
)
def test_it_answers_as_the_model(exported, chain, photograph, phrases, images, shared):
    model, graph = chain[0], exported[2]
    inputs = ask(graph.processor, photograph, *phrases, images=images, shared=shared)
    wanted, got = model.ground(**inputs).boxes_3d, graph.ground(**inputs).boxes_3d
    assert list(got) == list(wanted)
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-4)
    [one, *_] = graph.processor.post_process_grounding_3d(graph.ground(**inputs), inputs.cameras)
    [same, *_] = graph.processor.post_process_grounding_3d(model.ground(**inputs), inputs.cameras)
    torch.testing.assert_close(one["corners"], same["corners"], rtol=1e-4, atol=1e-4)


def test_a_sequence_with_other_numbers_of_queries_is_padded(exported, chain, photograph):
    graph = exported[2]
    inputs = graph.processor(
        images=[photograph] * 2,
        text=[graph.processor.image_token + "a <|box_3d|>", graph.processor.image_token + "<|box_3d|> b <|box_3d|>"],
        intrinsics=[(250, 260, 150, 110)] * 2,
        return_tensors="pt",
    )
    got, wanted = graph.ground(**inputs).boxes_3d, chain[0].ground(**inputs).boxes_3d
    assert got.mask.tolist() == [[True, False], [True, True]]
    torch.testing.assert_close(got.size[got.mask], wanted.size[wanted.mask], rtol=1e-4, atol=1e-4)


def test_the_folder_says_what_it_is(exported, chain):
    description, folder, _ = exported
    assert json.loads((folder / "export.json").read_text()) == description
    config = chain[0].config
    assert list(description["inputs"]) == list(INPUTS) and list(description["outputs"]) == list(outputs_of(config))
    assert description["inputs"]["pixel_values"]["shape"] == ["batch", 3, config.image_size, config.image_size]
    assert description["outputs"]["rotation_6d"]["shape"] == ["batch", "queries", 6]
    assert description["difference"] < 1e-4
    assert "metres" in description["outputs"]["size"]["meaning"] and "z forward" in description["frames"]


def test_the_graph_keeps_no_paths_of_this_machine(exported):
    description, folder, _ = exported
    content = (folder / description["file"]).read_bytes()
    assert len(content) > 1e5 and not re.search(rb"\w+_llmi3d\.py", content)


def test_onnx_is_sound_and_has_the_shapes_that_are_said(chain, exported):
    description, folder, _ = exported
    if description["format"] != "onnx":
        pytest.skip("of ONNX alone")
    import onnx

    onnx.checker.check_model(folder / "model.onnx")
    graph = onnx.load(folder / "model.onnx").graph
    for which, values in (("inputs", graph.input), ("outputs", graph.output)):
        found = {one.name: [dim.dim_value or None for dim in one.type.tensor_type.shape.dim] for one in values}
        said = {name: one["shape"] for name, one in description[which].items()}
        assert found == {name: [side if isinstance(side, int) else None for side in said[name]] for name in said}


def test_the_page_runs(exported, chain, photograph, tmp_path, monkeypatch):
    """The Python of docs/speed.md, block after block."""
    pytest.importorskip("torchao", reason="needs pip install 'llmi3d[quantize]'")
    monkeypatch.chdir(tmp_path)
    for part in chain:
        part.save_pretrained("CHECKPOINT")
    (tmp_path / "exported").symlink_to(exported[1])
    photograph.save("street.jpg")
    page = (ROOT / "docs" / "speed.md").read_text()
    names = {}
    for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(text, names)
    assert names["answer"]["centers"].shape == (1, 3)


@pytest.mark.slow
def test_without_high_resolution_branch(new_tiny_model, tokenizer, tmp_path):
    model = new_tiny_model(
        high_res_branch=False,
        depth_branch=False,
        depth_from_map=False,
        text_config={"vocab_size": 320, "max_position_embeddings": 256},
    )
    description = export(model, LLMI3DProcessor.for_model(model.config, tokenizer), tmp_path / "out", "torch")
    assert "high_res_pixel_values" not in description["inputs"]


def test_the_command(traced, chain, tmp_path):
    for part in chain:
        part.save_pretrained(tmp_path / "checkpoint")
    arguments = ["export", str(tmp_path / "checkpoint"), str(tmp_path / "out"), "--format", "torch"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "model.pt2: differs from the model by" in done.output
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "out is there already" in again.output


@pytest.mark.parametrize("name", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_before_the_work(chain, tmp_path, monkeypatch, name):
    pytest.importorskip("onnxruntime", reason="needs pip install 'llmi3d[export]'")
    for part in chain:
        part.save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(app, ["export", str(tmp_path / "checkpoint"), str(tmp_path / "out")])
    assert (
        done.exit_code == 2
        and f"{name} is not installed; llmi3d export needs pip install 'llmi3d[export]'" in done.output
    )
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_refused(chain, qwen_chain, tmp_path):
    with pytest.raises(ValueError, match="format: got 'tflite', want one of onnx, torch"):
        export(*chain, tmp_path / "out", "tflite")
    with pytest.raises(ValueError, match="model: got Qwen-VL's encoder"):
        export(*qwen_chain, tmp_path / "out")
    with pytest.raises(ValueError, match=r"folder: .* has no export.json"):
        ExportedGrounding(tmp_path)
    half = LLMI3DForConditionalGeneration(chain[0].config).to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"model: got torch.bfloat16, want torch.float32"):
        export(half, chain[1], tmp_path / "out")


def test_other_sizes_and_counts_than_the_graphs_are_refused(exported, photograph):
    graph = exported[2]
    inputs = dict(ask(graph.processor, photograph, "the car"))
    with pytest.raises(ValueError, match=r"pixel_values: got \[3, 16, 8\], want \[3, 16, 16\]"):
        graph.ground(**{**inputs, "pixel_values": inputs["pixel_values"][..., :8]})
    many = ask(graph.processor, photograph, *["a"] * 65)
    with pytest.raises(ValueError, match=r"input_ids: got \d+ tokens in a sequence, want 18 to 1024"):
        graph.ground(**many)


def test_an_export_that_differs_is_not_left_behind(traced, chain, tmp_path, monkeypatch):
    monkeypatch.setattr("llmi3d.apps.graph_export._difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="outputs of its export differ by nan"):
        export(*chain, tmp_path / "out", "torch")
    assert not list(tmp_path.iterdir())


def test_shared_and_single_phrases_are_read_alike(chain, photograph):
    processor, token = chain[1], chain[1].box_3d_token_id
    single, mask = graph_inputs(ask(processor, photograph, "a", "bb", shared=False), token)
    assert mask.tolist() == [[True], [True]] and single["phrase_ids"][0, 0] == 0  # padded on the left
    assert single["position_ids"][0, :3].tolist() == [0, 0, 1]
    shared, mask = graph_inputs(ask(processor, photograph, "a", "bb"), token)
    assert mask.tolist() == [[True, True]] and shared["phrase_ids"].max() == 3
    found = shared["input_ids"].gather(1, shared["query_positions"])
    assert (found == token).all()
