# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Features that frozen towers compute for a few augmented views of each image: computed once, read from disk.

    cache = build_feature_cache(model, processor, rows, FeatureCacheArguments("features", views=4), augment)
    views = CachedViews(cache, 4)       # called like an augmentation: views.set_epoch(epoch); row = views(row)

View 0 of an image is the image itself; view v is what `augment` makes of it in epoch v. A cached row is the IG3D row
of its view, whose boxes, K and words `llmi3d.training.augment` keeps true, with features instead of pixels.

A row's key is a digest of all that it holds, so a changed row is computed anew and an unchanged one never. A build
that is killed resumes and loses at most one shard (see `llmi3d.training.feature_shards`). Features of other towers,
image sizes or augmentation are refused by name.

Shapes: R x K visual tokens of C channels; C_s, H_s, W_s of the CNN's feature maps.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers.utils import logging

from llmi3d.data.schema import upright_image
from llmi3d.training.augment import Augment
from llmi3d.training.feature_shards import (
    IMAGE_COLUMNS,
    LOCK,
    SETTINGS,
    FeatureCache,
    ShardWriter,
    bytes_of,
    drop_missing_shards,
    only_builder,
    plain,
    row_to_json,
    write_whole,
)
from llmi3d.training.trainable import TOWERS, unwrapped
from llmi3d.vision_towers_llmi3d import cnn_feature_maps, vit_tokens

logger = logging.get_logger(__name__)
Row = dict[str, Any]

FORMAT = 1


@dataclass
class FeatureCacheArguments:
    """Section `feature_cache` of a recipe.

    Attributes:
        folder: where the cache is, or will be.
        views: views of each image; more than one needs augmentation.
        towers: whose features are kept; the images of a tower that is not among them are kept instead.
        batch_size: views that the towers see together; on CPUs, large batches slow a CNN down.
        shard_size: views per shard; at most one shard is lost if a build is killed.
        bf16: whether the towers compute in bfloat16 (autocast), which is quicker on most devices and less exact.

    Raises:
        ValueError: counts below 1, or unknown towers.
    """

    folder: str
    views: int = 1
    towers: list[str] = field(default_factory=lambda: list(TOWERS))
    batch_size: int = 4
    shard_size: int = 256
    bf16: bool = False

    def __post_init__(self):
        if not isinstance(self.folder, str) or not self.folder:
            raise ValueError(f"feature_cache.folder: got {self.folder!r}, want the name of a folder.")
        for name in ("views", "batch_size", "shard_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"feature_cache.{name}: got {value!r}, want a whole number of at least 1.")
        if not isinstance(self.bf16, bool):
            raise ValueError(f"feature_cache.bf16: got {self.bf16!r}, want true or false.")
        self.towers = [self.towers] if isinstance(self.towers, str) else list(self.towers)
        if not self.towers or not set(self.towers) <= set(TOWERS):
            raise ValueError(f"feature_cache.towers: got {self.towers}, want some of {', '.join(TOWERS)}.")

    @classmethod
    def from_config(cls, config: Any) -> "FeatureCacheArguments":
        """Read the section: a mapping of fields, or a folder alone.

        Raises:
            ValueError: anything else, or an unknown or missing field.
        """
        if isinstance(config, str):
            return cls(config)
        if not isinstance(config, dict) or "folder" not in config:
            raise ValueError(f"feature_cache: got {config!r}, want a folder, or a mapping with one: {{folder: NAME}}.")
        known = list(cls.__dataclass_fields__)
        if unknown := [str(name) for name in config if name not in known]:
            raise ValueError(f"feature_cache: got the unknown field {unknown[0]}, want some of {', '.join(known)}.")
        return cls(**config)


class CachedViews:
    """Replaces IG3D rows by one of their cached views, as an augmentation does (`TrainingRows(augment=...)`).

    In each epoch every image shows another view, in its own order, until all were seen.

    Args:
        cache: that has the views.
        views: of each image, from 0 on.
    """

    def __init__(self, cache: FeatureCache, views: int = 1):
        self.cache, self.views, self.epoch = cache, views, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, row: Row) -> Row:
        """Return a view of the row (see `FeatureCache.read`).

        Args:
            row: as the cache was built from it; best with undecoded images (`undecoded`).

        Raises:
            ValueError: a row that is not in the cache, or a damaged shard.
        """
        key = row_key(row)
        return self.view(row, (self.epoch + int(key[:8], 16)) % self.views, key)

    def view(self, row: Row, view: int, key: str | None = None) -> Row:
        """Return view `view` of the row."""
        key = key or row_key(row)
        if (key, view) not in self.cache:
            raise ValueError(
                f"feature_cache: '{self.cache.folder}' has no view {view} of the row '{row.get('image_id')}' as it is "
                "now; build it again, which computes what is missing."
            )
        return self.cache.read(key, view)


