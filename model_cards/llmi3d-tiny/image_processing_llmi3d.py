# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DImageProcessor: one decode, one letterbox, two resolutions, and a camera that follows every pixel."""

import base64
import dataclasses
import io
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as tvF
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    PILImageResampling,
    SizeDict,
    get_image_size,
    is_valid_image,
    make_flat_list_of_images,
)
from transformers.processing_utils import ImagesKwargs, Unpack

from .cameras_llmi3d import exif_focal_length, exif_orientation, resolve_camera
from .geometry_llmi3d import Camera


class CameraBatchFeature(BatchFeature):
    """Network inputs with the attribute `cameras`, one for each image.

    The cameras are not a key: `model(**inputs)` does not pass them, and `inputs.to(dtype)` does not touch them.
    """

    # `cameras` has a default since trainers rebuild a batch from its keys alone.
    def __init__(self, data: dict, cameras: Sequence[Camera] = (), **kwargs):
        super().__init__(data, **kwargs)
        self.cameras = cameras

    def __getstate__(self):
        return {**super().__getstate__(), "cameras": self.cameras}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.cameras = state["cameras"]


def load_image(source: str | os.PathLike | Image.Image, max_pixels: int | None = None) -> Image.Image:
    """Open a path, an http(s) URL or a base64 `data:` URL as a PIL image; EXIF data is kept and not yet applied.

    An animated image gives its first frame.

    Args:
        source: location of the image, or the image.
        max_pixels: larger images are refused before decoding; by default only those that Pillow takes for an attack
            (some 179 million).

    Raises:
        ValueError: the image is missing, unreadable, not a photograph, too large or of more than 8 bits a channel.
    """
    if isinstance(source, Image.Image):
        return _checked(source, max_pixels)
    shown = str(source) if len(str(source)) <= 200 else str(source)[:200] + "..."
    if str(source).startswith(("http://", "https://")):
        from huggingface_hub.utils import get_session

        try:
            response = get_session().get(str(source), timeout=30, follow_redirects=True)
            response.raise_for_status()
        except Exception as error:  # the exception depends on the hub's HTTP library
            raise ValueError(f"image: cannot fetch '{shown}' ({error}).") from error
        source = io.BytesIO(response.content)
    try:
        if str(source).startswith("data:image/"):
            source = io.BytesIO(base64.b64decode(str(source).split(",", 1)[-1], validate=True))
        image = Image.open(source)
    except UnidentifiedImageError as error:
        problem = _foreign_format(source) or error
        raise ValueError(f"image: cannot read '{shown}' as an image ({problem}).") from error
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise ValueError(f"image: cannot read '{shown}' as an image ({error}).") from error
    _checked(image, max_pixels)
    try:
        image.load()
    except _BROKEN as error:
        raise ValueError(f"image: cannot read '{shown}' as an image ({error}).") from error
    return image


# Stride of the CNN's last stage, pixels of the high-resolution input.
CNN_STRIDE = 32

# Exceptions of Pillow's decoders on broken files.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error)


def _checked(image: Image.Image, max_pixels: int | None) -> Image.Image:
    if image.format in ("EPS", "WMF"):  # Pillow would start other programs to read them
        raise ValueError(f"image: got a drawing in the format {image.format}, want a photograph, such as a JPEG.")
    if max_pixels is not None and image.width * image.height > max_pixels:
        given = f"{image.width}x{image.height}, {image.width * image.height / 1e6:.0f} megapixels"
        raise ValueError(f"image: got {given}, want at most {max_pixels / 1e6:.0f}.")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise ValueError(f"image: got mode '{image.mode}' of more than 8 bits a channel, want an 8-bit image.")
    return image


def _foreign_format(source: Any) -> str | None:
    """Name a common image format that Pillow cannot read."""
    with source if hasattr(source, "read") else open(source, "rb") as file:
        file.seek(0)
        start = file.read(1024)
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "HEIC is not supported: save it as JPEG, or install pillow-heif and register its opener"
    if b"<svg" in start.lower():
        return "SVG is a drawing: want a photograph, such as a JPEG"
    return None


