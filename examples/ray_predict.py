# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Boxes of a folder of images by Ray Data (pip install "ray[data]"), with an actor per GPU, or some on CPUs.

    python examples/ray_predict.py photos --prompt "the nearest car" --checkpoint CHECKPOINT --out boxes

Without Ray, `llmi3d batch` does the same, resumes, and writes one table in the order of the images.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from llmi3d.apps.image_sources import SUFFIXES
from llmi3d.apps.offline import SCHEMA, BatchPredictor


class FilePredictor(BatchPredictor):
    """Answers files as Ray reads them; a broken file becomes a row with its error, unlike with Ray's own images."""

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """See `BatchPredictor`. The schema is given since a batch without errors would leave `error` untyped."""
        images = [{"bytes": content, "path": None} for content in batch["bytes"]]
        return pa.table(super().__call__({"id": batch["path"], "image": images}), SCHEMA)


def main() -> None:
    """Answer all images and write Parquet."""
    import ray

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", required=True, action="append")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--fov", type=float, help="horizontal field of view of all images, degrees")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--actors", type=int, default=max(torch.accelerator.device_count(), 1))
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"--out: {options.out} exists already, want a new folder")
    files = ray.data.read_binary_files(
        str(options.folder.resolve()), include_paths=True, file_extensions=[suffix[1:] for suffix in SUFFIXES]
    )
    checkpoint = Path(options.checkpoint)
    boxes = files.map_batches(
        FilePredictor,
        fn_constructor_args=(str(checkpoint.resolve()) if checkpoint.exists() else options.checkpoint, options.prompt),
        fn_constructor_kwargs={"fov_deg": options.fov},
        batch_size=options.batch_size,
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        num_gpus=int(torch.accelerator.is_available()),
    )
    boxes.write_parquet(str(options.out.resolve()))


if __name__ == "__main__":
    main()
