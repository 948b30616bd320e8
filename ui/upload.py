"""A place for an image file that hands the file on unopened."""

import base64
import binascii
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

MAX_DATA_URL = (
    8 * 2**20
)  # characters, a multiple of 4: 6 MB, enough for open_image to see that it is too much


class ImageFile(gr.Image):
    """gr.Image for files by click, drop and paste, which leaves opening them to `open_image`.

    gr.Image itself opens a file before the app sees it, and fails without a word on what is no image.
    """

    is_template = True  # drawn by gr.Image's own front end

    def __init__(self, **layout) -> None:  # layout: label, elem_id, visible, ... of gr.Image
        super().__init__(type="filepath", image_mode=None, sources=["upload", "clipboard"], **layout)

    def get_config(self, cls: type | None = None) -> dict[str, Any]:
        """The settings of gr.Image, which its front end needs; by default only this class's own are sent."""
        return super().get_config(gr.Image)

    def preprocess(self, payload: ImageData | None) -> Path | BytesIO | None:
        """The uploaded file, or the bytes of a data URL; None if there is neither."""
        if payload is None:
            return None
        if payload.url and payload.url.startswith("data:"):
            return _decoded(payload.url)
        return Path(payload.path) if payload.path else None


def paste_tag() -> str:
    """For the page's head: an image pasted anywhere is an upload to the ImageFile with elem_id "upload"."""
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    return f"<script>{script}</script>"


def _decoded(url: str) -> BytesIO:
    """The bytes of a base64 data URL; if it is not one, bytes that `open_image` has a sentence for."""
    try:
        return BytesIO(base64.b64decode(url.partition(",")[2][:MAX_DATA_URL], validate=True))
    except (binascii.Error, ValueError):
        return BytesIO(b"not base64")
