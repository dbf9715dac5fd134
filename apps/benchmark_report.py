# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reports of `llmi3d bench`: tables, plot and files."""

import io
import json
from pathlib import Path

from llmi3d.apps.benchmark import STAGES
from llmi3d.data.outputs import write_whole


def _setting(result: dict) -> str:
    return f"{result['dtype']}, {result['mode']}, {result['batch_size']} x {result['phrases']}"


def to_markdown(report: dict) -> str:
    """Return tables: each setting as a whole, its stages, and its three largest stages with their limits."""
    ours, settings = report["machine"], report["settings"]
    width, height = settings["image_size"]
    rows, stages, largest = [], [], []
    used = [name for name in STAGES if any(result["stages_ms"][name] for result in report["results"])]
    for result in report["results"]:
        latency = result["latency_ms"]
        rows.append(
            f"| {_setting(result)} | {latency['median']:.1f} | {latency['p95']:.1f} "
            f"| {result['phrases_per_second']:.1f} | {result['peak_mb']:.0f} |"
        )
        numbers = [result["stages_ms"][name] for name in used]
        stages.append(
            f"| {_setting(result)} | {' | '.join(f'{number:.1f}' for number in [*numbers, result['rest_ms']])} "
            f"| {sum(numbers) / result['staged_ms']:.1%} of {result['staged_ms']:.1f} |"
        )
        for name in sorted(used, key=result["stages_ms"].get, reverse=True)[:3]:
            spent, limit = result["stages_ms"][name], result["limit_ms"][name]
            share = f"{limit:.1f} | {limit / spent:.0%}" if limit else "| "
            largest.append(
                f"| {_setting(result)} | {name} | {spent:.1f} | {spent / result['staged_ms']:.0%} "
                f"| {result['gflop'][name]:.1f} | {share} |"
            )
    peak = report["results"][0]["peak_of"]
    attention = ", ".join(dict.fromkeys(result["attention"] for result in report["results"]))
    best = "; ".join(
        f"{dtype}: {rates['gflop_per_s']:.0f} GFLOP/s in a matrix product, {rates['gb_per_s']:.0f} GB/s in a copy"
        for dtype, rates in report["reachable"].items()
    )
    return "\n".join(
        [
            f"{report['checkpoint']}, {report['parameters'] / 1e6:.1f} M parameters, images of {width}x{height}; "
            f"{ours['device']}, {ours['processor']}, {ours['cores']} cores, {ours['threads']} threads, load "
            f"{ours['load']}; torch {ours['torch']}, transformers {ours['transformers']}; "
            f"{attention}; {settings['repeats']} repeats after {settings['warm_up']} to warm "
            f"up; {settings['new_tokens']} tokens in mode generate.",
            "",
            f"| dtype, mode, images x phrases | median ms | p95 ms | phrases/s | peak MB ({peak}) |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"| stages, ms | {' | '.join(used)} | rest | sum of stages |",
            f"|---|{'---|' * (len(used) + 2)}",
            *stages,
            "",
            f"The limit is the time of the operations, or of reading the weights, at the best rates here: {best}.",
            "",
            "| three largest stages | stage | ms | share | GFLOP | limit ms | limit / time |",
            "|---|---|---|---|---|---|---|",
            *largest,
        ]
    )


def write_report(report: dict, out: Path) -> list[Path]:
    """Write bench.json and bench.png (stages of each setting); each appears when it is complete.

    Raises:
        ValueError: one of them exists already.
    """
    files, drawn = check_out(out), io.BytesIO()
    _plot(report).savefig(drawn, dpi=120, format="png", metadata={"Software": None})
    write_whole(files[0], json.dumps(report, indent=1) + "\n")
    write_whole(files[1], drawn.getvalue())
    return files


def check_out(out: Path) -> list[Path]:
    """Return the files that `write_report` writes.

    Raises:
        ValueError: one of them exists already.
    """
    files = [out / "bench.json", out / "bench.png"]
    for file in files:
        if file.exists():
            raise ValueError(f"--out: {file} exists already; choose another folder.")
    return files


def _plot(report: dict):
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    results = report["results"]
    figure = Figure(figsize=(10, 1.8 + 0.45 * len(results)), layout="constrained")
    axes = figure.subplots()
    names = [_setting(result) for result in results]
    colours, left = colormaps["tab20"].colors, [0.0] * len(results)
    for index, name in enumerate([*STAGES, "rest"]):
        values = [result["stages_ms"].get(name, result["rest_ms"]) for result in results]
        if any(values):
            colour = "#dddddd" if name == "rest" else colours[index]
            axes.barh(names, values, left=left, color=colour, label=name)
            left = [start + value for start, value in zip(left, values, strict=True)]
    axes.plot(
        [result["latency_ms"]["median"] for result in results], names, "k|", markersize=14, label="without hooks"
    )
    axes.invert_yaxis()
    axes.set(xlabel="ms per answer", title=f"{report['checkpoint']}: {report['machine']['device']}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
