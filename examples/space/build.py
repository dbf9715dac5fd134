# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Build the folder of a Hugging Face Space, ready to be pushed: page, package, checkpoint and example images.

python examples/space/build.py outputs/space
hf upload --repo-type space NAME/llmi3d outputs/space .
"""

import argparse
import ast
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def packages() -> dict[str, str]:
    """Return import names and their folders from setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "PACKAGES":
            return ast.literal_eval(node.value)
    raise ValueError("setup.py: got no PACKAGES, want a dictionary of import names and folders.")


def build(out: Path, checkpoint: Path) -> None:
    """Write the folder of the Space; it appears when it is complete.

    Raises:
        ValueError: the folder exists already, or the checkpoint has no config.json.
    """
    if out.exists():
        raise ValueError(f"OUT: {out} exists already; choose a new folder.")
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"--checkpoint: got {checkpoint}, want a folder with a config.json.")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, folder in packages().items():
        target = partial / name.replace(".", "/")
        target.mkdir(parents=True)
        for file in (*(ROOT / folder).glob("*.py"), *(ROOT / folder).glob("py.typed")):
            shutil.copyfile(file, target / file.name)
    for file in (HERE / "app.py", HERE / "README.md", HERE / "requirements.txt", ROOT / "LICENSE"):
        shutil.copyfile(file, partial / file.name)
    shutil.copytree(checkpoint, partial / "llmi3d-tiny", ignore=shutil.ignore_patterns("__pycache__"))
    (partial / "pictures").mkdir()
    for file in (ROOT / "examples" / "pictures").iterdir():
        if file.suffix in (".jpg", ".json"):
            shutil.copyfile(file, partial / "pictures" / file.name)
    partial.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "model_cards" / "llmi3d-tiny")
    options = parser.parse_args()
    try:
        build(options.out, options.checkpoint)
    except ValueError as error:
        sys.exit(f"Error: {error}")
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
