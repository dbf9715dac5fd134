# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The HTTP API of the page, and what it refuses."""

import http.client
import io
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

gradio_client = pytest.importorskip("gradio_client", reason="needs pip install 'llmi3d[app]'")
forms, page_module = (pytest.importorskip(f"llmi3d.apps.{name}") for name in ("page_answers", "page"))


@pytest.fixture(scope="module")
def client(page):
    return gradio_client.Client(page.local_url, verbose=False)


@pytest.fixture(scope="module")
def picture(pictures):
    return gradio_client.handle_file(str(pictures / "indoor-000020.jpg"))


def fetch(page, path: str, method: str = "GET", body=None, headers=()) -> tuple[int, bytes]:
    """Return (status, content); the path is sent as written."""
    connection = http.client.HTTPConnection(urlsplit(page.local_url).netloc, timeout=20)
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def test_it_listens_on_this_machine_alone(page):
    assert page.local_url.startswith("http://127.0.0.1:") and page.share_url is None
    assert not page.analytics_enabled


def test_boxes_by_the_api(client, picture, ground, pictures):
    found = client.predict(
        picture, "the ball\nthe bowl", camera="intrinsics", fx=568, cy=250, threshold=0, api_name="/predict"
    )
    assert found["intrinsics"] == [[568, 0, 320], [0, 568, 250], [0, 0, 1]] and found["intrinsics_source"] == "given"
    k = [568, 568, 320, 250]
    expected = ground(str(pictures / "indoor-000020.jpg"), prompt=["the ball", "the bowl"], intrinsics=k)
    for answer, same in zip(found["answers"], expected, strict=True):
        assert answer["prompt"] == same["prompt"]
        assert answer["boxes"][0]["center"] == pytest.approx(same["boxes"][0]["center"], rel=1e-4)


def test_a_conversation_by_the_api(client, picture):
    first = client.predict(picture, "Locate the ball in 3D.", api_name="/chat")
    assert [turn["role"] for turn in first["messages"]] == ["user", "assistant"] and len(first["boxes"]) == 1
    second = client.predict(picture, "How far is it?", messages=first["messages"], api_name="/chat")
    assert len(second["messages"]) == 4 and second["messages"][:2] == first["messages"]


def test_the_page_of_the_docs_runs(page, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").symlink_to(pictures / "indoor-000020.jpg")
    (tmp_path / "CHECKPOINT").symlink_to(pictures.parents[1] / "model_cards" / "llmi3d-tiny")
    text, names = (pictures.parents[1] / "docs" / "page.md").read_text(), {}
    assert page_module.MAX_FILE_SIZE == "20mb" and forms.MAX_PIXELS == 51_000_000 and page_module.MAX_WAITING == 32
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block.replace("http://127.0.0.1:7860", page.local_url.rstrip("/")), names)
    assert len(names["found"]["answers"]) == 2 and names["found"]["intrinsics_source"] == "fov"
    assert len(names["answer"]["messages"]) == 4 and len(names["chat"].messages) == 2


def test_the_camera_of_a_picture_by_the_api(client, picture):
    assert client.predict(picture, api_name="/camera")["intrinsics_source"] == "default"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ""}, "prompt: got none"),
        ({"prompts": "<image>"}, "special token '<image>'"),
        ({"camera": "fov", "fov_deg": 179.9}, "fov_deg|Value 179.9 is greater than maximum"),
        ({"camera": "intrinsics"}, "fx: got None"),
        ({"camera": "intrinsics", "fx": 500, "cx": 5000}, "principal point"),
        ({"camera": "lens"}, "lens"),
        ({"mode": "guess"}, "guess"),
        ({"threshold": 7}, "7"),
    ],
)
def test_errors_are_named(client, picture, changes, message):
    with pytest.raises(Exception, match=message):
        client.predict(**{"image": picture, "prompts": "the ball", **changes}, api_name="/predict")


def encoded(image, form, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize(
    ("name", "content", "outcome"),
    [
        (
            "large.png",
            encoded(Image.new("1", (10_000, 10_000)), "PNG"),
            "10000x10000, 100 megapixels, want at most 51",
        ),
        ("bomb.png", encoded(Image.new("1", (20_000, 20_000)), "PNG"), "decompression bomb"),
        (
            "drawing.svg",
            b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
            "SVG is a drawing",
        ),
        ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64, "HEIC is not supported"),
        ("text.jpg", b"text", "cannot identify image file"),
        ("deep.png", encoded(Image.new("I;16", (64, 48)), "PNG"), "mode 'I;16' of more than 8 bits"),
        ("moving.gif", encoded(COLOURS, "GIF", save_all=True, append_images=[COLOURS.rotate(90)]), (64, 48)),
        ("print.jpg", encoded(COLOURS.convert("CMYK"), "JPEG"), (64, 48)),
        ("turned.jpg", encoded(COLOURS, "JPEG", exif=EXIF), (48, 64)),
        ("clear.png", encoded(COLOURS.convert("RGBA"), "PNG"), (64, 48)),
        ("grey.png", encoded(COLOURS.convert("L"), "PNG"), (64, 48)),
    ],
)
def test_images_of_every_kind(client, tmp_path, name, content, outcome):
    (tmp_path / name).write_bytes(content)
    picture = gradio_client.handle_file(str(tmp_path / name))
    if isinstance(outcome, str):
        with pytest.raises(Exception, match=outcome):
            client.predict(picture, "the ball", api_name="/predict")
    else:
        found = client.predict(picture, "the ball", api_name="/predict")
        assert tuple(found["image_size"]) == outcome


