# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The part of a new checkpoint's card about its base, the licence above all."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from llmi3d.model_card_llmi3d import UNSTATED

UNKNOWN_LICENCE = "unknown: see the base"
SECTION = """
## Base

Initialised from `{name}` ({family}). Licence of its weights: {licence}. {taken} All other weights are new: until they
are trained, boxes mean nothing, while the text is the base's.
"""
LICENCES = """## Licences

| weights | from | licence |
| --- | --- | --- |
| of the base | `{name}` | {licence} |
| all others | new, or as said under Base | of a given file: its own |
"""


class BaseInCard:
    """The base of a checkpoint, for its card.

    Args:
        base: folder or Hub name.
        family: of the base.
        taken: a sentence on the parts that come from it.
        hub: `token`, for private repositories.

    Attributes:
        name: name to show; of a folder only the last part.
        metadata: front matter of the base's own card; empty if there is none.
    """

    def __init__(self, base: str | Path, family: str, taken: str, **hub: Any):
        self.on_hub = not Path(base).exists()
        self.name = str(base) if self.on_hub else Path(base).resolve().name
        self.family, self.taken = family, taken
        self.metadata = self._read(str(base), **hub)

    def _read(self, base: str, **hub: Any) -> dict[str, Any]:
        path = Path(base) / "README.md"
        try:
            if not self.on_hub:
                return ModelCard.load(path, ignore_metadata_errors=True).data.to_dict() if path.is_file() else {}
            options = {name: hub[name] for name in ("token",) if name in hub}
            return ModelCard.load(base, ignore_metadata_errors=True, **options).data.to_dict()
        except (OSError, ValueError):  # cards are optional; the Hub's errors are OSErrors
            return {}

    @property
    def licence(self) -> str:
        """The licence that the base's own card states."""
        return self.metadata.get("license_name") or self.metadata.get("license") or UNKNOWN_LICENCE

    def write(self, card: Path, licence: str | None = None) -> str:
        """Add the base to a card and return its licence.

        Args:
            card: README.md of the new checkpoint.
            licence: replaces the one on the base's card.
        """
        metadata = {} if licence else self.metadata
        licence = licence or metadata.get("license_name") or metadata.get("license") or UNKNOWN_LICENCE
        written = ModelCard.load(card)
        written.data["license"] = metadata.get("license") or (licence if licence != UNKNOWN_LICENCE else "unknown")
        for name in ("license_name", "license_link"):
            if metadata.get(name):
                written.data[name] = metadata[name]
        if self.on_hub:
            written.data["base_model"] = self.name
        section = SECTION.format(name=self.name, family=self.family, licence=licence, taken=self.taken)
        mark = "\n## Training data"
        written.text = written.text.replace(mark, section + mark, 1)
        licences = LICENCES.format(name=self.name, licence=licence)
        written.text = written.text.replace(f"## Licences\n\n{UNSTATED}\n", licences, 1)
        written.save(card)
        return licence
