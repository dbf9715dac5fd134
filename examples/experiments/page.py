# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Tables and plots of results, and the page docs/experiments.md, all from the experiments' JSON files alone."""

import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from llmi3d.evaluation.report import write_whole

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999")
# Unit and how many times the JSON's number; shares without an entry are printed as percent.
UNITS = {
    **dict.fromkeys(("depth_error", "length_error", "width_error", "height_error"), ("m", 1, 3)),
    "rotation_error": ("deg", 1, 1),
    "latency": ("ms", 1000, 0),
    "seconds_per_step": ("s", 1, 2),
    "trained_parameters": ("thousands", 1e-3, 0),
    "peak_memory_mb": ("MB", 1, 0),
    "memory_before_mb": ("MB", 1, 0),
    **dict.fromkeys(("first_loss", "last_loss"), ("", 1, 2)),
}
WORDS = {
    "relative_depth_error": "median depth error",
    "unreadable": "unreadable answers",
    "seconds_per_step": "step",
    "trained_parameters": "trained parameters",
    "peak_memory_mb": "peak memory",
    "memory_before_mb": "before training",
    "first_loss": "first loss",
    "last_loss": "last loss",
}
HEAD = """# Experiments

<!-- Written by `python examples/experiments/run.py page` from the JSON files in docs/experiments. -->

What each mechanism is worth, on IG3D-Synth (rendered scenes with exact truth) and with a model of a few million
parameters: evidence about this implementation at this size, none about the paper's own numbers. The paper's tables are
not known to us; "as expected" means that a part of its design helps.

- `make experiments` runs everything; `python examples/experiments/run.py plan` says what that takes, and
  `python examples/experiments/run.py NAME` runs one. Interrupted runs resume.
- acc@0.25 and acc@0.5 are shares of phrases (or objects) whose box has an exact oriented 3D IoU above that, mean_iou
  is the mean IoU; the median depth error is in percent of the true depth.
- Parentheses hold 95 % percentile bootstrap intervals over images, and over seeds if there are several; ± is
  the standard deviation over seeds. Differences are paired. A difference whose interval contains 0 is not decided.
  Multiple comparisons are not corrected for.
- Budgets are an afternoon on two cores. Arms that start from nothing see a few thousand images, the
  checkpoint's towers saw 70,000: the arms hardly exceed 2 % of Acc@0.25, where small differences cannot be decided.
  `--scale 3` (some hours more) or a GPU goes further; arms of another budget need a new `--out`.
"""


def unit_of(metric: str) -> tuple[str, float, int]:
    """(unit, factor, decimals) in print."""
    return UNITS.get(metric, ("%", 100, 1))


def said(metric: str, number: dict, signed: bool = False) -> str:
    """A number with its interval and its spread over seeds."""
    _, factor, decimals = unit_of(metric)

    def one(value: float, sign: str = "") -> str:
        return f"{factor * value:{sign}.{decimals}f}"

    if number["value"] is None:
        return "-"
    text = one(number["value"], "+" if signed else "")
    if number["low"] is not None:
        text += f" ({one(number['low'])} to {one(number['high'])})"
    return text + (f" ± {one(number['spread'])}" if number["spread"] is not None else "")


def tables(result: dict) -> str:
    """All tables of a result, as Markdown."""
    parts = []
    for one in result["tables"]:
        names = [f"{WORDS.get(name, name)} ({unit_of(name)[0]})".removesuffix(" ()") for name in one["metrics"]]
        rows = [
            (
                row["label"],
                *(said(name, row["numbers"][name]) if name in row["numbers"] else "-" for name in one["metrics"]),
                str(max((number["count"] for number in row["numbers"].values()), default=0)),
            )
            for row in one["rows"]
        ]
        parts.append(f"**{one['title']}**\n\n" + _markdown(("", *names, "over"), rows))
    if result["expected"]:
        rows = [
            (
                one["claim"],
                WORDS.get(one["metric"], one["metric"]),
                said(one["metric"], one["difference"], signed=True) + f" {unit_of(one['metric'])[0]}",
                one["verdict"],
            )
            for one in result["expected"]
        ]
        parts.append("**Expected**\n\n" + _markdown(("expectation", "metric", "difference", "verdict"), rows))
    return "\n\n".join(parts)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:]])


def section(name: str, result: dict) -> str:
    """What the page says of one experiment."""
    about = result["provenance"]
    facts = [f"`{about['command']}`", about["machine"], f"commit {about['commit']}", about["date"]]
    facts.append(f"at most {about['pictures']} images per split")
    if about["checkpoint"]:
        facts.append(f"checkpoint {about['checkpoint']}")
    lines = [f"## {result['number']}: {result['title']}", "", result["how"]]
    if result.get("note"):
        lines += ["", result["note"]]
    lines += ["", "; ".join(facts) + "."]
    if about["training"]:
        lines += ["", _budgets(about["training"])]
    unsettled = [one for one in result["expected"] if one["verdict"] != "as expected"]
    if result["expected"]:
        wrong = [one["claim"] for one in unsettled if one["verdict"] == "the opposite"]
        right = len(result["expected"]) - len(unsettled)
        text = (
            f"Of {len(result['expected'])} expectations {right} came out as expected, {len(unsettled) - len(wrong)} "
        )
        text += f"are not decided, and {len(wrong)} came out the other way round"
        lines += ["", text + (": " + "; ".join(dict.fromkeys(wrong)) if wrong else "") + "."]
    lines += ["", tables(result)]
    if any(one["plot"] for one in result["tables"]):
        lines += ["", f"![{result['title']}](experiments/{name}.png)"]
    return "\n".join(lines) + "\n"


