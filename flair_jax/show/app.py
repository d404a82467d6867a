"""The demonstration's web page, served by Gradio to this machine alone."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import flair_jax
from flair_jax.checkpoint import read_description
from flair_jax.console import environment_variables
from flair_jax.errors import FlairError
from flair_jax.models.flair import Flair
from flair_jax.packages import how_to_install
from flair_jax.show.draw import new_figure
from flair_jax.show.examples import draw_examples
from flair_jax.show.guard import Guard
from flair_jax.show.page import MAX_BYTES, MEAN, Page
from flair_jax.weights.origin import check_pooling

_FOLDER = Path(__file__).parent
_ADDRESS = "127.0.0.1"
_WITHOUT_ANALYTICS = {"GRADIO_ANALYTICS_ENABLED": "False"}
# Uploads are deleted after an hour; checked every ten minutes. In seconds.
_FORGET = (600, 3600)
# Before that, the oldest make room for new ones: most bytes and most uploads that are kept.
_MOST_KEPT = (200 << 20, 50)
_MOST_WAITING = 64  # questions that wait for the answers to others


def serve(checkpoint: str | Path, index: Path | None, port: int | None, model: Flair | None = None) -> None:
    """Serves the page until it is interrupted.

    Args:
      checkpoint: the model's folder.
      index: made by `flair-jax index`; without one there is no search tab.
      port: the first free one from 7860 if not given.
      model: the checkpoint's model, if it has modules of its own; see `flair_jax.load`.

    Raises:
      FlairError: if Gradio or matplotlib is missing, the port is taken, or something cannot be read.
    """
    if importlib.util.find_spec("gradio") is None:
        raise _without_gradio()
    new_figure(1, 1)
    check_pooling(
        checkpoint, read_description(checkpoint).get("source", {}), "the page would show noise; train it first"
    )
    model, params = flair_jax.load(checkpoint, model=model)
    searcher = None
    if index is not None:
        from flair_jax.search import Searcher, SearchIndex

        searcher = Searcher(SearchIndex.open(index), model, params)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), serving(Page(model, params, searcher), port) as url:
        print(f"{url}  (Ctrl-C stops it)", flush=True)
        threading.Event().wait()


@contextlib.contextmanager
def serving(page: Page, port: int | None = None) -> Iterator[str]:
    """Serves a page on 127.0.0.1 and gives its address; stops at the end of the block and removes all uploads.

    Raises:
      FlairError: if Gradio is missing or the port is taken.
    """
    with (
        tempfile.TemporaryDirectory(prefix="flair-jax-demo-app-") as folder,
        environment_variables({"GRADIO_TEMP_DIR": f"{folder}/uploads", **_WITHOUT_ANALYTICS}, replace=True),
    ):
        # Only now, for what it writes to is settled when it is imported.
        gradio = _gradio()
        from starlette.middleware import Middleware

        uploads, drawn = Path(folder, "uploads"), Path(folder, "examples")
        uploads.mkdir()
        drawn.mkdir()
        gradio.set_static_paths(drawn)  # served from there: copies among the uploads would make room for newer ones
        blocks = _layout(gradio, page, draw_examples(drawn))
        try:
            _, url, _ = blocks.launch(
                server_name=_ADDRESS,
                server_port=port,
                share=False,
                inbrowser=False,
                prevent_thread_lock=True,
                quiet=True,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=["settings"],  # light or dark
                max_file_size=MAX_BYTES,
                css_paths=_FOLDER / "page.css",
                js=(_FOLDER / "page.js").read_text(encoding="utf-8"),
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"]),
                app_kwargs={"middleware": [Middleware(Guard, uploads, MAX_BYTES, *_MOST_KEPT)]},
            )
        except OSError:
            raise FlairError(f"port {port or '7860 to 7959'} is taken; choose another with --port") from None
        try:
            yield url
        finally:
            blocks.close(verbose=False)


def _layout(gradio: ModuleType, page: Page, examples: list[list[str]]) -> Any:
    with gradio.Blocks(title="FLAIR", fill_width=True, analytics_enabled=False, delete_cache=_FORGET) as blocks:
        gradio.Markdown("# FLAIR\nWhere the model looks in a picture depends on the sentence.")
        with gradio.Tab("Picture and sentences"), gradio.Row():
            _compare_tab(gradio, page, examples)
        if page.searcher is not None:
            with gradio.Tab("Search"):
                sentence = gradio.Textbox(label="Sentence", elem_id="query", max_lines=1)
                search = gradio.Button("Search", variant="primary", elem_id="search")
                found = gradio.HTML(elem_id="found")
                gradio.on([search.click, sentence.submit], page.find, sentence, found)
    return blocks.queue(max_size=_MOST_WAITING)


def _compare_tab(gradio: ModuleType, page: Page, examples: list[list[str]]) -> None:
    with gradio.Column(scale=1, min_width=260):
        upload = gradio.Image(
            label=f"Picture, up to {MAX_BYTES >> 20} MB",
            type="filepath",
            sources=["upload", "clipboard"],
            buttons=[],
            height=240,
            alt_text="the picture, as it was chosen",
            elem_id="upload",
        )
        # Shown at once as it is, and read by `Page` alone: Gradio would open any format, and say less of a broken one.
        upload.preprocess = lambda payload: payload and payload.path
        text = gradio.Textbox(
            label="Sentences, one a line", lines=4, placeholder="a red circle\na dog asleep", elem_id="sentences"
        )
        head = gradio.Dropdown(page.heads, value=MEAN, label="Attention of", elem_id="head")
        button = gradio.Button("Compare", variant="primary", elem_id="compare")
        chosen = gradio.Examples(
            examples, [upload, text], label="Examples; the last sentence of each is not true", elem_id="examples"
        )
    with gradio.Column(scale=3, min_width=300):
        result = gradio.HTML(page.compare(None, "", MEAN), elem_id="result")
    asked = {"fn": page.compare, "inputs": [upload, text, head], "outputs": result}
    # Always the last, or what is asked while an answer is on its way would be lost. An example with another picture is
    # asked for twice, and computed once.
    gradio.on([head.change, upload.change], **asked, trigger_mode="always_last")
    answered = [
        gradio.on([button.click, text.submit], **asked, trigger_mode="always_last"),
        chosen.load_input_event.then(**asked),
    ]
    for event in answered:
        event.then(js="() => showAnswer()")  # see page.js


def _gradio() -> ModuleType:
    try:
        import gradio
    except ImportError:
        raise _without_gradio() from None
    return gradio


def _without_gradio() -> FlairError:
    return FlairError(f"the page needs Gradio, in an environment of its own: {how_to_install('app')}")
