# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d env`: what a bug report needs to say of the machine. Heavy imports stay inside the command."""

import json
import os
from typing import Annotated

import typer

VERSIONS = (
    *("torchvision", "transformers", "timm", "huggingface-hub", "safetensors", "pillow", "numpy"),
    *("accelerate", "datasets", "peft", "trl"),
)
# Settings that change how fast or how it runs; numbers and switches, never places or secrets.
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")


def installed(name: str) -> str | None:
    """Version of a distribution; None where there is none."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def extras() -> dict[str, list[str]]:
    """What each extra of llmi3d misses here, by extra; an empty list where it is installed."""
    import re
    from importlib import metadata

    from packaging.requirements import Requirement  # of transformers

    try:
        own = metadata.metadata("llmi3d")
    except metadata.PackageNotFoundError:  # run from a folder, not installed
        return {}
    needed = [Requirement(one) for one in metadata.requires("llmi3d") or []]

    def missing(extra: str) -> list[str]:
        found = []
        for one in needed:
            if one.marker is None or not one.marker.evaluate({"extra": extra}) or one.marker.evaluate({"extra": ""}):
                continue
            if re.sub(r"[-_.]+", "-", one.name).lower() == "llmi3d":
                found += [name for inner in sorted(one.extras) for name in missing(inner)]
            elif (version := installed(one.name)) is None or not one.specifier.contains(version, prereleases=True):
                found.append(f"{one.name}{one.specifier}")
        return sorted(set(found))

    return {extra: missing(extra) for extra in sorted(own.get_all("Provides-Extra") or [])}


def environment() -> dict:
    """Versions, devices, attention backends, threads and extras, as plain values; no path, no name of user or host."""
    import platform

    import torch
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_torch_flex_attn_available

    from llmi3d import __version__

    devices = []
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    for index in range(torch.accelerator.device_count() if accelerator else 0):
        one = {"device": f"{accelerator.type}:{index}"}
        if accelerator.type in ("cuda", "xpu"):
            properties = getattr(torch, accelerator.type).get_device_properties(index)
            one |= {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        devices.append(one)
    attention = {
        "eager": True,
        "sdpa": True,
        "flash_attention_2": bool(is_flash_attn_2_available()),
        "flash_attention_3": bool(is_flash_attn_3_available()),
        "flex_attention": bool(is_torch_flex_attn_available()),
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "llmi3d": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"torch": torch.__version__, **{name: installed(name) for name in VERSIONS}},
        "cuda": torch.version.cuda if accelerator is not None and accelerator.type == "cuda" else None,
        "devices": devices,
        "cpu": {"cores": cores, "threads": torch.get_num_threads(), "kind": torch.backends.cpu.get_cpu_capability()},
        "attention": [name for name, there in attention.items() if there],
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "extras_missing": extras(),
    }


def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print versions, devices and what is installed, for a bug report: no paths, no names, no secrets."""
    found = environment()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    cpu = found["cpu"]
    lines = {
        "llmi3d": found["llmi3d"],
        "python": f"{found['python']} on {found['system']}",
        **{name: version or "not installed" for name, version in found["versions"].items()},
        "cpu": f"{cpu['cores']} cores, {cpu['threads']} threads, {cpu['kind']}",
        "devices": ", ".join(" ".join(map(str, one.values())) for one in found["devices"]) or "none beside the CPU",
        "attention": ", ".join(found["attention"]),
        "settings": ", ".join(f"{name}={value}" for name, value in found["settings"].items()) or "none",
    }
    if found["cuda"]:
        lines["cuda"] = found["cuda"]
    for extra, missing in found["extras_missing"].items():
        lines[f"[{extra}]"] = f"misses {', '.join(missing)}" if missing else "installed"
    for name, value in lines.items():
        typer.echo(f"{name:<16}{value}")
