"""One image file as an array of the shape asked for: any size, colours, 16 bits, transparency, a camera on its side.

A file that cannot be read is a *reject*: :class:`UnreadableImageError` gives the reason in one sentence.
"""

import base64
import io
import logging
import os
import threading
import warnings
from contextlib import nullcontext, suppress

import numpy as np
from PIL import Image, ImageCms, ImageOps

#: The formats read, by Pillow's names, and how their files begin (WebP's begin with RIFF and a length).
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
#: Larger images are refused before their pixels are decoded: a small file can promise terabytes. A JPEG's pixels are
#: counted as they are decoded: at a half, a quarter or an eighth where it is large.
MAX_PIXELS = 50_000_000
#: No side may be longer: a line of millions of pixels is no picture, and takes long to scale.
MAX_SIDE = 65_535
#: Images with more pixels than this are decoded one at a time, so that many threads need little memory.
LARGE = 4_000_000
REFUSED = {
    "LAB": "its colours are in CIE L*a*b*; save it in RGB",
    "F": "its pixels are floats, and no value is agreed to be white; save it with 8 or 16 bits",
}
TOO_LARGE = f"more than {MAX_PIXELS:,} pixels"
TOO_LONG = f"a side of more than {MAX_SIDE:,} pixels"
REASONS = {
    FileNotFoundError: "there is no such file",
    MemoryError: "not enough memory to read it",
    Image.DecompressionBombError: TOO_LARGE,
}

SRGB = ImageCms.createProfile("sRGB")

_one_large_at_a_time = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints what Pillow logs about bad files


class UnreadableImageError(ValueError):
    """A file is no image that can be read here; the message is the reason, in one sentence."""


def read_image(file, shape):
    """Read an image file into an array of the shape asked for.

    The first frame is read and turned as its EXIF orientation says. Transparent parts become white. Colours are brought
    to sRGB by the file's colour profile. The image is
    scaled by bicubic interpolation until its longer side fits, and stands in the middle; the rest gets the median
    colour of its outermost pixels. Grey is the luma of ITU-R 601. White is 65,535 in grey of 16 bits and 4,095 in grey
    of 12 bits; of colours with 16 bits the higher 8 count. The range of 32-bit integers is the smallest of 0–1, 0–255
    and 0–65,535 that holds all pixels, or else from the least to the greatest pixel.

    ``file`` is a path, the content of a file (bytes), or a file open for reading: PNG, JPEG, GIF, BMP, TIFF or WebP.
    ``shape`` is ``(H, W, C)`` of the uint8 array that comes back; C is 1 (grey) or 3 (colour). Raises
    :class:`UnreadableImageError` for what is no image, damaged, or of more than ``MAX_PIXELS`` pixels.
    """
    with warnings.catch_warnings(action="ignore"):
        image = image_or_reason(file, shape)
    if isinstance(image, str):
        raise UnreadableImageError(image)
    return image


def image_or_reason(file, shape):
    """:func:`read_image`, but it returns the reason, a text, of a file that cannot be read, and lets Pillow warn."""
    height, width, channels = shape
    if height < 1 or width < 1 or channels not in (1, 3):
        raise ValueError(f"shape must be (H, W, 1) or (H, W, 3), not {tuple(shape)}")

    def fit(image):
        return _fit(image.convert("L" if channels == 1 else "RGB"), height, width).reshape(shape)

    return _result_or_reason(file, (height, width), fit)


def _result_or_reason(file, size, finish):
    """What :func:`_decode` returns, or the reason, a text, why it returns nothing."""
    try:
        if isinstance(file, bytes):
            return _decode(io.BytesIO(file), size, finish)
        if hasattr(file, "read"):
            return _decode(file, size, finish)
        if os.path.exists(file) and not os.path.isfile(file):  # to open a pipe would wait for ever
            return "not a file"
        with open(file, "rb") as stream:
            return _decode(stream, size, finish)
    except UnreadableImageError as error:
        return str(error)
    except Exception as error:  # of Pillow's decoders: OSError, SyntaxError, struct.error, zlib.error and more
        system = getattr(error, "strerror", None)
        return REASONS.get(type(error)) or (f"it cannot be read ({system})" if system else "damaged or truncated")


def preview(file, side):
    """A small copy of an image file for people to see: a Pillow image in RGB, its longer side at most ``side`` pixels.

    ``file`` and errors are those of :func:`read_image`.
    """

    def shrink(image):
        image.thumbnail((side, side))
        return image.convert("RGB")

    with warnings.catch_warnings(action="ignore"):
        image = _result_or_reason(file, (side, side), shrink)
    if isinstance(image, str):
        raise UnreadableImageError(image)
    return image


