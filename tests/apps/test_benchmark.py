# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d bench`: the stages of an answer, the report, the command."""

import importlib.util
import json
import mmap
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from llmi3d import LLMI3DConfig
from llmi3d.apps.benchmark import STAGES, PeakMemory, StageTimer, answer, bench, weight_bytes
from llmi3d.apps.benchmark_models import SIZES, byte_tokenizer, load, phrases_of, save_images
from llmi3d.apps.benchmark_report import to_markdown
from llmi3d.cli import app

ROOT = Path(__file__).parents[2]
RANDOM = str(ROOT / "model_cards" / "llmi3d-tiny-random")


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def report():
    settings = {"repeats": 3, "warm_up": 1, "new_tokens": 4, "image_size": (320, 200)}
    with pytest.MonkeyPatch.context() as patch:  # CPU time: other work of the machine belongs to no stage
        patch.setattr("llmi3d.apps.benchmark.time.perf_counter", time.process_time)
        return bench(RANDOM, batch_sizes=(2,), phrases=(1, 3), modes=("direct", "generate"), **settings)


@pytest.fixture
def files(tmp_path):
    return save_images(tmp_path, 1, (320, 200))


def test_stages_sum_to_the_whole(report):
    for result in report["results"]:
        parts = result["stages_ms"]
        assert list(parts) == list(STAGES) and min(parts.values()) >= 0
        # A collection of garbage is more than a twentieth of these 25 ms; a stage left out would be more than this.
        assert sum(parts.values()) == pytest.approx(result["staged_ms"], rel=0.25)
        assert sum(parts.values()) + result["rest_ms"] == pytest.approx(result["staged_ms"])
        assert (parts["decoding"] > 0) == (result["mode"] == "generate")


@pytest.mark.parametrize(("phrases", "prompt"), [(["it"], 1), (["it", "the longer one"], 2)])
def test_every_part_has_its_own_time(chain, files, monkeypatch, phrases, prompt):
    """The clock ticks only inside the parts: each stage gets its own ticks, nested or not."""
    model, processor = chain
    clock, passes = [0.0], []
    monkeypatch.setattr("llmi3d.apps.benchmark.time.perf_counter", lambda: clock[0])
    core = model.model
    ticks = {"vit": (core.vision_tower, 1), "cnn": (core.high_res_tower, 10), "mining": (core.feature_mining, 100)}
    ticks |= {"llm": (core.language_model, 1000), "heads": (model.box_head, 10_000)}

    def tick(seconds):
        clock[0] += seconds
        passes.append(seconds)

    hooks = [
        part.register_forward_hook(lambda *_, s=seconds: tick(s), prepend=True) for part, seconds in ticks.values()
    ]
    with StageTimer(model) as timer:
        answer(model, processor, files, phrases, "generate", 4, timer.stage)
    for hook in hooks:
        hook.remove()
    assert passes.count(1000) == prompt + 3  # the prompt, its start apart where phrases share it, and three words
    wanted = {"vit": 1, "cnn": 10, "mining": 100, "llm": 1000 * prompt, "decoding": 3000, "heads": 10_000}
    assert {name: seconds for name, seconds in timer.spent.items() if seconds} == wanted


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_gone_afterwards(chain, files, monkeypatch, fails):
    model, processor = chain

    def break_down(*_):
        raise RuntimeError("broken")

    if fails:
        monkeypatch.setattr(type(model.model.feature_mining), "forward", break_down)

    def hooks():
        every = [[*part._forward_hooks.values(), *part._forward_pre_hooks.values()] for part in model.modules()]
        return [
            hook for some in every for hook in some if hook.__module__ == "llmi3d.apps.benchmark"
        ]  # not transformers' own

    timer = StageTimer(model)
    try:
        with timer:
            assert len(hooks()) == 14
            answer(model, processor, files, ["it"], "direct", 1, timer.stage)
            assert not fails
    except RuntimeError:
        assert fails
    assert not timer._open and not hooks()


def test_the_page_names_every_field_of_the_report(report):
    page = (ROOT / "docs" / "speed.md").read_text()
    [result, *others] = report["results"]
    assert [(entry["mode"], entry["phrases"]) for entry in (result, *others)] == [
        *(("direct", 1), ("direct", 3)),
        *(("generate", 1), ("generate", 3)),
    ]
    named = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert named == {*report, *report["machine"], *report["settings"], *result, *STAGES}
    assert json.loads(json.dumps(report)) == report