def _budgets(training: dict) -> str:
    """Budgets, with arms of the same one together."""
    by_budget = {}
    for arm, one in training.items():
        given = one["budget"]
        stages = f"{given['steps']} steps of {given['batch']} images ({given['stage']})"
        stages += f" with up to {given['turns']} turns each" if given["turns"] else ""
        seeds = ", ".join(map(str, one["seeds"]))
        pictures = f"{one['base']['pictures']} training images, commit {', '.join(one['commits'])}"
        by_budget.setdefault(f"{stages}; seeds {seeds}; {pictures}", []).append(f"`{arm}`")
    return " ".join(f"Arms {', '.join(arms)}: {budget}." for budget, arms in by_budget.items())


def plot(result: dict) -> Figure | None:
    """One panel for each table that is to be drawn; lines where its rows have an x, else bars."""
    panels: dict[str, list[dict]] = {}
    for one in result["tables"]:
        if one["plot"]:
            panels.setdefault(one["title"], []).append(one)
    if not panels:
        return None
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (title, group) in zip(axes, panels.items(), strict=False):
        metric = group[0]["plot"]
        if metric == "columns":
            _plot_columns(axis, group[0])
            axis.set_title(textwrap.fill(title, 50), fontsize=9)
            continue
        unit, factor, _ = unit_of(metric)
        for one, color in zip(group, COLORS, strict=False):
            shown = [row for row in one["rows"] if row["numbers"].get(metric, {}).get("value") is not None]
            numbers = [row["numbers"][metric] for row in shown]
            value = [factor * number["value"] for number in numbers]
            low, high = (
                [factor * (number[end] if number[end] is not None else number["value"]) for number in numbers]
                for end in ("low", "high")
            )
            if shown and "x" in shown[0]:
                x = [row["x"] for row in shown]
                axis.plot(x, value, "o-", color=color, label=one["title"].split(": ")[-1])
                axis.fill_between(x, low, high, color=color, alpha=0.15)
                axis.set(xlabel=one["xlabel"], ylabel=f"{WORDS.get(metric, metric)} ({unit})")
            else:
                places = range(len(shown))
                axis.barh(places, value, color=color, alpha=0.7)
                axis.hlines(places, low, high, color="black", linewidth=1.2)
                axis.set_yticks(places, [row["label"] for row in shown], fontsize=8)
                axis.invert_yaxis()
                axis.set(xlabel=f"{WORDS.get(metric, metric)} ({unit})")
        if len(group) > 1:
            axis.legend(fontsize=7)
        start = {"left": 0} if not axis.lines else {}
        axis.set_xlim(**start)
        if axis.lines:
            axis.set_ylim(bottom=0)
        axis.set_title(textwrap.fill(title, 50), fontsize=9)
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.remove()
    return figure


def _plot_columns(axis, one: dict) -> None:
    """Each row as a line over the columns."""
    x = [float(name) for name in one["metrics"]]
    for row, color in zip(one["rows"], COLORS, strict=False):
        numbers = [row["numbers"][name] for name in one["metrics"]]
        axis.plot(x, [100 * number["value"] for number in numbers], "o-", color=color, label=row["label"])
        ends = ([100 * number[end] for number in numbers] for end in ("low", "high"))
        axis.fill_between(x, *ends, color=color, alpha=0.12)
    axis.set(xlabel=one["xlabel"], ylabel=one["ylabel"])
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))  # beside: lines may be anywhere
    axis.grid(alpha=0.3)


def save_plot(result: dict, path: Path) -> None:
    """Writes the plot of a result, if it has one; the name appears once it is complete."""
    figure = plot(result)
    if figure is not None:
        unfinished = path.with_name(f".{path.name}")
        figure.savefig(unfinished, dpi=90, format="png", metadata={"Software": None})
        os.replace(unfinished, path)


def write_page(names: Sequence[str], titles: dict[str, str], results: Path, page: Path) -> None:
    """Writes the page from the results that there are.

    Args:
        names: of all experiments, in order.
        titles: "number: title" of each.
        results: folder of the JSON files.
        page: file to write.
    """
    parts = [HEAD]
    for name in names:
        path = results / f"{name}.json"
        if path.is_file():
            parts.append(section(name, json.loads(path.read_text())))
        else:
            parts.append(f"## {titles[name]}\n\nNot run yet: `python examples/experiments/run.py {name}`.\n")
    write_whole(page, "\n".join(parts))
