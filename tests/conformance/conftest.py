# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Runs the common tests of the installed transformers on LLMI3D.

    python tests/conformance/fetch.py
    python -m pytest tests/conformance

They take minutes and are third-party code, so a plain `pytest` leaves this folder alone: it must be named.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def is_asked_for(config: pytest.Config) -> bool:
    """Whether this folder, or something in it, was named on the command line."""
    paths = (config.invocation_params.dir / argument.split("::")[0] for argument in config.args)
    return any(path.resolve().is_relative_to(HERE) for path in paths)


def pytest_ignore_collect(config):
    return True if not is_asked_for(config) else None


def pytest_configure(config):
    if not is_asked_for(config):
        return
    # The markers are declared in transformers' own configuration, which is not in its source distribution.
    config.addinivalue_line("filterwarnings", "ignore::pytest.PytestUnknownMarkWarning")
    sys.path.insert(0, str(HERE))
    from fetch import PACKAGE, cache_folder

    if not (cache_folder() / PACKAGE).is_dir():
        raise pytest.UsageError(f"no common tests at {cache_folder()}: run `python {HERE / 'fetch.py'}` first")
    sys.path.insert(0, str(cache_folder()))
    import stand_ins

    stand_ins.install()
