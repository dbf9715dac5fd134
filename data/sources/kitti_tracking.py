# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converter of KITTI's tracking sequences (image_02, calib, label_02); conventions as in `kitti`.

A label line has frame and track id before the words of an object label. Truncation is a level (0, 1, 2), not a share,
so it is left null. The track id becomes an attribute.

Not tested on real sequences; the tests write files in this format.
"""

import re
from pathlib import Path

from llmi3d.data.source import Source, inside
from llmi3d.data.sources.kitti import (
    VOCABULARY,
    kitti_object,
    parse_kitti_label,
    read_kitti_projection,
    split_projection,
)


class KittiTracking(Source):
    """Frames of KITTI's tracking sequences.

    Args:
        root: folder with image_02/SSSS/FFFFFF.png, calib/SSSS.txt and label_02/SSSS.txt, or its parent if it is called
            training.
        every: take every n-th frame of a sequence, since neighbours are nearly alike.
    """

    name = "kitti_tracking"
    vocabulary = VOCABULARY

    def __init__(self, root: str | Path, every: int = 1):
        super().__init__(root)
        self.folder = self.root / "training" if (self.root / "training").is_dir() else self.root
        if int(every) < 1:
            raise ValueError(f"every: got {every}, want at least 1.")
        if not (self.folder / "image_02").is_dir():
            raise FileNotFoundError(f"{self.folder / 'image_02'}: no such folder; want image_02, calib and label_02.")
        self.frames = []
        for sequence in sorted((self.folder / "image_02").iterdir()):
            names = sorted(path.stem for path in sequence.glob("*.png"))
            for name in names[:: int(every)]:
                if not re.fullmatch(r"\d+", sequence.name) or not re.fullmatch(r"\d+", name):
                    raise ValueError(f"{sequence / name}: want a name of only digits.")
                self.frames.append(f"{sequence.name}_{name}")
        self._labels = {}

    def ids(self) -> list[str]:
        """See `Source`."""
        return [f"{self.name}/training/{frame}" for frame in self.frames]

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        sequence, frame = image_id.rsplit("/", 1)[1].split("_")
        image = inside(self.folder, f"image_02/{sequence}/{frame}.png")
        intrinsics, offset = split_projection(read_kitti_projection(inside(self.folder, f"calib/{sequence}.txt")))
        path = inside(self.folder, f"label_02/{sequence}.txt")
        objects, complete = [], True
        for number, (at, track, *words) in self._lines(path):
            if int(at) != int(frame):
                continue
            if words[:1] == ["DontCare"]:
                complete = False
                continue
            label = parse_kitti_label(words, path, number)
            entry = kitti_object(track, label, intrinsics, offset, f"{path}:{number}", {"track": track})
            objects.append({**entry, "truncation": None})
        return {
            "image": str(image),
            "image_id": image_id,
            "source": self.name,
            "split": "training",
            "intrinsics": intrinsics.tolist(),
            "objects": objects,
            "complete": complete,
        }

    def _lines(self, path: Path) -> list[tuple[int, list[str]]]:
        if path not in self._labels:
            lines = [(number, line.split()) for number, line in enumerate(path.read_text().splitlines(), 1)]
            for number, words in lines:
                if words and (len(words) < 3 or not re.fullmatch(r"\d+", words[0])):
                    raise ValueError(f"{path}:{number}: got {' '.join(words)!r}, want frame, track and a label.")
            self._labels = {path: [line for line in lines if line[1]]}  # of one sequence at a time
        return self._labels[path]
