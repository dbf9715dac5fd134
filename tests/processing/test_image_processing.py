# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""One letterbox for two resolutions, and a camera that moves along."""

import base64
import io
import pickle

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvF
from PIL import Image
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from llmi3d import LLMI3DImageProcessor

K = (250.0, 260.0, 150.0, 110.0)


@pytest.fixture(scope="module")
def image_processor():
    return LLMI3DImageProcessor(size={"height": 32, "width": 32}, high_res_size={"height": 128, "width": 128})


def test_shapes_and_letterbox(image_processor, photograph):
    batch = image_processor(photograph, intrinsics=K, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 32, 32)
    assert batch["high_res_pixel_values"].shape == (1, 3, 128, 128)
    # 320x200 becomes 128x80, centred: 24 rows of padding above and below, which is the mean colour.
    camera = batch.cameras[0]
    assert (camera.scale, camera.offset) == ((0.4, 0.4), (0.0, 24.0))
    high = batch["high_res_pixel_values"][0]
    assert (high[:, :24] == 0).all() and (high[:, 104:] == 0).all()
    assert (high[:, 24:104] != 0).any(0).float().mean() > 0.99


def test_camera_moves_with_the_pixels(image_processor):
    """A white dot stays where K says that its point projects to."""
    image = np.zeros((200, 320, 3), np.uint8)
    image[100:108, 240:248] = 255
    batch = image_processor(image, intrinsics=K, return_tensors="pt")
    brightness = batch["high_res_pixel_values"][0].sum(0)
    brightness = (brightness - brightness.min()).clamp(min=0)
    brightness[:24] = brightness[104:] = 0  # the padding is grey, not black
    brightness = brightness * (brightness > 0.3 * brightness.max())
    rows, columns = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    found = torch.stack(((brightness * columns).sum(), (brightness * rows).sum())) / brightness.sum()
    ray = torch.tensor([(244 - K[2]) / K[0], (104 - K[3]) / K[1], 1.0], dtype=torch.float64)
    expected = (batch.cameras[0].network_intrinsics() @ ray)[:2]
    torch.testing.assert_close(found.double(), expected, atol=0.1, rtol=0)


def test_points_go_to_the_network_and_back(image_processor, photograph):
    camera = image_processor(photograph, intrinsics=K).cameras[0]
    boxes = torch.tensor([[10.0, 20.0, 300.0, 150.0]])
    torch.testing.assert_close(camera.to_image(camera.to_network(boxes)), boxes)
    torch.testing.assert_close(camera.to_network(boxes[:, :2]), torch.tensor([[4.0, 32.0]]))


def test_exif_orientation_is_applied(image_processor, photograph, tmp_path):
    stored = photograph.transpose(Image.Transpose.ROTATE_90)  # what a camera held sideways stores
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.png", exif=exif)
    turned = image_processor(str(tmp_path / "turned.png"), fov_deg=60, return_tensors="pt")
    upright = image_processor(photograph, fov_deg=60, return_tensors="pt")
    assert turned.cameras == upright.cameras
    torch.testing.assert_close(turned["high_res_pixel_values"], upright["high_res_pixel_values"])


def test_all_kinds_of_sources_agree(image_processor, photograph, tmp_path):
    photograph.save(tmp_path / "a.png")
    buffer = io.BytesIO()
    photograph.save(buffer, "PNG")
    array = np.asarray(photograph)
    sources = [
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ]
    wanted = image_processor(photograph, intrinsics=K, return_tensors="pt")["pixel_values"]
    for source in sources:
        torch.testing.assert_close(image_processor(source, intrinsics=K, return_tensors="pt")["pixel_values"], wanted)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA"])
def test_other_colour_modes_become_rgb(image_processor, photograph, mode):
    batch = image_processor(photograph.convert(mode), intrinsics=K, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 32, 32)
    assert batch["pixel_values"].isfinite().all()


