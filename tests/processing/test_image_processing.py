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


def test_sources_of_pictures_agree(image_processor, photograph, tmp_path):
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
    pictures = [photograph, photograph.resize((90, 200))]
    cameras = [K, (100, 100, 45, 100)]
    batch = image_processor(pictures, intrinsics=cameras, return_tensors="pt")
    for index, picture in enumerate(pictures):
        single = image_processor(picture, intrinsics=cameras[index], return_tensors="pt")
        torch.testing.assert_close(batch["pixel_values"][index], single["pixel_values"][0])
        assert batch.cameras[index] == single.cameras[0]


def letterboxed(picture, size, high_size):
    """Both inputs of an RGB picture, step by step: letterbox, normalisation, padding, and a smaller copy of it all."""
    width, height = picture.size
    scale = high_size / max(width, height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    image = tvF.resize(tvF.pil_to_tensor(picture), [new_height, new_width], tvF.InterpolationMode.BICUBIC)
    image = tvF.normalize(image / 255, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    left, top = (high_size - new_width) // 2, (high_size - new_height) // 2
    high = tvF.pad(image, [left, top, high_size - new_width - left, high_size - new_height - top])
    return tvF.resize(high, [size, size], tvF.InterpolationMode.BILINEAR, antialias=True), high


@pytest.mark.parametrize("sizes", [(32, 128), (84, 192), (50, 73)], ids=str)
@pytest.mark.parametrize("shape", [(320, 200), (90, 200), (160, 160), (300, 9), (7, 250)], ids=str)
def test_both_inputs_are_those_of_the_padded_canvas(photograph, sizes, shape):
    """Only what the picture reaches is made smaller; all else is padding in any case."""
    low_size, high_size = sizes
    image_processor = LLMI3DImageProcessor(size=low_size, high_res_size=high_size)
    picture = photograph.resize(shape)
    batch = image_processor(picture, fov_deg=60.0, return_tensors="pt")
    low, high = letterboxed(picture, *sizes)
    torch.testing.assert_close(batch["high_res_pixel_values"][0], high, atol=2e-6, rtol=0)
    torch.testing.assert_close(batch["pixel_values"][0], low, atol=2e-5, rtol=0)


def test_threads_change_nothing(image_processor, photograph, tmp_path):
    """A picture opened but not yet decoded, that comes twice, among others."""
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


def test_an_error_in_a_thread_is_that_of_the_picture(image_processor, photograph, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match=r"image: cannot read 'nothing.png' as a picture"):
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
        ("nothing.png", {}, "image: cannot read 'nothing.png' as a picture"),
        ("data:image/png;base64,aaaa", {}, "image: cannot read 'data:image/png;base64,aaaa' as a picture"),
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


def test_a_text_file_is_no_picture(image_processor, tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(ValueError, match="cannot identify image file"):
        image_processor(str(tmp_path / "a.png"))
