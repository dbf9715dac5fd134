# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d env`: versions and devices, for a bug report."""

import json
import os

import typer

from llmi3d.cli.console import AsJson

VERSIONS = (
    *("torchvision", "transformers", "timm", "huggingface-hub", "safetensors", "pillow", "numpy"),
    *("accelerate", "datasets", "peft", "trl"),
)
# Environment variables that change how it runs: numbers and switches, never paths or secrets.
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")


def installed(name: str) -> str | None:
    """Return the version of a distribution, None if it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def extras() -> dict[str, list[str]]:
    """Return the requirements that each extra of llmi3d lacks here; an empty list if it is installed."""
    import re
    from importlib import metadata

    from packaging.requirements import Requirement  # a requirement of transformers

    try:
        own = metadata.metadata("llmi3d")
    except metadata.PackageNotFoundError:  # run from a folder, not installed
        return {}
    needed = [Requirement(text) for text in metadata.requires("llmi3d") or []]

    def missing(extra: str) -> list[str]:
        lacking = []
        for need in needed:
            marker = need.marker
            if marker is None or not marker.evaluate({"extra": extra}) or marker.evaluate({"extra": ""}):
                continue
            if re.sub(r"[-_.]+", "-", need.name).lower() == "llmi3d":
                lacking += [name for inner in sorted(need.extras) for name in missing(inner)]
            elif (version := installed(need.name)) is None or not need.specifier.contains(version, prereleases=True):
                lacking.append(f"{need.name}{need.specifier}")
        return sorted(set(lacking))

    return {extra: missing(extra) for extra in sorted(own.get_all("Provides-Extra") or [])}


def environment() -> dict:
    """Return versions, devices, attention backends, threads and extras; no path, no name of a user or host."""
    import platform

    import torch
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_torch_flex_attn_available

    from llmi3d.version import __version__

    devices = []
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    for index in range(torch.accelerator.device_count() if accelerator else 0):
        device = {"device": f"{accelerator.type}:{index}"}
        if accelerator.type in ("cuda", "xpu"):
            properties = getattr(torch, accelerator.type).get_device_properties(index)
            device |= {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        devices.append(device)
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
        "attention": [name for name, available in attention.items() if available],
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "extras_missing": extras(),
    }


def env(as_json: AsJson = False) -> None:
    """Print versions, devices and installed extras, for a bug report; no paths, names or secrets."""
    described = environment()
    if as_json:
        typer.echo(json.dumps(described, indent=1))
        return
    cpu = described["cpu"]
    lines = {
        "llmi3d": described["llmi3d"],
        "python": f"{described['python']} on {described['system']}",
        **{name: version or "not installed" for name, version in described["versions"].items()},
        "cpu": f"{cpu['cores']} cores, {cpu['threads']} threads, {cpu['kind']}",
        "devices": ", ".join(" ".join(map(str, device.values())) for device in described["devices"])
        or "the CPU alone",
        "attention": ", ".join(described["attention"]),
        "settings": ", ".join(f"{name}={value}" for name, value in described["settings"].items()) or "none",
    }
    if described["cuda"]:
        lines["cuda"] = described["cuda"]
    for extra, missing in described["extras_missing"].items():
        lines[f"[{extra}]"] = f"lacks {', '.join(missing)}" if missing else "installed"
    for name, value in lines.items():
        typer.echo(f"{name:<16}{value}")
