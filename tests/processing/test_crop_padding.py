# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Wide and tall images without their padding: which pixels, cameras and tokens are left."""

import pytest
import torch
from PIL import Image

from llmi3d import LLMI3DImageProcessor, LLMI3DProcessor
from llmi3d.processing.image_processing_llmi3d import upright_size

K = (250.0, 260.0, 150.0, 110.0)


@pytest.fixture(scope="module")
def image_processor():
    """12x12 tokens of 4 pixels, 32 pixels of the canvas each."""
    sizes = {"size": {"height": 48, "width": 48}, "high_res_size": {"height": 384, "width": 384}}
    return LLMI3DImageProcessor(**sizes, token_size=4)


def both(image_processor, *args, **kwargs):
    return (image_processor(*args, **kwargs, crop_padding=crop, return_tensors="pt") for crop in (False, True))


@pytest.mark.parametrize("size", [(200, 200), (320, 310), (300, 330)])
def test_an_image_that_fills_the_square_is_unchanged(image_processor, photograph, size):
    square, cropped = both(image_processor, photograph.resize(size), intrinsics=K)
    assert torch.equal(cropped["pixel_values"], square["pixel_values"])
    assert torch.equal(cropped["high_res_pixel_values"], square["high_res_pixel_values"])
    assert cropped.cameras == square.cameras


# 1242x375 is 384x116: 134 pixels of padding above, four tokens of 32; then as many beside; then 3.9, so 3 of them.
@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((1242, 375), 4, 12), ((375, 1242), 12, 4), ((384, 134), 6, 12), ((400, 40), 2, 12)]
)
def test_the_rest_is_the_middle_of_the_square_bit_for_bit(image_processor, photograph, size, rows, columns):
    square, cropped = both(image_processor, photograph.resize(size), fov_deg=70.0)
    assert cropped["pixel_values"].shape == (1, 3, 4 * rows, 4 * columns)
    assert cropped["high_res_pixel_values"].shape == (1, 3, 32 * rows, 32 * columns)
    for name, token in (("pixel_values", 4), ("high_res_pixel_values", 32)):
        top, left = (12 - rows) // 2 * token, (12 - columns) // 2 * token
        middle = square[name][..., top : top + rows * token, left : left + columns * token]
        assert torch.equal(cropped[name], middle)
        # Only padding was left out.
        if name == "high_res_pixel_values":
            assert middle.count_nonzero() == square[name].count_nonzero()
    # The network frame is still the square.
    assert cropped.cameras == square.cameras


def test_a_batch_leaves_out_what_is_empty_in_all_images(image_processor, photograph):
    wide, less_wide, high = (photograph.resize(size) for size in ((384, 64), (384, 192), (64, 384)))
    square, cropped = both(image_processor, [wide, less_wide], fov_deg=70.0)
    assert torch.equal(cropped["high_res_pixel_values"], square["high_res_pixel_values"][:, :, 96:288])
    square, cropped = both(image_processor, [wide, high], fov_deg=70.0)
    assert torch.equal(cropped["pixel_values"], square["pixel_values"])


def test_the_papers_grid_needs_a_third_for_kitti():
    processor = LLMI3DImageProcessor()
    assert processor.empty_tokens((1242, 375)) == (8, 0) and processor.empty_tokens((375, 1242)) == (0, 8)
    pixels = processor([Image.new("RGB", (1242, 375))], fov_deg=80.0, crop_padding=True, return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 3, 8 * 14, 24 * 14)
    assert 8 * 24 / 24**2 < 0.45


@pytest.mark.parametrize(
    ("low", "high", "token"),
    [
        (32, 128, 4),
        (128, 256, 8),
        (48, 384, 4),
        (40, 160, 4),
        (96, 96, 8),
        (518, 768, 14),
        (448, 768, 14),
        (224, 512, 14),
    ],
)
def test_the_cnn_gets_whole_strides_whatever_the_grid(low, high, token):
    processor = LLMI3DImageProcessor(
        size={"height": low, "width": low}, high_res_size={"height": high, "width": high}, token_size=token
    )
    for width in (8, 50, 100, 130, 190, 300):
        for size in ((width, 100), (100, width)):
            kept = [low // token - 2 * count for count in processor.empty_tokens(size)]
            assert all(0 < count <= low // token and count * high * token / low % 32 == 0 for count in kept)
            fitted = [side * high / max(size) for side in size[::-1]]
            assert all(count * high * token // low >= side - 1 for count, side in zip(kept, fitted, strict=True))


def test_a_turned_image_is_measured_upright(photograph):
    photograph = photograph.copy()
    assert upright_size(photograph) == (320, 200)
    photograph.getexif()[274] = 6
    assert upright_size(photograph) == (200, 320)
    assert upright_size(torch.zeros(3, 200, 320, dtype=torch.uint8)) == (320, 200)


def test_tokens_that_do_not_divide_the_size_are_refused(image_processor, photograph):
    with pytest.raises(ValueError, match="token_size: got 14, but size is 48x48"):
        image_processor(photograph, intrinsics=K, crop_padding=True, token_size=14)


def test_the_choice_is_saved_with_the_checkpoint_and_off_by_default(chain, tmp_path):
    _, processor = chain
    assert processor.image_processor.crop_padding is False
    assert processor.image_processor.token_size == processor.patch_size
    processor.save_pretrained(tmp_path)
    loaded = LLMI3DProcessor.from_pretrained(tmp_path)
    assert loaded.image_processor.crop_padding is False
    loaded.image_processor.crop_padding = True
    loaded.save_pretrained(tmp_path)
    assert LLMI3DProcessor.from_pretrained(tmp_path).image_processor.crop_padding is True


def test_there_is_a_placeholder_for_each_token_that_is_left(chain, photograph):
    _, processor = chain
    wide = photograph.resize((320, 60))
    square = processor.grounding_inputs(wide, "the car", fov_deg=70)
    cropped = processor.grounding_inputs(wide, "the car", fov_deg=70, crop_padding=True)
    rows, columns = (side // processor.patch_size for side in cropped["pixel_values"].shape[-2:])
    assert rows < columns
    for inputs, count in ((square, columns**2), (cropped, rows * columns)):
        assert (inputs["input_ids"] == processor.image_token_id).sum() == count
    prompt = processor.grounding_prompt("the car")
    called = processor(images=wide, text=prompt, fov_deg=70, crop_padding=True, return_tensors="pt")
    assert called["input_ids"].tolist() == cropped["input_ids"].tolist()
    counted = processor._get_num_multimodal_tokens([(60, 320), (200, 200)], crop_padding=True)
    assert counted["num_image_tokens"] == [rows * columns, columns**2]
    assert processor._get_num_multimodal_tokens([(60, 320)])["num_image_tokens"] == [columns**2]