class LLMI3DImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    high_res_size (`dict`, *optional*, defaults to `{"height": 768, "width": 768}`):
        Canvas of the high-resolution input, of the same aspect as `size`, the canvas of the low-resolution input.
    high_res_image_mean, high_res_image_std (`float` or `list[float]`, *optional*):
        Normalisation of the high-resolution input; `image_mean` and `image_std` by default.
    intrinsics (`list`, *optional*):
        Camera of each image: 3x3 or (fx, fy, cx, cy) in pixels of the image as stored; None where unknown. A single
        camera serves all images if they have one size.
    fov_deg (`float` or `list`, *optional*):
        Horizontal field of view of each upright image in degrees, instead of `intrinsics`.
    crop_padding (`bool`, *optional*, defaults to `False`):
        Whether to leave out rows and columns of visual tokens that show only padding in all of the images. The network
        then gets the middle of the canvas; the cameras stay those of the whole canvas.
    token_size (`int`, *optional*, defaults to 14):
        Side of a visual token in pixels of the low-resolution input; `LLMI3DProcessor` sets it.
    """

    high_res_size: Any
    high_res_image_mean: Any
    high_res_image_std: Any
    intrinsics: Any
    fov_deg: Any
    crop_padding: bool
    token_size: int


class LLMI3DImageProcessor(TorchvisionBackend):
    r"""
    Turns images into `pixel_values` [I, 3, size] and `high_res_pixel_values` [I, 3, high_res_size], with the `Camera`
    of each image in the attribute `cameras` of the result.

    An image is turned upright by its EXIF orientation, scaled to fit the high-resolution canvas at its own aspect,
    centred, and padded with the mean colour, which is zero after normalisation; the low-resolution input is a smaller
    copy of that canvas. With `crop_padding` both lose the rows and columns that are empty in every image.

    Example:

    ```python
    >>> inputs = image_processor("street.jpg", intrinsics=[[721.5, 721.5, 609.6, 172.9]], return_tensors="pt")
    >>> inputs.cameras[0].source
    'given'
    ```
    """

    model_input_names = ["pixel_values", "high_res_pixel_values"]
    valid_kwargs = LLMI3DImageProcessorKwargs
    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    high_res_image_mean = None
    high_res_image_std = None
    size = {"height": 336, "width": 336}
    high_res_size = {"height": 768, "width": 768}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_pad = True
    crop_padding = False
    token_size = 14

    def __init__(self, **kwargs: Unpack[LLMI3DImageProcessorKwargs]):
        super().__init__(**kwargs)

    def _standardize_kwargs(self, high_res_size=None, **kwargs):
        kwargs = super()._standardize_kwargs(**kwargs)
        if high_res_size is not None and not isinstance(high_res_size, SizeDict):
            if isinstance(high_res_size, int):
                high_res_size = {"height": high_res_size, "width": high_res_size}
            high_res_size = SizeDict(**high_res_size)
        kwargs["high_res_size"] = high_res_size
        for name in ("high_res_image_mean", "high_res_image_std"):
            if isinstance(kwargs.get(name), list):
                kwargs[name] = tuple(kwargs[name])  # hashable, as the base class makes `image_mean`
        return kwargs

    def fetch_images(self, image_url_or_urls):
        """Load paths and URLs as PIL images, which keep their EXIF data; return images as they are."""
        if isinstance(image_url_or_urls, list | tuple):
            return _in_threads(self.fetch_images, image_url_or_urls)
        if isinstance(image_url_or_urls, str | os.PathLike | Image.Image):
            return load_image(image_url_or_urls)
        if is_valid_image(image_url_or_urls):
            return image_url_or_urls
        raise ValueError(
            f"image: got {type(image_url_or_urls).__name__}, want a path, a URL, a PIL image, an array or a tensor."
        )

    def process_image(self, image, device=None, **kwargs):
        """Convert an image to a tensor [3, H, W]; see `TorchvisionBackend`."""
        if isinstance(image, Image.Image) and image.mode == "RGB" and image.info.get("transparency") is None:
            # Channels last, as the pixels lie in memory: resizing is fastest so, and nothing is copied.
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            return pixels if device is None else pixels.to(device)
        return super().process_image(image, device=device, **kwargs)

    def _preprocess_image_like_inputs(self, images, intrinsics=None, fov_deg=None, **kwargs):
        images = self._sources(images)
        if not images:
            raise ValueError("images: got an empty list, want at least one image.")
        unique = {id(image): image for image in images}  # an image given several times is read once
        read = dict(zip(unique, _in_threads(partial(self._read, **kwargs), unique.values()), strict=True))
        fitted, sizes, orientations, focal_lengths = zip(*(read[id(image)] for image in images), strict=True)
        given = _one_for_each("intrinsics", intrinsics, sizes, is_one_camera)
        fovs = _one_for_each("fov_deg", fov_deg, sizes, lambda value: not isinstance(value, list | tuple))
        cameras = [resolve_camera(*args) for args in zip(sizes, orientations, given, fovs, focal_lengths, strict=True)]
        return self._preprocess(fitted, cameras=cameras, **kwargs)

    def _sources(self, images) -> list:
        """Flatten nested lists and batches of images; paths and URLs are not opened yet."""
        if isinstance(images, list | tuple):
            return [source for image in images for source in self._sources(image)]
        if isinstance(images, str | os.PathLike | Image.Image):
            return [images]
        return make_flat_list_of_images(self.fetch_images(images))

    def _read(self, image, do_resize: bool, high_res_size: SizeDict, resample, **kwargs) -> tuple:
        """Open an image, turn it upright and fit it into the high-resolution canvas.

        All in one step, so that few large images are in memory at once.

        Returns:
            (pixels [3, H, W], (width, height) as stored, EXIF orientation, focal length in pixels or None).
        """
        image = self.fetch_images(image)
        orientation, focal_length, size = 1, None, None
        if isinstance(image, Image.Image):
            orientation, focal_length, size = exif_orientation(image), exif_focal_length(image), image.size
            if orientation != 1:
                image = ImageOps.exif_transpose(image)
        pixels = self.process_image(image, **kwargs)
        height, width = pixels.shape[-2:]
        if do_resize:
            new_width, new_height = _fit((width, height), high_res_size)
            pixels = self.resize(pixels, SizeDict(height=new_height, width=new_width), resample)
        return pixels, size or (width, height), orientation, focal_length

    def _preprocess(
        self,
        images: Sequence[torch.Tensor],
        cameras: list[Camera],
        size: SizeDict,
        high_res_size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean,
        image_std,
        high_res_image_mean=None,
        high_res_image_std=None,
        crop_padding: bool = False,
        token_size: int = 14,
        return_tensors=None,
        **kwargs,
    ) -> CameraBatchFeature:
        """Write fitted images into the canvases of both inputs: nothing is padded or stacked afterwards."""
        canvas_height, canvas_width = high_res_size.height, high_res_size.width
        if size.height * canvas_width != size.width * canvas_height:
            raise ValueError(
                f"size, high_res_size: got {size.width}x{size.height} and {canvas_width}x{canvas_height}, want one "
                f"aspect."
            )
        if do_normalize:
            high_statistics = (
                image_mean if high_res_image_mean is None else high_res_image_mean,
                image_std if high_res_image_std is None else high_res_image_std,
            )
            (mean, std), (high_mean, high_std) = (
                self._channel_statistics(*statistics, do_rescale, rescale_factor, images[0])
                for statistics in ((image_mean, image_std), high_statistics)
            )
            differ = not (torch.equal(mean, high_mean) and torch.equal(std, high_std))
        elif do_rescale:
            images = [self.rescale(image, rescale_factor) for image in images]
        kind = {"dtype": torch.float32 if do_normalize else images[0].dtype, "device": images[0].device}
        # Zero is the mean colour, in both normalisations.
        high = _zeros(len(images), len(images[0]), canvas_height, canvas_width, **kind)
        low = _zeros(len(images), len(images[0]), size.height, size.width, **kind)
        moved = []
        for image, camera, large, small in zip(images, cameras, high, low, strict=True):
            (width, height), (new_height, new_width) = camera.image_size, image.shape[-2:]
            left, top = (canvas_width - new_width) // 2, (canvas_height - new_height) // 2
            if left < 0 or top < 0:
                raise ValueError(
                    f"do_resize: got False with a {width}x{height} image, want one that fits "
                    f"{canvas_width}x{canvas_height}."
                )
            region = large[:, top : top + new_height, left : left + new_width].copy_(image)
            if do_normalize:
                region.sub_(mean).div_(std)
            rows, small_rows = _stretch(top, top + new_height, canvas_height, size.height)
            columns, small_columns = _stretch(left, left + new_width, canvas_width, size.width)
            target = small[:, small_rows, small_columns]
            target.copy_(
                tvF.resize(
                    large[:, rows, columns],
                    list(target.shape[-2:]),
                    interpolation=tvF.InterpolationMode.BILINEAR,
                    antialias=True,
                )
            )
            if do_normalize and differ:
                region.copy_(image).sub_(high_mean).div_(high_std)
            scales, offsets = (new_width / width, new_height / height), (float(left), float(top))
            moved.append(dataclasses.replace(camera, scale=scales, offset=offsets))
        if crop_padding:
            margins = (min(camera.offset[1] for camera in moved), min(camera.offset[0] for camera in moved))
            tokens = _empty_tokens(margins, size, high_res_size, token_size)
            low, high = (
                _middle(pixels, [count * pixels.shape[-2] * token_size // size.height for count in tokens])
                for pixels in (low, high)
            )
        data = {"pixel_values": low, "high_res_pixel_values": high}
        return CameraBatchFeature(data, moved, tensor_type=return_tensors)

    def _channel_statistics(self, mean, std, do_rescale: bool, rescale_factor: float, image: torch.Tensor) -> tuple:
        """Return mean and standard deviation [C, 1, 1] for pixels that are not rescaled yet."""
        mean, std, _ = self._fuse_mean_std_and_rescale_factor(
            True, mean, std, do_rescale, rescale_factor, image.device
        )
        return tuple(torch.as_tensor(value, device=image.device)[:, None, None] for value in (mean, std))

    def empty_tokens(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return (rows, columns) of tokens on either side that `crop_padding` leaves out of a single image.

        Args:
            image_size: (width, height) of the upright image, pixels.
        """
        size, canvas = SizeDict(**dict(self.size)), SizeDict(**dict(self.high_res_size))
        fitted = _fit(image_size, canvas)
        margins = (canvas.height - fitted[1]) // 2, (canvas.width - fitted[0]) // 2
        return _empty_tokens(margins, size, canvas, self.token_size)


