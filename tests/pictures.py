"""Images that tests make: digits as people send them, and files that nobody should send."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageOps


def file_of(image: Image.Image, kind: str = "PNG", **options) -> BytesIO:
    """The image as a file in memory."""
    stream = BytesIO()
    image.save(stream, kind, **options)
    stream.seek(0)
    return stream


def seven(side: int = 280) -> Image.Image:
    """A seven, drawn dark on white with a thick pen."""
    image = Image.new("L", (side, side), 255)
    at = side / 280
    line = [(80 * at, 60 * at), (200 * at, 60 * at), (120 * at, 230 * at)]
    ImageDraw.Draw(image).line(line, fill=0, width=round(20 * at), joint="curve")
    return image


def photo_of(image: Image.Image) -> Image.Image:
    """A 28 x 28 item, light on dark, as a dark object off-center on a large white page."""
    big = ImageOps.invert(image.convert("L")).resize((224, 224), Image.Resampling.BICUBIC)
    page = Image.new("L", (420, 330), 255)
    page.paste(big, (150, 30))
    return page


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image that hardly compresses."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def bomb() -> BytesIO:
    """A PNG of about 20 kB that holds 169 million pixels."""
    return file_of(Image.new("1", (13_000, 13_000)), optimize=True)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'
