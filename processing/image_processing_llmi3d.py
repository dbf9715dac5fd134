# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DImageProcessor: one decode, one letterbox, two resolutions, and a camera that moves along with every pixel."""

import base64
import dataclasses
import io
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    """Network inputs, with the cameras beside them as the attribute `cameras`, one for each image.

    The cameras are no key: `model(**inputs)` does not pass them, and `inputs.to(dtype)` does not touch them.
    """

    # Trainers make a batch anew of its keys alone.
    def __init__(self, data: dict, cameras: Sequence[Camera] = (), **kwargs):
        super().__init__(data, **kwargs)
        self.cameras = cameras

    def __getstate__(self):
        return {**super().__getstate__(), "cameras": self.cameras}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.cameras = state["cameras"]


def load_image(source: str | os.PathLike | Image.Image, max_pixels: int | None = None) -> Image.Image:
    """Opens a path, an http(s) URL or a base64 `data:` URL as a PIL image, its EXIF data kept and not yet applied.

    Of an animated picture it is the first frame.

    Args:
        source: where the picture is, or the picture.
        max_pixels: larger ones are refused before they are decoded; by default only where Pillow takes them for an
            attack (some 179 million).

    Raises:
        ValueError: nothing there, not a photograph, too large, or one that cannot be shown in 8 bits a channel.
    """
    if isinstance(source, Image.Image):
        return _checked(source, max_pixels)
    shown = str(source) if len(str(source)) <= 200 else str(source)[:200] + "..."
    if str(source).startswith(("http://", "https://")):
        from huggingface_hub.utils import get_session

        try:
            response = get_session().get(str(source), timeout=30, follow_redirects=True)
            response.raise_for_status()
        except Exception as error:  # of whatever HTTP library the hub uses
            raise ValueError(f"image: cannot fetch '{shown}' ({error}).") from error
        source = io.BytesIO(response.content)
    try:
        if str(source).startswith("data:image/"):
            source = io.BytesIO(base64.b64decode(str(source).split(",", 1)[-1], validate=True))
        image = Image.open(source)
    except UnidentifiedImageError as error:
        problem = _foreign_format(source) or error
        raise ValueError(f"image: cannot read '{shown}' as a picture ({problem}).") from error
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise ValueError(f"image: cannot read '{shown}' as a picture ({error}).") from error
    _checked(image, max_pixels)
    try:
        image.load()
    except _BROKEN as error:
        raise ValueError(f"image: cannot read '{shown}' as a picture ({error}).") from error
    return image


# Of the CNN's last stage, pixels of the high-resolution input.
CNN_STRIDE = 32

# What Pillow's decoders raise on broken files.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error)


def _checked(image: Image.Image, max_pixels: int | None) -> Image.Image:
    if image.format in ("EPS", "WMF"):  # drawings, which others' programs would be started to read
        raise ValueError(f"image: got a drawing in the format {image.format}, want a photograph, such as a JPEG.")
    if max_pixels is not None and image.width * image.height > max_pixels:
        given = f"{image.width}x{image.height}, {image.width * image.height / 1e6:.0f} megapixels"
        raise ValueError(f"image: got {given}, want at most {max_pixels / 1e6:.0f}.")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise ValueError(f"image: got mode '{image.mode}' of more than 8 bits a channel, want an 8-bit picture.")
    return image