def test_batch_is_one_by_one(image_processor, photograph):
    images = [photograph, photograph.resize((90, 200))]
    cameras = [K, (100, 100, 45, 100)]
    batch = image_processor(images, intrinsics=cameras, return_tensors="pt")
    for index, image in enumerate(images):
        single = image_processor(image, intrinsics=cameras[index], return_tensors="pt")
        torch.testing.assert_close(batch["pixel_values"][index], single["pixel_values"][0])
        assert batch.cameras[index] == single.cameras[0]


CLIP = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # DINOv2's
SIGLIP = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)  # EfficientNet-Lite's: (x - 127) / 128


def letterboxed(image, size, high_size, low_statistics=CLIP, high_statistics=CLIP):
    """Both inputs of an RGB image, step by step: letterbox, normalisation, padding, and a smaller copy of it all."""
    width, height = image.size
    scale = high_size / max(width, height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = tvF.resize(tvF.pil_to_tensor(image), [new_height, new_width], tvF.InterpolationMode.BICUBIC)
    left, top = (high_size - new_width) // 2, (high_size - new_height) // 2
    low, high = (
        tvF.pad(
            tvF.normalize(pixels / 255, *statistics),
            [left, top, high_size - new_width - left, high_size - new_height - top],
        )
        for statistics in (low_statistics, high_statistics)
    )
    return tvF.resize(low, [size, size], tvF.InterpolationMode.BILINEAR, antialias=True), high


@pytest.mark.parametrize("sizes", [(32, 128), (84, 192), (50, 73), (70, 64)], ids=str)
@pytest.mark.parametrize("shape", [(320, 200), (90, 200), (160, 160), (300, 9), (7, 250)], ids=str)
def test_both_inputs_are_those_of_the_padded_canvas(photograph, sizes, shape):
    """Only what the image reaches is resized; the rest is padding in any case."""
    image_processor = LLMI3DImageProcessor(size=sizes[0], high_res_size=sizes[1])
    image = photograph.resize(shape)
    batch = image_processor(image, fov_deg=60.0, return_tensors="pt")
    low, high = letterboxed(image, *sizes)
    torch.testing.assert_close(batch["high_res_pixel_values"][0], high, atol=2e-6, rtol=0)
    torch.testing.assert_close(batch["pixel_values"][0], low, atol=2e-5, rtol=0)


@pytest.mark.parametrize("sizes", [(56, 128), (70, 96)], ids=str)
@pytest.mark.parametrize(
    "towers", [(IMAGENET, LITE), (SIGLIP, IMAGENET), (CLIP, IMAGENET)], ids=("dinov2", "siglip", "clip")
)
def test_each_tower_gets_its_own_normalisation(photograph, tmp_path, sizes, towers):
    low_statistics, high_statistics = towers
    image_processor = LLMI3DImageProcessor(
        size=sizes[0],
        high_res_size=sizes[1],
        image_mean=low_statistics[0],
        image_std=low_statistics[1],
        high_res_image_mean=list(high_statistics[0]),
        high_res_image_std=list(high_statistics[1]),
    )
    image_processor.save_pretrained(tmp_path)
    loaded = LLMI3DImageProcessor.from_pretrained(tmp_path)
    assert tuple(loaded.high_res_image_mean) == high_statistics[0]
    wanted = letterboxed(photograph, *sizes, *towers)
    for processor in (image_processor, loaded):
        batch = processor([photograph, photograph], fov_deg=60.0, return_tensors="pt")
        for name, pixels in zip(("pixel_values", "high_res_pixel_values"), wanted, strict=True):
            torch.testing.assert_close(batch[name][1], pixels, atol=2e-5, rtol=0)
        assert batch["high_res_pixel_values"][:, :, 0].count_nonzero() == 0  # the padding stays neutral
        assert batch["pixel_values"][:, :, 0].count_nonzero() == 0


def test_the_same_normalisation_given_twice_changes_nothing(image_processor, photograph):
    assert not any("high_res_image" in name for name in image_processor.to_dict())
    once = image_processor(photograph, fov_deg=60.0, return_tensors="pt")
    for given in ({"high_res_image_mean": CLIP[0]}, {"high_res_image_mean": CLIP[0], "high_res_image_std": CLIP[1]}):
        twice = image_processor(photograph, fov_deg=60.0, return_tensors="pt", **given)
        assert all(torch.equal(once[name], twice[name]) for name in once)
    half = image_processor(photograph, fov_deg=60.0, return_tensors="pt", high_res_image_std=[2 * x for x in CLIP[1]])
    torch.testing.assert_close(2 * half["high_res_pixel_values"], once["high_res_pixel_values"])
    assert torch.equal(half["pixel_values"], once["pixel_values"])


def test_threads_change_nothing(image_processor, photograph, tmp_path):
    """Among the images is one given twice, opened but not decoded."""
    photograph.save(tmp_path / "a.jpg")
    sources = [photograph, str(tmp_path / "a.jpg"), photograph.resize((90, 200)), Image.open(tmp_path / "a.jpg")]
    batches, threads = [], torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            batches.append(image_processor([*sources, sources[-1]], fov_deg=60.0, return_tensors="pt"))
    finally:
        torch.set_num_threads(threads)
    alone, together = batches
    assert alone.cameras == together.cameras
    for key in alone:
        torch.testing.assert_close(alone[key], together[key], atol=0, rtol=0)


def test_an_error_in_a_thread_names_its_image(image_processor, photograph, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match=r"image: cannot read 'nothing.png' as an image"):
        image_processor([photograph, "nothing.png", photograph], fov_deg=60.0)


def test_half_precision_leaves_the_camera_exact(image_processor, photograph):
    batch = image_processor(photograph, intrinsics=(250.123456789, 260.0, 150.0, 110.0), return_tensors="pt")
    moved = batch.to(torch.bfloat16)
    assert moved["pixel_values"].dtype == torch.bfloat16
    assert moved.cameras[0].intrinsics[0][0] == 250.123456789


def test_cameras_survive_pickling(image_processor, photograph):
    batch = image_processor(photograph, intrinsics=K, return_tensors="pt")
    assert pickle.loads(pickle.dumps(batch)).cameras == batch.cameras


def test_saved_is_loaded(image_processor, photograph, tmp_path):
    image_processor.save_pretrained(tmp_path)
    loaded = LLMI3DImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == image_processor.to_dict()


@pytest.mark.parametrize(
    ("images", "kwargs", "message"),
    [
        ([], {}, "images: got an empty list"),
        ("nothing.png", {}, "image: cannot read 'nothing.png' as an image"),
        ("data:image/png;base64,aaaa", {}, "image: cannot read 'data:image/png;base64,aaaa' as an image"),
        (7, {}, "image: got int, want a path"),
        (Image.new("I;16", (8, 8)), {}, "image: got mode 'I;16' of more than 8 bits a channel"),
        ([Image.new("RGB", (8, 8))] * 2, {"intrinsics": [K]}, "intrinsics: got 1 for 2 images"),
        ([Image.new("RGB", (8, 8))] * 2, {"fov_deg": [60.0] * 3}, "fov_deg: got 3 for 2 images"),
        (
            [Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))],
            {"intrinsics": (9, 9, 4, 4)},
            r"intrinsics: got one camera for images of the sizes \[\(8, 8\), \(8, 9\)\]",
        ),
        (Image.new("RGB", (8, 8)), {"size": 16, "high_res_size": {"height": 64, "width": 32}}, "want one aspect"),
        (Image.new("RGB", (300, 8)), {"do_resize": False}, "do_resize: got False with a 300x8 image"),
    ],
)
def test_bad_input_is_refused(image_processor, images, kwargs, message):
    with pytest.raises(ValueError, match=message):
        image_processor(images, **kwargs)


def test_a_text_file_is_refused(image_processor, tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(ValueError, match="cannot identify image file"):
        image_processor(str(tmp_path / "a.png"))
