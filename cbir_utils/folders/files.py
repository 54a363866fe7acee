"""Image files: one file, or a folder of them, as arrays of one size.

Whatever a file holds (any size, colours, 16 bits, transparency, a camera turned on its side) comes back as uint8
pixels of the shape asked for. A file that cannot be read is a *reject*, with the reason in one sentence.
"""

import csv
import io
import logging
import os
import stat
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

#: The formats read, by Pillow's names; nothing else that Pillow knows is tried on a file from somewhere.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")

#: How files of these formats begin, to tell a damaged image from a file that is none.
BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")

#: Larger images are refused before their pixels are decoded: a small file can promise terabytes.
MAX_PIXELS = 50_000_000

#: Images with more pixels than this are decoded one at a time, so that many threads need little memory.
LARGE = 4_000_000

#: Files decoded at once: what bounds the memory of reading a folder.
CHUNK = 256

#: After so many files a progress callable is called.
PROGRESS_EVERY = 32

#: How many files are looked at to tell whether a folder is in colour.
COLOUR_SAMPLE = 200

#: Side of the square that images are fitted to by default: the paper's for grey, CIFAR's for colour.
GREY_SIZE, COLOUR_SIZE = 28, 32

_one_large_at_a_time = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints what Pillow logs about bad files


class UnreadableImageError(ValueError):
    """A file is no image that can be read here; the message is the reason, in one sentence."""


class ImageFolder(NamedTuple):
    """The readable images of a folder, ``(N, H, W, C)`` uint8, their ids (relative paths), and the rejects.

    ``rejects`` holds a pair ``(id, reason)`` for each file that could not be read. Both are sorted by id.
    """

    images: np.ndarray
    ids: tuple[str, ...]
    rejects: tuple[tuple[str, str], ...]


# -- one file -----------------------------------------------------------------------------------------------------


def read_image(file, shape):
    """Read an image file into an array of the shape asked for.

    The first frame is read and turned as its EXIF orientation says. Transparent parts show white. The image is
    scaled, up or down, by bicubic interpolation over the area that a pixel covers, until its longer side fits; it
    stands in the middle, and the rest has the median colour of the image's own outermost pixels. Grey is the luma of
    ITU-R 601.

    Of a grey file with 16 bits, 65,535 is white (of one with 12 bits, 4,095); of colours with 16 bits the higher 8
    count. Whole numbers of 32 bits, signed ones and floats have no agreed white: their range is the smallest of 0–1,
    0–255 and 0–65,535 that holds all pixels, and where none does, from the least to the greatest pixel. A pixel
    without a finite value is black.

    Parameters
    ----------
    file : str, Path, bytes or binary file
        A path, or the content of a file (PNG, JPEG, GIF, BMP, TIFF or WebP), or a file open for reading.
    shape : tuple
        ``(H, W, C)``, C 1 (grey) or 3 (colour).

    Returns
    -------
    numpy.ndarray
        ``(H, W, C)`` uint8.

    Raises
    ------
    UnreadableImageError
        If there is no such file, it is no image, damaged, or of more than ``MAX_PIXELS`` pixels.
    """
    with _silence():
        return _read(file, shape)


def _read(file, shape):
    """:func:`read_image`, for callers that silence Pillow's warnings themselves."""
    height, width, channels = shape
    if height < 1 or width < 1 or channels not in (1, 3):
        raise ValueError(f"shape must be (H, W, 1) or (H, W, 3), not {tuple(shape)}")
    try:
        with _opened(file) as stream:
            return _decode(stream, height, width, channels)
    except UnreadableImageError:
        raise
    except Exception as error:  # of Pillow's decoders: OSError, SyntaxError, struct.error, zlib.error and more
        raise UnreadableImageError(_reason(error)) from error


