"""Files become pixels without surprises, and pixels become like those of an index."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from embedding.image import (
    Preparation,
    QueryError,
    conform,
    flatten,
    infer_preparation,
    is_blank,
    open_image,
    prepare,
)
from index.store import Index
from tests.pictures import SVG, bomb, file_of, noise, photo_of, seven

DIGITS = Preparation(grayscale=True, background="dark", size=28, box=20, center="mass")
CLOTHES = Preparation(grayscale=True, background="dark", size=28, box=28, center="box")
PHOTOS = Preparation(size=256)

RED = Image.new("RGB", (40, 30), (200, 30, 20))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (BytesIO(), "empty"),
        (BytesIO(b"hello, this is text"), "is not a PNG"),
        (BytesIO(SVG), "is not a PNG"),
        (BytesIO(file_of(seven()).getvalue()[:900]), "damaged"),
        (BytesIO(file_of(seven(), "JPEG").getvalue()[:2000]), "damaged"),
        (bomb(), "million"),
        (file_of(Image.new("L", (6000, 6000))), "6000 x 6000"),
        (file_of(noise(1500, 1400)), "6.0 MB; the limit is 5 MB"),
        (Path("no/such/file.png"), "cannot be read"),
    ],
    ids=[
        "empty",
        "text",
        "svg",
        "truncated png",
        "truncated jpeg",
        "bomb",
        "too many pixels",
        "6 MB",
        "missing",
    ],
)
def test_hostile_file_is_refused_in_a_sentence(file: BytesIO | Path, words: str) -> None:
    with pytest.raises(QueryError, match=words) as caught:
        open_image(file)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "MPO"])
def test_common_formats_are_read(kind: str) -> None:
    image = open_image(file_of(RED, kind))
    assert image.size == (40, 30)
    assert np.abs(np.asarray(image.convert("RGB"), int) - (200, 30, 20)).max() < 12


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    opened = np.asarray(open_image(file_of(Image.fromarray(ramp))))
    assert opened.dtype == np.uint8
    assert np.abs(opened.astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_animated_gif_gives_its_first_frame() -> None:
    frames = [Image.new("L", (8, 8), 255), Image.new("L", (8, 8), 0)]
    file = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(file).convert("L")).min() == 255


def test_rotated_photo_stands_upright() -> None:
    orientation = Image.Exif()
    orientation[274] = 6  # the camera was held with its right side down
    stored = seven().rotate(90, expand=True)
    opened = open_image(file_of(stored, "PNG", exif=orientation))
    assert np.array_equal(np.asarray(opened), np.asarray(seven()))


def test_cmyk_and_one_bit_keep_their_picture() -> None:
    gray = np.asarray(seven(), int)
    for stored, kind in ((seven().convert("CMYK"), "JPEG"), (seven().convert("1"), "PNG")):
        opened = np.asarray(open_image(file_of(stored, kind)).convert("L"), int)
        assert np.abs(opened - gray).mean() < 4


def test_transparent_palette_keeps_its_alpha() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.putpixel((4, 4), 1)
    opened = open_image(file_of(image, "GIF", transparency=0))
    assert opened.mode == "RGBA"
    assert opened.getchannel("A").getextrema() == (0, 255)


@pytest.mark.parametrize("ink", ["black", "white"])
def test_transparent_sketch_is_seen_whatever_its_ink(ink: str) -> None:
    sketch = Image.new("RGBA", (280, 280), ink)
    sketch.putalpha(ImageOps.invert(seven()))
    flat = flatten(sketch)
    assert not is_blank(flat)
    assert np.array_equal(np.asarray(prepare(flat, DIGITS)) > 128, np.asarray(prepare(seven(), DIGITS)) > 128)


def test_dark_sketch_on_white_is_inverted() -> None:
    pixels = np.asarray(prepare(seven(), DIGITS))
    assert pixels.shape == (28, 28)
    assert pixels[0, 0] == 0
    assert pixels.max() > 200


def test_polarity_does_not_matter() -> None:
    dark, light = prepare(seven(), DIGITS), prepare(ImageOps.invert(seven()), DIGITS)
    assert np.array_equal(np.asarray(dark), np.asarray(light))


def test_gray_ground_becomes_black() -> None:
    page = seven().point(lambda value: 60 + value * 150 // 255)
    pixels = np.asarray(prepare(page, DIGITS))
    assert pixels[0].max() == 0
    assert pixels.max() > 150


def test_shadow_and_noise_of_a_photo_are_taken_off() -> None:
    light = 0.6 + 0.4 * np.linspace(0, 1, 420)
    noise_of_sensor = np.random.default_rng(1).normal(0, 4, (330, 420))
    page = Image.new("L", (420, 330), 255)
    page.paste(seven(200), (180, 90))
    shot = Image.fromarray((np.asarray(page) * light + noise_of_sensor).clip(0, 255).astype(np.uint8))
    clean, taken = (np.ravel(prepare(image, DIGITS)) for image in (page, shot))
    assert np.corrcoef(clean, taken)[0, 1] > 0.97
    assert not is_blank(shot)
    assert is_blank(Image.fromarray((250 * light + noise_of_sensor).clip(0, 255).astype(np.uint8)))


def test_place_and_size_of_the_object_do_not_matter() -> None:
    wide = Image.new("L", (900, 500), 255)
    wide.paste(seven(140), (600, 300))
    near, far = (np.asarray(prepare(image, DIGITS), int) for image in (seven(), wide))
    assert np.abs(near - far).mean() < 12


def test_digit_is_centered_by_mass_in_its_box() -> None:
    pixels = np.asarray(prepare(seven(), DIGITS), float)
    rows, columns = np.flatnonzero(pixels.max(1) > 13), np.flatnonzero(pixels.max(0) > 13)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (20, 21)
    center = (pixels.sum(1) @ np.arange(28) / pixels.sum(), pixels.sum(0) @ np.arange(28) / pixels.sum())
    assert all(13.5 <= value < 14.5 for value in center)  # as in MNIST itself, where a mean lies at 14.0


def test_item_of_the_index_passes_untouched(sample: Index) -> None:
    for item in range(0, 5000, 250):
        stored = Image.open(BytesIO(sample.images[item]))
        assert np.array_equal(np.asarray(prepare(stored, sample.manifest.preparation)), np.asarray(stored))


def test_photo_of_an_item_looks_like_the_item(sample: Index) -> None:
    stored = Image.open(BytesIO(sample.images[2600]))
    again = prepare(photo_of(stored), sample.manifest.preparation)
    assert np.corrcoef(np.ravel(again), np.ravel(stored))[0, 1] > 0.95


def test_color_photo_is_only_squared_and_shrunk() -> None:
    made = prepare(noise(800, 400), PHOTOS)
    assert (made.mode, made.size) == ("RGB", (256, 256))
    small = noise(32, 32)
    assert np.array_equal(np.asarray(prepare(small, PHOTOS)), np.asarray(small))


def test_extreme_shapes_are_prepared() -> None:
    for size in ((30_000, 2), (2, 30_000), (1, 1), (1, 7)):
        for preparation in (PHOTOS, CLOTHES, DIGITS):
            assert prepare(Image.new("RGB", size, "navy"), preparation).width in (1, 7, 28, 256)


def test_flat_image_is_blank_and_a_dot_is_not() -> None:
    paper = Image.new("L", (280, 280), 250)
    assert is_blank(paper)
    paper.paste(0, (100, 100, 110, 110))
    assert not is_blank(paper)


def test_preparation_of_digits_is_read_off_the_pixels(sample: Index) -> None:
    images = [Image.open(BytesIO(data)) for data in sample.images[::25]]
    assert infer_preparation(images) == DIGITS


def test_preparation_of_photos_is_only_a_size() -> None:
    assert infer_preparation([noise(32, 32, seed) for seed in range(9)]) == Preparation(size=32)
    assert infer_preparation([noise(40, 30), noise(30, 50)]) == Preparation(size=50)
    gray = [noise(32, 32, seed).convert("L") for seed in range(9)]
    assert infer_preparation(gray) == Preparation(grayscale=True, size=32)


def test_conform_keeps_small_square_pixels() -> None:
    image = noise(28, 28).convert("L")
    assert np.array_equal(np.asarray(conform(image, CLOTHES)), np.asarray(image))