def test_operations_and_limits_of_stages(report, chain):
    best, model = report["reachable"]["float32"], chain[0]
    [one, _, written, _] = report["results"]
    core = model.model
    weights = sum(value.numel() for value in core.language_model.layers.parameters())
    # 16 visual tokens and some 70 bytes for each of the two images; attention adds to what the weights take.
    assert 80 < 1e9 * one["gflop"]["llm"] / 2 / 2 / weights < 140
    assert one["gflop"]["decoding"] == 0 < written["gflop"]["decoding"] and one["gflop"]["read"] == 0
    read = weight_bytes(model, "generate", 4)
    head = model.lm_head.weight.numel() * 4
    assert read["decoding"] == 3 * read["llm"] and read["llm"] == weight_bytes(model, "direct", 4)["llm"] + head
    # Scores of words have as many weights as the embeddings, of which hardly any are read.
    assert read["llm"] == 4 * sum(value.numel() for value in core.language_model.parameters())
    for name in ("cnn", "llm", "decoding"):
        times = (written["gflop"][name] / best["gflop_per_s"], read[name] / 1e9 / best["gb_per_s"])
        assert written["limit_ms"][name] == pytest.approx(1e3 * max(times))


def test_throughput_is_of_phrases(report):
    for result in report["results"]:
        seconds = result["latency_ms"]["median"] / 1e3
        assert result["phrases_per_second"] == pytest.approx(2 * result["phrases"] / seconds)
        assert result["latency_ms"]["p95"] >= result["latency_ms"]["median"]
    text = to_markdown(report)
    assert "float32, generate, 2 x 3" in text and "3 repeats after 1 to warm up" in text and "threads" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_sizes": (1, 0)}, "batch_size: got 1, 0, want at least 1"),
        ({"phrases": ()}, "phrases: got none, want at least 1"),
        ({"repeats": 0}, "repeats: got 0"),
        ({"warm_up": 0}, "warm_up: got 0, want at least 1"),
        ({"new_tokens": 0}, "new_tokens: got 0"),
        ({"image_size": (0, 9)}, "image_size: got 0, 9"),
        ({"dtypes": ("int8",)}, "dtype: got int8, want some of float32"),
        ({"modes": ("aloud",)}, "mode: got aloud, want some of direct, generate"),
        ({"device": "nowhere"}, "device: got 'nowhere'"),
        ({"attention": "none_such"}, "attention: got 'none_such'"),
        (
            {"name": "tiniest"},
            "checkpoint: got 'tiniest', want a checkpoint, a folder with a config.json or one of tiny",
        ),
    ],
)
def test_bad_arguments_are_refused(given, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=re.escape(message)):
        bench(**{"name": RANDOM, **given})


def test_a_folder_without_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        bench(str(tmp_path))