@contextmanager
def _silence():
    """Keep the warnings of Pillow to ourselves: a file is read or rejected, and a reject has its reason.

    Warning filters belong to the whole process, so this stands around a pool of threads, never inside one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(file):
    """``file`` as a binary file, in a context that closes it if it was opened here."""
    if isinstance(file, bytes | bytearray | memoryview):
        return io.BytesIO(file)
    if hasattr(file, "read"):
        return nullcontext(file)
    mode = os.stat(file).st_mode
    if stat.S_ISDIR(mode):
        raise UnreadableImageError("a folder, not a file")
    if not stat.S_ISREG(mode):  # to open a pipe would wait for ever
        raise UnreadableImageError("neither a file nor a folder")
    return open(file, "rb")


def _reason(error):
    """What an exception of the system or of Pillow means for the file, in a few words."""
    from PIL import Image

    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return "not enough memory to read it"
    if isinstance(error, OSError) and error.errno:
        return f"it cannot be read ({os.strerror(error.errno)})"
    return "damaged or truncated"


def _decode(stream, height, width, channels):
    """The image in a binary file as uint8 ``(H, W, C)``."""
    from PIL import Image

    try:
        opened = Image.open(stream, formats=FORMATS)  # reads the header only
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError(_why_unidentified(stream)) from error
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImageError(f"more than {MAX_PIXELS:,} pixels")
        # A JPEG decodes faster at a half, a quarter or an eighth; twice the size wanted leaves the scaling its choice.
        image.draft(None, (2 * max(height, width),) * 2)
        with _one_large_at_a_time if image.width * image.height > LARGE else nullcontext():
            stored = _stored_as(image)
            misread = _misread(image, stored)
            image.load()
            turn = _turn(image)
            flat = Image.merge("YCbCr", image.split()) if misread else _flatten(image, stored)
            flat = flat.convert("L" if channels == 1 else "RGB")
            flat = flat if turn is None else flat.transpose(turn)
            return _fit(flat, height, width).reshape(height, width, channels)


def _why_unidentified(stream):
    """Why Pillow sees no image in a file: it is empty, damaged at its beginning, or something else."""
    stream.seek(0)
    start = stream.read(12)
    if not start:
        return "empty (zero bytes)"
    if start.startswith(BEGINNINGS) or (start.startswith(b"RIFF") and start.endswith(b"WEBP")):
        return "damaged or truncated"
    return "not an image (PNG, JPEG, GIF, BMP, TIFF or WebP)"


def _stored_as(image):
    """Pillow's name for how the pixels stand in the file, such as ``"L;4"`` for grey of 4 bits."""
    arguments = image.tile[0][3] if image.tile else ""
    return arguments if isinstance(arguments, str) else str(arguments[0])


def _misread(image, stored):
    """Whether an image is a TIFF of plain YCbCr, whose pixels Pillow takes for RGB with a fourth byte.

    If so, the image is told to read them as three bytes; their meaning is left to the caller.
    """
    tags = getattr(image, "tag_v2", {})  # 262 photometric interpretation, 530 subsampling of Cb and Cr
    if tags.get(262) != 6 or stored != "RGBX" or image.tile[0][0] != "raw" or tags.get(530) != (1, 1):
        return False
    image.tile = [tile._replace(args=("RGB", *tile.args[1:])) for tile in image.tile]
    return True


def _turn(image):
    """The transposition that a camera's EXIF orientation asks for, or ``None``."""
    from PIL import ExifTags, Image

    turns = Image.Transpose
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a camera's damaged notes do not make the picture unreadable
        return None
    return {
        2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE,
        6: turns.ROTATE_270, 7: turns.TRANSVERSE, 8: turns.ROTATE_90,
    }.get(orientation)  # fmt: skip


def _flatten(image, stored):
    """A loaded image without transparency and with 8 bits, in whatever mode; ``stored`` as by :func:`_stored_as`."""
    from PIL import Image

    if image.mode[0] in "IF":  # I;16, I;16B, I and F
        return _eight_bits(image, stored)
    if image.mode == "LAB":
        raise UnreadableImageError("its colours are in CIE L*a*b*; save it in RGB")
    if not image.has_transparency_data:
        return image
    transparent = image.info.get("transparency")
    if stored in ("L;2", "L;4"):  # Pillow spreads these pixels over 0–255, but not the value that is transparent
        image.info["transparency"] = transparent * (85 if stored == "L;2" else 17)
    elif stored == "RGB;16B" and transparent is not None:  # and keeps of these the higher 8 bits
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _eight_bits(image, stored):
    """A grey image of 16 or 32 bits or floats, brought to 8 bits by the rule that :func:`read_image` states."""
    from PIL import Image

    values = np.array(image)
    if image.mode.startswith("I;16"):
        step = 4095 / 255 if stored == "I;12" else 257
        grey = np.rint(values / np.float32(step)).clip(0, 255).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
    else:
        values = values.astype(np.float32)
        finite = np.isfinite(values)
        if not finite.any():
            raise UnreadableImageError("none of its pixels has a finite value")
        low, high = float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf))
        values[~finite] = low
        for white in (1, 255, 65535):
            if low >= 0 and high <= white:
                low, high = 0, white
                break
        step = 255 / (high - low) if high > low else 0
        grey = np.rint(values * step - low * step).clip(0, 255).astype(np.uint8)
        grey[~finite] = 0
    photometric = getattr(image, "tag_v2", {}).get(262)  # of TIFF: 0 says that zero is white
    return Image.fromarray(255 - grey if photometric == 0 else grey)