def upright_size(image: Any) -> tuple[int, int]:
    """Return (width, height) of a loaded image after its EXIF orientation."""
    if isinstance(image, Image.Image):
        return image.size if exif_orientation(image) < 5 else image.size[::-1]
    height, width = get_image_size(image)
    return width, height


def _fit(size: tuple[int, int], canvas: SizeDict) -> tuple[int, int]:
    """Return the largest (width, height) of the same aspect that fits the canvas."""
    scale = min(canvas.width / size[0], canvas.height / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _empty_tokens(margins: tuple[float, float], size: SizeDict, canvas: SizeDict, token_size: int) -> tuple[int, int]:
    """Return (rows, columns) of tokens on either side that lie in margins (vertical, horizontal) of the canvas.

    What remains is whole pixels of the canvas and whole strides of the CNN.
    """
    if size.height % token_size or size.width % token_size:
        raise ValueError(f"token_size: got {token_size}, but size is {size.width}x{size.height}.")
    counts = []
    for margin, low, high in zip(margins, (size.height, size.width), (canvas.height, canvas.width), strict=True):
        token = Fraction(high * token_size, low)  # its side on the canvas
        count = int(margin // token)
        while count and (count * token % 1 or (high - 2 * count * token) % CNN_STRIDE):
            count -= 1
        counts.append(count)
    return tuple(counts)


def _middle(pixels: torch.Tensor, margins: Sequence[int]) -> torch.Tensor:
    """Crop images [I, C, H, W] by as many rows and columns on either side."""
    (top, left), (height, width) = margins, pixels.shape[-2:]
    return pixels[..., top : height - top, left : width - left].contiguous()


def _zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Make zeros as `torch.zeros` does, but by numpy on a CPU, where zeros that are never written cost no time."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, torch.empty(0, dtype=dtype).numpy().dtype))


def _in_threads(function: Callable, items: Iterable) -> list:
    """Map `function` over items, in order, on as many threads as torch uses.

    Decoding and resizing release the interpreter lock.
    """
    items = list(items)
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def _stretch(start: int, stop: int, length: int, new_length: int) -> tuple[slice, slice]:
    """Return the stretch of a side of the canvas that an image reaches when it is resized, at both resolutions.

    Both ends lie on pixel borders of both resolutions, so that resizing the stretch equals resizing the whole side.

    Args:
        start, stop: of the image on the side, pixels.
        length, new_length: of the side before and after resizing, pixels.
    """
    steps = math.gcd(length, new_length)
    step = length // steps
    # A smaller pixel averages over twice its width; pixels that see the image must not see the end of the stretch.
    reach = 2 * math.ceil(length / new_length) + 1
    first, last = max(0, (start - reach) // step), min(steps, -(-(stop + reach) // step))
    new_step = new_length // steps
    return slice(first * step, last * step), slice(first * new_step, last * new_step)


def cells_to_image(cells: torch.Tensor, cell_px: float, network_size: tuple[int, int], camera: Camera) -> torch.Tensor:
    """Move masses on a grid of network cells onto a grid of the same resolution over the original image.

    The mass of a cell is spread evenly over its area. Mass on the padding around the image is dropped.

    Args:
        cells: [..., H, W], masses of square cells that lie in the middle of the network frame.
        cell_px: side of a cell, network pixels.
        network_size: (width, height) of the network frame, pixels.
        camera: of the image.

    Returns:
        [..., rows, columns], masses of equal parts of the original image.
    """
    shares = []
    for axis in (1, 0):
        count, side = cells.shape[-1 - axis], camera.scale[axis] * camera.image_size[axis]
        parts = max(1, math.ceil(side / cell_px - 1e-6))
        start = (network_size[axis] - count * cell_px) / 2
        old = start + cell_px * torch.arange(count + 1, dtype=cells.dtype, device=cells.device)
        new = camera.offset[axis] + side / parts * torch.arange(parts + 1, dtype=cells.dtype, device=cells.device)
        overlap = torch.minimum(new[1:, None], old[None, 1:]) - torch.maximum(new[:-1, None], old[None, :-1])
        shares.append(overlap.clamp(min=0) / cell_px)
    return shares[0] @ cells @ shares[1].T


def is_one_camera(value: Any) -> bool:
    """Tell whether `value` is one 3x3 or (fx, fy, cx, cy) rather than a list of cameras."""
    try:
        value = np.asarray(value)
    except ValueError:  # ragged: cameras of several forms
        return False
    return value.dtype != object and (value.ndim == 1 or value.shape == (3, 3))


def _one_for_each(name: str, value: Any, sizes: list[tuple[int, int]], is_one) -> list:
    """Return `value` as a list with an entry for each image.

    Raises:
        ValueError: the numbers of values and images differ, or one camera is given for images of several sizes.
    """
    if value is None:
        return [None] * len(sizes)
    if is_one(value):
        if name == "intrinsics" and len(set(sizes)) > 1:
            raise ValueError(
                f"{name}: got one camera for images of the sizes {sorted(set(sizes))}, want one for each."
            )
        return [value] * len(sizes)
    if len(value) != len(sizes):
        raise ValueError(f"{name}: got {len(value)} for {len(sizes)} images, want one for each.")
    return list(value)


__all__ = ["LLMI3DImageProcessor"]
