# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Images of every kind that people send are read, or refused by name."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from llmi3d.processing.image_processing_llmi3d import load_image

COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))


def encoded(image, form, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    """A PNG file of raw rows, each with its filter byte."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue")]
    image = load_image(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    assert image.convert("RGB").getpixel((5, 5)) == (255, 0, 0)


def test_cmyk_shows_the_same_colours():
    flat = Image.new("RGB", (32, 24), (200, 80, 40))
    image = load_image(io.BytesIO(encoded(flat.convert("CMYK"), "JPEG", quality=95)))
    assert image.mode == "CMYK"
    assert np.abs(np.subtract(image.convert("RGB").getpixel((9, 9)), (200, 80, 40))).max() < 6


def test_an_orientation_is_kept_for_who_turns():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = load_image(io.BytesIO(encoded(COLOURS, "JPEG", exif=exif)))
    assert image.size == (32, 24) and ImageOps.exif_transpose(image).size == (24, 32)


def test_colours_of_16_bits_are_read_in_8():
    rows = b"".join(b"\0" + struct.pack(">3H", 51400, 20560, 10280) * 4 for _ in range(3))
    assert load_image(io.BytesIO(png(4, 3, 16, 2, rows))).getpixel((0, 0)) == (200, 80, 40)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(4, 3, 16, 0, b"".join(b"\0" + b"\1\2" * 4 for _ in range(3))), "mode 'I;16' of more than 8 bits"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG is a drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64, "HEIC is not supported: save it as JPEG"),
        (encoded(COLOURS, "EPS"), "a drawing in the format EPS"),
        (png(30000, 30000, 8, 2, b""), "decompression bomb"),
        (png(12000, 9000, 1, 0, b""), "got 12000x9000, 108 megapixels, want at most 50"),
        (encoded(COLOURS, "PNG")[:-30], "cannot read"),
        (b"text", "cannot identify image file"),
        (b"", "cannot identify image file"),
    ],
    ids=["grey of 16 bits", "svg", "heic", "eps", "bomb", "large", "cut off", "text", "empty"],
)
def test_others_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "image").write_bytes(content)
    for source in (tmp_path / "image", io.BytesIO(content)):
        with pytest.raises(ValueError, match=message):
            load_image(source, max_pixels=50_000_000)


def test_a_url_that_nobody_answers_is_refused():
    with pytest.raises(ValueError, match=r"image: cannot fetch 'http://127.0.0.1:9/a.jpg'"):
        load_image("http://127.0.0.1:9/a.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "DDS", "JPEG2000"])
def test_broken_files_raise_nothing_else(form):
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {form}")
    draw, whole = random.Random(0), encoded(COLOURS, form)
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            broken[draw.randrange(min(200, len(broken)))] = draw.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                load_image(io.BytesIO(bytes(broken)), max_pixels=10_000_000)
            except ValueError as error:
                assert str(error).startswith("image: ")