def test_a_file_that_is_too_large_is_refused(page):
    boundary = "x"
    content = b"\0" * (21 * 1024 * 1024)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    body = head + content + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    status, said = fetch(page, "/gradio_api/upload", "POST", body, headers)
    assert status == 413, said


# -------------------------------------------------------------------------------------------- files of this machine


def outside_paths(secret: Path) -> list[str]:
    """Return requests for a file that nobody uploaded."""
    up, quoted = "../" * 12, "%2e%2e%2f" * 12
    path = str(secret)
    ways = [
        path,
        f"{up}{path[1:]}",
        f"{quoted}{path[1:]}",
        f"//{path}",
        f"./{path}",
        f"file://{path}",
        f"%2f{path[1:]}",
    ]
    ways += ["/etc/passwd", f"{up}etc/passwd", f"{quoted}etc/passwd", "/proc/self/environ", "pyproject.toml"]
    ways += [str(Path(__file__)), "..%5c..%5cetc%5cpasswd"]
    routes = ["/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/gradio_api/proxy="]
    return [route + way for route in routes for way in ways]


def test_files_outside_the_upload_folder_are_never_served(page, tmp_path):
    (tmp_path / "secret.txt").write_text("the secret of this machine")
    passwords = Path("/etc/passwd").read_bytes()[:40]
    for path in outside_paths(tmp_path / "secret.txt"):
        status, content = fetch(page, path)
        assert status >= 400 or b"gradio" in content.lower(), path  # unknown pages may show the page itself
        assert b"the secret of this machine" not in content and passwords not in content, path
        assert b"import pytest" not in content and b"[build-system]" not in content, path


def test_an_upload_is_served_back_and_does_not_leave_its_folder(page):
    boundary = "x"
    for name in ("a.png", "../../../escaped.png", "/tmp/escaped.png"):
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + encoded(COLOURS, "PNG") + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        status, content = fetch(page, "/gradio_api/upload", "POST", body, headers)
        (kept,) = json.loads(content)
        assert status == 200 and Path(kept).resolve().is_relative_to(Path(page.GRADIO_CACHE).resolve())
        assert fetch(page, f"/gradio_api/file={kept}")[0] == 200


def test_uploads_are_deleted_and_examples_stay(page, client, tmp_path, pictures):
    COLOURS.save(tmp_path / "mine.png")
    client.predict(gradio_client.handle_file(str(tmp_path / "mine.png")), api_name="/camera")
    route_utils = pytest.importorskip("gradio.route_utils")
    kept = Path(page.GRADIO_CACHE)
    assert list(kept.rglob("mine.png"))
    route_utils.delete_files_created_by_app(page, age=0)  # as the page does every hour, of files of that age
    assert not list(kept.rglob("mine.png"))
    names = {path.name for path in kept.rglob("*.jpg")}
    assert {path.name for path in pictures.glob("*.jpg")} <= names and page.delete_cache == (3600, 3600)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "http://127.0.0.1:9/a.png"])
def test_a_picture_must_be_an_upload(page, path):
    """Over plain HTTP, since the client would upload the file."""
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
    headers = {"Content-Type": "application/json"}
    status, content = fetch(page, "/gradio_api/call/v2/camera", "POST", json.dumps({"image": data[0]}), headers)
    if status == 404:
        status, content = fetch(page, "/gradio_api/call/camera", "POST", json.dumps({"data": data}), headers)
    assert status == 200, content
    event = json.loads(content)["event_id"]
    _, said = fetch(page, f"/gradio_api/call/camera/{event}")
    assert b"event: error" in said and b"event: complete" not in said
    assert b"root:" not in said


# ------------------------------------------------------------------------------------------------------------- load


def resident_mb(process: subprocess.Popen) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@pytest.fixture
def server(tmp_path):
    """Start `llmi3d demo` in a process with its own memory; return (process, address)."""
    command = [sys.executable, "-m", "llmi3d", "demo", "--host", "127.0.0.1", "--device", "cpu"]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    yield process, process.stdout.readline().split()[0]
    process.terminate()
    process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads memory from Linux's /proc")
def test_fifty_at_once_are_answered_or_refused_and_memory_stays_flat(server, pictures):
    process, address = server

    def ask(number: int) -> str:
        client = gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": 120})
        picture = gradio_client.handle_file(str(pictures / "indoor-000020.jpg"))
        try:
            found = client.predict(picture, "the ball", camera="fov", fov_deg=50 + number % 20, api_name="/predict")
            assert len(found["answers"][0]["boxes"]) == 1
            return "answered"
        except gradio_client.utils.QueueError as error:
            return str(error)

    memory, refusals = [], []
    for _ in range(5):
        with ThreadPoolExecutor(50) as threads:
            outcomes = list(threads.map(ask, range(50)))
        refusals += [outcome for outcome in outcomes if outcome != "answered"]
        assert outcomes.count("answered") >= 32  # as many as may wait
        memory.append(resident_mb(process))
    assert all("queue is full" in outcome.lower() for outcome in refusals), set(refusals)
    print(f"resident, MB: {[round(one) for one in memory]}; {len(refusals)} of 250 refused")
    # The first rounds fill pools of threads and caches.
    assert memory[-1] - memory[1] < 40
    assert ask(0) == "answered"