def _decode(stream, size, finish):
    """``finish`` of the image in a binary file, which is loaded, upright, opaque, in sRGB, and for ``size (H, W)``."""
    try:
        opened = Image.open(stream, formats=FORMATS)  # reads the header only
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError(_why_unidentified(stream)) from error
    with opened as image:
        if max(image.size) > MAX_SIDE:
            raise UnreadableImageError(TOO_LONG)
        # A JPEG decodes faster at a half, a quarter or an eighth; twice the size wanted leaves the scaling its choice.
        image.draft(None, (2 * max(size),) * 2)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImageError(TOO_LARGE)
        with _one_large_at_a_time if image.width * image.height > LARGE else nullcontext():
            codec, _, _, stored = image.tile[0] if image.tile else ("", None, 0, "")
            stored = stored if isinstance(stored, str) else str(stored[0])  # Pillow's name of the mode, such as "L;4"
            if codec == "raw" and stored == "RGBX" and image.tag_v2.get(262) == 6:
                raise UnreadableImageError("its colours are plain YCbCr; save it in RGB")
            image.load()
            with suppress(Exception):  # a camera's damaged notes do not make the picture unreadable
                ImageOps.exif_transpose(image, in_place=True)
            return finish(_in_srgb(_flatten(image, stored), image.info.get("icc_profile")))


def _in_srgb(image, profile):
    """An image in the colours of sRGB, where its file has a profile that says which colours it means."""
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    with suppress(ImageCms.PyCMSError, OSError):  # a damaged profile, or one of other colours: viewers pass it over too
        meant = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, meant, SRGB, outputMode="RGB")
    return image


def _why_unidentified(stream):
    """Why Pillow sees no image in a file: it is empty, damaged at its beginning, or something else."""
    stream.seek(0)
    start = stream.read(12)
    if start.startswith(BEGINNINGS) or (start.startswith(b"RIFF") and start.endswith(b"WEBP")):
        return "damaged or truncated"
    return "not an image (PNG, JPEG, GIF, BMP, TIFF or WebP)" if start else "empty (zero bytes)"


def _flatten(image, stored):
    """A loaded image without transparency and with 8 bits, in whatever mode."""
    if image.mode in REFUSED:
        raise UnreadableImageError(REFUSED[image.mode])
    if image.mode.startswith("I"):
        return _eight_bits(image, stored)
    if not image.has_transparency_data:
        return image
    key = image.info.get("transparency")  # Pillow brings pixels of 2, 4 and 16 bits to 8, but not the key
    if stored in ("L;2", "L;4"):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[stored]
    elif stored == "RGB;16B" and key is not None:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _eight_bits(image, stored):
    """A grey image of 12, 16 or 32 bits, brought to 8 bits by the rule that :func:`read_image` states."""
    values = np.asarray(image).astype(np.float32)
    low, high = 0, 4095 if stored == "I;12" else 65535
    if image.mode == "I":
        low, high = float(values.min()), float(values.max())
        whites = [white for white in (1, 255, 65535) if low >= 0 and high <= white]
        low, high = (0, whites[0]) if whites else (low, max(high, low + 1))
    grey = np.rint((values - low) / np.float32((high - low) / 255)).clip(0, 255).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    photometric = getattr(image, "tag_v2", {}).get(262)  # of TIFF: 0 says that zero is white
    return Image.fromarray(255 - grey if photometric == 0 else grey)


def _fit(image, height, width):
    """Scale an image of mode L or RGB to fit into ``(H, W)``, in the middle, on its own border's median colour."""
    w, h = image.size
    strips = [(0, 0, w, 1), (0, h - 1, w, h), (0, 0, 1, h), (w - 1, 0, w, h)]
    border = np.concatenate([np.asarray(image.crop(box)).reshape(-1, len(image.getbands())) for box in strips])
    colour = tuple(np.sort(border, axis=0)[(len(border) - 1) // 2].tolist())
    thick = max(w, h // (2 * height) + 1), max(h, w // (2 * width) + 1)  # a thin line keeps one pixel
    image = image if thick == image.size else image.resize(thick)
    # With centering just below a half, an odd pixel goes to the right and to the bottom.
    return np.asarray(ImageOps.pad(image, (width, height), color=colour, centering=(0.4999, 0.4999)))


def data_url(image):
    """The text of a ``data:`` URL, for ``<img src>``: PNG of ``(H, W, C)`` uint8, JPEG of a Pillow image in RGB."""
    buffer, kind = io.BytesIO(), "jpeg"
    if isinstance(image, np.ndarray):
        image, kind = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), "png"
    image.save(buffer, kind, compress_level=1, quality=85)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
