# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Frames per second and peak memory of IG3D-Synth by domain and resolution, of version 1, and of a whole build.

    python examples/benchmarks/synthetic.py
    python examples/benchmarks/synthetic.py --frames 400 --out outputs/benchmarks/synthetic.json

A frame is modelled, rendered, labelled and compressed. Each number comes from a process of its own with one thread;
of a build also the expressions, checks and Parquet are part.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from data import measured  # the script beside this one

DOMAINS = ("indoor", "driving", "surround", "objects")
SIDES = (448, 1920)  # the default, and as large as the cameras of the scenes


def render_frames(domain: str, long_side: int, version: int, count: int) -> None:
    """Render frames one after another."""
    from llmi3d.data.synthetic.ig3d_synth import Synthetic

    source = Synthetic(frames=f"train:{count}", domains=domain, long_side=long_side, version=version, masks=True)
    for image_id in source.ids():
        source.read(image_id)


def build_frames(count: int, processes: int) -> None:
    """Build a data set."""
    from llmi3d.data.build import build
    from llmi3d.data.synthetic.ig3d_synth import Synthetic

    with tempfile.TemporaryDirectory() as folder:
        source = Synthetic(frames=f"train:{count}", masks=True)
        build(source, Path(folder) / "built", num_proc=processes, rows_per_shard=50, progress=False)


def main() -> None:
    """Run the benchmark and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/synthetic.json"))
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    report = {"frames": arguments.frames, "threads": 1, "warm_up": "imports", "results": []}
    works = [(f"{domain} {side}", (domain, side, 2)) for side in SIDES for domain in DOMAINS]
    works += [(f"{domain} 448, v1", (domain, 448, 1)) for domain in DOMAINS]
    print(f"{'work':16}{'frames/s':>10}{'peak MB':>9}{'worker':>8}")
    for title, what in works:
        count = arguments.frames if what[1] == 448 else max(arguments.frames // 5, 1)
        _show(report, title, count, measured(render_frames, *what, count))
    for processes in (1, 2):
        result = measured(build_frames, arguments.frames, processes)
        _show(report, f"build 448, {processes}", arguments.frames, result)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {arguments.out}")


def _show(report: dict, title: str, count: int, result: dict) -> None:
    result |= {"work": title, "frames": count, "frames_per_second": count / result["seconds"]}
    report["results"].append(result)
    rate, peak, worker = result["frames_per_second"], result["peak_mb"], result["largest_worker_mb"]
    print(f"{title:16}{rate:10.1f}{peak:9.0f}{worker:8.0f}", flush=True)


if __name__ == "__main__":
    main()
