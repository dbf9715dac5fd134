# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Evaluates the tiny checkpoint on the test split and writes its card, or prints what was measured.

python examples/tiny/evaluate.py --data DATA --out OUT --card model_cards/llmi3d-tiny
"""

import argparse
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import torch
from huggingface_hub import ModelCard
from tqdm.auto import tqdm

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration, LLMI3DProcessor
from llmi3d.data.dataset import load_split
from llmi3d.data.outputs import write_whole
from llmi3d.data.schema import IG3D_FEATURES, image_size, turns_of
from llmi3d.evaluation.bootstrap import Statistic, interval, resample_weights
from llmi3d.evaluation.grounding import UNITS, question_values
from llmi3d.evaluation.model_index import merge_results
from llmi3d.evaluation.protocols import Grouping, get_protocol
from llmi3d.evaluation.question_answers import answer_is_right
from llmi3d.evaluation.records import records_from_row, with_predictions
from llmi3d.evaluation.report import Estimate, Report, evaluate_records
from llmi3d.evaluation.runner import CheckpointPredictor
from llmi3d.evaluation.runner import evaluate as run_evaluation
from llmi3d.training.recipe import read_recipe

CARD = Path(__file__).parent / "card.md"
RELATIVE = "depth_error, median share of the distance"
MEASURED = ("metrics", "domains", "distances", "kinds", "categories", "answers")  # what the card's tables are called
ABSTENTION = ("abstention_precision", "abstention_recall", "abstention_f1")


def evaluate(data: Path, out: Path, card: Path, limit: int | None) -> None:
    """Grounding by one pass; the same with the answer left to the model (refusals); questions in words."""
    rows = load_split(data, "test")
    rows = rows.select(range(0, len(rows), max(1, len(rows) // (limit or len(rows)))))  # of all domains, in order
    protocol = get_protocol("ig3d-synth")
    groupings = (*protocol.groupings, Grouping("domain"))
    for mode, options in (("direct", {}), ("generate", {"max_new_tokens": 16})):
        predictor = CheckpointPredictor(str(card), mode, "llmi3d-tiny", "cpu", **options)
        run_evaluation(predictor, rows, protocol.variant(mode=mode), out / f"report_{mode}", batch_size=32)
    for mode in ("direct", "generate"):
        split_by_domain(rows, out / f"report_{mode}", replace(protocol.variant(mode=mode), groupings=groupings))
    (out / "answers.json").write_text(json.dumps(evaluate_answers(rows, card), indent=1))


def split_by_domain(rows, folder: Path, protocol) -> None:
    """The same answers once more, broken down by domain too: report_domains.json."""
    records = []
    for row in rows.cast_column("image", datasets.Image(decode=False)):
        domain = row["image_id"].rsplit("/", 1)[1].split("-")[0]
        for record in records_from_row(row, image_size(row["image"])):
            records.append(replace(record, metadata={**record.metadata, "domain": domain}))
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    answered = with_predictions(records, [json.loads(line) for line in lines if line])
    evaluate_records(answered, protocol, model="llmi3d-tiny").save(folder / "report_domains.json")
    kept, _ = protocol.select(answered)
    values = question_values(kept)
    relative = (values["depth_error"] / values["center_depth"]).tolist()
    errors = [{"image_id": one.image_id, "error": error} for one, error in zip(kept, relative, strict=True)]
    write_whole(folder / "depth.json", json.dumps([one for one in errors if not math.isnan(one["error"])]))


@torch.no_grad()
def evaluate_answers(rows, card: Path, batch_size: int = 32) -> dict:
    """Shares of questions answered rightly in words, all and by kind, with 95% intervals over images."""
    model = LLMI3DForConditionalGeneration.from_pretrained(card).eval()
    processor = LLMI3DProcessor.from_pretrained(card)
    asked = []
    for index, row in enumerate(rows.select_columns([name for name in IG3D_FEATURES if name != "image"])):
        for turn in turns_of(row):
            if turn.task == "vqa":
                asked.append({**vars(turn), "index": index, "image_id": row["image_id"]})
    for start in tqdm(range(0, len(asked), batch_size), desc="questions in words"):
        batch = asked[start : start + batch_size]
        pictures = {one["index"]: rows[one["index"]] for one in batch}
        conversations = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": pictures[one["index"]]["image"]},
                        {"type": "text", "text": one["question"]},
                    ],
                }
            ]
            for one in batch
        ]
        inputs = processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"intrinsics": [pictures[one["index"]]["intrinsics"] for one in batch]},
        )
        kept = {name: inputs[name] for name in processor.model_input_names if name in inputs}
        sequences = model.generate(**kept, max_new_tokens=24, do_sample=False)
        texts = processor.batch_decode(sequences[:, kept["input_ids"].shape[1] :], skip_special_tokens=True)
        for one, text in zip(batch, texts, strict=True):
            one["right"] = answer_is_right(text, one["meaning"]["form"], said=one["answer"])
    groups = {"all": asked}
    for one in asked:
        groups.setdefault(one["meaning"]["kind"], []).append(one)
    return {name: share_of_right(group) for name, group in groups.items()}


def share_of_right(asked: list[dict]) -> dict:
    """{"value", "low", "high", "count"} of `right`."""
    right = Statistic.of(torch.tensor([float(one["right"]) for one in asked], dtype=torch.float64))
    return asdict(estimate(right, [one["image_id"] for one in asked]))


def summarise(run: Path) -> dict:
    """Return settings, steps, duration and about twelve lines of the log of each stage of a finished run, rounded."""
    recipe = read_recipe([str(run / "final" / "training_config.yaml")])
    logs = json.loads((run / "final" / "training_log.json").read_text())
    (part,) = recipe.last.data.datasets
    kept = {"seed": recipe.values["seed"], "batch_size": recipe.values["per_device_train_batch_size"], "stages": {}}
    kept["pictures"] = len(load_split(part.data, part.split))
    for stage in recipe.stages:
        lines = [line for line in logs[stage.name] if "loss" in line]
        some = [*lines[:: max(len(lines) // 12, 1)], lines[-1]]
        seconds = [line["train_runtime"] for line in logs[stage.name] if "train_runtime" in line]
        settings = {"learning_rate": stage.values["learning_rate"], "turns": stage.data.max_turns}
        if stage.tuning == "dense":
            settings["turns"] = 0
        kept["stages"][stage.name] = {
            "settings": settings,
            "steps": lines[-1]["step"],
            "minutes": round(seconds[-1] / 60, 1) if seconds else None,  # since it was last interrupted
            "log": [{key: float(f"{value:.4g}") for key, value in line.items()} for line in some],
        }
    return kept


def fields_of(out: Path, card: Path, direct: Report, refusals: Report) -> dict[str, str]:
    """What stands in the card for each [[name]] of card.md, every number read from the reports and the log."""
    answers = json.loads((out / "answers.json").read_text())
    log = json.loads((card / "training_log.json").read_text())
    config = LLMI3DConfig.from_pretrained(card)
    model = LLMI3DForConditionalGeneration.from_pretrained(card)
    wanted = ("acc@0.25", "acc@0.5", "mean_iou", "depth_error_median", "rotation_error_median", "f1@0.25")
    wanted += ("expected_calibration_error",)
    metrics = [(name, direct.metrics[name]) for name in wanted if name in direct.metrics]
    metrics += [(f"{name}, answer left to the model", refusals.metrics[name]) for name in ("acc@0.25",)]
    metrics += [(f"refusals of absent objects, {name[11:]}", refusals.metrics[name]) for name in ABSTENTION]
    metrics.append((RELATIVE, relative_depth_error(out / "report_direct")))
    return {
        "parameters": f"{model.num_parameters():,}",
        "megabytes": f"{(card / 'model.safetensors').stat().st_size / 1e6:.1f}",
        "tokens": f"{config.image_seq_length}",
        "pictures": f"{log['pictures']:,}",
        "test_pictures": f"{direct.images:,}",
        "questions": f"{len(direct.ids):,}",
        "calibration": describe_calibration(out / "calibration" / "calibration.json"),
        "seed": f"{log['seed']}",
        "hours": f"{sum(one['minutes'] or 0 for one in log['stages'].values()) / 60:.1f}",
        "stages": table(
            ("stage", "steps", "images a step", "turns an image", "highest learning rate", "minutes"),
            [
                (
                    name,
                    one["steps"],
                    log["batch_size"],
                    one["settings"]["turns"] or "-",
                    one["settings"]["learning_rate"],
                    one["minutes"] or "-",
                )
                for name, one in log["stages"].items()
            ],
        ),
        "curve": table(
            ("images seen", "IoU above 0.25 (%)"),
            [
                (f"{int(one['step'] * log['batch_size']):,}", say(one["box_acc_25"]))
                for one in next(iter(log["stages"].values()))["log"]
                if "box_acc_25" in one
            ],
        ),
        "metrics": table(("metric", "value", "95% interval", "over"), [estimate_row(*one) for one in metrics]),
        **{
            name: table(
                (title, "Acc@0.25", "Acc@0.5", "questions"),
                [
                    (label, say(part["acc@0.25"].value), say(part["acc@0.5"].value), part["acc@0.25"].count)
                    for label, part in direct.groups[key].items()
                    if part["acc@0.25"].count
                ],
            )
            for name, key, title in (
                ("domains", "domain", "domain"),
                ("kinds", "phrase_kind", "kind of phrase"),
                ("categories", "category", "category"),
                ("distances", "distance", "distance"),
            )
        },
        "answers": table(
            ("question", "right", "95% interval", "questions"),
            [estimate_row(name, Estimate(**one)) for name, one in answers.items()],
        ),
    }


def write_card(card: Path, fields: dict[str, str], reports: list[Report]) -> None:
    """README.md: the text of card.md with its fields, and the reports in the Hub's form."""
    text = CARD.read_text()
    for name, value in fields.items():
        text = text.replace(f"[[{name}]]", value)
    written = ModelCard(text)
    merge_results(written, reports, "llmi3d-tiny")
    write_whole(card / "README.md", str(written))


