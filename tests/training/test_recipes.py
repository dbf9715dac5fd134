# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""examples/recipes: each recipe finds what stands in for its data; each page's commands are understood."""

import re
import shlex
from contextlib import nullcontext
from pathlib import Path

import datasets
import pytest
import typer
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from PIL import Image
from typer.testing import CliRunner

from llmi3d.cli import app
from llmi3d.data.build import open_source
from llmi3d.data.dataset import DATA_FOLDER, shard_name
from llmi3d.data.schema import IG3D_FEATURES
from llmi3d.evaluation.protocols import PROTOCOLS
from llmi3d.training.recipe import read_recipe

REPOSITORY = Path(__file__).parents[2]
RECIPES = sorted((REPOSITORY / "examples" / "recipes").glob("*.yaml"))
NAMES = [path.stem for path in RECIPES]


def commands(page: Path) -> list[list[str]]:
    """Command lines of the page's blocks, as a shell would split them."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    return [shlex.split(line) for line in "".join(blocks).replace("\\\n", "").splitlines() if line.strip()]


COMMANDS = [(path.stem, command) for path in RECIPES for command in commands(path.with_suffix(".md"))]


@pytest.fixture
def workplace(tmp_path, monkeypatch, chain):
    """A folder with a tiny `base`, which is the current one."""
    for part in chain:
        part.save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stand_in(folder: Path, split: str, row: dict, count: int) -> None:
    """Adds a split of some rows to a data set."""
    shared = {**row, "split": split, "instance_map": Image.new("L", row["image"].size)}
    rows = [{**shared, "image_id": f"{folder.name}/{split}/{i}"} for i in range(count)]
    file = folder / DATA_FOLDER / shard_name(split, 0, 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({**IG3D_FEATURES, "instance_map": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).to_parquet(file)


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_a_dry_run_tells_of_its_stages_and_of_all_its_data(path, workplace, row):
    flags = ["--model_name_or_path", "base", "--use_cpu"]
    recipe = read_recipe([str(path), *flags])
    learned, judged = recipe.last.data.datasets, recipe.last.data.eval_datasets
    for count, part in enumerate([*learned, *judged], start=2):
        stand_in(workplace / part.data, part.split, row, count)
    done = CliRunner().invoke(app, ["train", str(path), *flags, "--dry_run"])
    assert done.exit_code == 0, done.output
    for count, part in enumerate([*learned, *judged], start=2):
        assert f"{part.data} ({part.split}): {count} rows" in done.output
    for stage in recipe.stages:
        arguments = stage.training_arguments()
        assert f"{stage.name} ({stage.tuning})" in done.output
        assert arguments.load_best_model_at_end == bool(judged)
        assert not judged or arguments.metric_for_best_model == "eval_acc@0.25"
        images = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        assert f" of {images} images" in done.output
    assert not (workplace / recipe.output_dir).exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_trains_its_recipe_and_judges_what_comes_out(name):
    file = f"examples/recipes/{name}.yaml"
    assert any(file in command for of, command in COMMANDS if of == name)
    final = str(read_recipe([str(REPOSITORY / file), "--model_name_or_path", "base"]).output_dir / "final")
    page = (REPOSITORY / file).with_suffix(".md").read_text()
    assert final in page
    assert f"[{name}.md]({name}.md)" in (REPOSITORY / "examples" / "recipes" / "README.md").read_text()


@pytest.mark.parametrize(
    "command", [each for _, each in COMMANDS], ids=[f"{name}-{i}" for i, (name, _) in enumerate(COMMANDS)]
)
def test_commands_of_the_pages_are_understood(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    program, *arguments = command
    if program == "accelerate":
        assert arguments.pop(0) == "launch"
        launched = _validate_launch_command(launch_command_parser().parse_args(arguments))[0]
        assert launched.module and launched.training_script == "llmi3d.training.run"
        read_recipe(launched.training_script_args)
        return
    if program == "python":
        assert Path(arguments[0]).is_file()
        return
    assert program == "llmi3d"
    group, name = typer.main.get_command(app), program
    while hasattr(group, "commands"):
        name, *arguments = arguments
        group = group.commands[name]
    if name == "train":
        read_recipe(arguments)
        return
    given = group.make_context(name, arguments).params
    if name == "build":
        # Every option is known; what is missing is the download, if there is one.
        with pytest.raises(FileNotFoundError) if given["root"] else nullcontext():
            open_source(given["source"], given["root"], **dict(one.split("=", 1) for one in given["option"] or ()))
    if name == "evaluate":
        assert given["protocol"] in PROTOCOLS
