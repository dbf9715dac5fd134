# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d init` keeps the base's turns, normalisation and licence; the result can be trained and used."""

import json
import shutil

import datasets
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from small_bases import build_convnext
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from typer.testing import CliRunner

from llmi3d import LLMI3DTrainer
from llmi3d.bases.assemble import init_checkpoint
from llmi3d.bases.chat_template import read_turns
from llmi3d.cli import app
from llmi3d.data.dataset import DATA_FOLDER, shard_name
from llmi3d.data.schema import IG3D_FEATURES
from llmi3d.processing.processing_llmi3d import CHAT_TEMPLATE
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.preparation import prepare, prepare_model
from llmi3d.training.recipe import read_recipe

FAMILIES = ("llava", "llava_next", "llava_onevision")
TINY = {
    "high_res_vision_config": {
        **{"model_type": "timm_wrapper", "architecture": "convnext_atto", "do_pooling": False},
        "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]},
    },
    **{"high_res_image_size": 64, "box_head_dim": 32, "num_depth_bins": 10},
    **{"depth_predictor_dim": 16, "depth_embedding_dim": 8},
}


@pytest.fixture(scope="module")
def made(bases, tmp_path_factory):
    """Return the folder that `init_checkpoint` made from each family's base."""
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp("made") / family
        init_checkpoint(bases[family][0], folders[family], **TINY)
    return folders


def test_it_is_whole_and_answers_a_question(made, photograph):
    ask = pipeline("image-3d-grounding", model=str(made["llava_onevision"]), device="cpu")
    answer = ask(photograph, prompt="the car", intrinsics=[250, 260, 150, 110])
    assert len(answer["boxes"]) == 1 and answer["boxes"][0]["size"][0] > 0
    for path in made["llava_onevision"].iterdir():
        if path.suffix in (".json", ".md", ".jinja"):
            assert str(made["llava_onevision"].parent) not in path.read_text(), path.name


def test_a_qwen_vl_becomes_a_checkpoint_too(qwen_base, convnext, photograph, tmp_path):
    changes = {name: value for name, value in TINY.items() if name != "high_res_vision_config"}
    report = init_checkpoint(qwen_base[0], tmp_path / "made", convnext[1], **changes, image_size=32)
    assert report.family in ("qwen2_5_vl", "qwen3_vl")
    ask = pipeline("image-3d-grounding", model=str(tmp_path / "made"), device="cpu")
    assert len(ask(photograph, prompt="the car", intrinsics=[250, 260, 150, 110])["boxes"]) == 1
    with pytest.raises(ValueError, match="high_res_weights: got a file with high_res_branch=False"):
        init_checkpoint(qwen_base[0], tmp_path / "other", convnext[1], high_res_branch=False)


