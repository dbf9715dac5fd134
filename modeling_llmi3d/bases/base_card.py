# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What a new checkpoint's card says of the one it was made of, its licence above all."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from llmi3d.model_card_llmi3d import UNSTATED

UNKNOWN_LICENCE = "unknown: see the base"
SECTION = """
## Base

Started from `{name}` ({family}). Licence of its weights: {licence}. {taken} The rest is new: until that is trained its
boxes mean nothing, while its words are the base's.
"""
LICENCES = """## Licences

| weights | from | licence |
| --- | --- | --- |
| taken over | `{name}` | {licence} |
| the rest | new, or as said under Base | of a file that was given: its own |
"""


class BaseInCard:
    """The base of a checkpoint, as its card tells of it.

    Args:
        base: folder or Hub name.
        family: of the base.
        taken: a sentence on what was taken over.
        hub: `token`, for private ones.

    Attributes:
        name: for people; of a folder no more than its last part.
        found: front matter of the base's own card; empty where it has none.
    """

    def __init__(self, base: str | Path, family: str, taken: str, **hub: Any):
        self.on_hub = not Path(base).exists()
        self.name = str(base) if self.on_hub else Path(base).resolve().name
        self.family, self.taken = family, taken
        self.found = self._read(str(base), **hub)

    def _read(self, base: str, **hub: Any) -> dict[str, Any]:
        path = Path(base) / "README.md"
        try:
            if not self.on_hub:
                return ModelCard.load(path, ignore_metadata_errors=True).data.to_dict() if path.is_file() else {}
            options = {name: hub[name] for name in ("token",) if name in hub}
            return ModelCard.load(base, ignore_metadata_errors=True, **options).data.to_dict()
        except (OSError, ValueError):  # a card is no condition, and the Hub's errors are OSErrors
            return {}

    @property
    def licence(self) -> str:
        """The licence that the base's own card states."""
        return self.found.get("license_name") or self.found.get("license") or UNKNOWN_LICENCE

    def write(self, card: Path, licence: str | None = None) -> str:
        """Puts the base into a card.

        Args:
            card: README.md of the new checkpoint.
            licence: instead of what the base's card says.

        Returns:
            The licence.
        """
        found = {} if licence else self.found
        licence = licence or found.get("license_name") or found.get("license") or UNKNOWN_LICENCE
        written = ModelCard.load(card)
        written.data["license"] = found.get("license") or (licence if licence != UNKNOWN_LICENCE else "unknown")
        for name in ("license_name", "license_link"):
            if found.get(name):
                written.data[name] = found[name]
        if self.on_hub:
            written.data["base_model"] = self.name
        section = SECTION.format(name=self.name, family=self.family, licence=licence, taken=self.taken)
        mark = "\n## Training data"
        written.text = written.text.replace(mark, section + mark, 1)
        licences = LICENCES.format(name=self.name, licence=licence)
        written.text = written.text.replace(f"## Licences\n\n{UNSTATED}\n", licences, 1)
        written.save(card)
        return licence
