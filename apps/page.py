# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The web page: an image and its camera on the left; phrases to find, and a conversation, on the right.

All work of the model waits in one queue. The page loads nothing from other machines and reports nothing.
"""

import functools
import json
from abc import ABCMeta
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
from transformers import Pipeline, pipeline

from llmi3d.apps import page_answers as forms
from llmi3d.apps.conversation import describe
from llmi3d.processing.drawing import draw_3d, draw_birds_eye_view, draw_boxes, draw_pointing, shrunk

MAX_FILE_SIZE = "20mb"
MAX_WAITING = 32
# Browsers and clients that are remembered; no conversation is kept with them.
MAX_SESSIONS = 500
# Age in seconds at which uploads and drawings are deleted.
KEEP_FILES = 3600

CSS = """
.warning { border-left: 4px solid #d55e00; background: #fbe9dd; color: #3b1d00; padding: 6px 10px; margin: 6px 0; }
.absent { font-style: italic; }
.said { font-size: smaller; }
.wide { overflow-x: auto; max-width: 100%; }
.answers th, .answers td { padding: 3px 8px; text-align: left; white-space: nowrap; }
.answers td:first-child { white-space: normal; min-width: 8em; }
footer { flex-wrap: wrap; }
"""
# Fonts of the reader's own machine.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])

MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1}
HIDDEN = {"api_visibility": "private"}
DRAWING = {"interactive": False, "buttons": ["download", "fullscreen"]}


async def _keep_uploaded(self, path):
    if str(path or "").startswith(("http://", "https://")):
        raise gr.Error("image: got a URL, want an uploaded file.", print_exception=False)
    return await gr.Image.async_move_resource_to_block_cache(self, path)


# An image component that passes on the uploaded file unchanged, with its EXIF data, and accepts nothing else. For a
# class statement Gradio would write a stub beside this file.
UploadedImage = ABCMeta.__new__(
    type(gr.Image),
    "UploadedImage",
    (gr.Image,),
    {
        "is_template": True,
        "preprocess": lambda self, payload: None if payload is None else payload.path,
        "async_move_resource_to_block_cache": _keep_uploaded,
    },
)


def build_page(ground: Pipeline, note: str | None = None, examples: Path | None = None) -> gr.Blocks:
    """Build the page of a pipeline `image-3d-grounding`.

    Args:
        ground: the pipeline.
        note: Markdown at the top, such as what the checkpoint has learned.
        examples: folder of example images with a pictures.json, such as examples/pictures.
    """
    with gr.Blocks(title="LLMI3D", analytics_enabled=False, delete_cache=(KEEP_FILES, KEEP_FILES)) as page:
        gr.Markdown("# LLMI3D\nOne photograph, its camera and a sentence in; metric, oriented 3D boxes out.")
        if note:
            gr.Markdown(note, elem_id="note")
        with gr.Row():
            with gr.Column(min_width=300):
                source = _image_and_camera()
            with gr.Column(min_width=300, scale=2), gr.Tabs():
                with gr.Tab("Find", id="find"):
                    find = _find_tab()
                with gr.Tab("Chat", id="chat"):
                    chat = _chat_tab()
        _connect_camera(source)
        _connect_find(ground, source, find)
        _connect_chat(ground, source, chat)
        _add_api(ground, source, find, chat)
        if examples is not None:
            _add_examples(examples, source, find)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=4)


def serve(
    checkpoint: str,
    host: str | None = None,
    port: int | None = None,
    device: str | None = None,
    examples: Path | None = None,
    wait: bool = True,
    open_browser: bool = False,
) -> gr.Blocks:
    """Load a checkpoint and serve its page.

    Args:
        checkpoint: folder or Hub name.
        host: address to listen on; by default GRADIO_SERVER_NAME or this machine alone (127.0.0.1).
        port: by default GRADIO_SERVER_PORT or the first free port from 7860.
        device: such as `cuda:0`; the fastest by default.
        examples: as in `build_page`.
        wait: whether to return only when the process is stopped.
        open_browser: whether to open the page in a browser.

    Returns:
        The page, with its address in `local_url`; `close()` stops it.
    """
    note = None
    if Path(checkpoint).name == "llmi3d-tiny":
        note = (
            "This is **LLMI3D-tiny**, the checkpoint in the repository: it was trained on rendered images, and most "
            "of its boxes are still wrong. **On photographs it only guesses.**"
        )
    page = build_page(pipeline("image-3d-grounding", model=checkpoint, device=device), note, examples)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=open_browser,
        prevent_thread_lock=not wait,
        show_error=False,
        quiet=True,
        max_file_size=MAX_FILE_SIZE,
        footer_links=["api"],
        run_history=False,
        state_session_capacity=MAX_SESSIONS,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        theme=THEME,
        css=CSS,
    )
    return page


# ----------------------------------------------------------------------------------------------------- what is shown


def _image_and_camera() -> SimpleNamespace:
    """Lay out the left column: image, known camera, and fields for another camera."""
    image = UploadedImage(
        label="Image",
        sources=["upload", "webcam", "clipboard"],
        webcam_options=gr.WebcamOptions(mirror=False),  # mirrored, "the left one" would be the right one
        elem_id="image",
        height=320,
    )
    known = gr.HTML(elem_id="known-camera")
    with gr.Accordion("Camera", open=False, elem_id="camera"):
        kind = gr.Radio(
            [("From the image", "auto"), ("Field of view", "fov"), ("Intrinsics K", "intrinsics")],
            value="auto",
            label="Camera",
            show_label=False,
            elem_id="kind",
        )
        label = "Horizontal field of view, degrees"
        fov = gr.Slider(10, 150, value=60, step=0.5, label=label, visible=False, elem_id="fov")
        k = []
        with gr.Column(visible=False) as k_fields:
            for names in (("fx", "fy"), ("cx", "cy")):
                with gr.Row():
                    k += [gr.Number(label=name, min_width=110, elem_id=name, minimum=0) for name in names]
        gr.Markdown(
            "K in pixels of the image as stored. Without fy, fx is used; without cx and cy, the middle of the image."
        )
    camera = [kind, fov, *k]
    return SimpleNamespace(image=image, known=known, kind=kind, fov=fov, k=k, k_fields=k_fields, camera=camera)


def _find_tab() -> SimpleNamespace:
    """Lay out the tab "Find": phrases, how to answer, and the answer as drawings, table and JSON."""
    tab = SimpleNamespace()
    tab.prompts = gr.Textbox(
        label="What to find, one phrase per line",
        lines=2,
        max_lines=6,
        elem_id="prompts",
        placeholder="the nearest car\nthe cyclist",
    )
    with gr.Row():
        tab.mode = gr.Radio(
            [("Direct: a box for each phrase", "direct"), ("Generate: may say that it is absent", "generate")],
            value="direct",
            label="Answer",
            elem_id="mode",
        )
        tab.threshold = gr.Slider(0, 1, value=0, step=0.01, label="Lowest score", elem_id="threshold")
    tab.button = gr.Button("Find", variant="primary", elem_id="find")
    tab.used = gr.HTML(elem_id="used-camera")
    tab.table = gr.HTML(elem_id="table")
    with gr.Tabs():
        with gr.Tab("Boxes"):
            tab.show_pointing = gr.Checkbox(
                label="Show where the network points", visible=False, elem_id="show-pointing"
            )
            tab.overlay = gr.Image(label="Boxes", format="jpeg", elem_id="overlay", **DRAWING)
            tab.heat = gr.Image(label="Pointing", format="jpeg", elem_id="heat", visible=False, **DRAWING)
        with gr.Tab("From above"):
            tab.above = gr.Image(label="From above", format="png", elem_id="above", **DRAWING)
        with gr.Tab("3D"):
            tab.view = gr.Plot(show_label=False, elem_id="view")
        with gr.Tab("JSON"):
            tab.result = gr.JSON(label="JSON", elem_id="result")
    return tab


def _chat_tab() -> SimpleNamespace:
    """Lay out the tab "Chat": the conversation, a question, and the boxes of the last answer."""
    tab = SimpleNamespace()
    gr.Markdown("Ask several questions about the image: *How far is the red chair from the table?*")
    tab.shown = gr.Chatbot(label="Conversation", height=300, elem_id="chat", render_markdown=False, buttons=[])
    with gr.Row():
        tab.question = gr.Textbox(label="Question", elem_id="question", scale=4)
        tab.ask = gr.Button("Ask", variant="primary", elem_id="ask", min_width=80)
        tab.new = gr.Button("New conversation", elem_id="new", min_width=80)
    tab.used = gr.HTML(elem_id="chat-camera")
    tab.drawn = gr.Image(label="Objects of the answer", format="jpeg", elem_id="chat-overlay", **DRAWING)
    tab.messages = gr.JSON(value=[], visible=False, label="messages")
    return tab


# -------------------------------------------------------------------------------------------------- what it does


# Whatever decodes, asks or draws does so in this one thread: memory used by many threads is not given back.
_WORKER = ThreadPoolExecutor(1, thread_name_prefix="llmi3d")


def _at_work(function: Callable) -> Callable:
    """Run a function in the one thread. Errors of the input are shown; all others stay in the server's log."""

    @functools.wraps(function)
    def answer(*args):
        try:
            return _WORKER.submit(function, *args).result()
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return answer


def _connect_camera(source: SimpleNamespace) -> None:
    def show_fields(kind):
        return gr.update(visible=kind == "fov"), gr.update(visible=kind == "intrinsics")

    def show_known(path):
        return forms.known_camera_in_words(forms.read_camera(path)) if path else ""

    source.kind.change(show_fields, source.kind, [source.fov, source.k_fields], queue=False, **HIDDEN)
    # Another image has another camera.
    source.image.input(lambda: ("auto", *[None] * 4), None, [source.kind, *source.k], queue=False, **HIDDEN)
    source.image.change(_at_work(show_known), source.image, source.known, **HIDDEN)


def _connect_find(ground: Pipeline, source: SimpleNamespace, tab: SimpleNamespace) -> None:
    def show(show_pointing, path, prompts, *fields):
        *camera, mode, threshold = fields
        result = forms.find(ground, path, prompts, tuple(camera), mode, threshold, pointing=True)
        boxes = [box for answer in result["answers"] for box in answer["boxes"]]
        image, intrinsics = shrunk(forms.open_image(path), result["intrinsics"])
        points = any("pointing" in box for box in boxes)
        heat = draw_boxes(draw_pointing(image, {"boxes": boxes}), boxes, intrinsics) if points else None
        for box in boxes:
            box.pop("pointing", None)  # a large array, of no use as text
        return {
            tab.overlay: gr.update(value=draw_boxes(image, boxes, intrinsics), visible=not (points and show_pointing)),
            tab.heat: gr.update(value=heat, visible=points and show_pointing),
            tab.show_pointing: gr.update(visible=points),
            tab.above: draw_birds_eye_view(boxes, intrinsics, image.size, size=(720, 720)),
            tab.view: draw_3d(image, boxes, intrinsics),
            tab.table: forms.answers_in_words(result["answers"]),
            tab.used: forms.camera_in_words(result),
            tab.result: result,
        }

    inputs = [tab.show_pointing, source.image, tab.prompts, *source.camera, tab.mode, tab.threshold]
    outputs = [tab.overlay, tab.heat, tab.show_pointing, tab.above, tab.view, tab.table, tab.used, tab.result]
    tab.button.click(_at_work(show), inputs, outputs, **MODEL_QUEUE, **HIDDEN)
    tab.show_pointing.change(
        lambda on: (gr.update(visible=not on), gr.update(visible=on)),
        tab.show_pointing,
        [tab.overlay, tab.heat],
        queue=False,
        **HIDDEN,
    )


def _connect_chat(ground: Pipeline, source: SimpleNamespace, tab: SimpleNamespace) -> None:
    def show(path, question, messages, shown, *camera):
        answer = forms.talk(ground, path, question, messages, camera)
        words = "\n".join(describe(answer))
        shown = [*(shown or []), {"role": "user", "content": question}, {"role": "assistant", "content": words}]
        boxes = [{**box, "label": f"[{i}] {box['label']}"} for i, box in enumerate(answer["boxes"], 1)]
        image, intrinsics = shrunk(forms.open_image(path), answer["intrinsics"])
        drawn = draw_boxes(image, boxes, intrinsics)
        return "", shown, answer["messages"], drawn, forms.camera_in_words(answer)

    gr.on(
        [tab.ask.click, tab.question.submit],
        _at_work(show),
        [source.image, tab.question, tab.messages, tab.shown, *source.camera],
        [tab.question, tab.shown, tab.messages, tab.drawn, tab.used],
        **MODEL_QUEUE,
        **HIDDEN,
    )
    cleared = [tab.messages, tab.shown, tab.drawn, tab.used]
    for starts_anew in (source.image.change, tab.new.click, tab.shown.clear):
        starts_anew(lambda: ([], [], None, ""), None, cleared, queue=False, **HIDDEN)


def _add_api(ground: Pipeline, source: SimpleNamespace, find: SimpleNamespace, talk: SimpleNamespace) -> None:
    """Add the documented endpoints: JSON without drawings."""

    def predict(
        image, prompts, camera="auto", fov_deg=60, fx=None, fy=None, cx=None, cy=None, mode="direct", threshold=0
    ) -> dict[str, Any]:
        """Return the boxes of each phrase in the image."""
        return forms.find(ground, image, prompts, (camera, fov_deg, fx, fy, cx, cy), mode, threshold)

    def chat(image, question, messages, camera="auto", fov_deg=60, fx=None, fy=None, cx=None, cy=None):
        """Answer a question about the image; pass the returned `messages` with the next question."""
        return forms.talk(ground, image, question, messages, (camera, fov_deg, fx, fy, cx, cy))

    def read_camera(image):
        """Return what the image tells about its camera."""
        return forms.read_camera(image)

    result, button = gr.JSON(visible=False, label="answer"), gr.Button(visible=False)
    inputs = {
        "predict": [source.image, find.prompts, *source.camera, find.mode, find.threshold],
        "chat": [source.image, talk.question, talk.messages, *source.camera],
        "camera": [source.image],
    }
    for name, function in (("predict", predict), ("chat", chat), ("camera", read_camera)):
        queue = {} if name == "camera" else MODEL_QUEUE
        button.click(_at_work(function), inputs[name], result, api_name=name, **queue)


def _add_examples(folder: Path, source: SimpleNamespace, find: SimpleNamespace) -> None:
    """Add example images, each with its camera and a few phrases."""
    entries = {entry["image"]: entry for entry in json.loads((folder / "pictures.json").read_text())}

    def fill(path):
        entry = entries[Path(path).name]
        (fx, _, cx), (_, fy, cy), _ = entry["intrinsics"]
        phrases = "\n".join(meant["phrase"] for meant in entry["phrases"][:3])
        return (phrases, "intrinsics", *(round(value, 1) for value in (fx, fy, cx, cy)))

    gr.Examples(
        [[str(folder / name)] for name in entries],
        [source.image],
        outputs=[find.prompts, source.kind, *source.k],
        fn=fill,
        run_on_click=True,
        cache_examples=False,
        label="Rendered examples",
        **HIDDEN,
    )