# As Qwen2.5-VL's, which speaks first where nobody else does.
SPEAKS_FIRST = """{% for message in messages %}{% if loop.first and message['role'] != 'system' -%}
{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' -}}
{% for block in message['content'] %}{% if block['type'] == 'image' -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ block['text'] }}{% endif %}{% endfor -%}
{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def test_a_qwen_vl_keeps_its_own_turns(qwen_base, row, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(qwen_base[0], base)
    (base / "chat_template.jinja").write_text(SPEAKS_FIRST)
    init_checkpoint(base, tmp_path / "made", **TINY, image_size=32)
    processor = AutoProcessor.from_pretrained(tmp_path / "made")
    asked = processor.grounding_prompt("the car", mode="generate")
    assert asked.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|>")
    batch = LLMI3DDataCollator(processor)([row])
    learned = batch["labels"][0][batch["labels"][0] >= 0]
    assert processor.tokenizer.decode(learned) == 2 * "<|box_3d|><|im_end|>"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_answers_stay_and_generation_stops_at_the_end_of_a_turn(made, bases, family):
    folder, original = bases[family]
    model = AutoModelForImageTextToText.from_pretrained(made[family]).eval()
    words = torch.randint(0, 250, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = original(input_ids=words).logits
        torch.testing.assert_close(model(input_ids=words).logits[..., :261], wanted, rtol=1e-5, atol=1e-5)
    end = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|im_end|>" if "one" in family else "</s>")
    assert model.generation_config.eos_token_id == end


# ------------------------------------------------------------------------------------------------------ chat template


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_are_worded_as_the_base_words_them(made, bases, family):
    own, base = (AutoProcessor.from_pretrained(one) for one in (made[family], bases[family][0]))
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How far?"}]}
    plain = {"role": "user", "content": [{"type": "text", "text": "And that?"}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": "Near."}]}
    assert own.apply_chat_template([question]) == base.apply_chat_template([question])
    asked = own.apply_chat_template([question], add_generation_prompt=True)
    assert asked.startswith(base.apply_chat_template([question], add_generation_prompt=True))
    mine = own.apply_chat_template([question, said, plain], add_generation_prompt=True)
    assert mine.startswith(asked + "Near." + own.tokenizer.eos_token)
    behind, its = (text.split("Near.")[1] for text in (mine, base.apply_chat_template([question, said, plain])))
    assert (
        behind.split(own.tokenizer.eos_token)[1].lstrip().startswith(its.split(own.tokenizer.eos_token)[-1].lstrip())
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_words_of_the_answer_and_its_end_are_learned(made, row, family):
    processor = AutoProcessor.from_pretrained(made[family])
    batch = LLMI3DDataCollator(processor)([row])
    learned = batch["labels"][0][batch["labels"][0] >= 0]
    turn = "<|box_3d|>" + processor.tokenizer.eos_token
    assert processor.tokenizer.decode(learned) == 2 * turn
    bos = processor.tokenizer.bos_token_id
    assert batch["input_ids"][0].tolist().count(bos) == (bos is not None)


def test_vicunas_turns_are_those_that_the_paper_model_has(bases):
    processor = AutoProcessor.from_pretrained(bases["llava"][0])
    turns = read_turns(processor.chat_template, processor.tokenizer, "<image>")
    conversation = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How far?"}]},
        {"role": "assistant", "content": "Near."},
        {"role": "user", "content": "And that?"},
    ]
    texts = [
        processor.apply_chat_template(conversation, chat_template=one, add_generation_prompt=True)
        for one in (turns.to_template(), CHAT_TEMPLATE)
    ]
    assert texts[0] == texts[1]


def test_a_prompt_that_the_template_writes_by_itself_and_a_first_token_come_once(bases):
    tokenizer = AutoTokenizer.from_pretrained(bases["llava"][0])
    template = (
        "{{ bos_token }}{% if messages[0]['role'] != 'system' %}{{ 'Help. ' }}{% endif %}"
        "{% for m in messages %}{{ m['role'][0] + '(' }}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}{{ '<image>' }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
        "{{ ')</s>\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'a(' }}{% endif %}"
    )
    turns = read_turns(template, tokenizer, "<image>")
    assert (turns.start, turns.system, turns.system_end) == ("Help. ", "s(", ")</s>\n")
    assert (turns.user_with_image, turns.assistant, turns.end) == ("u(<image>", "a(", "</s>")


@pytest.mark.parametrize(
    "template, text",
    [
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "words appear 0 times"),
        ("{% for m in messages %}{{ m.nothing.at_all }}{% endfor %}", "cannot read the base's"),
        ("{% for m in messages %}{{ loop.index }}{{ m['content'][-1]['text'] }}{% endfor %}", "begins differently"),
    ],
)
def test_templates_that_cannot_be_taken_apart_are_refused(bases, template, text):
    tokenizer = AutoTokenizer.from_pretrained(bases["llava"][0])
    with pytest.raises(ValueError, match=rf"chat_template: cannot read the base's.*{text}|{text}"):
        read_turns(template, tokenizer, "<image>")


def test_a_system_prompt_that_the_base_has_not_is_refused_on_use(made):
    processor = AutoProcessor.from_pretrained(made["llava_next"])
    with pytest.raises(Exception, match="the base was tuned without"):
        processor.apply_chat_template([{"role": "system", "content": "Be brief."}])


def test_a_base_without_template_needs_one_unless_it_is_a_llava_of_old(bases, tmp_path):
    for family in ("llava", "llava_onevision"):
        shutil.copytree(bases[family][0], tmp_path / family)
        (tmp_path / family / "chat_template.jinja").unlink()
    init_checkpoint(tmp_path / "llava", tmp_path / "old", **TINY)
    assert (tmp_path / "old" / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    with pytest.raises(ValueError, match="chat_template: the base has none"):
        init_checkpoint(tmp_path / "llava_onevision", tmp_path / "new", **TINY)
    template = (bases["llava_onevision"][0] / "chat_template.jinja").read_text()
    init_checkpoint(tmp_path / "llava_onevision", tmp_path / "new", chat_template=template, **TINY)
    assert "{% generation" in (tmp_path / "new" / "chat_template.jinja").read_text()


# ------------------------------------------------------------------------------------------------------------- colours


@pytest.fixture(scope="module")
def convnext(tmp_path_factory):
    """Return a tiny ConvNeXt with OpenCLIP's names, and its file."""
    path = tmp_path_factory.mktemp("convnext") / "open_clip_model.safetensors"
    return build_convnext(path), path