def describe_calibration(path: Path) -> str:
    """What `llmi3d calibrate` found, for the card."""
    if not path.is_file():
        return "The score is the IoU that the network expects; it was not calibrated."
    found = json.loads(path.read_text())
    before, after = found["ways"]["as it is"], found["ways"][found["chosen"]]
    rows = [
        (title, f"{scale * before[name]:.{digits}f}", f"{scale * after[name]:.{digits}f}")
        for title, name, scale, digits in (
            ("log loss", "log_loss", 1, 3),
            ("Brier score", "brier", 1, 3),
            ("expected calibration error (%)", "expected_calibration_error", 100, 1),
            ("mean score (%)", "mean_score", 100, 1),
        )
    ]
    return (
        f"The score is the probability of an IoU above {found['iou']:g}, by `llmi3d calibrate`: score_temperature "
        f"{found['score_temperature']:.3f} and\nscore_bias {found['score_bias']:.3f}, fitted on {found['answers']:,} "
        f"answers about {found['images']} other images, {100 * found['right']:.1f} % of them right. Judged on\n"
        "images that each fit had not seen; those of the test had no part in it:\n\n"
        + table(("score", "as the network has it", "calibrated"), rows)
    )


def relative_depth_error(folder: Path) -> Estimate:
    """Median of |error of the centre's z| / its true z over grounding questions, with its interval over images."""
    values = json.loads((folder / "depth.json").read_text())
    statistic = Statistic.of(torch.tensor([one["error"] for one in values], dtype=torch.float64), "median")
    return estimate(statistic, [one["image_id"] for one in values])


