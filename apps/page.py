# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The page: one picture and its camera on the left; phrases to find, and a conversation, on the right.

Everything that the model does waits in one queue. Nothing is fetched from elsewhere and nothing is reported.
"""

import functools
import json
from abc import ABCMeta
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
from transformers import Pipeline, pipeline

from llmi3d.apps import page_answers as forms
from llmi3d.apps.conversation import Conversation, describe
from llmi3d.processing.drawing import draw_3d, draw_birds_eye_view, draw_boxes, shrunk

MAX_FILE_SIZE = "20mb"
MAX_WAITING = 32
# Browsers and clients that are remembered; no conversation is kept with them.
MAX_SESSIONS = 500
# Uploads and drawings older than this are deleted, seconds.
KEEP_FILES = 3600
MAX_NEW_TOKENS = 128

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


async def _keep_uploaded(self, path):
    if str(path or "").startswith(("http://", "https://")):
        raise gr.Error("image: got a URL, want an uploaded file.", print_exception=False)
    return await gr.Image.async_move_resource_to_block_cache(self, path)


# An image component that hands over the uploaded file as it is, EXIF data and all, and takes nothing else. Not by a
# class statement, for which Gradio would write a stub beside this file.
Picture = ABCMeta.__new__(
    type(gr.Image),
    "Picture",
    (gr.Image,),
    {
        "is_template": True,
        "preprocess": lambda self, payload: None if payload is None else payload.path,
        "async_move_resource_to_block_cache": _keep_uploaded,
    },
)


def build_page(ground: Pipeline, note: str | None = None, pictures: Path | None = None) -> gr.Blocks:
    """The page of a pipeline `image-3d-grounding`.

    Args:
        ground: the pipeline.
        note: said at the top, such as what the checkpoint has learned (Markdown).
        pictures: folder of examples with a pictures.json, as examples/pictures.
    """

    def find(picture, prompts, *fields):
        *camera, mode, threshold = fields
        return forms.find(ground, picture, prompts, tuple(camera), mode, threshold)

    def find_and_draw(picture, prompts, *fields):
        found = find(picture, prompts, *fields)
        boxes = [box for answer in found["answers"] for box in answer["boxes"]]
        words = forms.answers_in_words(found["answers"])
        return (*_drawings(picture, found, boxes), words, forms.camera_in_words(found), found)

    def talk(picture, question, messages, *camera):
        if isinstance(question, str):
            forms.check_length("question", question)
        if not isinstance(messages, list):
            raise ValueError(f"messages: got {type(messages).__name__}, want a list of turns.")
        image = forms.open_picture(picture)
        chat = Conversation(ground, image, **forms.given_camera(*camera, size=image.size), messages=messages)
        answer = chat.ask(question, max_new_tokens=MAX_NEW_TOKENS)
        return {**answer, "messages": chat.messages}

    def talk_and_draw(picture, question, messages, shown, *camera):
        answer = talk(picture, question, messages, *camera)
        said = "\n".join(describe(answer))
        shown = [*(shown or []), {"role": "user", "content": question}, {"role": "assistant", "content": said}]
        numbered = [{**box, "label": f"[{i}] {box['label']}"} for i, box in enumerate(answer["boxes"], 1)]
        drawn = _drawings(picture, answer, numbered)[0]
        return "", shown, answer["messages"], drawn, forms.camera_in_words(answer)

    def show_camera(picture):
        return forms.known_camera_in_words(forms.read_camera(picture)) if picture else ""

    drawn = {"interactive": False, "buttons": ["download", "fullscreen"]}
    with gr.Blocks(title="LLMI3D", analytics_enabled=False, delete_cache=(KEEP_FILES, KEEP_FILES)) as page:
        gr.Markdown("# LLMI3D\nOne photograph, its camera and a sentence in; metric, oriented 3D boxes out.")
        if note:
            gr.Markdown(note, elem_id="note")
        with gr.Row():
            with gr.Column(min_width=300):
                picture = Picture(
                    label="Picture",
                    sources=["upload", "webcam", "clipboard"],
                    # Mirrored, "the left one" would be the right one.
                    webcam_options=gr.WebcamOptions(mirror=False),
                    elem_id="picture",
                    height=320,
                )
                known = gr.HTML(elem_id="known-camera")
                with gr.Accordion("Camera", open=False, elem_id="camera"):
                    kind = gr.Radio(
                        [("From the picture", "auto"), ("Field of view", "fov"), ("Intrinsics K", "intrinsics")],
                        value="auto",
                        label="Camera",
                        show_label=False,
                        elem_id="kind",
                    )
                    fov = gr.Slider(
                        10,
                        150,
                        value=60,
                        step=0.5,
                        label="Horizontal field of view, degrees",
                        visible=False,
                        elem_id="fov",
                    )
                    k = []
                    with gr.Column(visible=False) as k_fields:
                        for names in (("fx", "fy"), ("cx", "cy")):
                            with gr.Row():
                                k += [gr.Number(label=name, min_width=110, elem_id=name, minimum=0) for name in names]
                    gr.Markdown(
                        "K belongs to the picture as stored, in its pixels; without fy it is fx, without cx and cy "
                        "the middle."
                    )
                if pictures is not None:
                    entries = {entry["image"]: entry for entry in json.loads((pictures / "pictures.json").read_text())}
            with gr.Column(min_width=300, scale=2), gr.Tabs():
                with gr.Tab("Find", id="find"):
                    prompts = gr.Textbox(
                        label="What to find, one a line",
                        lines=2,
                        max_lines=6,
                        elem_id="prompts",
                        placeholder="the nearest car\nthe cyclist",
                    )
                    with gr.Row():
                        mode = gr.Radio(
                            [("Direct: a box for each", "direct"), ("Generate: may say it is not there", "generate")],
                            value="direct",
                            label="Answer",
                            elem_id="mode",
                        )
                        threshold = gr.Slider(
                            0, 1, value=0, step=0.01, label="Leave out boxes of a lower score", elem_id="threshold"
                        )
                    find_button = gr.Button("Find", variant="primary", elem_id="find")
                    used = gr.HTML(elem_id="used-camera")
                    table = gr.HTML(elem_id="table")
                    with gr.Tabs():
                        with gr.Tab("Boxes"):
                            overlay = gr.Image(label="Boxes", format="jpeg", elem_id="overlay", **drawn)
                        with gr.Tab("From above"):
                            above = gr.Image(label="From above", format="png", elem_id="above", **drawn)
                        with gr.Tab("3D"):
                            view = gr.Plot(show_label=False, elem_id="view")
                        with gr.Tab("JSON"):
                            result = gr.JSON(label="JSON", elem_id="result")
                with gr.Tab("Chat", id="chat"):
                    gr.Markdown("Ask about the picture, again and again: *How far is the red chair from the table?*")
                    shown = gr.Chatbot(
                        label="Conversation", height=300, elem_id="chat", render_markdown=False, buttons=[]
                    )
                    with gr.Row():
                        question = gr.Textbox(label="Question", elem_id="question", scale=4)
                        ask_button = gr.Button("Ask", variant="primary", elem_id="ask", min_width=80)
                        new_button = gr.Button("New conversation", elem_id="new", min_width=80)
                    chat_used = gr.HTML(elem_id="chat-camera")
                    chat_drawn = gr.Image(label="What it talks about", format="jpeg", elem_id="chat-overlay", **drawn)
        messages = gr.JSON(value=[], visible=False, label="messages")
        api_result, api_button = gr.JSON(visible=False, label="answer"), gr.Button(visible=False)

        camera = [kind, fov, *k]
        shared = {"concurrency_id": "model", "concurrency_limit": 1}
        hidden = {"api_visibility": "private"}
        kind.change(
            lambda kind: (gr.update(visible=kind == "fov"), gr.update(visible=kind == "intrinsics")),
            kind,
            [fov, k_fields],
            queue=False,
            **hidden,
        )
        # Another picture has another camera, and another conversation.
        picture.input(lambda: ("auto", *[None] * 4), None, [kind, *k], queue=False, **hidden)
        picture.change(_at_work(show_camera), picture, known, **hidden)
        forget = lambda: ([], [], None, "")  # noqa: E731
        for forgets in (picture.change, new_button.click, shown.clear):
            forgets(forget, None, [messages, shown, chat_drawn, chat_used], queue=False, **hidden)

        inputs = [picture, prompts, *camera, mode, threshold]
        find_button.click(
            _at_work(find_and_draw), inputs, [overlay, above, view, table, used, result], **shared, **hidden
        )
        gr.on(
            [ask_button.click, question.submit],
            _at_work(talk_and_draw),
            [picture, question, messages, shown, *camera],
            [question, shown, messages, chat_drawn, chat_used],
            **shared,
            **hidden,
        )
        _add_api(
            api_button, api_result, find, talk, picture, prompts, camera, mode, threshold, question, messages, shared
        )
        if pictures is not None:
            _add_examples(pictures, entries, picture, [prompts, kind, *k])
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=4)


def serve(
    checkpoint: str,
    host: str | None = None,
    port: int | None = None,
    device: str | None = None,
    pictures: Path | None = None,
    wait: bool = True,
    open_browser: bool = False,
) -> gr.Blocks:
    """Loads a checkpoint and serves its page.

    Args:
        checkpoint: folder or name on the Hub.
        host: address to listen on; by default GRADIO_SERVER_NAME or this machine alone (127.0.0.1).
        port: by default GRADIO_SERVER_PORT or the first free from 7860 on.
        device: such as `cuda:0`; the fastest by default.
        pictures: as in `build_page`.
        wait: whether to go on until the process is stopped.
        open_browser: whether to open the page in a browser.

    Returns:
        the page, with its address as `local_url`; `close()` stops it.
    """
    note = None
    if Path(checkpoint).name == "llmi3d-tiny":
        note = (
            "This is **LLMI3D-tiny**, the checkpoint that comes along: it has learned rendered pictures, and most of "
            "its boxes are still wrong. **On photographs it only guesses.**"
        )
    page = build_page(pipeline("image-3d-grounding", model=checkpoint, device=device), note, pictures)
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


# Whatever decodes, asks or draws does so in this one thread: memory that many threads have used is not given back.
_WORKER = ThreadPoolExecutor(1, thread_name_prefix="llmi3d")


def _at_work(function: Callable) -> Callable:
    """In the one thread. What is wrong with the input is shown as it is; all else stays in the server's log."""

    @functools.wraps(function)
    def answer(*args):
        try:
            return _WORKER.submit(function, *args).result()
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return answer


