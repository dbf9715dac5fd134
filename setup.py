"""Maps the repository's fixed top-level folders onto the one import name `llmi3d`.

`processing` and `training` are too common as names to be installed bare: they would collide with users' own folders.
"""

from setuptools import setup

PACKAGES = {
    "llmi3d": "modeling_llmi3d",
    "llmi3d.app": "modeling_llmi3d/app",
    "llmi3d.bases": "modeling_llmi3d/bases",
    "llmi3d.processing": "processing",
    "llmi3d.training": "training",
    "llmi3d.training.ig3d": "training/ig3d",
    "llmi3d.training.ig3d.expressions": "training/ig3d/expressions",
    "llmi3d.training.ig3d.synthetic": "training/ig3d/synthetic",
    "llmi3d.training.metrics": "training/metrics",
}

setup(packages=list(PACKAGES), package_dir=PACKAGES)
