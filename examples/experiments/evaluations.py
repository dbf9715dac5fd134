# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Answers of a model to the questions of a split, kept in files, and judged.

Answers are JSON Lines of {"id", "boxes", "text"} under the id of the row and the turn; a file appears once it is
complete, and is never made again.
"""

import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import datasets
import numpy as np
import torch
from answers import Asked, Grounder
from PIL import Image
from tqdm.auto import tqdm

from llmi3d.data.dataset import load_split
from llmi3d.data.outputs import write_whole
from llmi3d.data.schema import image_size, turns_of, upright_image
from llmi3d.evaluation.corruptions import FAMILIES
from llmi3d.evaluation.records import Record, describe_targets, make_record, records_from_row, with_predictions
from llmi3d.evaluation.robustness import NONE, Condition

SYNTHETIC_DOMAINS = ("indoor", "driving", "surround", "objects")


class Split:
    """Some pictures of a split, evenly over all of them (and so over the domains), with their questions.

    Args:
        data: folder that `llmi3d data build` wrote.
        name: of the split.
        pictures: at most this many.
    """

    def __init__(self, data: Path, name: str, pictures: int):
        rows = load_split(data, name)
        for column in {"image", "instance_map"} & set(rows.column_names):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        if len(rows) > pictures:
            rows = rows.select([i * len(rows) // pictures for i in range(pictures)])
        self.name, self.rows, self.pictures = name, rows, len(rows)
        self.records = [records_from_row(row, image_size(row["image"])) for row in rows]

    def grounding(self) -> list[Record]:
        """Questions that mean one object."""
        return [record for records in self.records for record in records if record.task == "grounding"]

    def others(self) -> list[Record]:
        """Questions that mean several objects, or none."""
        return [record for records in self.records for record in records if record.task != "grounding"]

    def answered(self, grounder: Grounder | None, path: Path, condition: Condition = NONE) -> list[Record]:
        """The grounding questions as they stand under a condition, with the model's answers.

        Args:
            path: of the answers; read if it is there.
        """
        if not path.is_file():
            _keep(path, self._ask(grounder, condition))
        changed = [changed for record in self.grounding() for changed in [_changed(condition, record)]]
        return with_predictions(changed, _kept(path))

    def _ask(self, grounder: Grounder, condition: Condition) -> list[dict]:
        answers = []
        wanted = [
            (row, [one for one in records if one.task == "grounding"])
            for row, records in zip(self.rows, self.records, strict=True)
        ]
        wanted = [(row, records) for row, records in wanted if records]
        for start in tqdm(range(0, len(wanted), 16), desc=f"{self.name} {condition}", unit="batch", leave=False):
            batch = wanted[start : start + 16]
            asked = []
            for row, records in batch:
                # All conditions but `crop`, which is not asked for here, change a picture for all its questions alike.
                _, shown, told = condition.apply(records[0], upright_image(row["image"]))
                asked.append(Asked(shown, told, tuple(record.phrase for record in records)))
            for (_, records), found in zip(batch, grounder.ground(asked), strict=True):
                answers += [{"id": record.id, **one} for record, one in zip(records, found, strict=True)]
        return answers

    def objects(self) -> list[Record]:
        """Every object that can be seen, as a question with its own id; its place in the row is in the metadata."""
        return [record for records in self._objects() for record in records]

    def _objects(self) -> list[list[Record]]:
        if "instance_map" not in self.rows.column_names:
            raise ValueError(f"data: the split {self.name} has no instance maps; build it with --option masks=true.")
        found = []
        for row in self.rows:
            size, mine = image_size(row["image"]), []
            seen = set(np.unique(_map_of(row)).tolist())
            for place, entry in enumerate(row["objects"]):
                if place + 1 in seen and not entry["ignore"]:
                    record = make_record(
                        f"{row['image_id']}@{entry['id']}",
                        "grounding",
                        [entry],
                        row["intrinsics"],
                        image_size=size,
                        image_id=row["image_id"],
                        source=row["source"],
                        split=row["split"],
                        metadata={**describe_targets([entry], row["objects"], size), "place": place},
                    )
                    mine.append(record)
            found.append(mine)
        return found

    def looked_at(self, grounder: Grounder | None, path: Path) -> list[Record]:
        """`objects` with the model's answers at the visual tokens that show them."""
        if not path.is_file():
            asked, records = [], []
            for row, mine in zip(self.rows, self._objects(), strict=True):
                if mine:
                    places = [record.metadata["place"] for record in mine]
                    cells = grounder.cells_of(_map_of(row), mine[0].intrinsics, places)
                    asked.append(Asked(upright_image(row["image"]), mine[0].intrinsics, cells=tuple(cells)))
                    records += mine
            found = [one for answers in grounder.look(asked) for one in answers]
            _keep(path, [{"id": record.id, **one} for record, one in zip(records, found, strict=True)])
        return with_predictions(self.objects(), _kept(path))

    def answered_freely(self, grounder: Grounder, path: Path) -> list[Record]:
        """The questions about several objects or none, answered as the model writes."""
        if not path.is_file():
            answers = []
            for row, records in zip(self.rows, self.records, strict=True):
                records = [record for record in records if record.task != "grounding"]
                if not records:
                    continue
                phrases = tuple(record.phrase for record in records)
                asked = Asked(upright_image(row["image"]), records[0].intrinsics, phrases)
                found = grounder.ground_freely([asked])[0]
                answers += [{"id": record.id, **one} for record, one in zip(records, found, strict=True)]
            _keep(path, answers)
        return with_predictions(self.others(), _kept(path))

    def questions(self) -> list[dict]:
        """Questions that are answered in words: {"id", "image_id", "question", "answer", "meaning"}, in order."""
        found = []
        for row in self.rows:
            for i, turn in enumerate(turns_of(row)):
                if turn.task == "vqa":
                    found.append({"id": f"{row['image_id']}#{i}", "image_id": row["image_id"], **vars(turn)})
        return found

    def answered_in_words(self, grounder: Grounder, path: Path) -> list[dict]:
        """`questions`, each with what the model said (`said`)."""
        asked = {}
        for one in self.questions():
            asked.setdefault(one["image_id"], []).append(one)
        if not path.is_file():
            answers = []
            for row in tqdm(self.rows, desc=f"{self.name} questions", unit="picture", leave=False):
                mine = asked.get(row["image_id"])
                if mine:
                    k = torch.tensor(row["intrinsics"], dtype=torch.float64)
                    picture = Asked(upright_image(row["image"]), k, tuple(one["question"] for one in mine))
                    texts = grounder.ask([picture])[0]
                    answers += [{"id": one["id"], "text": text} for one, text in zip(mine, texts, strict=True)]
            _keep(path, answers)
        said = {one["id"]: one["text"] for one in _kept(path)}
        return [{**one, "said": said[one["id"]]} for mine in asked.values() for one in mine]


def domain_of(record: Record) -> str:
    """Of a record of IG3D-Synth, whose ids name it."""
    return record.image_id.rsplit("/", 1)[1].split("-")[0]


def _map_of(row: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["instance_map"]["bytes"])))


def _changed(condition: Condition, record: Record) -> Record:
    if condition.kind in FAMILIES:
        return record
    return condition.apply(record, Image.new("1", record.image_size))[0]  # the truth depends on no pixel


def _keep(path: Path, answers: Sequence[dict]) -> None:
    write_whole(path, "".join(json.dumps(one) + "\n" for one in answers))


def _kept(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@lru_cache(maxsize=8)
def split_of(data: Path, name: str, pictures: int) -> Split:
    """A `Split`, read once."""
    return Split(data, name, pictures)
