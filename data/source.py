# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What every converter offers: the ids of a download's pictures, and the scene of each.

A scene is an IG3D row (`schema`) before anything is said about it: `image` (a path, or {"path", "bytes"}), `image_id`,
`source`, `split`, `intrinsics`, `objects`, and where they hold
    phrases     the source's own expressions, a list of {"phrase", "objects" (ids)} with `kind` where known
    complete    false where the picture is known to show objects that have no label: nothing is then counted or called
                absent
`expressions` makes the conversation.
"""

from abc import ABC, abstractmethod
from pathlib import Path


class Source(ABC):
    """A download of one data set. Opening it reads its index alone; instances can be pickled.

    Attributes:
        name: of the source, as in a row.
        root: the download's folder.
        vocabulary: categories that the source labels wherever they are seen, so that one which a picture has no label
            of can be asked for as absent.
        complete: what holds for scenes that do not say so themselves.
        extra_features: columns that its rows have beside those of the schema, with their `datasets` features.
        wording: of its phrases and questions, "plain" or "varied" (`expressions.wording`).
    """

    name: str
    vocabulary: tuple[str, ...] = ()
    complete: bool = True
    extra_features: dict = {}
    wording: str = "plain"

    def __init__(self, root: str | Path):
        """
        Raises:
            FileNotFoundError: a folder or file without which nothing can be read; named.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"root: got {str(root)!r}, want the folder of a {self.name} download.")

    def recipe(self) -> dict:
        """What decides the rows besides ids and files, as plain values; a build with another one is another build."""
        return {}

    @abstractmethod
    def ids(self) -> list[str]:
        """Ids of all pictures, "<source>/<split>/<name>", sorted, each once."""

    @abstractmethod
    def read(self, image_id: str) -> dict:
        """The scene of a picture.

        Raises:
            ValueError: this record cannot be used: names file and field, what was found and what is wanted. A missing
                file is one of these (FileNotFoundError becomes a ValueError), so that a builder can skip and count it.
        """


def inside(root: Path, name: str) -> Path:
    """The file `name` under `root`; a name out of data is never trusted as a path.

    Raises:
        ValueError: an absolute name, one that leads out of `root` (also through a link), or no such file.
    """
    root = Path(root)
    path = root / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"file name: got {name!r}, want one that stays inside {root}.")
    if not path.is_file():
        raise ValueError(f"file name: got {name!r}, of which there is no file in {root}.")
    return path