@pytest.mark.parametrize("family", ["llava", "llava_onevision"])
def test_the_cnn_sees_the_colours_that_it_was_trained_on(bases, tmp_path, convnext, photograph, family):
    reference, path = convnext
    changes = {name: value for name, value in TINY.items() if name != "high_res_vision_config"}
    report = init_checkpoint(bases[family][0], tmp_path / "made", high_res_weights=path, **changes)
    assert report.high_res_weights == path.name
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "made").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "made")
    given = processor.image_processor(photograph, fov_deg=60, return_tensors="pt")
    wanted = processor.image_processor(
        photograph, fov_deg=60, image_mean=OPENAI_CLIP_MEAN, image_std=OPENAI_CLIP_STD, return_tensors="pt"
    )
    inside = slice(12, 52)  # the padding is each one's own mean colour
    assert list(processor.image_processor.image_mean) == ([0.5] * 3 if "one" in family else OPENAI_CLIP_MEAN)
    with torch.no_grad():
        mine = model.base_model.high_res_tower.timm_model.stem(given["high_res_pixel_values"][..., inside, :])
        its = reference.stem(wanted["high_res_pixel_values"][..., inside, :])
    torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------- card and whole folders


@pytest.mark.parametrize(
    "front, given, licence, in_card",
    [
        ("license: llama2", None, "llama2", "llama2"),
        ("license: other\nlicense_name: house\nlicense_link: LICENCE", None, "house", "other"),
        ("license: llama2", "mit", "mit", "mit"),
        (None, None, "unknown: see the base", "unknown"),
    ],
)
def test_the_card_says_the_bases_licence(bases, tmp_path, front, given, licence, in_card):
    shutil.copytree(bases["llava"][0], tmp_path / "base")
    if front is not None:
        (tmp_path / "base" / "README.md").write_text(f"---\n{front}\n---\n\n# A base\n")
    report = init_checkpoint(tmp_path / "base", tmp_path / "made", licence=given, **TINY)
    card = ModelCard.load(tmp_path / "made" / "README.md")
    assert report.licence == licence and card.data.license == in_card
    assert card.data.get("license_name") == ("house" if licence == "house" else None)
    assert f"Initialised from `base` (llava). Licence of its weights: {licence}." in card.text
    assert f"| of the base | `base` | {licence} |" in card.text
    assert "boxes mean nothing" in card.text and str(tmp_path) not in card.text


def test_an_out_that_is_there_is_left_alone(bases, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        init_checkpoint(bases["llava"][0], tmp_path / "out", **TINY)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"] and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("broken", ["weights", "convnext", "family"])
def test_nothing_half_written_is_left(bases, tmp_path, broken):
    base, weights = tmp_path / "base", None
    shutil.copytree(bases["llava"][0], base)
    if broken == "weights":
        path = base / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
    elif broken == "convnext":
        weights = tmp_path / "cnn.safetensors"
        save_file({"stem.0.weight": torch.ones(8, 3, 4, 4)}, weights)
    else:
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, "model_type": "internvl"}))
    with pytest.raises(ValueError):
        init_checkpoint(base, tmp_path / "out", high_res_weights=weights, **TINY)
    assert {path.name for path in tmp_path.iterdir()} <= {"base", "cnn.safetensors"}


