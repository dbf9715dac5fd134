# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Measure rows per second and peak memory of building a data set, and of streaming it with decoded images.

    python examples/benchmarks/data.py
    python examples/benchmarks/data.py --rows 1000 10000 50000 --out outputs/benchmarks/data.json

The rows are made up, with random boxes in 64 noise images of 320x240: converter and disk cost little, so expressions,
checks, Parquet and decoding are measured. Each number comes from its own process; peaks are that process's and its
largest worker's.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from llmi3d.data.schema import make_object
from llmi3d.data.source import Source

IMAGES, SIZE, ROWS_PER_SHARD = 64, (320, 240), 250
K = [[300.0, 0.0, 160.0], [0.0, 300.0, 120.0], [0.0, 0.0, 1.0]]
EYE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
NAMES = ("car", "truck", "traffic_cone", "bench", "pedestrian")


class Generated(Source):
    """Source of `rows` scenes with three to nine boxes."""

    name = "generated"
    vocabulary = NAMES

    def __init__(self, root: Path, rows: int):
        super().__init__(root)
        self.rows = rows

    def ids(self) -> list[str]:
        """See `Source`."""
        return [f"generated/train/{i:06d}" for i in range(self.rows)]

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        draw = random.Random(image_id)
        objects = []
        for i in range(draw.randint(3, 9)):
            z = draw.uniform(3, 40)
            center = [draw.uniform(-0.5, 0.5) * z, draw.uniform(-0.3, 0.3) * z, z]
            objects.append(make_object(str(i), draw.choice(NAMES), center, [2.0, 1.5, 1.0], EYE, K))
        return {
            "image": str(self.root / f"{int(image_id[-6:]) % IMAGES}.jpg"),
            "image_id": image_id,
            "source": self.name,
            "split": "train",
            "intrinsics": K,
            "objects": objects,
        }


def build_rows(folder: Path, rows: int, processes: int) -> None:
    """Build a data set of that many rows."""
    from llmi3d.data.build import build

    out = folder / f"built_{rows}_{processes}"
    build(Generated(folder, rows), out, num_proc=processes, rows_per_shard=ROWS_PER_SHARD, progress=False)


def stream_share(path: str, rank: int, world: int) -> int:
    """Read one process's share of a stream, decoding every image."""
    from datasets.distributed import split_dataset_by_node

    from llmi3d.data.dataset import load_split

    stream = load_split(path, "train", streaming=True).shuffle(seed=0, buffer_size=200)
    return sum(row["image"].width > 0 for row in split_dataset_by_node(stream, rank=rank, world_size=world))


def stream_rows(folder: Path, rows: int, processes: int) -> None:
    """Stream a built data set through that many processes."""
    path = str(folder / f"built_{rows}_{processes}")
    if processes == 1:
        assert stream_share(path, 0, 1) == rows
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        assert sum(pool.starmap(stream_share, [(path, rank, processes) for rank in range(processes)])) == rows


def measured(work, *arguments) -> dict:
    """Return seconds and peak megabytes of a call in a new process."""
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(queue, work, arguments))
    process.start()
    found = queue.get()
    process.join()
    return found


def _measure(queue, work, arguments) -> None:
    import llmi3d.data.build
    import llmi3d.data.dataset  # noqa: F401  (so that imports are not measured)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    work(*arguments)
    seconds = time.perf_counter() - start
    own, workers = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    queue.put({"seconds": seconds, "peak_mb": own, "before_mb": before, "largest_worker_mb": workers})


def main() -> None:
    """Run the benchmark and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/data.json"))
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    report = {"image": SIZE, "threads": 1, "warm_up": "imports", "rows_per_shard": ROWS_PER_SHARD, "results": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(IMAGES):
            noise = np.random.default_rng(i).integers(0, 255, (30, 40, 3), np.uint8)
            Image.fromarray(noise).resize(SIZE).save(folder / f"{i}.jpg")
        print(f"{'work':8}{'rows':>8}{'processes':>11}{'rows/s':>9}{'peak MB':>9}{'before':>8}{'worker':>8}")
        for rows in arguments.rows:
            for title, work in (("build", build_rows), ("stream", stream_rows)):
                for processes in arguments.processes:
                    found = measured(work, folder, rows, processes)
                    found |= {"work": title, "rows": rows, "processes": processes}
                    found["rows_per_second"] = rows / found["seconds"]
                    report["results"].append(found)
                    print(
                        f"{title:8}{rows:8}{processes:11}{found['rows_per_second']:9.0f}{found['peak_mb']:9.0f}"
                        f"{found['before_mb']:8.0f}{found['largest_worker_mb']:8.0f}",
                        flush=True,
                    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
