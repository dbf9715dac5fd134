# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What long jobs share."""

import os

import pytest

from llmi3d.data.jobs import checkpoint_fingerprint, refuse_other, write_whole


@pytest.mark.parametrize("content", ["whole", b"whole"])
def test_the_final_name_never_holds_a_part(tmp_path, monkeypatch, content):
    path = tmp_path / "report.json"
    write_whole(path, content)
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, content[:2])
    assert path.read_text() == "whole" and [name.name for name in tmp_path.iterdir()] == ["report.json"]


def test_other_fields_are_named(tmp_path):
    held = {"seed": 0, "sizes": [1, 2]}
    refuse_other(tmp_path, "a job", held, {"seed": 0, "sizes": (1, 2)})
    with pytest.raises(ValueError, match=r"holds a job with other sizes, mode; choose a new folder"):
        refuse_other(tmp_path, "a job", held, {"seed": 0, "sizes": [1], "mode": "direct"})


def test_a_checkpoint_written_anew_is_another(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    before = checkpoint_fingerprint(tmp_path, None)
    os.utime(weights, ns=(1, 1))
    assert checkpoint_fingerprint(tmp_path, None) != before
