# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reports in a model card: the Hub's `model-index` in the front matter, and the section Evaluation."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from llmi3d.data.outputs import write_whole
from llmi3d.evaluation.report import Report, unit_of

# Metrics in the front matter, as far as the report has them.
SHOWN = (
    "acc@0.25",
    "acc@0.5",
    "mean_iou",
    "AP3D",
    "f1@0.25",
    "depth_error_median",
    "rotation_error_median",
    "abstention_precision",
    "abstention_recall",
    "abstention_f1",
    "expected_calibration_error",
)
TASK, TASK_NAME = "object-detection", "3D grounding from one image"


def eval_results(report: Report, shown: Sequence[str] = SHOWN) -> list[EvalResult]:
    """Return a report's headline numbers in the Hub's form.

    Shares are in per cent. Each metric's `args` hold its 95% interval, the number of questions (or images) that count
    and the bootstrap. The protocol's name is the data set's configuration.
    """
    protocol = report.protocol
    source = ", ".join(protocol.sources) or "own"
    results = []
    for name in shown:
        estimate = report.metrics.get(name)
        if estimate is None or estimate.value is None:
            continue
        unit = unit_of(name)
        scale, digits = (100, 2) if unit == "%" else (1, 4)
        ends = {"low": estimate.low, "high": estimate.high}
        results.append(
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
                    "interval": f"95% bootstrap over {report.images} images, {report.resamples} resamples, seed "
                    f"{report.seed}",
                },
            )
        )
    return results


def merge_results(card: ModelCard, reports: Iterable[Report], name: str) -> None:
    """Put reports into a card's front matter. Numbers of the same protocol and split are replaced, others stay.

    Args:
        name: of the model, if the card has none yet.
    """
    new = [result for report in reports for result in eval_results(report)]
    replaced = {result.unique_identifier for result in new}
    kept = [result for result in card.data.eval_results or () if result.unique_identifier not in replaced]
    card.data.model_name = card.data.model_name or name
    card.data.eval_results = [*kept, *new] or None


def write_evaluation(path: str | Path, reports: Sequence[Report]) -> None:
    """Put reports into a checkpoint's card: `model-index` and the section Evaluation. The rest stays as it is.

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
    card.text = _SECTION.sub(lambda match: f"{match[1]}\n{text}\n\n", card.text, count=1)
    write_whole(path, str(card))


def check_card(path: str | Path) -> Path:
    """Return the path of a card that `write_evaluation` can write.

    Raises:
        ValueError: no such card, or one without the section Evaluation.
    """
    path = Path(path)
    if not path.is_file() or not _SECTION.search(ModelCard.load(path).text):
        raise ValueError(f"card: got {str(path)!r}, want a checkpoint's README.md with a section '## Evaluation'.")
    return path


_SECTION = re.compile(r"^(## Evaluation\n)(?:.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
