# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reports in a model card: the Hub's `model-index` in its front matter, and the section Evaluation with intervals."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from llmi3d.data.outputs import write_whole
from llmi3d.evaluation.grounding import UNITS
from llmi3d.evaluation.report import Report

# What a card shows, as far as the report has it.
SHOWN = (
    *("acc@0.25", "acc@0.5", "mean_iou", "AP3D", "f1@0.25", "depth_error_median", "rotation_error_median"),
    *("abstention_precision", "abstention_recall", "abstention_f1", "expected_calibration_error"),
)
TASK, TASK_NAME = "object-detection", "3D grounding from one picture"


def eval_results(report: Report, shown: Sequence[str] = SHOWN) -> list[EvalResult]:
    """A report's headline numbers in the Hub's form.

    Shares are in per cent; each metric's `args` hold its 95% interval, the questions (or pictures) that have a say and
    the bootstrap. The protocol, with all that it fixes in its name, stands as the data set's configuration.
    """
    protocol = report.protocol
    source = ", ".join(protocol.sources) or "own"
    found = []
    for name in shown:
        estimate = report.metrics.get(name)
        if estimate is None or estimate.value is None:
            continue
        unit = UNITS.get(name.removesuffix("_median"), "%")
        scale, digits = (100, 2) if unit == "%" else (1, 4)
        ends = {"low": estimate.low, "high": estimate.high}
        found.append(
            EvalResult(
                task_type=TASK,
                task_name=TASK_NAME,
                dataset_type=f"ig3d-{source}" if len(protocol.sources) < 2 else protocol.name.partition("[")[0],
                dataset_name=f"IG3D rows from {source}",
                dataset_config=protocol.name,
                dataset_split=protocol.split,
                metric_type=name,
                metric_name=f"{name} ({unit})",
                metric_value=round(scale * estimate.value, digits),
                metric_args={
                    **{end: round(scale * value, digits) for end, value in ends.items() if value is not None},
                    "count": estimate.count,
                    "interval": f"95% bootstrap over {report.images} pictures, {report.resamples} resamples, seed "
                    f"{report.seed}",
                },
            )
        )
    return found


def merge_results(card: ModelCard, reports: Iterable[Report], name: str) -> None:
    """Puts reports into a card's front matter; older numbers of the same protocol and split make way, others stay.

    Args:
        name: of the model, where the card has none yet.
    """
    new = [one for report in reports for one in eval_results(report)]
    taken = {one.unique_identifier for one in new}
    kept = [one for one in card.data.eval_results or () if one.unique_identifier not in taken]
    card.data.model_name = card.data.model_name or name
    card.data.eval_results = [*kept, *new] or None


def write_evaluation(path: str | Path, reports: Sequence[Report]) -> None:
    """Puts reports into a checkpoint's card: `model-index`, and its section Evaluation; the rest stays as it is.

    Args:
        path: README.md.
        reports: in the order of the section.

    Raises:
        ValueError: no such card, or one without that section.
    """
    path = check_card(path)
    card = ModelCard.load(path)
    merge_results(card, reports, path.resolve().parent.name)
    text = "\n\n".join(f"#{report.to_markdown(groups=False).strip()}" for report in reports)
    card.text = _SECTION.sub(lambda found: f"{found[1]}\n{text}\n\n", card.text, count=1)
    write_whole(path, str(card))


def check_card(path: str | Path) -> Path:
    """The card that `write_evaluation` writes.

    Raises:
        ValueError: see there.
    """
    path = Path(path)
    if not path.is_file() or not _SECTION.search(ModelCard.load(path).text):
        raise ValueError(f"card: got {str(path)!r}, want a checkpoint's README.md with a section '## Evaluation'.")
    return path


_SECTION = re.compile(r"^(## Evaluation\n)(?:.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