def estimate(statistic: Statistic, clusters: list[str]) -> Estimate:
    """A statistic over questions with its interval, from a bootstrap over their images."""
    samples = torch.cat([statistic.value(weights) for weights in resample_weights(clusters, 1000, seed=0)])
    return Estimate(float(statistic.value()), *(interval(samples) or (None, None)), statistic.count)


def say(value: float | None, unit: str = "%") -> str:
    """ "43.2" for a share, with its unit if it is another."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.3g} {unit}"


def estimate_row(name: str, one: Estimate) -> tuple:
    """A row of a table: name, value, interval, count."""
    unit = UNITS.get(name.removesuffix("_median").partition(",")[0], "%") if "share" not in name else "%"
    ends = "-" if one.low is None else f"{say(one.low, unit)} to {say(one.high, unit)}"
    return (f"{name} (%)" if unit == "%" else name, say(one.value, unit), ends, one.count)


def table(head: tuple, rows: list[tuple]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what `llmi3d data build synth` wrote")
    parser.add_argument("--out", type=Path, default=Path("outputs/tiny"))
    parser.add_argument("--card", type=Path, default=Path("model_cards/llmi3d-tiny"), help="folder of the checkpoint")
    parser.add_argument("--run", type=Path, help="OUT of `llmi3d train` that made it; default the card's own log")
    parser.add_argument("--limit", type=int, help="images to evaluate on; all by default")
    parser.add_argument("--print", action="store_true", help="print the card's tables, and leave the card as it is")
    options = parser.parse_args()
    if options.run is not None:
        write_whole(options.card / "training_log.json", json.dumps(summarise(options.run), indent=1))
    evaluate(options.data, options.out, options.card, options.limit)
    modes = ("direct", "generate")
    reports = [Report.load(options.out / f"report_{mode}" / "report_domains.json") for mode in modes]
    fields = fields_of(options.out, options.card, *reports)
    if options.print:
        print("\n\n".join(fields[name] for name in MEASURED))
    else:
        write_card(options.card, fields, reports)


if __name__ == "__main__":
    main()
