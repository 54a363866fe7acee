"""One image file as an array of the shape asked for: any size, colours, 16 bits, transparency, a camera on its side.

A file that cannot be read is a *reject*: :class:`UnreadableImageError` gives the reason in one sentence.
"""

import base64
import io
import logging
import os
import re
import threading
import warnings
from contextlib import nullcontext, suppress

import numpy as np
from PIL import Image, ImageCms, ImageOps, ImageStat, PngImagePlugin

#: The formats read, by Pillow's names (its JPEG reads MPO), and how the files of most begin.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
#: What else people keep among their pictures: a pattern of the file's beginning, and what it is.
OTHERS = {
    rb"....ftyp(hei|hev|mif1|msf1)": "HEIC, which is not read here; save it as JPEG",
    rb"....ftypcrx|II\*\0....CR|FUJIFILM|IIRO|IIU\0": "a camera's raw data, which are not read here; save it as JPEG",
    rb"....ftyp": "a film",
    rb"%PDF|%!PS": "a document",
    rb"\s*<(\?xml|svg)": "a drawing of lines (SVG), which is not read here; save it as PNG",
}
#: Of these ranges the smallest that holds all of an image's whole numbers is black to white.
WHITES = (255, 1023, 4095, 16383, 65535)
#: Where the drawn part of a transparent image is lighter than this on average, its ground is black instead of white.
LIGHT = 216
#: So many frames of an animation are looked at for one that is not blank.
FRAMES = 50
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

#: The mark at a JPEG's end.
END = b"\xff\xd9"

_one_large_at_a_time = threading.Lock()
# A comment or a colour profile of some megabytes does not make a picture unreadable.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints what Pillow logs about bad files


class UnreadableImageError(ValueError):
    """A file is no image that can be read here; the message is the reason, in one sentence."""


def read_image(file, shape):
    """Read an image file into an array of the shape asked for.

    The first frame that is not blank is read, and turned as its EXIF orientation says. Transparent parts become white,
    or black where what is drawn is nearly white. Colours are brought to sRGB by the file's colour profile. The image is
    scaled by bicubic interpolation until its longer side fits, and stands in the middle; the rest gets the median
    colour of its outermost pixels. Grey is the luma of ITU-R 601. Of colours with 16 bits the higher 8 count. Grey of
    more than 8 bits goes from 0 to white: the smallest of 255, 1,023, 4,095, 16,383 and 65,535 that holds all pixels,
    for cameras and scanners fill 10, 12 or 14 of 16 bits. (In TIFF of 12 bits it is 4,095.) Integers of 32 bits below 0
    or above 65,535 go from the least pixel to the greatest.

    ``file`` is a path, the content of a file (bytes), or a file open for reading, of one of :data:`FORMATS`.
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
            tags = getattr(image, "tag_v2", {})  # of TIFF
            if codec == "raw" and stored == "RGBX" and tags.get(262) == 6:
                raise UnreadableImageError("its colours are plain YCbCr; save it in RGB")
            if codec == "raw" and tags.get(284) == 2 and 16 in tags.get(258, ()):
                raise UnreadableImageError("its colours of 16 bits lie one after the other (planar); save it otherwise")
            _load(image, stream)
            with suppress(Exception):  # a camera's damaged notes do not make the picture unreadable
                ImageOps.exif_transpose(image, in_place=True)
            profile, flat = image.info.get("icc_profile"), _flatten(image, stored)
            if _blank(flat):
                flat = next(filter(lambda frame: not _blank(frame), _later_frames(image, stored)), flat)
            return finish(_in_srgb(flat, profile))


def _load(image, stream):
    """Decode an image's pixels; of a JPEG that lacks only the mark of its end, too, as viewers do."""
    try:
        image.load()
    except OSError:
        stream.seek(0)
        content = stream.read()
        if image.format != "JPEG" or content.endswith(END):
            raise
        # What follows the last pixel changes none; where pixels are missing, it is taken for them.
        decoded = []
        for filling in (b"", b"\x55\xa3" * 64):
            with Image.open(io.BytesIO(content.removesuffix(END[:1]) + filling + END), formats=("JPEG",)) as whole:
                whole.draft(None, image.size)
                whole.load()
                decoded.append(whole.copy())
        if decoded[0].tobytes() != decoded[1].tobytes():
            raise
        image.im, image.tile = decoded[0].im, []


def _blank(image):
    """Whether all pixels are the same."""
    extrema = image.getextrema()
    return all(low == high for low, high in (extrema if isinstance(extrema[0], tuple) else [extrema]))


def _later_frames(image, stored):
    """The frames after the first, as far as :data:`FRAMES`, flattened."""
    for frame in range(1, min(getattr(image, "n_frames", 1), FRAMES)):
        image.seek(frame)
        yield _flatten(image.copy(), stored)


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
    start = stream.read(32)
    for pattern, what in OTHERS.items():
        if re.match(pattern, start, re.DOTALL):
            return what
    if start.startswith(BEGINNINGS) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP"):
        return "damaged or truncated"
    return "not an image (PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF, JPEG 2000 or PPM)" if start else "empty (zero bytes)"


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
    mask = image.getchannel("A")
    drawn = ImageStat.Stat(image.convert("L"), mask.point(lambda alpha: 255 * (alpha > 0)))
    ground = Image.new("RGB", image.size, "black" if drawn.count[0] and drawn.mean[0] > LIGHT else "white")
    ground.paste(image, mask=mask)
    return ground


def _eight_bits(image, stored):
    """A grey image of 12, 16 or 32 bits, brought to 8 bits by the rule that :func:`read_image` states."""
    values = np.asarray(image).astype(np.float32)
    least, most = float(values.min()), float(values.max())
    low, high = 0, 4095 if stored == "I;12" else next((white for white in WHITES if most <= white), 0)
    if image.mode == "I" and least >= 0 and most <= 1:
        high = 1
    if not high or least < 0:
        low, high = least, max(most, least + 1)
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
