"""Maps the repository's fixed top-level folders onto the one import name `llmi3d`.

`processing` and `training` are too common as names to be installed bare: they would collide with users' own folders.
"""

from setuptools import setup

PACKAGES = {
    "llmi3d": "modeling_llmi3d",
    "llmi3d.bases": "modeling_llmi3d/bases",
    "llmi3d.processing": "processing",
    "llmi3d.processing.drawing": "processing/drawing",
    "llmi3d.data": "data",
    "llmi3d.data.sources": "data/sources",
    "llmi3d.data.expressions": "data/expressions",
    "llmi3d.data.synthetic": "data/synthetic",
    "llmi3d.evaluation": "evaluation",
    "llmi3d.training": "training",
    "llmi3d.training.experimental": "training/experimental",
    "llmi3d.apps": "apps",
    "llmi3d.cli": "cli",
}

setup(packages=list(PACKAGES), package_dir=PACKAGES)
