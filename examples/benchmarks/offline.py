# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""A large offline job over two processes, one of which is killed: every image once, nothing lost, memory flat.

    python examples/benchmarks/offline.py
    python examples/benchmarks/offline.py --count 10000 --out outputs/benchmarks/offline.json

Images are random (320x240 JPEGs). First a tenth of them is done undisturbed, for its memory. Then all: when half of
the parts exist, one process gets SIGKILL, and the same command runs again. Its table must hold every id once and in
order, and parts from before the kill must not be written again. With `--compare` its bytes are compared with those of
a third, undisturbed run, which also gives the images per second, without start-up. Memory is the largest resident set
of any process, sampled every 50 ms.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

CHECKPOINT = Path(__file__).parents[2] / "model_cards" / "llmi3d-tiny"


def make_images(folder: Path, count: int) -> Path:
    """Write different JPEGs named by number, a hundred per folder."""
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 255, (6, 8, 3), np.uint8)
        path = folder / f"{i // 100:04d}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(path, quality=85)
    return folder


class Job:
    """Monitored run of `llmi3d batch` in several processes.

    Attributes:
        peak_mb: largest resident set of any process so far.
        seconds: from the first part to the end.
        written: times at which each part was written, by name; several if it was lost.
    """

    def __init__(self, images: Path, out: Path, options: argparse.Namespace):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.processes)]
        self.command = [
            *(sys.executable, *launcher, "-m", "llmi3d", "batch", str(images), "--prompt", "the nearest car"),
            *("--prompt", "the cyclist", "--fov", "60", "--checkpoint", str(options.checkpoint), "--out", str(out)),
            *("--batch-size", str(options.batch_size), "--part-size", str(options.part_size), "--quiet"),
        ]
        self.out, self.parts, self.peak_mb, self.seconds = out, out.with_name(f"{out.name}.parts"), 0.0, 0.0
        self.written = {}

    def finished_parts(self) -> set[str]:
        """Return the names of the existing parts."""
        names = set()
        for path in self.parts.glob("part-*"):
            try:
                self.written.setdefault(path.name, set()).add(path.stat().st_mtime_ns)
            except FileNotFoundError:  # joined meanwhile
                continue
            names.add(path.name)
        return names

    def run(self, kill_at: int | None = None) -> set[str]:
        """Run to the end, or kill the last process once so many parts exist; return the parts at that time."""
        log = self.out.with_suffix(".log")
        with open(log, "w") as file:
            launcher = subprocess.Popen(self.command, stdout=file, stderr=file)
        began, before = None, set()
        try:
            while launcher.poll() is None:
                workers = self._look(launcher.pid)
                done = self.finished_parts()
                began = began or (time.perf_counter() if done else None)
                if kill_at is not None and len(done) >= kill_at and workers and not before:
                    before = done
                    workers[-1].send_signal(signal.SIGKILL)
                time.sleep(0.05)
        finally:
            launcher.terminate()
            launcher.wait()
        self.seconds = time.perf_counter() - began if began else float("nan")
        if (launcher.returncode == 0) == bool(before):
            raise SystemExit(
                f"got exit code {launcher.returncode} of a job with {len(before)} parts\n{log.read_text()[-3000:]}"
            )
        return before

    def _look(self, pid: int) -> list[psutil.Process]:
        workers = []
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
            workers = psutil.Process(pid).children()
            self.peak_mb = max([self.peak_mb, *(worker.memory_info().rss / 2**20 for worker in workers)])
        return workers


def check(out: Path, wanted: list[str]) -> dict:
    """Count rows, boxes and errors of a table.

    Raises:
        SystemExit: an id is missing, repeated or out of order.
    """
    rows = pq.read_table(out, columns=["id", "prompt", "score", "error"]).to_pylist()
    asked = [(row["id"], row["prompt"]) for row in rows]
    if asked != [(name, phrase) for name in wanted for phrase in ("the nearest car", "the cyclist")]:
        raise SystemExit(f"{out}: its {len(set(asked))} questions are not those asked, each once and in order")
    failed = sum(row["error"] is not None for row in rows)
    return {"rows": len(rows), "boxes": sum(row["score"] is not None for row in rows), "errors": failed}


def main() -> None:
    """Run the benchmark and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="images")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--part-size", type=int, default=None, help="images per part; a fortieth by default, in whole batches"
    )
    parser.add_argument("--checkpoint", default=CHECKPOINT)
    parser.add_argument("--compare", action="store_true", help="compare with the bytes of an undisturbed run")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/offline.json"))
    options = parser.parse_args()
    if options.count < 40:
        parser.error(f"--count: got {options.count}, want at least 40")
    options.part_size = options.part_size or max(options.count // 40 // options.batch_size, 1) * options.batch_size
    tenth = options.count // 10
    with tempfile.TemporaryDirectory() as name:
        small, large = (make_images(Path(name) / f"{count}", count) for count in (tenth, options.count))
        ids = [path.relative_to(large).as_posix() for path in sorted(large.rglob("*.jpg"))]
        first = Job(small, Path(name) / "small.parquet", options)
        first.run()
        check(first.out, ids[:tenth])
        job = Job(large, Path(name) / "large.parquet", options)
        all_parts = -(-options.count // options.part_size)
        before = job.run(kill_at=all_parts // 2)
        kept = job.finished_parts()
        killed_mb = job.peak_mb
        job.run()
        report = {
            **{key: getattr(options, key) for key in ("count", "processes", "batch_size", "part_size")},
            "checkpoint": Path(options.checkpoint).name,
            "cpus": os.cpu_count(),
            **check(job.out, ids),
            "parts": all_parts,
            "parts_at_the_kill": len(before),
            "parts_kept": len(kept),
            "parts_lost": len(before - kept) + sum(len(times) > 1 for times in job.written.values()),
            "peak_mb": {str(tenth): first.peak_mb, "until the kill": killed_mb, str(options.count): job.peak_mb},
        }
        if options.compare:
            whole = Job(large, Path(name) / "whole.parquet", options)
            whole.run()
            report["images_per_second"] = (options.count - options.part_size) / whole.seconds
            report["same_bytes"] = whole.out.read_bytes() == job.out.read_bytes()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
