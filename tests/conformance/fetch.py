# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Fetches the common tests of the installed transformers from its source distribution into a cache.

    python tests/conformance/fetch.py                    # from the package index (PIP_INDEX_URL, or pypi.org)
    python tests/conformance/fetch.py transformers-5.23.0.tar.gz    # from a file, for machines without network

They are third-party code: read from `.cache/transformers-<version>/` at the root of the repository, never committed.
Nothing of the distribution is built or run here.
"""

import hashlib
import html
import io
import os
import re
import shutil
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import urlopen

# Not `tests`, as it is called there: that name is taken by the folder this file lies in.
PACKAGE = "transformers_common_tests"


def cache_folder() -> Path:
    """Where the common tests of the installed transformers lie, or would lie."""
    return Path(__file__).resolve().parents[2] / ".cache" / f"transformers-{version('transformers')}"


def download_sdist(release: str) -> bytes:
    """The source distribution of one release of transformers, its checksum compared with the index's.

    Raises:
        LookupError: the index has no such file, as for a development version.
        ValueError: another checksum than the index states.
    """
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/transformers/"
    name = f"transformers-{release}.tar.gz"
    with urlopen(index, timeout=60) as response:
        page = response.read().decode()
    link = re.search(rf'href="([^"#]*{re.escape(name)})#sha256=([0-9a-f]{{64}})"', page)
    if link is None:
        raise LookupError(f"{index} has no {name} with a checksum; give the file as an argument.")
    with urlopen(urljoin(index, html.unescape(link[1])), timeout=300) as response:
        content = response.read()
    if (found := hashlib.sha256(content).hexdigest()) != link[2]:
        raise ValueError(f"{name}: got the sha256 {found}, the index states {link[2]}.")
    return content


def unpack_tests(sdist: bytes, release: str, target: Path) -> None:
    """Unpacks `tests/` of a source distribution as the package `target / PACKAGE`.

    Raises:
        LookupError: no common tests in the archive.
    """
    prefix = f"transformers-{release}/tests/"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, tarfile.open(fileobj=io.BytesIO(sdist)) as archive:
        unpacked = Path(folder, "unpacked")
        for member in archive:
            if member.isfile() and member.name.startswith(prefix):
                member = member.replace(name=f"{PACKAGE}/{member.name.removeprefix(prefix)}")
                archive.extract(member, unpacked, filter="data")
        package = unpacked / PACKAGE
        if not (package / "test_modeling_common.py").is_file():
            raise LookupError(f"transformers-{release}.tar.gz: got no {prefix}test_modeling_common.py.")
        (package / "__init__.py").touch()
        # Moved at the end, so that an interrupted run leaves no half of a cache.
        shutil.rmtree(target, ignore_errors=True)
        unpacked.rename(target)


def main(arguments: list[str]) -> None:
    target, release = cache_folder(), version("transformers")
    if (target / PACKAGE).is_dir() and not arguments:
        print(f"{target}: there already")
        return
    sdist = Path(arguments[0]).read_bytes() if arguments else download_sdist(release)
    unpack_tests(sdist, release, target)
    print(f"{target}: {len(list((target / PACKAGE).rglob('*.py')))} files")


if __name__ == "__main__":
    main(sys.argv[1:])
