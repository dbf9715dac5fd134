# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What frozen towers see in a picture, kept on disk: from the second epoch on they need not look again.

    FOLDER/TOWER-FINGERPRINT/ab/abcdef....safetensors    one file a picture and tower

A picture is known by its pixels as they enter the tower, so another crop or colour is another picture, and a tower by
its weights, configuration and dtype: what is stale is never found. Augmented pixels rarely come twice; the cache is
for training without augmentation of the pixels. For several processes on one disk; files appear whole or not at all.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from llmi3d.training.trainable import TOWERS


class FeatureCache:
    """Puts itself before the forward passes of a model's towers, until `remove` or the end of a `with` block.

    The model's modules, parameters and checkpoints are as without it. Towers compute without dropout or drop path.

    Args:
        model: `LLMI3DForConditionalGeneration`, plain or wrapped by PEFT.
        folder: made where it is missing.
        limit_gb: no more is written when the files of this process reach it, GB; read is what is there.

    Attributes:
        hits, misses: pictures found and computed, of both towers.

    Raises:
        ValueError: a tower that is trained, or Qwen-VL's encoder.

    Example:

    ```python
    >>> with FeatureCache(model, "features"):
    ...     trainer.train()
    ```
    """

    def __init__(self, model: nn.Module, folder: str | Path, limit_gb: float | None = None):
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.folder, self.limit = Path(folder), None if limit_gb is None else limit_gb * 1e9
        self.hits = self.misses = self.written = 0
        if base.config.has_qwen_vision:
            kind = base.config.vision_config.model_type
            raise ValueError(f"model: features of a '{kind}' are not kept, want a ViT, of which one layer is read.")
        towers = {name: getattr(base.model, name) for name in TOWERS}
        for name, tower in towers.items():
            trained = next((one for one, parameter in tower.named_parameters() if parameter.requires_grad), None)
            if trained is not None:
                raise ValueError(
                    f"model: {name}.{trained} is trained, want a frozen tower: its features would be stale."
                )
        kept = {"vision_tower": (base.config.vision_feature_layer,), "high_res_tower": (0, 1, 2, 3)}
        self._forwards = [(tower, self._cached(name, tower, kept[name])) for name, tower in towers.items()]
        for tower, forward in self._forwards:
            tower.forward = forward

    def __enter__(self) -> "FeatureCache":
        return self

    def __exit__(self, *_) -> None:
        self.remove()

    def remove(self) -> None:
        """The towers compute again."""
        for tower, forward in self._forwards:
            if tower.__dict__.get("forward") is forward:
                del tower.forward
        self._forwards = []

    def _cached(self, name: str, tower: nn.Module, layers: tuple[int, ...]) -> Callable:
        forward, weights = tower.forward, fingerprint(tower)

        @torch.no_grad()
        def look(pixel_values: Tensor, *args, **kwargs) -> BaseModelOutputWithPooling:
            kind = pixel_values.device.type
            autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tower.dtype
            folder = self.folder / f"{name}-{weights}-{str(autocast).removeprefix('torch.')}"
            paths = [_path(folder, picture) for picture in pixel_values]
            found = [_read(path, layers, pixel_values.device) for path in paths]
            missing = [i for i, one in enumerate(found) if one is None]
            self.hits, self.misses = self.hits + len(found) - len(missing), self.misses + len(missing)
            if missing:
                tower.eval()  # `Trainer` calls `train()` on all of the model
                states = forward(pixel_values[missing], *args, **{**kwargs, "return_dict": True}).hidden_states
                for row, i in enumerate(missing):
                    found[i] = [states[layer][row] for layer in layers]
                    self._write(paths[i], found[i])
            together = [torch.stack(each) for each in zip(*found, strict=True)]
            return BaseModelOutputWithPooling(
                last_hidden_state=together[-1], hidden_states=dict(zip(layers, together, strict=True))
            )

        return look

    def _write(self, path: Path, tensors: list[Tensor]) -> None:
        if self.limit is not None and self.written >= self.limit:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(handle)
        try:
            save_file({str(i): one.contiguous().cpu() for i, one in enumerate(tensors)}, unfinished)
            self.written += os.path.getsize(unfinished)
            os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
            raise


def fingerprint(module: nn.Module) -> str:
    """Twelve hexadecimal digits that stand for a module's weights, dtypes and configuration."""
    digest = hashlib.blake2b(module.config.to_json_string().encode(), digest_size=6)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _path(folder: Path, picture: Tensor) -> Path:
    digest = hashlib.blake2b(_bytes(picture), digest_size=20, key=f"{picture.dtype} {tuple(picture.shape)}".encode())
    key = digest.hexdigest()
    return folder / key[:2] / f"{key}.safetensors"


def _read(path: Path, layers: tuple[int, ...], device: torch.device) -> list[Tensor] | None:
    """A picture's features; None where there are none that can be read."""
    try:
        tensors = load_file(path, device=str(device))
    except (FileNotFoundError, SafetensorError):
        return None
    return [tensors[str(i)] for i in range(len(layers))] if len(tensors) == len(layers) else None


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
