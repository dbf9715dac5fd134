# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The page in a real, headless Chromium; screenshots are kept in LLMI3D_SCREENSHOTS."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install 'llmi3d[test]'")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),  # a webcam that shows a test picture
)
SCREENSHOTS = Path(os.environ.get("LLMI3D_SCREENSHOTS", Path(__file__).parents[2] / "outputs" / "screenshots"))
DESK, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(page, chromium):
    """Return a function that opens the page in a window of a size; requests to other machines fail the test."""
    contexts, elsewhere, broken, addresses = [], [], [], [page.local_url]

    def route(call):
        if call.request.url.startswith((*addresses, "data:", "blob:")):
            call.continue_()
        else:
            elsewhere.append(call.request.url)
            call.abort()

    def open_window(size, touch=False, address=page.local_url):
        addresses.append(address)
        context = chromium.new_context(viewport=size, has_touch=touch, is_mobile=touch)
        contexts.append(context)
        context.route("**/*", route)
        window = context.new_page()
        window.set_default_timeout(60_000)
        window.on("pageerror", lambda error: broken.append(str(error)))
        window.goto(address)
        return window

    yield open_window
    for context in contexts:
        context.close()
    assert elsewhere == [] and broken == []


def keep(window, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    window.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def upload(window, path) -> None:
    window.set_input_files("#image input[type=file]", str(path))


def find(window, prompts: str) -> None:
    """Ask, and wait for the answer to these prompts."""
    window.fill("#prompts textarea", prompts)
    window.click("button#find")
    window.wait_for_function(
        "first => document.querySelector('#table tbody td')?.firstChild.textContent === first",
        arg=prompts.splitlines()[0],
    )


def distances(window) -> list[float]:
    return [float(cell) for cell in window.locator("#table tbody tr td:nth-child(2)").all_inner_texts()]


def set_number(window, name: str, value: float) -> None:
    window.fill(f"#{name} input", str(value))
    window.press(f"#{name} input", "Tab")


def wait_for_k(window, fx: float) -> None:
    window.wait_for_function(f"() => document.querySelector('#used-camera')?.innerText.includes('fx {fx:.1f}')")


def test_upload_ask_and_look(open_page, pictures):
    window = open_page(DESK)
    assert "On photographs it only guesses" in window.inner_text("#note")
    upload(window, pictures / "indoor-000020.jpg")
    window.wait_for_function("() => document.querySelector('#known-camera').innerText.includes('does not say')")
    find(window, "the black plant\nthe ball")
    assert len(distances(window)) == 2 and all(0.3 < one < 30 for one in distances(window))
    assert "is assumed" in window.inner_text("#used-camera .warning")
    first = window.get_attribute("#overlay img", "src")
    keep(window, "find")
    find(window, "the purple table")  # another question, other boxes
    window.wait_for_function("src => document.querySelector('#overlay img').src !== src", arg=first)
    for name, what in (("From above", "#above img"), ("3D", "#view .gl-container canvas"), ("JSON", "#result")):
        window.get_by_role("tab", name=name, exact=True).click()
        window.wait_for_selector(what)
        keep(window, f"find-{name.replace(' ', '-').lower()}")
    assert "purple table" in window.inner_text("#result")


def test_the_heat_map_of_pointing_is_a_toggle(open_page, pictures, chain):
    """A checkpoint that points offers the toggle, another one does not."""
    from transformers import pipeline

    from llmi3d.apps.page import build_page

    model, processor = chain
    pointing = build_page(pipeline("image-3d-grounding", model=model, processor=processor, device="cpu"))
    pointing.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        window = open_page(DESK, address=pointing.local_url)
        upload(window, pictures / "indoor-000020.jpg")
        find(window, "the ball")
        window.wait_for_selector("#overlay img")
        window.get_by_label("Show where the network points").check()
        window.wait_for_function("() => document.querySelector('#heat img')?.naturalWidth === 640")
        assert window.locator("#overlay img").count() == 0
        keep(window, "pointing")
        find(window, "the bowl")  # the toggle stays
        assert window.locator("#heat img").count() == 1 and window.locator("#overlay img").count() == 0
        window.get_by_label("Show where the network points").uncheck()
        window.wait_for_selector("#overlay img")
    finally:
        pointing.close(verbose=False)
    window = open_page(DESK)
    upload(window, pictures / "indoor-000020.jpg")
    find(window, "the ball")
    assert window.locator("#show-pointing").count() == 0


def test_half_the_focal_length_halves_distances(open_page, pictures):
    window = open_page(DESK)
    upload(window, pictures / "driving-000041.jpg")
    window.click("#camera button")
    window.get_by_label("Intrinsics K").check()
    set_number(window, "fx", 640)
    find(window, "the red bin\nthe red pedestrian")
    wait_for_k(window, 640)
    before = distances(window)
    assert window.locator("#used-camera .warning").count() == 0
    set_number(window, "fx", 320)
    find(window, "the red bin\nthe red pedestrian")
    wait_for_k(window, 320)
    window.wait_for_function(
        "first => +document.querySelector('#table td:nth-child(2)').innerText < 0.7 * first", arg=before[0]
    )
    # A box off the axis is more than its depth away: the depths halve exactly.
    window.get_by_role("tab", name="JSON", exact=True).click()
    forward = [float(cell.split(",")[2]) for cell in window.locator("#table td:nth-child(3)").all_inner_texts()]
    window.get_by_label("Intrinsics K").check()
    set_number(window, "fx", 640)
    find(window, "the red bin\nthe red pedestrian")
    wait_for_k(window, 640)
    full = [float(cell.split(",")[2]) for cell in window.locator("#table td:nth-child(3)").all_inner_texts()]
    assert forward == pytest.approx([one / 2 for one in full], abs=0.02)
    keep(window, "camera")


def test_a_field_of_view_is_used_and_another_picture_forgets_it(open_page, pictures):
    window = open_page(DESK)
    upload(window, pictures / "objects-000019.jpg")
    window.click("#camera button")
    window.get_by_label("Field of view").first.check()
    set_number(window, "fov", 90)
    find(window, "the can")
    window.wait_for_selector("#used-camera [data-source=fov]")
    assert "90° across" in window.inner_text("#used-camera")
    window.get_by_label("Remove Image").click()
    upload(window, pictures / "objects-000027.jpg")
    window.wait_for_function("() => document.querySelector('#kind input').checked")  # from the picture again


def test_exif_is_read_and_the_picture_turned(open_page, pictures, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 26  # mm, 35 mm-equivalent
    with Image.open(pictures / "indoor-000012.jpg") as image:
        image.save(tmp_path / "turned.jpg", exif=exif)
    window = open_page(DESK)
    upload(window, tmp_path / "turned.jpg")
    window.wait_for_selector("#known-camera [data-source=exif]")
    assert "530 x 730" in window.inner_text("#known-camera")
    find(window, "the stool")
    window.wait_for_function("() => document.querySelector('#overlay img').naturalWidth")
    assert window.evaluate("() => document.querySelector('#overlay img').naturalWidth") == 530


def test_a_picture_of_the_webcam(open_page):
    window = open_page(DESK)
    picture = window.locator("#image")
    picture.get_by_label("Capture from camera").click()
    picture.get_by_text("Click to Access Webcam").click()
    window.wait_for_function("() => document.querySelector('#image video')?.videoWidth > 0")
    assert "-1" not in window.evaluate("() => getComputedStyle(document.querySelector('#image video')).transform")
    picture.get_by_label("capture photo").click()
    window.wait_for_function("() => document.querySelector('#known-camera').innerText.includes('does not say')")
    find(window, "the red mug")
    width, height = (int(side) for side in re.search(r"(\d+) x (\d+)", window.inner_text("#used-camera")).groups())
    assert width >= 640 and height >= 480 and len(distances(window)) == 1
    window.wait_for_selector("#overlay img")
    keep(window, "webcam")


def test_what_is_not_there_is_said(open_page, pictures, ground):
    """The examples have a phrase about nothing; the checkpoint refuses one of them."""
    entries = json.loads((pictures / "pictures.json").read_text())
    for entry in entries:
        path = pictures / entry["image"]
        answer = ground(str(path), prompt=entry["absent"], mode="generate", fov_deg=60, max_new_tokens=16)
        if not answer["boxes"]:
            break
    window = open_page(DESK)
    upload(window, path)
    window.get_by_label("Generate: may say that it is absent").check()
    find(window, entry["absent"])
    assert "not in the image" in window.inner_text("#table .absent")
    assert window.inner_text("#table .said") == answer["text"]
    said, table = (window.locator(f"#table {name}").bounding_box() for name in (".said", ".wide"))
    assert said["x"] + said["width"] <= table["x"] + table["width"]  # seen without scrolling
    keep(window, "absent")


def test_a_missing_prompt_and_a_bad_file_are_named(open_page, pictures, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"text")
    window = open_page(DESK)
    upload(window, pictures / "indoor-000012.jpg")
    window.click("button#find")
    window.wait_for_function("() => document.body.innerText.includes('prompt: got none, want what to find')")
    window.get_by_label("Remove Image").click()
    upload(window, tmp_path / "photo.png")
    window.wait_for_function("() => document.body.innerText.includes('cannot read')")
    shown = window.inner_text("body")
    assert "image: cannot read 'the file' as an image" in shown and str(tmp_path) not in shown
    keep(window, "bad-file")


def test_a_conversation(open_page, pictures):
    answered = "#chat .bot.message:not(.pending)"
    window = open_page(DESK)
    upload(window, pictures / "indoor-000020.jpg")
    window.wait_for_selector("#known-camera .camera")
    window.get_by_role("tab", name="Chat", exact=True).click()
    for number, question in enumerate(("How far is the black plant from the purple table?", "How far is it?"), 1):
        window.fill("#question textarea", question)
        window.click("#ask")
        window.wait_for_function(f"() => document.querySelectorAll({answered!r}).length === {number}")
        if number == 1:
            said = window.inner_text("#chat")
            assert "[1] the black plant:" in said and "[2] the purple table:" in said
            assert re.search(r"From the centre of \[1\] to that of \[2\]: [\d.]+ m", said)
            window.wait_for_selector("#chat-overlay img")
            keep(window, "chat")
    window.click("#new")
    window.wait_for_function("() => !document.querySelector('#chat .bot.message')")


def test_an_example_brings_its_camera(open_page):
    window = open_page(DESK)
    window.locator(".gallery-item, .gallery button").nth(2).click()
    window.wait_for_function("() => document.querySelector('#prompts textarea').value.includes('56 metres')")
    window.click("button#find")
    window.wait_for_selector("#used-camera [data-source=given]")
    assert len(distances(window)) == 3


def test_on_a_phone_nothing_is_wider_than_the_window(open_page, pictures):
    window = open_page(PHONE, touch=True)
    upload(window, pictures / "driving-000041.jpg")
    window.wait_for_selector("#known-camera .camera")
    window.tap("#camera button")
    find(window, "the red bin\nthe third nearest pedestrian from the left of the two red pedestrians")
    window.wait_for_selector("#overlay img")
    keep(window, "phone")
    for name in ("From above", "3D", "JSON", "Chat"):
        wide = window.evaluate("() => [document.documentElement.scrollWidth, document.body.scrollWidth]")
        assert max(wide) <= PHONE["width"], f"before {name}"
        window.get_by_role("tab", name=name, exact=True).tap()
    assert window.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