def _foreign_format(source: Any) -> str | None:
    """What a file that Pillow does not know is, where people take it for a picture."""
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
        Canvas of the high-resolution input; `size` is that of the low-resolution input, of the same aspect.
    intrinsics (`list`, *optional*):
        Camera of each image: 3x3 or (fx, fy, cx, cy) in pixels of the image as stored; None where unknown. One camera
        alone serves all images if they are of one size.
    fov_deg (`float` or `list`, *optional*):
        Horizontal field of view of each upright image in degrees, instead of `intrinsics`.
    crop_padding (`bool`, *optional*, defaults to `False`):
        Whether visual tokens are left out, in whole rows or columns, that would show nothing but padding in any of
        the images. The cameras stay those of the whole canvas, of which the network then gets the middle.
    token_size (`int`, *optional*, defaults to 14):
        Side of the square behind a visual token, pixels of the low-resolution input; `LLMI3DProcessor` sets it.
    """

    high_res_size: Any
    intrinsics: Any
    fov_deg: Any
    crop_padding: bool
    token_size: int


class LLMI3DImageProcessor(TorchvisionBackend):
    r"""
    Turns pictures into `pixel_values` [I, 3, size] and `high_res_pixel_values` [I, 3, high_res_size], and keeps a
    `Camera` for each in the attribute `cameras` of what it returns.

    The picture is turned upright by its EXIF orientation, scaled to fit the high-resolution canvas without changing
    its aspect, centred and padded with the mean colour; the low-resolution input is a smaller copy of that canvas.
    With `crop_padding` both are the middle of that, without the rows or columns that every picture leaves empty.

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
        return kwargs

    def fetch_images(self, image_url_or_urls):
        """Loads paths and URLs as PIL images, so that their EXIF data survives; images pass through."""
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
        """One picture as a tensor [3, H, W]; see `TorchvisionBackend`."""
        if isinstance(image, Image.Image) and image.mode == "RGB" and image.info.get("transparency") is None:
            # As the pixels lie in memory: there resizing is quickest, and nothing is copied around.
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            return pixels if device is None else pixels.to(device)
        return super().process_image(image, device=device, **kwargs)

    def _preprocess_image_like_inputs(self, images, intrinsics=None, fov_deg=None, **kwargs):
        images = self._sources(images)
        if not images:
            raise ValueError("images: got an empty list, want at least one image.")
        each = {id(image): image for image in images}  # a picture that comes several times is read once
        read = dict(zip(each, _in_threads(partial(self._read, **kwargs), each.values()), strict=True))
        fitted, sizes, orientations, focal_lengths = zip(*(read[id(image)] for image in images), strict=True)
        given = _one_for_each("intrinsics", intrinsics, sizes, is_one_camera)
        fovs = _one_for_each("fov_deg", fov_deg, sizes, lambda value: not isinstance(value, list | tuple))
        cameras = [resolve_camera(*args) for args in zip(sizes, orientations, given, fovs, focal_lengths, strict=True)]
        return self._preprocess(fitted, cameras=cameras, **kwargs)

    def _sources(self, images) -> list:
        """Nested lists and batches of pictures as one list; paths and URLs are not opened yet."""
        if isinstance(images, list | tuple):
            return [one for image in images for one in self._sources(image)]
        if isinstance(images, str | os.PathLike | Image.Image):
            return [images]
        return make_flat_list_of_images(self.fetch_images(images))

    def _read(self, image, do_resize: bool, high_res_size: SizeDict, resample, **kwargs) -> tuple:
        """One picture, opened, upright and fitted into the high-resolution canvas: of large ones few are held at once.

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
        crop_padding: bool = False,
        token_size: int = 14,
        return_tensors=None,
        **kwargs,
    ) -> CameraBatchFeature:
        """Both inputs of pictures that fit the canvas, written where they belong: nothing is padded or stacked."""
        canvas_height, canvas_width = high_res_size.height, high_res_size.width
        if size.height * canvas_width != size.width * canvas_height:
            raise ValueError(
                f"size, high_res_size: got {size.width}x{size.height} and {canvas_width}x{canvas_height}, want one "
                f"aspect."
            )
        if do_normalize:
            mean, std, _ = self._fuse_mean_std_and_rescale_factor(
                do_normalize, image_mean, image_std, do_rescale, rescale_factor, images[0].device
            )
            mean, std = (torch.as_tensor(value, device=images[0].device)[:, None, None] for value in (mean, std))
        elif do_rescale:
            images = [self.rescale(image, rescale_factor) for image in images]
        kind = {"dtype": torch.float32 if do_normalize else images[0].dtype, "device": images[0].device}
        # Zeros are the mean colour.
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

    def empty_tokens(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of tokens on either side that `crop_padding` leaves out of a picture by itself.

        Args:
            image_size: (width, height) of the upright picture, pixels.
        """
        size, canvas = SizeDict(**dict(self.size)), SizeDict(**dict(self.high_res_size))
        fitted = _fit(image_size, canvas)
        margins = (canvas.height - fitted[1]) // 2, (canvas.width - fitted[0]) // 2
        return _empty_tokens(margins, size, canvas, self.token_size)


