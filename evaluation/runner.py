# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Evaluation of a model on a data set, resumable and by several processes.

    OUT/evaluation.json         what is evaluated; written first, and compared when a run resumes
    OUT/answers/CONDITION/      answers so far, one file per process, one line per batch
    OUT/predictions.jsonl       all answers under the protocol itself
    OUT/conditions/*.json       reports under changed cameras and images (`robustness`)
    OUT/*.png                   plots (`plots`)
    OUT/report.md, report.json  written last: if report.json exists, the evaluation is complete

Batches, and so answers and report, do not depend on interruptions or on the number of processes. Under `accelerate
launch` or `torchrun` each process takes every n-th batch.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Protocol as Interface

import datasets
import torch
from PIL import Image
from tqdm.auto import tqdm

from llmi3d.data.outputs import checkpoint_fingerprint, claim_folder, process_state, write_whole
from llmi3d.data.schema import image_size, upright_image
from llmi3d.evaluation.baselines import MeanSizes, mean_sizes
from llmi3d.evaluation.comparison import conditions_to_markdown
from llmi3d.evaluation.corruptions import FAMILIES
from llmi3d.evaluation.plots import plot_evaluation
from llmi3d.evaluation.protocols import Protocol
from llmi3d.evaluation.records import Record, detection_record, records_from_row, with_predictions
from llmi3d.evaluation.report import Report, evaluate_records
from llmi3d.evaluation.robustness import NONE, Condition
from llmi3d.processing.processing_llmi3d import GROUNDING_PROMPT

REPORT = "report.json"


@dataclass(frozen=True)
class Question:
    """One question to a model.

    Attributes:
        record: as it will be judged. Only baselines may look at its truth.
        image: upright.
        phrases: one for a grounding question; for detection the categories to look for.
        intrinsics: K [3, 3] as told to the model, pixels of `image`.
    """

    record: Record
    image: Image.Image
    phrases: tuple[str, ...]
    intrinsics: torch.Tensor


class Predictor(Interface):
    """Anything that answers questions.

    Attributes:
        name: in reports.
        recipe: everything that the answers depend on, as JSON. A run with another recipe does not resume.
    """

    name: str
    recipe: dict

    def __call__(self, questions: Sequence[Question]) -> list[list[dict] | None]:
        """Return boxes as in `records.make_boxes` for each question, None for an answer that cannot be read."""


class CheckpointPredictor:
    """Answers of a checkpoint, by the pipeline `image-3d-grounding`.

    Args:
        checkpoint: folder or Hub name.
        mode: `direct` or `generate`.
        name: in reports; default the checkpoint's own.
        device: default the fastest one available.
        raw_scores: use the network's own scores, without the checkpoint's calibration.
        crop_padding: as in the pipeline.
        generate_kwargs: for `generate`, such as max_new_tokens.
    """

    def __init__(
        self,
        checkpoint: str,
        mode: str = "direct",
        name: str | None = None,
        device=None,
        raw_scores: bool = False,
        crop_padding: bool | None = None,
        **generate_kwargs,
    ):
        from transformers import pipeline

        self.pipeline = pipeline("image-3d-grounding", model=str(checkpoint), device=device)
        if raw_scores:
            self.pipeline.processor.calibrate()
        self.mode, self.crop_padding, self.generate_kwargs = mode, crop_padding, generate_kwargs
        self.name = name or Path(checkpoint).name
        model = self.pipeline.model
        self.recipe = {
            "checkpoint": checkpoint_fingerprint(checkpoint, model.config),
            "mode": mode,
            "dtype": str(model.dtype),
            "generate": generate_kwargs,
            **({"raw_scores": True} if raw_scores else {}),
            **({} if crop_padding is None else {"crop_padding": crop_padding}),
        }

    def __call__(self, questions: Sequence[Question]) -> list[list[dict]]:
        """See `Predictor`."""
        # Consecutive questions about one image share its preprocessing and its visual tokens.
        shared = [
            list(same) for _, same in groupby(questions, key=lambda q: (id(q.image), q.intrinsics.flatten().tolist()))
        ]
        outputs = self.pipeline(
            [same[0].image for same in shared],
            prompt=[[phrase for question in same for phrase in question.phrases] for same in shared],
            intrinsics=[same[0].intrinsics.tolist() for same in shared],
            mode=self.mode,
            batch_size=len(shared),
            crop_padding=self.crop_padding,
            **self.generate_kwargs,
        )
        answers = chain.from_iterable(outputs)
        return [
            [{**box, "category": phrase} for phrase in question.phrases for box in next(answers)["boxes"]]
            for question in questions
        ]


class FilePredictor:
    """Answers from a JSON Lines file of {"id", "boxes"} that any program may have written.

    It has no answers under changed conditions.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not a JSON object with id and boxes, or a second line for an id.
    """

    def __init__(self, path: str | Path, name: str | None = None):
        self.name = name or Path(path).stem
        text = Path(path).read_text()
        self.recipe = {"predictions": hashlib.sha256(text.encode()).hexdigest()}
        self.answers = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                name, boxes = entry["id"], entry["boxes"]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{path}:{number}: got {line[:80]!r}, want a JSON object with id and boxes."
                ) from error
            if name in self.answers:
                raise ValueError(f"{path}:{number}: got the id {name!r} a second time, want one line per question.")
            self.answers[name] = boxes

    def check(self, records: Iterable[Record]) -> None:
        """Raise a ValueError for an id that no question has."""
        unknown = sorted(set(self.answers) - {record.id for record in records})
        if unknown:
            raise ValueError(
                f"predictions: got {len(unknown)} ids that no question has, the first {unknown[0]!r}; want ids such "
                f"as {next(iter(records)).id!r}."
            )

    def __call__(self, questions: Sequence[Question]) -> list[list[dict] | None]:
        """See `Predictor`."""
        return [self.answers.get(question.record.id) for question in questions]


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`: the report under the protocol, and the reports under other conditions by name."""

    report: Report
    conditions: dict[str, Report]


def evaluate(
    predictor: Predictor,
    rows,
    protocol: Protocol,
    out: str | Path,
    *,
    conditions: Sequence[Condition] = (),
    training_rows=None,
    batch_size: int = 8,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a model under a protocol into a folder. Resumes an interrupted run.

    Args:
        predictor: a `CheckpointPredictor`, a `FilePredictor`, or any other `Predictor`.
        rows: IG3D rows by index: a `datasets.Dataset` (`load_split`) or a list.
        protocol: from `get_protocol`.
        out: folder: new, or of the same evaluation, interrupted or complete.
        conditions: further ones to ask the same questions under.
        training_rows: rows whose objects give the oracles their categories' mean sizes; by default the evaluated
            objects themselves (`report.evaluate_records`).
        batch_size: questions per batch. It is part of what is evaluated, since rounding depends on it.
        resamples, seed: of the bootstrap.
        progress: show a progress bar.

    Raises:
        ValueError: as `Protocol.select` and `with_predictions`; an image that cannot be read; an `out` that holds
            another evaluation. No result has then been written.
    """
    out, state = Path(out), process_state()
    rows = _undecoded(rows)
    records, questions = _questions_of(rows, protocol)
    if isinstance(predictor, FilePredictor):
        if conditions:
            raise ValueError("conditions: got some for a file of predictions, which has none for changed images.")
        predictor.check(records)
    sizes = None if training_rows is None else _sizes_of(training_rows)
    recipe = {
        "protocol": protocol.to_dict(),
        "predictor": {"name": predictor.name, **predictor.recipe},
        "questions": hashlib.sha256("\n".join(_describe(record) for record in records).encode()).hexdigest(),
        "conditions": [str(condition) for condition in conditions],
        "batch_size": batch_size,
        "resamples": resamples,
        "seed": seed,
        **({} if sizes is None else {"oracle_sizes": asdict(sizes)}),
    }
    claim_folder(out, "evaluation.json", recipe, kind="an evaluation", state=state)
    batches = [questions[start : start + batch_size] for start in range(0, len(questions), batch_size)]
    judged = {}
    for condition in (NONE, *conditions):
        ask = partial(_ask, predictor, rows, condition, protocol.categories)
        answers = _answer_all(
            ask, batches, out / "answers" / str(condition), f"{predictor.name}, {condition}", progress
        )
        if state.is_main_process:
            changed = [_change(condition, record) for record in records]
            judged[str(condition)] = with_predictions(changed, answers)
    if state.is_main_process:
        options = {"model": predictor.name, "resamples": resamples, "seed": seed, "sizes": sizes}
        reports = {
            name: evaluate_records(answered, protocol.variant(condition=name), **options)
            for name, answered in judged.items()
        }
        _write(out, judged[str(NONE)], reports, protocol)
    state.wait_for_everyone()
    names = [str(condition) for condition in conditions if condition != NONE]
    return Evaluation(
        Report.load(out / REPORT), {name: Report.load(out / "conditions" / f"{name}.json") for name in names}
    )


def read_answered(out: str | Path, rows, protocol: Protocol) -> list[Record]:
    """Read the questions of a complete evaluation with their answers, as the protocol judges them.

    Args:
        out: folder that `evaluate` wrote.
        rows, protocol: as given to it.
    """
    lines = (Path(out) / "predictions.jsonl").read_text().splitlines()
    records, _ = _questions_of(_undecoded(rows), protocol)
    return protocol.select(with_predictions(records, [json.loads(line) for line in lines if line]))[0]


# ----------------------------------------------------------------------------------------------------------- questions


def _undecoded(rows):
    """Return rows whose images are decoded when they are asked about, not when their size is read."""
    return rows.cast_column("image", datasets.Image(decode=False)) if hasattr(rows, "cast_column") else rows


def _sizes_of(rows) -> MeanSizes:
    """Average the sizes of training rows' objects."""
    if hasattr(rows, "select_columns"):
        rows = rows.select_columns(["objects", "split"])
    splits, objects = set(), []
    for row in rows:
        splits.add(row["split"])
        objects += [entry for entry in row["objects"] if not entry["ignore"]]
    return mean_sizes(objects, f"{len(objects)} objects of the split {', '.join(sorted(splits))}")


def _questions_of(rows, protocol: Protocol) -> tuple[list[Record], list[tuple[Record, int]]]:
    """Return all records of the rows, and those that the protocol asks for, by id, each with its row's index."""
    detection = protocol.kind == "detection"
    if not detection and protocol.prompt != GROUNDING_PROMPT:
        raise ValueError(f"protocol {protocol.name}: got the prompt {protocol.prompt!r}, want {GROUNDING_PROMPT!r}.")
    if detection and not protocol.categories:
        raise ValueError(f"protocol {protocol.name}: got no categories, want those to look for.")
    records, index_of = [], {}
    for index in range(len(rows)):
        row = rows[index]
        size = image_size(row["image"])
        asked = [detection_record(row, size)] if detection else records_from_row(row, size)
        records += asked
        index_of.update((record.id, index) for record in asked)
    kept, _ = protocol.select(records)
    return records, [(record, index_of[record.id]) for record in kept]


def _describe(record: Record) -> str:
    boxes = record.true
    numbers = [boxes.center.tolist(), boxes.size.tolist(), boxes.rotation.tolist(), boxes.ignore.tolist()]
    return json.dumps([record.id, record.task, record.phrase, record.intrinsics.tolist(), boxes.category, numbers])


def _change(condition: Condition, record: Record) -> Record:
    if condition.kind in FAMILIES:  # the truth stays, and no image needs to be corrupted
        return record
    return condition.apply(record, Image.new("1", record.image_size))[0]  # the truth does not depend on pixels


# ------------------------------------------------------------------------------------------------------------- answers


def _ask(
    predictor: Predictor,
    rows,
    condition: Condition,
    categories: tuple[str, ...],
    batch: Sequence[tuple[Record, int]],
) -> dict[str, list[dict] | None]:
    questions, image, opened = [], None, None
    for record, index in batch:
        if index != opened:
            image, opened = upright_image(rows[index]["image"]), index
        record, shown, intrinsics = condition.apply(record, image)
        phrases = categories if record.task == "detection" else (record.phrase,)
        questions.append(Question(record, shown, phrases, intrinsics))
    answers = predictor(questions)
    if len(answers) != len(questions):
        raise ValueError(f"{predictor.name}: got {len(answers)} answers for {len(questions)} questions.")
    return {record.id: answer for (record, _), answer in zip(batch, answers, strict=True)}


def _answer_all(
    ask: Callable[[Sequence], dict], batches: list[Sequence], folder: Path, title: str, progress: bool
) -> list[dict]:
    """Return {"id", "boxes"} of all batches, after asking those that are not yet in the folder."""
    state = process_state()
    folder.mkdir(parents=True, exist_ok=True)
    done = _read_answers(folder)
    state.wait_for_everyone()  # no process writes before all have read
    share = range(state.process_index, len(batches), state.num_processes)
    left = [i for i in share if i not in done]
    shown = progress and state.is_main_process
    with (
        open(folder / f"{state.process_index}-of-{state.num_processes}.jsonl", "a") as file,
        tqdm(total=len(share), initial=len(share) - len(left), desc=title, unit="batch", disable=not shown) as bar,
    ):
        file.write("\n")  # ends a line that an interruption cut off
        for i in left:
            file.write(json.dumps({"batch": i, "answers": ask(batches[i])}) + "\n")
            file.flush()
            bar.update()
    state.wait_for_everyone()
    done = _read_answers(folder)
    return [{"id": name, "boxes": boxes} for i in range(len(batches)) for name, boxes in done[i].items()]


def _read_answers(folder: Path) -> dict[int, dict]:
    done = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # empty, or cut off by an interruption
                continue
            done[entry["batch"]] = entry["answers"]
    return done


def _write(out: Path, answered: list[Record], reports: dict[str, Report], protocol: Protocol) -> None:
    report = reports[str(NONE)]
    folder = out / "answers" / str(NONE)
    done = _read_answers(folder)
    lines = [json.dumps({"id": name, "boxes": boxes}) for i in sorted(done) for name, boxes in done[i].items()]
    write_whole(out / "predictions.jsonl", "\n".join(lines) + "\n")
    plots = plot_evaluation(out, protocol.select(answered)[0], reports)
    for name, changed in reports.items():
        if name != str(NONE):
            changed.save(out / "conditions" / f"{name}.json")
    parts = [report.to_markdown()]
    if len(reports) > 1:
        parts.append(conditions_to_markdown(reports))
    parts += [f"![{path.stem.replace('_', ' ')}]({path.name})\n" for path in plots]
    write_whole(out / "report.md", "\n".join(parts))
    report.save(out / REPORT)
