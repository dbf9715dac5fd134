# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The floors of the package: each imports only from those below it, and says in one line what it is for."""

import ast
import runpy
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up. The network's own modules stand directly in `llmi3d`.
FLOORS = ("", "processing", "bases", "data", "evaluation", "training", "apps", "cli")
# The public names and the command line stand outside: they import what they show.
OUTSIDE = ("llmi3d", "llmi3d.__main__")

with mock.patch("setuptools.setup"):
    PACKAGES: dict[str, str] = runpy.run_path(str(ROOT / "setup.py"))["PACKAGES"]
FILES = {
    package if file.stem == "__init__" else f"{package}.{file.stem}": file
    for package, folder in PACKAGES.items()
    for file in sorted((ROOT / folder).glob("*.py"))
}


def floor(module: str) -> str:
    """Name of the floor of a module; the network's is empty."""
    part = module.partition(".")[2].partition(".")[0]
    return part if f"llmi3d.{part}" in PACKAGES else ""


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of the package that a module imports, at its top or inside functions."""
    package = module if FILES[module].stem == "__init__" else module.rpartition(".")[0]
    found = set()
    tree = ast.parse(FILES[module].read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            names = [f"{source}.{alias.name}" if f"{source}.{alias.name}" in FILES else source for alias in node.names]
        else:
            continue
        found.update(name for name in names if name.partition(".")[0] == "llmi3d")
    return frozenset(found)


MODULES = [module for module in FILES if module not in OUTSIDE]


def test_every_import_is_of_a_module_that_exists():
    unknown = {(module, name) for module in FILES for name in imports(module) if name not in FILES}
    assert not unknown


def test_no_module_imports_from_a_higher_floor():
    climbs = [
        f"{module} imports {name}"
        for module in MODULES
        for name in sorted(imports(module) - set(OUTSIDE))
        if FLOORS.index(floor(name)) > FLOORS.index(floor(module))
    ]
    assert not climbs


def test_no_module_imports_the_public_names():
    assert [module for module in MODULES if "llmi3d" in imports(module)] == []


def test_no_circle():
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " imports ".join((*path[path.index(module) :], module))
        if module not in finished:
            for name in sorted(imports(module) - set(OUTSIDE)):
                visit(name, (*path, module))
            finished.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_in_one_line_what_it_is_for(package):
    text = ast.get_docstring(ast.parse(FILES[package].read_text()))
    assert text and text.splitlines()[0].endswith("."), f"{package}: want a sentence as the docstring's first line"


def test_no_two_modules_share_a_base_name():
    names = [file.stem for file in FILES.values() if file.stem != "__init__"]
    names += [package.rpartition(".")[2] for package in PACKAGES if package != "llmi3d"]
    assert sorted({name for name in names if names.count(name) > 1}) == []