def stack_features(rows: Sequence[Row]) -> dict[str, Any]:
    """Stack the features of cached rows as inputs of the network.

    Returns:
        `vision_features` [B, R, K, C] and `high_res_features`, four maps [B, C_s, H_s, W_s], where the rows have them.
    """
    inputs = {}
    if "vision_features" in rows[0]:
        inputs["vision_features"] = torch.stack([row["vision_features"] for row in rows])
    if "high_res_features" in rows[0]:
        maps = zip(*(row["high_res_features"] for row in rows), strict=True)
        inputs["high_res_features"] = [torch.stack(stage) for stage in maps]
    return inputs


def build_feature_cache(
    model: nn.Module,
    processor,
    rows: Sequence[Row],
    arguments: FeatureCacheArguments,
    augment: Augment | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureCache:
    """Compute the views of rows that a folder does not hold yet.

    View 0 of all rows comes first, so that an interrupted build soon holds something whole.

    Args:
        model: `LLMI3DForConditionalGeneration`, plain or wrapped by PEFT; its towers compute in eval mode, in their
            own dtype and on their own device.
        processor: the model's; whole canvases are computed, whatever its `crop_padding`.
        rows: IG3D rows by index; a row that comes several times is computed once.
        arguments: where, and how many views.
        augment: makes views 1, 2, ...
        progress: called with (views done, views to compute) after each batch.

    Raises:
        ValueError: a trained tower, Qwen-VL's encoder, several views without augmentation, a folder that another
            process builds or that holds something else, a damaged shard, or features beyond float16.
    """
    if arguments.views > 1 and augment is None:
        raise ValueError(f"feature_cache.views: got {arguments.views} without augmentation, want `augment` or 1.")
    settings = cache_settings(model, processor, augment, arguments)
    folder, rows = Path(arguments.folder), undecoded(rows)
    folder.mkdir(parents=True, exist_ok=True)
    with only_builder(folder):
        if (folder / SETTINGS).exists():
            drop_missing_shards(folder)
            held = FeatureCache(folder, settings)
        elif any(path.name != LOCK for path in folder.iterdir()):
            raise ValueError(f"feature_cache: '{folder}' holds something else, want an empty or new folder.")
        else:
            write_whole(folder / SETTINGS, json.dumps(settings, indent=1).encode())
            held = FeatureCache(folder)
        keys = dict(zip(map(row_key, rows), range(len(rows)), strict=True))
        missing = [(key, view) for view in range(arguments.views) for key in keys if (key, view) not in held]
        if missing:
            logger.info(f"feature_cache: {len(missing)} of {len(keys) * arguments.views} views to compute.")
            writer = ShardWriter(folder, arguments.shard_size)
            towers = _FrozenTowers(model, processor, arguments)

            def prepare(batch: Sequence[tuple[str, int]]) -> tuple:
                return towers.prepare([_view(rows[keys[key]], view, augment) for key, view in batch])

            batches = [missing[i : i + arguments.batch_size] for i in range(0, len(missing), arguments.batch_size)]
            done = 0
            with towers.evaluating():
                for batch, prepared in zip(batches, _ahead(prepare, batches), strict=True):
                    for place, entry in zip(batch, towers.look(*prepared), strict=True):
                        writer.add(place, *entry)
                    done += len(batch)
                    if progress is not None:
                        progress(done, len(missing))
                writer.close()
    return FeatureCache(folder, settings)


def cache_settings(
    model: nn.Module, processor, augment: Augment | None, arguments: FeatureCacheArguments
) -> dict[str, Any]:
    """Return all that features depend on, beside the rows.

    Raises:
        ValueError: a trained tower, one that the model does not have, or Qwen-VL's encoder.
    """
    base = unwrapped(model)
    config, towers = base.config, arguments.towers
    if config.has_qwen_vision:
        raise ValueError(
            f"feature_cache: got a '{config.vision_config.model_type}', want a ViT: features of Qwen-VL's encoder are "
            "not kept."
        )
    if "high_res_tower" in towers and not config.high_res_branch:
        raise ValueError("feature_cache.towers: got high_res_tower, which this model does not have; leave it out.")
    for name in towers:
        trained = next((n for n, p in getattr(base.model, name).named_parameters() if p.requires_grad), None)
        if trained is not None:
            raise ValueError(
                f"feature_cache: {name}.{trained} is trained, want a frozen tower: its features would be stale."
            )
    images = processor.image_processor.to_dict()
    moves = None if augment is None else {"transforms": repr(augment.transforms), "seed": augment.seed}
    settings = {
        "format": FORMAT,
        **{name: fingerprint(getattr(base.model, name)) if name in towers else None for name in TOWERS},
        "vision_feature_layer": config.vision_feature_layer,
        "bf16": arguments.bf16,
        "image_processor": {key: value for key, value in sorted(images.items()) if key != "crop_padding"},
        "augment": moves,
    }
    return json.loads(json.dumps(settings, default=str))


def fingerprint(module: nn.Module) -> str:
    """Return twelve hexadecimal digits that identify a module's weights, dtypes and configuration."""
    digest = hashlib.blake2b(module.config.to_json_string().encode(), digest_size=6)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def undecoded(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows of a `datasets.Dataset` with images as they are stored; any other sequence as it is."""
    if isinstance(rows, datasets.Dataset):
        for name in IMAGE_COLUMNS:
            if isinstance(rows.features.get(name), datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


def row_key(row: Row) -> str:
    """Return a digest of all that a row holds, images included: 32 hexadecimal digits."""
    rest = {name: value for name, value in row.items() if name not in IMAGE_COLUMNS}
    digest = hashlib.blake2b(json.dumps(rest, sort_keys=True, default=plain).encode(), digest_size=16)
    for name in IMAGE_COLUMNS:
        image = row.get(name)
        if isinstance(image, dict) and image.get("bytes") is None:
            image = image["path"]
        if isinstance(image, dict):
            digest.update(image["bytes"])
        elif isinstance(image, str | os.PathLike):
            digest.update(Path(image).read_bytes())
        elif image is not None:
            digest.update(f"{image.mode} {image.size}".encode() + image.tobytes())
        digest.update(name.encode())
    return digest.hexdigest()


class _FrozenTowers:
    """Image processor and towers, which make cache entries of rows."""

    def __init__(self, model: nn.Module, processor, arguments: FeatureCacheArguments):
        self.model, self.towers, self.bf16 = unwrapped(model), arguments.towers, arguments.bf16
        self.image_processor = processor.image_processor
        self.keeps_images = self.model.config.high_res_branch and len(self.towers) < len(TOWERS)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run in eval mode, without dropout and drop path."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def prepare(self, rows: list[Row]) -> tuple[list[bytes], dict[str, Tensor]]:
        """Return each row as JSON, and the pixels of both resolutions."""
        intrinsics = [row["intrinsics"] for row in rows]
        pixels = self.image_processor(
            [row["image"] for row in rows], intrinsics=intrinsics, crop_padding=False, return_tensors="pt"
        )
        texts = []
        for row, camera in zip(rows, pixels.cameras, strict=True):
            texts.append(row_to_json(row, camera, self.keeps_images))
        return texts, pixels.data

    @torch.no_grad()
    def look(self, texts: list[bytes], pixels: dict[str, Tensor]) -> Iterator[tuple[bytes, dict[str, Tensor]]]:
        """Yield each row as JSON, with its features in float16."""
        base, features = self.model.model, {}
        with torch.autocast(base.vision_tower.device.type, torch.bfloat16, enabled=self.bf16):
            if "vision_tower" in self.towers:
                low = pixels["pixel_values"].to(base.vision_tower.device, base.vision_tower.dtype)
                side = self.model.config.image_grid_size
                tokens = vit_tokens(base._look(low), self.model.config)
                features["vision_features"] = tokens.unflatten(1, (side, side))
            if "high_res_tower" in self.towers:
                tower = base.high_res_tower
                high = pixels["high_res_pixel_values"].to(tower.device, tower.dtype)
                # Depthwise convolutions of a batch are quicker that way.
                maps = cnn_feature_maps(tower, high.contiguous(memory_format=torch.channels_last))
                features |= {f"stage_{i}": stage for i, stage in enumerate(maps)}
        features = {name: values.half().cpu().contiguous() for name, values in features.items()}
        for name, values in features.items():
            if not values.isfinite().all():
                raise ValueError(f"feature_cache: {name} has values that are not finite in float16.")
        for i, text in enumerate(texts):
            yield text, {name: values[i] for name, values in features.items()}


def _view(row: Row, view: int, augment: Augment | None) -> Row:
    """Return a view of a row, with its image upright."""
    if view:
        row = replace(augment, epoch=view)(row)
    return {**row, "image": upright_image(row["image"])}


def _ahead(prepare: Callable, batches: Sequence) -> Iterator:
    """Yield prepared batches in order, each prepared in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(prepare, batches[0])
        for following in (*batches[1:], None):
            prepared = waiting.result()
            if following is not None:
                waiting = thread.submit(prepare, following)
            yield prepared