def _fit(image, height, width):
    """Scale an image of mode L or RGB to fit into ``(H, W)``, in the middle, on its own border colour."""
    from PIL import Image

    scale = min(height / image.height, width / image.width)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    # With reducing_gap, very large images are first averaged over whole blocks, which is fast and looks the same.
    small = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if size == (width, height):
        return np.asarray(small)
    canvas = Image.new(image.mode, (width, height), _border_colour(image))
    canvas.paste(small, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)


def _border_colour(image):
    """The (lower) median of an image's outermost pixels, for each channel, as Pillow takes a colour."""
    w, h = image.size
    strips = [(0, 0, w, 1), (0, h - 1, w, h), (0, 0, 1, h), (w - 1, 0, w, h)]
    pixels = np.concatenate([np.asarray(image.crop(box)).reshape(-1, len(image.getbands())) for box in strips])
    middle = (len(pixels) - 1) // 2
    colour = tuple(np.partition(pixels, middle, axis=0)[middle].tolist())
    return colour if len(colour) > 1 else colour[0]


# -- a folder -----------------------------------------------------------------------------------------------------


def list_files(folder):
    """The files in a folder and the folders in it, in an order that does not depend on the file system.

    Hidden names (that begin with a dot) are skipped. A link to a file is taken where the file lies in the folder; a
    link to a folder never is, so that no circle is walked and no file is met twice.

    Returns ``(ids, rejects)``: the files' relative paths with forward slashes, sorted as plain strings, and the pairs
    ``(id, reason)`` of what is no file to be opened. Raises :class:`UnreadableImageError` if ``folder`` is not one.
    """
    root = os.path.realpath(folder)
    ids, rejects, pending = [], [], [""]
    while pending:
        inside = pending.pop()
        try:
            with os.scandir(os.path.join(root, inside)) as entries:
                entries = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            if not inside:
                raise UnreadableImageError(f"{folder} is not a folder that can be read ({error.strerror})") from error
            rejects.append((inside.rstrip("/"), _reason(error)))
            continue
        for entry in entries:
            name = inside + entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(name + "/")
            elif reason := _why_not_opened(entry, root):
                rejects.append((name, reason))
            else:
                ids.append(name)
    return tuple(sorted(ids)), tuple(sorted(rejects))


def _why_not_opened(entry, root):
    """Why an entry of a folder, which is no folder itself, is not opened; ``None`` for a file."""
    try:
        mode = entry.stat().st_mode  # of what a link leads to
    except OSError as error:
        return "a link that leads nowhere" if entry.is_symlink() else _reason(error)
    if entry.is_symlink():
        if not os.path.join(os.path.realpath(entry.path), "").startswith(os.path.join(root, "")):
            return "a link that leaves the folder"
        if stat.S_ISDIR(mode):
            return "a link to a folder; its files are read where they lie"
    return None if stat.S_ISREG(mode) else "neither a file nor a folder"


