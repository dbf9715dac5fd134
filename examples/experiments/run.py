# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The paper's experiments on IG3D-Synth, one command each.

    python examples/experiments/run.py plan           what there is, and what it takes
    python examples/experiments/run.py mining         one experiment: JSON, plot and table
    python examples/experiments/run.py evaluations    all that ask the finished checkpoint
    python examples/experiments/run.py all            everything, and the page
    python examples/experiments/run.py page           docs/experiments.md from the JSON files

Goes on where it was interrupted: a finished arm and a finished file of answers are never made again. Without --data
the test splits are rendered first, and without --base a base is made of the checkpoint's towers, feature mining,
projector and 3D heads with a new language model, trained as the stage `words` of examples/recipes/tiny.yaml.
"""

import argparse
import inspect
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import torch
import transformers
from arms import ARMS, BATCH, COST, STAGES, STARTS, Arm, budget, new_language_model, steps_of, train_arm
from asked import geometry, open_vocabulary, prompts, robustness
from common import Experiment, Place, fingerprint
from evaluations import SYNTHETIC_DOMAINS
from page import save_plot, tables, write_page
from trained import SEEDS, answer_arm, domains, lora, mining, query_token, trained, virtual_depth

from llmi3d.data.build import build, open_source
from llmi3d.data.dataset import load_split
from llmi3d.evaluation.report import write_whole

ROOT = Path(__file__).parents[2]
SPLITS = ("test", "novel", "camera", "dense", "far")
# Of rendered scenes: another than that of any training set.
TEST_SEED = 20_240_807
LONG_SIDE = 320
BASE_PICTURES = 6000
BASE_STEPS = 422
# The stage `words` of examples/recipes/tiny.yaml.
WORDS = {
    **{"name": "words", "tuning": "full", "turns": "first_words", "gaze_loss_weight": 1.0},
    **{"learning_rate": "1.5e-3", "lr_scheduler_kwargs": {"min_lr_rate": 0.3}},
}
# Otherwise large tensors are given back to the system and zeroed again, and threads that wait keep a core busy.
ALLOCATION = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "OMP_WAIT_POLICY": "PASSIVE"}
# What an arm's answers to one split take, roughly, and all of an experiment without arms.
SECONDS_TO_ANSWER = {"nothing": 30, "base": 100}
SECONDS_TO_EVALUATE = 300

EXPERIMENTS = {
    "mining": Experiment(
        "1",
        "Feature mining",
        mining,
        {name: SEEDS for name in ("full", "no_cnn", "no_depth", "no_attention")},
        ("test", "far"),
    ),
    "query_token": Experiment(
        "2", "Query token against text", query_token, {name: SEEDS for name in ("token", "numbers", "json")}
    ),
    "virtual_depth": Experiment(
        "3, first half",
        "Virtual depth",
        virtual_depth,
        {"full": SEEDS, "metric_depth": SEEDS},
        ("test", "camera"),
    ),
    "geometry": Experiment("3, second half", "Sources of depth and cameras", geometry, {}),
    "domains": Experiment("4", "Domains", domains, {"full": (0,)} | {f"no_{d}": (0,) for d in SYNTHETIC_DOMAINS}),
    "open_vocabulary": Experiment("5", "Open vocabulary", open_vocabulary, {}),
    "prompts": Experiment("6", "Kinds of prompts", prompts, {}),
    "lora": Experiment("7", "LoRA against full fine-tuning", lora, {"lora": (0,), "all_weights": (0,)}),
    "robustness": Experiment("8", "Robustness", robustness, {}),
}


def main() -> None:
    options = parse()
    if options.what == "plan":
        print(plan(options.place))
    elif options.what == "page":
        make_page(options.results)
    elif options.what == "arm":
        run_arm(options.place, options.arm, options.seed)
    else:
        wanted = {
            "all": list(EXPERIMENTS),
            "evaluations": [name for name, one in EXPERIMENTS.items() if not one.arms],
            "arms": [name for name, one in EXPERIMENTS.items() if one.arms],
        }.get(options.what, [options.what])
        # The quick ones first.
        for name in sorted(wanted, key=lambda name: bool(EXPERIMENTS[name].arms)):
            run_experiment(name, options)
        if options.what in ("all", "evaluations", "arms"):
            make_page(options.results)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["plan", "all", "evaluations", "arms", "page", "arm", *EXPERIMENTS])
    parser.add_argument("arm", nargs="?", choices=list(ARMS), help="with `arm`: which")
    parser.add_argument("seed", nargs="?", type=int, default=0, help="with `arm`: its seed")
    parser.add_argument("--data", type=Path, help=f"folder with the splits {', '.join(SPLITS)} of IG3D-Synth")
    parser.add_argument("--base", type=Path, help="OUT of examples/train_tiny.sh, stage `words` done")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "model_cards" / "llmi3d-tiny")
    parser.add_argument("--out", type=Path, default=Path("outputs/experiments"), help="arms and answers")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "experiments", help="JSON files and plots")
    parser.add_argument("--pictures", type=int, default=400, help="of each split, at most")
    parser.add_argument("--scale", type=float, default=1.0, help="of the arms' steps, for trials")
    parser.add_argument("--jobs", type=int, default=1, help="arms at once, each with its share of the cores")
    options = parser.parse_args(arguments)
    if options.what == "arm" and options.arm is None:
        parser.error("arm: which one?")
    options.built, options.based = options.data is None, options.base is None
    options.place = Place(
        options.data or options.out / "data",
        options.base or options.out / "base",
        options.checkpoint,
        options.out,
        options.pictures,
        options.scale,
    )
    return options


def run_experiment(name: str, options: argparse.Namespace) -> dict:
    """Runs what is left of an experiment, and writes its result."""
    experiment, place = EXPERIMENTS[name], options.place
    if options.built:
        make_data(place)
    if experiment.arms:
        if options.based:
            make_base(place)
        run_arms(experiment, options)
    result = {
        "number": experiment.number,
        "title": experiment.title,
        "how": " ".join(inspect.getdoc(experiment.make).split()),
    }
    result |= experiment.make(place)
    result["provenance"] = provenance(place) | {
        "training": trained(place, experiment),
        "checkpoint": "" if experiment.arms else f"{place.checkpoint.name} ({fingerprint(place.checkpoint)})",
        "data": json.loads((place.data / "build.json").read_text()),
    }
    write_whole(options.results / f"{name}.json", json.dumps(result, indent=1))
    save_plot(result, options.results / f"{name}.png")
    print(f"\n{experiment.number}: {experiment.title}\n\n{tables(result)}\n")
    return result


def make_page(results: Path) -> None:
    titles = {name: f"{one.number}: {one.title}" for name, one in EXPERIMENTS.items()}
    write_page(list(EXPERIMENTS), titles, results, results.with_suffix(".md"))
    print(f"wrote {results.with_suffix('.md')}")


# ---------------------------------------------------------------------------------------------------- data, base, arms


def make_data(place: Place) -> None:
    """The test splits."""
    frames = ",".join(f"{split}:{place.pictures}" for split in SPLITS)
    source = open_source("synth", None, frames=frames, long_side=LONG_SIDE, masks=True, seed=TEST_SEED)
    build(source, place.data, max_turns=12, num_proc=os.cpu_count() or 1)


def make_base(place: Place) -> None:
    """A base of its own, where no finished run is given: the checkpoint's eyes, and a language model from nothing."""
    data, start, run = place.base / "train", place.base / "base", place.base / "run"
    if not data.is_dir():
        source = open_source("synth", None, frames=f"train:{BASE_PICTURES}", long_side=LONG_SIDE, masks=True)
        build(source, data, max_turns=12, num_proc=os.cpu_count() or 1)
    if not (start / "model.safetensors").is_file():
        new = [str(ROOT / "examples" / "tiny" / "new_model.py"), "--data", str(data), "--out", str(start)]
        subprocess.run([sys.executable, *new], check=True)
        new_language_model(place.checkpoint, start).save_pretrained(start)
    if (run / "words" / "model").is_dir():
        return
    recipe, steps = str(ROOT / "examples" / "recipes" / "tiny.yaml"), max(round(BASE_STEPS * place.scale), 2)
    flags = ["--stages", json.dumps({**WORDS, "warmup_steps": min(100, steps // 10), "max_steps": steps})]
    flags += ["--model_name_or_path", str(start), "--output_dir", str(run), "--datasets", str(data)]
    command = [sys.executable, "-m", "llmi3d.training.run", recipe, *flags]
    subprocess.run(command, check=True, env=environment(1))


def environment(jobs: int) -> dict[str, str]:
    """For processes that train, as in `examples/train_tiny.sh`."""
    variables = {**ALLOCATION, **os.environ}
    if jobs > 1:
        variables["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // jobs, 1))
    return variables


def run_arms(experiment: Experiment, options: argparse.Namespace) -> None:
    """Each arm in a process of its own, so that memory is its own and an interruption costs no other arm."""
    place = options.place
    left = [(name, seed) for name, seeds in experiment.arms.items() for seed in seeds]
    left = [(name, seed) for name, seed in left if not finished(place, name, seed)]

    def run(arm: tuple[str, int]) -> None:
        name, seed = arm
        command = [sys.executable, __file__, "arm", name, str(seed), "--pictures", str(place.pictures)]
        command += ["--data", place.data, "--base", place.base, "--out", place.out, "--scale", str(place.scale)]
        print(f"arm {name}, seed {seed}", flush=True)
        subprocess.run(list(map(str, command)), check=True, env=environment(options.jobs))

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, left))


def splits_of(name: str) -> tuple[str, ...]:
    """All splits that some experiment asks an arm about."""
    return tuple(dict.fromkeys(split for one in EXPERIMENTS.values() if name in one.arms for split in one.splits))


def finished(place: Place, name: str, seed: int) -> bool:
    folder = place.arm(name, seed)
    return all(
        (folder / file).is_file() for file in (f"model/{COST}", *(f"{split}.jsonl" for split in splits_of(name)))
    )


def run_arm(place: Place, name: str, seed: int) -> None:
    """Trains one arm and asks it.

    Raises:
        ValueError: its folder holds the same arm on another budget or base.
    """
    folder = place.arm(name, seed)
    arm = ARMS[name]
    given = {"budget": budget(arm, place.scale), "pictures": place.pictures, "seed": seed, "base": base_of(place, arm)}
    path = folder / "arm.json"
    if path.is_file():
        held = json.loads(path.read_text())
        changed = [key for key, value in given.items() if held[key] != json.loads(json.dumps(value))]
        if changed:
            raise ValueError(f"out: {folder} holds an arm with other {', '.join(changed)}; choose a new folder.")
    else:
        write_whole(path, json.dumps(given | provenance(place), indent=1))
    train_arm(arm, seed, place.base, folder, place.scale)
    answer_arm(place, name, seed, splits_of(name))


def base_of(place: Place, arm: Arm) -> dict:
    """What an arm starts from: how many pictures there are to learn from, and the base's weights, if it takes them."""
    pictures = len(load_split(place.base / "train", "train"))
    return {
        "pictures": pictures,
        "model": fingerprint(place.base / "run" / "words" / "model") if arm.start == "base" else "",
    }


# ---------------------------------------------------------------------------------------------------- plan, provenance


def plan(place: Place) -> str:
    """All arms with their steps and the time they take: as measured where an arm of the kind is done, else guessed."""
    lines, total, counted = [], 0.0, set()
    for name, one in EXPERIMENTS.items():
        lines.append(f"{one.number}: {one.title} ({name})")
        for arm, seeds in one.arms.items():
            stage = STARTS[ARMS[arm].start]
            steps = f"{stage} {steps_of(stage, place.scale)} steps"
            new = [seed for seed in seeds if (arm, seed) not in counted]
            counted |= {(arm, seed) for seed in new}
            minutes = len(new) * seconds_of(place, arm) / 60
            total += minutes
            shared = "" if len(new) == len(seeds) else ", shared with the above"
            lines.append(f"    {arm:14s} {steps}, seeds {', '.join(map(str, seeds))}: {minutes:.0f} min{shared}")
        if not one.arms:
            lines.append(f"    asks the checkpoint: {SECONDS_TO_EVALUATE / 60:.0f} min")
            total += SECONDS_TO_EVALUATE / 60
    lines.append(f"in all {total / 60:.1f} h, on two cores, besides data and base")
    return "\n".join(lines)


def seconds_of(place: Place, name: str) -> float:
    """What one arm takes, answers included."""
    start = ARMS[name].start
    stage = STARTS[start]
    seconds_per_step = STAGES[stage].seconds * BATCH
    path = place.arm(name, 0) / "model" / COST
    if path.is_file():
        seconds_per_step = json.loads(path.read_text())["seconds_per_step"] or seconds_per_step
    return seconds_per_step * steps_of(stage, place.scale) + len(splits_of(name)) * SECONDS_TO_ANSWER[start]


def provenance(place: Place) -> dict:
    """Command, machine, commit and date; no path of this machine."""
    words = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
    return {
        "command": " ".join(["python examples/experiments/run.py", *words]),
        "machine": machine(),
        "commit": commit(),
        "date": date.today().isoformat(),
        "pictures": place.pictures,
        "scale": place.scale,
    }


def machine() -> str:
    """Processor, cores and versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    device = f" with {torch.accelerator.current_accelerator()}" if torch.accelerator.is_available() else ""
    where = f"{os.cpu_count()} cores of {model}{device}, threads {torch.get_num_threads()}"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{where}, {versions}"


def commit() -> str:
    """The checkout's commit, and whether something tracked was changed since."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"], cwd=ROOT, capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
