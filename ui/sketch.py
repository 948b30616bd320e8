"""A pad to draw on, which works at once with mouse, finger and pen."""

import base64
import binascii
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr

PREFIX = "data:image/png;base64,"
MAX_LENGTH = 400_000  # characters; a densely covered pad takes about 20,000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
UNREADABLE = "The sketch could not be read: clear the pad and draw again."


class SketchPad(gr.HTML):
    """Black strokes on a white square; its value is a PNG data URL, "" while it is empty.

    Its event `drawn` comes after each stroke and each undo that leaves one. To empty the pad, set it to "".
    """

    def __init__(self, **layout: Any) -> None:
        super().__init__(
            value="",
            html_template=_HTML,
            js_on_load=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
            apply_default_css=False,
            **layout,
        )

    def preprocess(self, payload: object) -> BytesIO | None:
        """The PNG file that was drawn, None if nothing was. Raises gr.Error for what no such pad makes."""
        if payload is None or payload == "":
            return None
        if not isinstance(payload, str) or len(payload) > MAX_LENGTH or not payload.startswith(PREFIX):
            raise gr.Error(UNREADABLE, print_exception=False)
        try:
            data = base64.b64decode(payload[len(PREFIX) :], validate=True)
        except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
            raise gr.Error(UNREADABLE, print_exception=False) from None
        if not data.startswith(PNG_SIGNATURE):
            raise gr.Error(UNREADABLE, print_exception=False)
        return BytesIO(data)

    def api_info(self) -> dict[str, str]:
        return {"type": "string", "description": "PNG image as a data URL"}


_HTML = """
<div class="sketch">
  <div class="sketch-pad">
    <canvas width="280" height="280" tabindex="0" role="img"
      aria-label="Drawing pad: draw with a mouse, finger or pen; Control Z takes a stroke back"></canvas>
    <span class="sketch-hint" aria-hidden="true">Draw here</span>
  </div>
  <div class="sketch-tools">
    <button type="button" class="quiet" data-tool="undo" disabled>Undo</button>
    <button type="button" class="quiet" data-tool="clear" disabled>Clear</button>
  </div>
</div>
"""