def upright_size(image: Any) -> tuple[int, int]:
    """(width, height) of a loaded picture, turned by its EXIF orientation."""
    if isinstance(image, Image.Image):
        return image.size if exif_orientation(image) < 5 else image.size[::-1]
    height, width = get_image_size(image)
    return width, height


def _fit(size: tuple[int, int], canvas: SizeDict) -> tuple[int, int]:
    """The largest (width, height) of the same aspect that fits the canvas."""
    scale = min(canvas.width / size[0], canvas.height / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _empty_tokens(margins: tuple[float, float], size: SizeDict, canvas: SizeDict, token_size: int) -> tuple[int, int]:
    """(rows, columns) of tokens on either side that lie in margins (vertical, horizontal) of as many canvas pixels.

    As many as leave whole strides of the CNN.
    """
    if size.height % token_size or size.width % token_size:
        raise ValueError(f"token_size: got {token_size}, but size is {size.width}x{size.height}.")
    found = []
    for margin, low, high in zip(margins, (size.height, size.width), (canvas.height, canvas.width), strict=True):
        token = high * token_size // low
        count = int(margin // token)
        while count and (high - 2 * count * token) % CNN_STRIDE:
            count -= 1
        found.append(count)
    return tuple(found)


def _middle(pixels: torch.Tensor, margins: Sequence[int]) -> torch.Tensor:
    """Pictures [I, C, H, W] without as many rows and columns on either side."""
    (top, left), (height, width) = margins, pixels.shape[-2:]
    return pixels[..., top : height - top, left : width - left].contiguous()


def _zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """`torch.zeros`, but on a CPU what is never written takes no time: numpy gets its zeros from the system."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, torch.empty(0, dtype=dtype).numpy().dtype))


def _in_threads(function: Callable, items: Iterable) -> list:
    """What `function` makes of each item, in order, on as many threads as torch uses.

    Decoding and resizing hold neither the interpreter nor torch's other threads.
    """
    items = list(items)
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def _stretch(start: int, stop: int, length: int, new_length: int) -> tuple[slice, slice]:
    """The part of a side of the canvas that has to be made smaller: all that a picture in it can reach.

    Both ends lie where pixels of both resolutions begin, so that the smaller pixels are those of the whole side.

    Args:
        start, stop: of the picture.
        length, new_length: of the side, before and after.
    """
    steps = math.gcd(length, new_length)
    step = length // steps
    # A smaller pixel averages over twice its width; those that see the picture must not see the part's end.
    reach = 2 * math.ceil(length / new_length) + 1
    first, last = max(0, (start - reach) // step), min(steps, -(-(stop + reach) // step))
    new_step = new_length // steps
    return slice(first * step, last * step), slice(first * new_step, last * new_step)


def is_one_camera(value: Any) -> bool:
    """Whether `value` is one 3x3 or (fx, fy, cx, cy) rather than a list of cameras."""
    try:
        value = np.asarray(value)
    except ValueError:  # ragged: cameras of several forms
        return False
    return value.dtype != object and (value.ndim == 1 or value.shape == (3, 3))


def _one_for_each(name: str, value: Any, sizes: list[tuple[int, int]], is_one) -> list:
    """`value` as a list, one entry an image.

    Raises:
        ValueError: another number of values than of images, or one camera for images of several sizes.
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