def test_command_measures_a_checkpoint(tmp_path):
    settings = ("--dtype", "bfloat16", "--repeats", 1, "--warm-up", 1, "--image-size", "320x200", "--phrases", 1, 2)
    done = run(ROOT / "model_cards" / "llmi3d-tiny", *settings, "--device", "cpu", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "bfloat16, direct, 1 x 2" in done.output and (tmp_path / "bench.png").stat().st_size > 0
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [result["phrases"] for result in written["results"]] == [1, 2]
    assert "limit / time" in done.output
    again = run("tiny", "--out", tmp_path)
    assert again.exit_code == 2 and "bench.json exists already" in again.output


@pytest.fixture(scope="module")
def qwen_configuration(new_qwen_base, new_qwen_chain, tmp_path_factory):
    """Folder with the configuration alone of a LLMI3D on Qwen3-VL."""
    base, folder = (tmp_path_factory.mktemp(name) for name in ("base", "configuration"))
    new_qwen_base("qwen3_vl", base)
    config = new_qwen_chain(base)[0].config
    config.text_config.vocab_size = 320  # room for the bytes and a few words
    config.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("mode", ["direct", "generate"])
def test_a_configuration_on_qwen_vl_is_measured(qwen_configuration, mode):
    [result] = bench(qwen_configuration, modes=(mode,), phrases=(2,), repeats=1, warm_up=1, new_tokens=2)["results"]
    assert result["stages_ms"]["vit"] > 0 and result["gflop"]["mining"] > 0


@pytest.mark.parametrize("lists", [("--phrases", 1, 2), ("--phrases", 1, "--phrases", 2)])
def test_lists_are_written_either_way(lists, monkeypatch):
    seen = {}
    monkeypatch.setattr("llmi3d.apps.benchmark.bench", lambda *_, **given: seen.update(given) or {})
    monkeypatch.setattr("llmi3d.apps.benchmark_report.to_markdown", lambda _: "")
    assert run("tiny", *lists, "--repeats", 4).exit_code == 0
    assert (seen["phrases"], seen["repeats"], seen["batch_sizes"]) == ([1, 2], 4, [1])


@pytest.mark.parametrize("size", ["1242", "1242x", "axb"])
def test_sizes_of_pictures_are_read(size):
    done = run("tiny", "--image-size", size)
    assert done.exit_code == 2 and f"--image-size: got '{size}', want WIDTHxHEIGHT" in done.output


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_valid_and_phrases_short(size):
    config = LLMI3DConfig(**SIZES[size])
    tokenizer = byte_tokenizer(config)
    assert len(tokenizer) == config.text_config.vocab_size
    assert tokenizer.convert_tokens_to_ids("<|box_3d|>") == config.box_3d_token_id
    [text] = set(phrases_of(64)[3:4])
    ids = tokenizer(f"USER: Locate {text} in 3D.")["input_ids"]
    assert tokenizer.decode(ids).endswith(f"{text} in 3D.")
    assert len(ids) < 2 * len(text.split()) + 10
    assert len(set(phrases_of(64))) == 64 and len(phrases_of(70)) == 70


def test_the_tiny_size_is_that_of_the_checkpoint():
    ours, theirs = (
        load(name, torch.bfloat16, torch.device("cpu"))[0]
        for name in ("tiny", str(ROOT / "model_cards" / "llmi3d-tiny"))
    )
    assert ours.num_parameters() == theirs.num_parameters()


def test_a_vocabulary_without_room_is_refused():
    config = LLMI3DConfig.from_pretrained(RANDOM)
    config.text_config.vocab_size = 99
    with pytest.raises(ValueError, match="vocab_size is 99, want at least 261"):
        byte_tokenizer(config)


@pytest.fixture(scope="module")
def latency():
    """examples/benchmarks/latency.py as a module."""
    path = ROOT / "examples" / "benchmarks" / "latency.py"
    spec = importlib.util.spec_from_file_location("latency", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_latency_compares_with_the_llava_that_it_means(latency):
    """New mining is neutral: without it the same weights say the same."""
    model, processor = load(RANDOM, torch.float32, torch.device("cpu"))
    ways = latency.ways_of(model, processor, 2, 3)
    image = Image.effect_noise((1242, 375), 80).convert("RGB")
    inputs = processor.grounding_inputs(image, "it", fov_deg=80)
    with torch.no_grad():
        ours = model(**inputs).logits
        plain = {name: value for name, value in inputs.items() if name != "high_res_pixel_values"}
        torch.testing.assert_close(latency.plain_llava(model)(**plain).logits, ours)
        assert ways["prefill"]().logits.shape[1] == 1 and ways["text"]().shape[1] > 3
        assert latency.difference(ways["together"](), ways["one by one"]()) < 1e-4


def test_latency_sees_answers_that_differ(latency):
    def boxes(*scores):
        return {"score_logits": torch.tensor(scores), "mask": torch.ones(len(scores), dtype=torch.bool)}

    assert latency.difference([boxes(2.0, 2.0)], [boxes(2.0), boxes(3.0)]) == pytest.approx(1 / 3)


def test_latency_writes_its_ratios(latency, tmp_path, monkeypatch, capsys):
    settings = ["--size", RANDOM, "--phrases", "2", "--new-tokens", "2", "--repeats", "1", "--warm-up", "0"]
    monkeypatch.setattr(sys, "argv", ["latency.py", *settings, "--out", str(tmp_path / "latency.json")])
    latency.main()
    [result] = json.loads((tmp_path / "latency.json").read_text())["results"]
    ms, ratios = result["ms"], result["ratios"]
    assert set(ratios) == set(latency.RATIOS) and "text / direct" in capsys.readouterr().out
    assert ratios["direct / (prefill + CNN)"] == pytest.approx(ms["direct"] / (ms["prefill"] + ms["CNN"]))


@pytest.mark.skipif(sys.platform != "linux", reason="the peak cannot be restarted elsewhere")
def test_memory_is_the_peak_since_the_restart():
    mine = PeakMemory(torch.device("cpu"))
    if mine.kind != "resident set":
        pytest.skip("this system does not let a process restart its peak")
    before = mine.bytes()
    with mmap.mmap(-1, 64 * 2**20) as fresh:  # a tensor may get memory that the process has kept
        for _ in range(64):
            fresh.write(b"1" * 2**20)
    assert mine.bytes() - before > 50 * 2**20
    mine.restart()
    assert mine.bytes() - before < 30 * 2**20
