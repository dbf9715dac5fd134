# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Output of long jobs: whole files, folders that belong to one job."""

import os

import pytest

from llmi3d.data.outputs import checkpoint_fingerprint, claim_folder, write_whole


@pytest.mark.parametrize("content", ["whole", b"whole"])
def test_the_final_name_never_holds_a_part(tmp_path, monkeypatch, content):
    path = tmp_path / "report.json"
    write_whole(path, content)
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, content[:2])
    assert path.read_text() == "whole" and [name.name for name in tmp_path.iterdir()] == ["report.json"]


def claim(folder, **settings):
    claim_folder(folder, "begun/job.json", settings, kind="a job", field="output")


def test_a_folder_belongs_to_one_job(tmp_path):
    folder = tmp_path / "out"
    claim(folder, seed=0, sizes=(1, 2))
    (folder / "rows.txt").write_text("made")
    claim(folder, seed=0, sizes=[1, 2])  # resumes
    for settings in ({"seed": 0, "sizes": [1], "mode": "direct"}, {"seed": 1}):
        with pytest.raises(ValueError, match=r"^output: .*out holds a job with other .*; choose a new folder \("):
            claim(folder, **settings)
    with pytest.raises(ValueError, match=r"other sizes; choose a new folder \(sizes \[1, 2\] there, \[3\] now\)"):
        claim(folder, seed=0, sizes=[3])


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"output: .* holds something else; choose a new folder"):
        claim(tmp_path, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unfinished_record_does_not_hold_a_folder(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".job.json.a1b2").write_text("{")
    claim(tmp_path, seed=0)
    assert (tmp_path / "begun" / "job.json").exists()


def test_a_checkpoint_written_anew_is_another(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    before = checkpoint_fingerprint(tmp_path, None)
    os.utime(weights, ns=(1, 1))
    assert checkpoint_fingerprint(tmp_path, None) != before
