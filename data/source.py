# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Interface of converters: the ids of a download's images, and the scene of each.

A scene is an IG3D row (`schema`) without a conversation: `image` (a path, or {"path", "bytes"}), `image_id`, `source`,
`split`, `intrinsics`, `objects`, and optionally
    phrases     the source's own expressions, a list of {"phrase", "objects" (ids)} with `kind` where known
    complete    false if the image is known to show unlabelled objects; nothing is then counted or called absent
`expressions` makes the conversation.
"""

from abc import ABC, abstractmethod
from pathlib import Path


class Source(ABC):
    """A download of one data set. Opening it reads only its index; instances can be pickled.

    Attributes:
        name: of the source, as in a row.
        root: the download's folder.
        vocabulary: categories that the source labels wherever they are seen, so that one without a label in an image
            can be called absent.
        complete: default for scenes that do not say it.
        extra_features: columns beyond those of the schema, with their `datasets` features.
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
            FileNotFoundError: a required folder or file is missing; it is named.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"root: got {str(root)!r}, want the folder of a {self.name} download.")

    def recipe(self) -> dict:
        """Return what decides the rows besides ids and files, as plain values; another recipe makes another build."""
        return {}

    @abstractmethod
    def ids(self) -> list[str]:
        """Return the ids of all images, "<source>/<split>/<name>", sorted and unique."""

    @abstractmethod
    def read(self, image_id: str) -> dict:
        """Return the scene of an image.

        Raises:
            ValueError: an unusable record, a missing file included, so that a build can skip and count it. The message
                names file and field, what was given and what is wanted.
        """


def inside(root: Path, name: str) -> Path:
    """Return the path of the file `name` under `root`; a name from data is never trusted as a path.

    Raises:
        ValueError: an absolute name, one that leads out of `root` (also through a link), or no such file.
    """
    root = Path(root)
    path = root / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"file name: got {name!r}, want one that stays inside {root}.")
    if not path.is_file():
        raise ValueError(f"file name: got {name!r}, want a file in {root}.")
    return path
