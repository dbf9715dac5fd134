# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reading, matching and writing of checkpoints, tensor by tensor."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llmi3d.bases import checkpoint_io
from llmi3d.bases.checkpoint_io import (
    CheckpointReader,
    PlannedTensor,
    match_tensors,
    new_folder,
    write_shards,
)

STATE = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b.weight": torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "c.bias": torch.tensor([True, False]),
    "d.scale": torch.tensor(2.5, dtype=torch.float64),
    "e.ids": torch.arange(7),
}


def shard(folder: Path, end: str = "safetensors", parts: int = 2) -> Path:
    """Write `STATE` as two shards and an index."""
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for i in range(parts):
        part = {name: STATE[name] for name in list(STATE)[i::parts]}
        name = f"part{i}.{end}"
        save_file(part, folder / name) if end == "safetensors" else torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = "model.safetensors" if end == "safetensors" else "pytorch_model.bin"
    (folder / f"{index}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def edit_index(folder: Path, change) -> None:
    (path,) = folder.glob("*.index.json")
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


def planned(state=STATE, **changes) -> list[PlannedTensor]:
    return [
        PlannedTensor(name, tuple(x.shape), changes.get("dtype", x.dtype), lambda x=x: x) for name, x in state.items()
    ]


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("end", ["safetensors", "bin"])
def test_tensors_are_read_by_name(end, tmp_path):
    reader = CheckpointReader(shard(tmp_path / "src", end))
    assert set(reader.tensors) == set(STATE)
    for name, want in STATE.items():
        tensor = reader.tensors[name]
        assert (tensor.shape, tensor.dtype, tensor.device.type) == (want.shape, want.dtype, "meta")
        assert reader.files[name].suffix == f".{end}"
        assert torch.equal(reader.read(name), want)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin"])
def test_one_file_as_folder_or_alone(name, tmp_path):
    save_file(STATE, tmp_path / name) if name.endswith("safetensors") else torch.save(STATE, tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        reader = CheckpointReader(path)
        assert torch.equal(reader.read("a.weight"), STATE["a.weight"]) and len(reader.tensors) == len(STATE)


def test_shards_are_opened_once_in_their_order(tmp_path, monkeypatch):
    reader = CheckpointReader(shard(tmp_path / "src"))
    opened, load = [], checkpoint_io.load_state_dict
    monkeypatch.setattr(
        checkpoint_io, "load_state_dict", lambda file, **kw: opened.append(file.name) or load(file, **kw)
    )
    for name in sorted(STATE, key=reader.files.get):
        reader.read(name)
    assert opened == ["part0.safetensors", "part1.safetensors"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../part0.safetensors", "got '../part0.safetensors' as a file of weights, want a name inside its folder"),
        ("/etc/passwd", "got '/etc/passwd' as a file of weights"),
        ("..", r"got '\.\.' as a file of weights"),
        ("gone.safetensors", "gone.safetensors: is not there, though model.safetensors.index.json names it"),
    ],
)
def test_an_index_that_leads_elsewhere(name, message, tmp_path):
    folder = shard(tmp_path / "src")
    save_file(STATE, tmp_path / "part0.safetensors")
    edit_index(folder, lambda names: names.update({"a.weight": name}))
    with pytest.raises(ValueError, match=message):
        CheckpointReader(folder)


def test_an_index_that_disagrees_with_its_shards(tmp_path):
    folder = shard(tmp_path / "src")
    edit_index(folder, lambda names: names.update({"ghost": "part1.safetensors"}))
    with pytest.raises(ValueError, match=r"part1.safetensors: misses ghost, which the index"):
        CheckpointReader(folder)
    save_file(STATE, folder / "part1.safetensors")  # holds part0's too
    with pytest.raises(ValueError, match=r"part1.safetensors: holds .*, which part0.safetensors holds too"):
        CheckpointReader(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_none(content, tmp_path):
    folder = shard(tmp_path / "src")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="want JSON with the file of each tensor under 'weight_map'"):
        CheckpointReader(folder)


@pytest.mark.parametrize("end", ["safetensors", "bin"])
@pytest.mark.parametrize("kept", [0, 7, 0.5, -1])
def test_truncated_files(end, kept, tmp_path):
    folder = shard(tmp_path / "src", end)
    content = (folder / f"part1.{end}").read_bytes()
    (folder / f"part1.{end}").write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    with pytest.raises(ValueError, match=f"part1.{end}: is truncated"):
        CheckpointReader(folder)


class Harmful:
    """Runs code if it is unpickled without `weights_only`."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Harmful(), "holds more than weights"),
        ({"a.weight": Harmful()}, "holds more than weights"),
        ([torch.ones(2)], "got list, want tensors by name"),
        ({"model": {"a.weight": torch.ones(2)}}, "got dict, want tensors by name"),
    ],
)
def test_pickles_of_something_else(content, message, tmp_path):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"pytorch_model.bin: .*{message}"):
        CheckpointReader(tmp_path)


def test_a_file_of_another_kind_is_refused_by_its_suffix(tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    with pytest.raises(ValueError, match=r"weights: got suffix '', want one of .safetensors, .bin"):
        CheckpointReader(tmp_path / "weights")


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(ValueError, match=r"got no weights, want one of model.safetensors.index.json"):
        CheckpointReader(tmp_path)
    with pytest.raises(ValueError, match="got no weights"):
        CheckpointReader(tmp_path / "nothing")


# ------------------------------------------------------------------------------------------------------------ matching

TENSORS = STATE
TARGETS = {"x.a.weight": (2, 3), "x.b.weight": (4, 5), "x.new.weight": (1,)}
RENAMES = ((r"([ab])\.weight", r"x.\1.weight"),)
UNUSED = ((r"[cd]\..+", "why"), (r"e\..+", "for another reason"))


def match(**changes):
    given = {
        **{"tensors": TENSORS, "targets": TARGETS, "renames": RENAMES},
        **{"unused": UNUSED, "new": r"x\.new\..+", "where": "it"},
    }
    return match_tensors(**{**given, **changes})


def test_each_tensor_has_a_place_or_a_reason():
    matching = match()
    assert matching.source_of == {"x.a.weight": "a.weight", "x.b.weight": "b.weight"}
    assert matching.unused == {"c.bias": "why", "d.scale": "why", "e.ids": "for another reason"}
    assert matching.new == ["x.new.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unused": UNUSED[:1]}, "it: got 1 tensors that have no place: e.ids."),
        ({"unused": ()}, "got 3 tensors that have no place: c.bias, d.scale, e.ids"),
        ({"renames": ((r"([ab])\..+", r"y.\1"),)}, "got 2 tensors that have no place: a.weight, b.weight"),
        ({"new": "nothing"}, "it: misses 1 tensors, those that become x.new.weight."),
        ({"renames": ((r"[ab]\.weight", "x.a.weight"),)}, "b.weight and a.weight both define x.a.weight"),
        ({"targets": {**TARGETS, "x.a.weight": (3, 3)}}, r"it: a.weight is of shape \[2, 3\], want \[3, 3\]"),
        ({"targets": {**TARGETS, "x.a.weight": (2, 4)}, "resized": ["x.a.weight"]}, r"\[2, 3\], want \[2, 4\]"),
        ({"targets": {**TARGETS, "x.a.weight": (2, 3, 1)}, "resized": ["x.a.weight"]}, r"want \[2, 3, 1\]"),
    ],
)
def test_what_does_not_match_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        match(**changes)


def test_rows_may_differ_where_that_is_said():
    assert match(targets={**TARGETS, "x.a.weight": (9, 3)}, resized=["x.a.weight"]).source_of["x.a.weight"]


# ------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("limit", [1, 60, 10_000])
def test_what_is_written_is_what_safetensors_reads(limit, tmp_path):
    files = write_shards(tmp_path, planned(), limit)
    assert len(files) == {1: 5, 60: 3, 10_000: 1}[limit]
    together = {}
    for name, record in files.items():
        assert record["bytes"] == (tmp_path / name).stat().st_size
        together |= load_file(tmp_path / name)
    assert set(together) == set(STATE)
    for name, want in STATE.items():
        assert together[name].dtype == want.dtype and torch.equal(together[name], want)
    reader = CheckpointReader(tmp_path)  # finds them by the index, where there is one
    assert set(reader.tensors) == set(STATE)


def test_a_file_says_that_it_is_torchs(tmp_path):
    write_shards(tmp_path, planned())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_tensors_are_converted_and_made_contiguous(tmp_path):
    state = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.full((2,), 1 / 3, dtype=torch.float64)}
    write_shards(tmp_path, planned(state, dtype=torch.bfloat16))
    written = load_file(tmp_path / "model.safetensors")
    assert torch.equal(written["a"], state["a"].bfloat16()) and torch.equal(written["b"], state["b"].bfloat16())


def test_shards_are_made_one_after_the_other(tmp_path):
    """No tensor is made before those of the last shard are released."""
    import weakref

    made = []

    def load(i):
        assert not [ref for ref in made[: i - i % 2] if ref() is not None]
        tensor = torch.full((3,), float(i))
        made.append(weakref.ref(tensor))
        return tensor

    tensors = [PlannedTensor(f"t{i}", (3,), torch.float32, lambda i=i: load(i)) for i in range(6)]
    assert len(write_shards(tmp_path, tensors, 24)) == 3 and len(made) == 6


def test_another_shape_than_planned(tmp_path):
    with pytest.raises(ValueError, match=r"a: is of shape \[2\], want \[3\]"):
        write_shards(tmp_path, [PlannedTensor("a", (3,), torch.float32, lambda: torch.ones(2))])
    with pytest.raises(ValueError, match="max_shard_bytes: got 0, want at least 1"):
        write_shards(tmp_path, planned(), 0)


# ------------------------------------------------------------------------------------------------- whole or not at all


def test_a_new_folder_appears_when_all_is_well(tmp_path):
    with new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("whole")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "file").read_text() == "whole"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_new_folder_is_gone_when_it_is_not(error, tmp_path):
    with pytest.raises(error), new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("half")
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "file", "broken link"])
def test_what_is_there_is_kept(kind, tmp_path):
    out = tmp_path / "out"
    if kind == "broken link":
        out.symlink_to(tmp_path / "nothing")
    else:
        out.mkdir() if kind == "folder" else out.write_text("mine")
    with pytest.raises(ValueError, match="out is there already; choose a new folder"), new_folder(out):
        raise AssertionError("not reached")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_appears_meanwhile_is_kept(tmp_path):
    with pytest.raises(ValueError, match="is there already"), new_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