def read_folder(folder, *, size=None, channels=None, progress=None, path=None):
    """Read all images in a folder and the folders in it, fitted to squares as by :func:`read_image`.

    Parameters
    ----------
    folder : str or Path
        Where the images are; see :func:`list_files` for which files count.
    size : int, optional
        Side of the squares; 28 for grey and 32 for colour images by default.
    channels : int, optional
        1 for grey, 3 for colour. By default 3 if one of up to 200 files, evenly spread over the sorted list, is in
        colour: if in more than 1 % of its pixels, at 32×32, the channels lie more than 16 levels apart. So neither
        the noise of a grey JPEG counts as colour nor a speck.
    progress : callable, optional
        Called now and then as ``progress(done, total)``, in files.
    path : str or Path, optional
        A ``.npy`` file to write the images to, chunk by chunk; they come back memory-mapped, read-only. By default
        they are kept in memory.

    Returns
    -------
    ImageFolder
        Images ``(N, size, size, channels)`` uint8, in the order of their ids.

    Raises
    ------
    UnreadableImageError
        If none of the files is a readable image.
    """
    ids, rejects = list_files(folder)
    with _silence(), ThreadPoolExecutor(os.cpu_count()) as pool:
        if channels is None:
            channels = 3 if _in_colour(folder, ids, pool) else 1
        if size is None:
            size = GREY_SIZE if channels == 1 else COLOUR_SIZE
        shape = (size, size, channels)
        store = _MemoryStore(len(ids), shape) if path is None else _FileStore(path, shape)
        read, rejects = [], list(rejects)
        with store:
            for name, result in _results(folder, ids, shape, pool, progress):
                if isinstance(result, str):
                    rejects.append((name, result))
                else:
                    store.append(result)
                    read.append(name)
    if not read:
        raise UnreadableImageError(_none_readable(folder, rejects))
    return ImageFolder(store.images(), tuple(read), tuple(sorted(rejects)))


def save_rejects(path, rejects):
    """Write pairs ``(id, reason)`` as a CSV file with the columns ``file`` and ``reason``."""
    # A file name need not be valid UTF-8; what is not is written as \udc… rather than not at all.
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "reason"))
        writer.writerows(rejects)


class _MemoryStore(nullcontext):
    """Images gathered in one array, made for ``count`` of them; memory is taken only as it fills."""

    def __init__(self, count, shape):
        super().__init__()
        self.array, self.count = np.empty((count, *shape), np.uint8), 0

    def append(self, image):
        self.array[self.count] = image
        self.count += 1

    def images(self):
        return self.array[: self.count]


class _FileStore:
    """Images written to a ``.npy`` file one by one; the header, which counts them, is written last."""

    def __init__(self, path, shape):
        self.path, self.shape, self.count = Path(path), shape, 0

    def __enter__(self):
        self.file = open(self.path, "wb")  # noqa: SIM115 - closed in __exit__
        self._write_header()
        return self

    def __exit__(self, *raised):
        self.file.seek(0)
        self._write_header()  # NumPy leaves room in it for the count to grow
        self.file.close()

    def _write_header(self):
        form = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, form)

    def append(self, image):
        self.file.write(image.tobytes())
        self.count += 1

    def images(self):
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


def _results(folder, ids, shape, pool, progress=None):
    """Yield each id with its image, or with the reason (a text) why it has none, in order."""
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        results = pool.map(lambda name: _image_or_reason(os.path.join(folder, name), shape), chunk)
        for done, result in enumerate(results, start + 1):
            if progress is not None and (done % PROGRESS_EVERY == 0 or done == len(ids)):
                progress(done, len(ids))
            yield ids[done - 1], result


def _image_or_reason(path, shape):
    try:
        return _read(path, shape)
    except UnreadableImageError as error:
        return str(error)


def _in_colour(folder, ids, pool):
    """Whether any of some files, evenly spread over ``ids``, is in colour, as :func:`read_folder` states it."""
    rows = np.linspace(0, len(ids) - 1, min(len(ids), COLOUR_SAMPLE)).round().astype(int)
    sample = _results(folder, [ids[row] for row in rows], (32, 32, 3), pool)
    return any(_is_colour(image) for _, image in sample if not isinstance(image, str))


def _is_colour(image):
    """Whether an image ``(H, W, 3)`` uint8 shows colour in more than 1 % of its pixels."""
    return bool((np.ptp(image, axis=-1) > 16).mean() > 0.01)


def _none_readable(folder, rejects):
    """The sentence for a folder without any readable image."""
    if not rejects:
        return f"there are no files in {folder}"
    (reason, count), *_ = Counter(reason for _, reason in rejects).most_common(1)
    return f"none of the {len(rejects):,} files in {folder} is a readable image (of {count:,} the reason is: {reason})"