def test_a_seed_decides_what_is_new(bases, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        init_checkpoint(bases["llava"][0], tmp_path / name, seed=seed, **TINY)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    differ = {name for name in a if not torch.equal(a[name], c[name])}
    assert differ and all("box_head" in name or "high_res" in name or "feature_mining" in name for name in differ)


# ------------------------------------------------------------------------------------------------------------ training


@pytest.fixture
def recipe(row, tmp_path):
    """Return a function that writes the YAML file of a short run of both stages on three rows."""
    rows = [{**row, "image_id": f"train/{number}"} for number in range(3)]
    file = tmp_path / "data" / DATA_FOLDER / shard_name("train", 0, 1)
    file.parent.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(file)

    def write(checkpoint):
        fields = {
            "model_name_or_path": str(checkpoint),
            "output_dir": str(tmp_path / "run"),
            "datasets": [{"data": str(tmp_path / "data")}],
            "max_steps": 1,
            "per_device_train_batch_size": 3,
            "learning_rate": "1e-3",
            "lora_r": 4,
            **{"use_cpu": True, "disable_tqdm": True, "save_strategy": "no"},
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(fields))
        return str(path)

    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_training_accepts_it(made, recipe, family):
    result = CliRunner().invoke(app, ["train", recipe(made[family]), "--dry_run"])
    assert result.exit_code == 0, result.output
    assert "align (parts)" in result.output and "tune (lora)" in result.output


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_moves_only_what_should_move(made, recipe, family):
    prepared = prepare(read_recipe([recipe(made[family])]))
    tune = prepared.stages[1]
    model = prepare_model(AutoModelForImageTextToText.from_pretrained(made[family]), tune.stage)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = tune.training_rows()
    LLMI3DTrainer(
        model,
        tune.arguments,
        train_dataset=[rows[index] for index in range(len(rows))],
        data_collator=LLMI3DDataCollator(prepared.processor),
    ).train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert moved <= trained
    # With the mining neutral and the adapters' second halves zero, what lies behind those has no gradient yet.
    wait = ("lora_A", "query_norm", "query_proj", "key_norm", "key_proj", "value_norm", "depth_embedding")
    assert {name for name in trained - moved if not any(part in name for part in wait)} == set()
    for part in ("lora_B", "value_proj", "depth_predictor", "multi_modal_projector", "box_head", "trainable_tokens"):
        assert any(part in name for name in moved), part
    assert not any(part in name for name in trained for part in ("vision_tower", "high_res_tower", "lm_head"))


def test_a_base_with_tied_embeddings_goes_through_both_stages(new_base, recipe, tmp_path, photograph):
    new_base("llava_onevision", tmp_path / "base", tie_word_embeddings=True)
    init_checkpoint(tmp_path / "base", tmp_path / "made", **TINY)
    result = CliRunner().invoke(app, ["train", recipe(tmp_path / "made")])
    assert result.exit_code == 0, result.output
    final = tmp_path / "run" / "final"
    model = AutoModelForImageTextToText.from_pretrained(final)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    before = load_file(tmp_path / "made" / "model.safetensors")["model.language_model.embed_tokens.weight"]
    rows = (model.lm_head.weight != before).any(1).nonzero().flatten().tolist()
    assert rows == [model.config.box_3d_token_id]
    ask = pipeline("image-3d-grounding", model=str(final), device="cpu")
    assert len(ask(photograph, prompt="the car", fov_deg=60)["boxes"]) == 1


# ------------------------------------------------------------------------------------------------------------- command


def test_the_command_leaves_the_high_resolution_branch_out(bases, tmp_path, photograph):
    command = ["init", "--base", str(bases["llava"][0]), "--out", str(tmp_path / "out"), "--no-high-res"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "high_res_tower" not in result.output
    assert "the high-resolution tower is left out" in (tmp_path / "out" / "README.md").read_text().replace("\n", " ")
    ask = pipeline("image-3d-grounding", model=str(tmp_path / "out"), device="cpu")
    assert len(ask(photograph, prompt="the car", fov_deg=60)["boxes"]) == 1


def test_the_command_says_what_it_made_and_leaves_an_out_alone(bases, tmp_path, convnext):
    base = tmp_path / "base"
    shutil.copytree(bases["llava"][0], base)
    (base / "README.md").write_text("---\nlicense: llama2\n---\n")
    command = ["init", "--base", str(base), "--out", str(tmp_path / "out"), "--high-res-weights", str(convnext[1])]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "base (llava; licence llama2)" in result.output and "from a file" in result.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["high_res_image_size"] == 768
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "is there already" in again.output and "Traceback" not in again.output