def _drawings(path: str, answer: dict[str, Any], boxes: list) -> tuple:
    """Overlay, bird's-eye view and 3D figure."""
    image, intrinsics = shrunk(forms.open_picture(path), answer["intrinsics"])
    above = draw_birds_eye_view(boxes, intrinsics, image.size, size=(720, 720))
    return draw_boxes(image, boxes, intrinsics), above, draw_3d(image, boxes, intrinsics)


def _add_api(
    button, result, find, talk, picture, prompts, camera, mode, threshold, question, messages, shared
) -> None:
    """The documented endpoints: JSON only, without drawings."""

    def predict(
        image, prompts, camera="auto", fov_deg=60, fx=None, fy=None, cx=None, cy=None, mode="direct", threshold=0
    ):
        """Boxes of each phrase in the picture."""
        return find(image, prompts, camera, fov_deg, fx, fy, cx, cy, mode, threshold)

    def chat(image, question, messages, camera="auto", fov_deg=60, fx=None, fy=None, cx=None, cy=None):
        """The answer to a question about the picture; pass its `messages` with the next one."""
        return talk(image, question, messages, camera, fov_deg, fx, fy, cx, cy)

    def read_camera(image):
        """What the picture says of its camera."""
        return forms.read_camera(image)

    button.click(_at_work(predict), [picture, prompts, *camera, mode, threshold], result, api_name="predict", **shared)
    button.click(_at_work(chat), [picture, question, messages, *camera], result, api_name="chat", **shared)
    button.click(_at_work(read_camera), [picture], result, api_name="camera")


def _add_examples(folder: Path, entries: dict, picture, fields: list) -> None:
    """Pictures to try, each with its camera and a few phrases."""

    def fill(path):
        entry = entries[Path(path).name]
        (fx, _, cx), (_, fy, cy), _ = entry["intrinsics"]
        phrases = "\n".join(one["phrase"] for one in entry["phrases"][:3])
        return (phrases, "intrinsics", *(round(value, 1) for value in (fx, fy, cx, cy)))

    gr.Examples(
        [[str(folder / name)] for name in entries],
        [picture],
        outputs=fields,
        fn=fill,
        run_on_click=True,
        cache_examples=False,
        label="Rendered pictures to try",
        api_visibility="private",
    )
