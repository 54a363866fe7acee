"""Every kind of image file on tiny images whose pixels are worked out by hand, and every kind that is rejected."""

import errno
import io
import os
import struct
import warnings
import zlib
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from cbir_utils.folders import files as image_files
from cbir_utils.folders.files import UnreadableImageError, preview, read_image

#: Four grey levels that every format keeps: thirds of 255, so that 16 bits and fewer hold them too.
LEVELS = np.array([[0, 85], [170, 255]], np.uint8)
RED, WHITE = [255, 0, 0], [255, 255, 255]


def encoded(image, form="PNG", **options):
    """An image (or array) as the bytes of a file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, colours, rows, *others):
    """A PNG file written chunk by chunk; ``rows`` are the bytes of the rows, ``colours`` PNG's colour type."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*other) for other in others) + data + chunk(b"IEND", b"")


def retagged(tiff, tag, old, new):
    """A little-endian TIFF file with another value for a tag that has one number or two short ones."""
    kind, count = (4, 1) if tag == 256 else (3, len(old))
    entries = [
        struct.pack("<HHI", tag, kind, count) + struct.pack(f"<{len(v)}H", *v).ljust(4, b"\0") for v in (old, new)
    ]
    assert tiff.count(entries[0]) == 1
    return tiff.replace(*entries)


def grey(file, height=2, width=2):
    """The pixels of a file as nested lists of grey levels."""
    image = read_image(file, (height, width, 1))
    assert image.shape == (height, width, 1) and image.dtype == np.uint8
    return image[..., 0].tolist()


def colour(file, height=2, width=2):
    image = read_image(file, (height, width, 3))
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    return image.tolist()


def reason(file):
    with pytest.raises(UnreadableImageError) as caught:
        read_image(file, (2, 2, 1))
    return str(caught.value)


FILES = {
    "PNG": encoded(LEVELS),
    "GIF": encoded(LEVELS, "GIF"),
    "BMP": encoded(LEVELS, "BMP"),
    "TIFF": encoded(LEVELS, "TIFF"),
    "TIFF, LZW": encoded(LEVELS, "TIFF", compression="tiff_lzw"),
    "WebP": encoded(LEVELS, "WEBP", lossless=True),
    "RGB": encoded(np.repeat(LEVELS[..., None], 3, axis=2)),
    "LA": encoded(np.stack([LEVELS, np.full((2, 2), 255, np.uint8)], axis=2)),
    "2 bits": png(2, 2, 2, 0, [bytes([0b00_01_0000]), bytes([0b10_11_0000])]),
    "4 bits": png(2, 2, 4, 0, [bytes([0x05]), bytes([0xAF])]),
    "palette": encoded(Image.fromarray(LEVELS).convert("P")),
    "16 bits": encoded(LEVELS.astype(np.uint16) * 257),
    "16 bits, TIFF": encoded(LEVELS.astype(np.uint16) * 257, "TIFF"),
    "16 bits, big-endian TIFF": encoded(
        Image.frombytes("I;16B", (2, 2), (LEVELS.astype(">u2") * 257).tobytes()), "TIFF"
    ),
    "32 bits, up to 65,535": encoded(LEVELS.astype(np.int32) * 257, "TIFF"),
    "32 bits, up to 255": encoded(LEVELS.astype(np.int32), "TIFF"),
    "32 bits, stretched": encoded(LEVELS.astype(np.int32) * 1000 - 90_000, "TIFF"),
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_four_levels_of_grey_survive_every_form(file):
    assert grey(file) == LEVELS.tolist()
    assert colour(file) == np.repeat(LEVELS[..., None], 3, axis=2).tolist()


def test_colours_are_read_as_such_and_weighed_for_grey_and_one_bit_is_0_and_255():
    assert grey(encoded(Image.fromarray(LEVELS > 100))) == [[0, 0], [255, 255]]
    # ITU-R 601: 0.299 · 255 = 76.2 for red, 0.587 · 255 = 149.7 for green, 0.114 · 255 = 29.1 for blue.
    pixels = np.array([[RED, [0, 255, 0]], [[0, 0, 255], WHITE]], np.uint8)
    assert colour(encoded(pixels)) == pixels.tolist()
    assert grey(encoded(pixels)) == [[76, 150], [29, 255]]


def test_cmyk_and_ycbcr_are_read_as_the_colour_they_mean():
    printed = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    # Red in YCbCr: Y = 0.299 · 255 = 76, Cb = 128 − 0.1687 · 255 = 85, Cr = 128 + 0.5 · 255 = 255.
    sent = Image.new("YCbCr", (4, 4), (76, 85, 255))
    files = encoded(printed, "TIFF"), encoded(printed, "JPEG", quality=100)
    for file in (*files, encoded(sent, "TIFF", compression="tiff_deflate")):
        np.testing.assert_allclose(colour(file, 1, 1), [[RED]], atol=2)


REFUSED = {
    "its colours are in CIE L*a*b*; save it in RGB": Image.new("LAB", (2, 2)),
    "its colours are plain YCbCr; save it in RGB": Image.new("YCbCr", (4, 4), (76, 85, 255)),
    "its pixels are floats, and no value is agreed to be white; save it with 8 or 16 bits": Image.new("F", (2, 2)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_tiffs_of_uncertain_meaning_are_refused_with_a_remedy(why):
    assert reason(encoded(REFUSED[why], "TIFF")) == why


def test_16_bits_are_rounded_and_not_cut_and_zero_is_white_where_a_tiff_says_so():
    # 128 / 257 = 0.498 and 129 / 257 = 0.502; 32,767 / 257 = 127.498 and 32,768 / 257 = 127.502.
    assert grey(encoded(np.array([[128, 129], [32767, 32768]], np.uint16))) == [[0, 1], [127, 128]]
    file = encoded(LEVELS.astype(np.uint16) * 257, "TIFF")
    assert grey(retagged(file, 262, [1], [0])) == [[255, 170], [85, 0]]


def test_in_a_tiff_of_12_bits_4095_is_white():
    # Two pixels in three bytes: 000 555, then AAA FFF; 0x555 = 85 · 4095 / 255.
    bytes_of_rows = np.array([[0x00, 0x05, 0x55], [0xAA, 0xAF, 0xFF]], np.uint8)
    file = retagged(encoded(bytes_of_rows, "TIFF"), 256, [3], [2])
    assert grey(retagged(file, 258, [8], [12])) == LEVELS.tolist()


@pytest.mark.parametrize("factor", [1, 257])
def test_a_usual_range_is_kept_where_its_ends_do_not_occur(factor):
    assert grey(encoded(np.array([[85, 170]], np.int32) * factor, "TIFF"), 1, 2) == [[85, 170]]
    assert grey(encoded(np.full((2, 2), -7, np.int32), "TIFF")) == [[0, 0], [0, 0]]  # of no range: black


def test_of_an_animation_the_first_frame_is_read():
    frames = [Image.fromarray(LEVELS), Image.fromarray(255 - LEVELS)]
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if form == "WEBP" else {}
        file = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        with Image.open(io.BytesIO(file)) as image:
            assert image.n_frames == 2
        assert grey(file) == LEVELS.tolist(), form


def two_colours():
    """A palette image, its left column of colour 0 (10, 20, 30) and its right of colour 1 (40, 50, 60)."""
    image = Image.fromarray(np.array([[0, 1], [0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    return image


def test_a_palette_s_transparent_colour_is_white():
    assert colour(encoded(two_colours())) == [[[10, 20, 30], [40, 50, 60]]] * 2
    for form in ("PNG", "GIF"):
        assert colour(encoded(two_colours(), form, transparency=1)) == [[[10, 20, 30], WHITE]] * 2, form


TRANSPARENT_85 = {
    2: png(2, 2, 2, 0, [bytes([0b00_01_0000]), bytes([0b10_11_0000])], (b"tRNS", b"\0\1")),
    4: png(2, 2, 4, 0, [bytes([0x05]), bytes([0xAF])], (b"tRNS", b"\0\5")),
    8: png(2, 2, 8, 0, [bytes([0, 85]), bytes([170, 255])], (b"tRNS", b"\0\x55")),
    16: png(2, 2, 16, 0, [bytes([0, 0, 85, 85]), bytes([170, 170, 255, 255])], (b"tRNS", b"\x55\x55")),
}


@pytest.mark.parametrize("bits", TRANSPARENT_85)
def test_the_transparent_level_of_a_grey_png_is_white_whatever_its_bits(bits):
    assert grey(TRANSPARENT_85[bits]) == [[0, 255], [170, 255]]


def test_the_transparent_colour_of_a_png_is_white_with_8_and_with_16_bits():
    left, right = [10, 20, 30], [40, 50, 60]
    small = png(2, 1, 8, 2, [bytes(left + right)], (b"tRNS", bytes([0, 10, 0, 20, 0, 30])))
    assert colour(small, 1, 2) == [[WHITE, right]]
    longer = [byte for value in left + right for byte in (value, 99)]  # 10 becomes 10 · 256 + 99
    large = png(2, 1, 16, 2, [bytes(longer)], (b"tRNS", bytes(longer[:6])))
    assert colour(large, 1, 2) == [[WHITE, right]]


A, B, C, D = (int(level) for level in LEVELS.ravel())
#: How the stored image ``A B / C D`` is to be shown, by EXIF orientation (Exif 2.3, table 6, tag 274).
SHOWN = {
    1: [[A, B], [C, D]],
    2: [[B, A], [D, C]],
    3: [[D, C], [B, A]],
    4: [[C, D], [A, B]],
    5: [[A, C], [B, D]],
    6: [[C, A], [D, B]],
    7: [[D, B], [C, A]],
    8: [[B, D], [A, C]],
    9: [[A, B], [C, D]],  # means nothing
}


@pytest.mark.parametrize("orientation", SHOWN)
def test_images_are_turned_as_their_exif_orientation_says(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        assert grey(encoded(LEVELS, form, exif=exif, **options)) == SHOWN[orientation], form
    blocks = np.kron(LEVELS, np.ones((64, 64), np.uint8))  # a JPEG decodes them at an eighth
    image = read_image(encoded(blocks, "JPEG", exif=exif), (8, 8, 1))[1::4, 1::4, 0]  # the middle of each quarter
    np.testing.assert_allclose(image, SHOWN[orientation], atol=6)


def test_damaged_exif_does_not_make_an_image_unreadable():
    file = encoded(LEVELS, exif=b"Exif\0\0 something else")
    with Image.open(io.BytesIO(file)) as image, pytest.raises(SyntaxError):
        image.getexif()  # Pillow does stumble over it
    assert grey(file) == LEVELS.tolist()


def test_the_filling_has_the_border_s_median_colour_channel_by_channel():
    pixels = np.full((8, 4, 3), 255, np.uint8)
    pixels[:, [0, -1]] = [10, 20, 30]  # 20 of the 24 border pixels, corners counted twice
    image = read_image(encoded(pixels), (8, 8, 3))
    np.testing.assert_array_equal(image[:, 2:6], pixels)
    assert (image[:, [0, 1, 6, 7]] == [10, 20, 30]).all()


def test_scaling_down_averages_all_pixels_that_a_pixel_covers_and_distorts_nothing():
    stripes = np.tile(np.array([0, 200], np.uint8), (32, 16))  # one pixel wide: nearest neighbour would see one colour
    assert (abs(np.array(grey(encoded(stripes), 4, 4)) - 100) <= 4).all()
    rows, columns = np.mgrid[:60, :120]
    disc = np.where((rows - 29.5) ** 2 + (columns - 59.5) ** 2 < 400, 255, 0).astype(np.uint8)
    image = np.array(grey(encoded(disc), 24, 24)) > 127
    lit = image.any(axis=0).sum(), image.any(axis=1).sum()
    assert lit == (8, 8)  # 40 pixels across, at a fifth
    assert np.flatnonzero(image.any(axis=1))[0] == 8  # and in the middle


def test_a_single_pixel_fills_the_whole_and_a_thin_line_does_not_vanish():
    assert colour(encoded(np.array([[RED]], np.uint8)), 3, 5) == [[RED] * 5] * 3
    assert grey(encoded(np.full((1, 300), 90, np.uint8)), 4, 4)[1] == [90] * 4
    line = np.full((300, 3), 90, np.uint8)
    line[:, 1] = 0
    assert grey(encoded(line), 4, 4)[0][1] < 90


def test_paths_bytes_and_open_files_are_read_alike_into_the_shapes_that_images_have(tmp_path):
    path = tmp_path / "some.png"
    path.write_bytes(encoded(LEVELS))
    with open(path, "rb") as file:
        assert grey(file) == grey(path) == grey(str(path)) == grey(path.read_bytes()) == LEVELS.tolist()
    for shape in ((0, 2, 1), (2, 2, 2), (2, -1, 3)):
        with pytest.raises(ValueError, match=r"shape must be \(H, W, 1\) or \(H, W, 3\)"):
            read_image(path, shape)


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_image_is_damaged(form):
    file = encoded(NOISE, form)
    for share in (0.0, 0.02, 0.5, 0.9):
        assert reason(file[: max(12, int(share * len(file)))]) == "damaged or truncated", share


def test_whatever_pillow_raises_is_a_reason(monkeypatch):
    for error in (SyntaxError("inside"), struct.error("inside"), MemoryError()):
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", Mock(side_effect=error))
        lack = isinstance(error, MemoryError)
        assert reason(encoded(LEVELS)) == ("not enough memory to read it" if lack else "damaged or truncated")


def test_files_that_are_not_there_or_no_images_are_named_so(tmp_path, monkeypatch):
    for data in (b"some words", b"\0" * 100, b"RIFF\0\0\0\0WAVEfmt "):
        assert reason(data) == "not an image (PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF, JPEG 2000 or PPM)"
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "empty.png") == reason(b"") == "empty (zero bytes)"
    assert reason(tmp_path) == reason(tmp_path / "pipe.png") == "not a file"
    assert reason(tmp_path / "missing.png") == "there is no such file"
    assert reason(tmp_path / ("x" * 300)) == f"it cannot be read ({os.strerror(errno.ENAMETOOLONG)})"
    monkeypatch.setattr("builtins.open", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert reason(tmp_path / "empty.png") == "it cannot be read (Permission denied)"


def test_an_image_of_too_many_pixels_is_refused_by_its_header_and_pillow_s_warnings_do_not_leak(monkeypatch):
    """Pillow raises at 20,000 × 20,000 and warns at 10,000 × 10,000 and of one transparent palette."""
    with warnings.catch_warnings(action="error"):
        assert grey(encoded(two_colours(), transparency=b"\x80\x00"))[0][1] == 255
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("its pixels were decoded"))
        for width, height in ((20_000, 20_000), (10_000, 10_000), (10_000, 5_001)):
            assert reason(png(width, height, 8, 0, [])) == "more than 50,000,000 pixels"
        for width, height in ((49_000_000, 1), (1, 65_536)):
            assert reason(png(width, height, 8, 0, [])) == "a side of more than 65,535 pixels"


def test_a_large_jpeg_is_counted_as_it_is_decoded():
    photo = encoded(np.full((7_200, 7_200), 77, np.uint8), "JPEG")  # 52 million pixels, and an eighth of a side is read
    assert grey(photo) == [[77, 77], [77, 77]]
    assert preview(photo, 64).size == (64, 64)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colours_are_brought_to_srgb_by_the_file_s_profile(form):
    """A profile that swaps the primaries red and blue: what the file calls red is seen as blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = bytearray(profile)
    for name, other in ((b"rXYZ", b"bXYZ"), (b"bXYZ", b"rXYZ")):
        start = profile.index(name)
        swapped[start : start + 4] = other
    red = np.full((16, 16, 3), (250, 20, 30), np.uint8)
    for given, expected in ((swapped, (30, 20, 250)), (profile, (250, 20, 30)), (b"damaged", (250, 20, 30))):
        file = encoded(red, form, icc_profile=bytes(given))
        assert np.abs(np.array(colour(file)) - expected).max() <= 6, given[:8]
        assert np.abs(np.asarray(preview(file, 8)).astype(int) - expected).max() <= 6


def test_a_preview_is_small_upright_opaque_and_in_colour(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(np.full((40, 100), 9, np.uint8)))
    shown = preview(path, 50)
    assert (shown.mode, shown.size) == ("RGB", (50, 20)) and preview(path, 500).size == (100, 40)
    path.write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match="not an image"):
        preview(path, 50)


def test_a_large_image_is_decoded_alone(monkeypatch):
    """It takes the one lock; a small one does not."""
    lock = MagicMock()
    monkeypatch.setattr(image_files, "_one_large_at_a_time", lock)
    monkeypatch.setattr(image_files, "LARGE", 8)
    grey(encoded(np.zeros((2, 4), np.uint8)))
    assert not lock.__enter__.called
    grey(encoded(np.zeros((3, 3), np.uint8)))
    assert lock.__enter__.called


SOME = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "form", ["PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "PPM, grey"]
)
def test_what_pillow_reads_safely_is_read(form):
    given = np.kron(SOME[:4, :4], np.ones((16, 16, 1), np.uint8))
    image = np.array(colour(encoded(given[..., 0] if "grey" in form else given, form.split(",")[0]), 64, 64))
    expected = given[..., :1] if "grey" in form else given
    assert np.abs(image - expected.astype(int)).mean() < 8  # some lose a little


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, which is not read here; save it as JPEG"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC, which is not read here; save it as JPEG"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "a camera's raw data, which are not read here; save it as JPEG"),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera's raw data, which are not read here; save it as JPEG"),
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw data, which are not read here; save it as JPEG"),
        (b"\0\0\0\x18ftypmp42", "a film"),
        (b"%PDF-1.7", "a document"),
        (b"<svg xmlns='http://www'/>", "a drawing of lines (SVG), which is not read here; save it as PNG"),
        (b'<?xml version="1.0"?>', "a drawing of lines (SVG), which is not read here; save it as PNG"),
    ],
)  # fmt: skip
def test_what_else_people_keep_is_named(start, what):
    assert reason(start + bytes(100)) == what


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP"])
def test_of_an_animation_the_first_frame_that_is_not_blank_is_read(form):
    blank, second, third = (Image.fromarray(a) for a in (np.full_like(SOME, 255), SOME, 255 - SOME))
    options = {"lossless": True} if form == "WEBP" else {}
    file = io.BytesIO()
    blank.save(file, form, save_all=True, append_images=[blank, second, third], **options)
    assert np.abs(np.array(colour(file.getvalue(), 32, 32)) - SOME.astype(int)).mean() < 10
    alone = io.BytesIO()
    blank.save(alone, form)
    assert (np.array(colour(alone.getvalue())) == 255).all()


def test_the_ground_of_a_light_drawing_is_black_and_of_others_white():
    for level, ground in ((255, 0), (230, 0), (200, 255), (0, 255)):
        image = np.zeros((8, 8, 4), np.uint8)
        image[2:6, 2:6] = (level, level, level, 255)
        found = np.array(colour(encoded(image), 8, 8))
        assert (found[0, 0] == ground).all() and (found[3, 3] == level).all()
    assert (np.array(colour(encoded(np.zeros((8, 8, 4), np.uint8)))) == 255).all()  # nothing is drawn


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_16_bits_goes_to_the_smallest_white_that_holds_it(form, bits):
    white = 2**bits - 1
    image = np.array([[0, white // 2 + 1], [white, white]], np.uint16)
    assert np.abs(np.array(grey(encoded(image, form))) - [[0, 128], [255, 255]]).max() <= 1


def test_colours_of_16_bits_that_lie_one_after_the_other_are_refused():
    """A TIFF as Pillow itself would write it, said to be planar: Pillow reads wrong values from such."""
    directory = struct.pack("<H", 9)
    content = b"II*\0" + struct.pack("<I", 8)
    start = 8 + 2 + 9 * 12 + 4
    entries = {256: (3, 1, 4), 257: (3, 1, 4), 258: (3, 3, start), 259: (3, 1, 1), 262: (3, 1, 2)}
    entries |= {273: (4, 3, start + 6), 277: (3, 1, 3), 279: (4, 3, start + 18), 284: (3, 1, 2)}
    directory += b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    data = struct.pack("<3H", 16, 16, 16)
    data += struct.pack("<3I", *(start + 30 + 32 * plane for plane in range(3))) + struct.pack("<3I", 32, 32, 32)
    file = content + directory + struct.pack("<I", 0) + data + bytes(96)
    assert reason(file) == "its colours of 16 bits lie one after the other (planar); save it otherwise"


def test_a_jpeg_that_lacks_its_end_alone_is_whole_and_one_that_lacks_pixels_is_not():
    for options in ({}, {"progressive": True}, {"quality": 95, "subsampling": 0}):
        whole = encoded(SOME, "JPEG", **options)
        for short in (whole[:-2], whole[:-1]):
            assert colour(short, 32, 32) == colour(whole, 32, 32)
        for missing in (20, 60, len(whole) // 2):
            with pytest.raises(UnreadableImageError, match="damaged or truncated"):
                colour(whole[:-missing], 32, 32)


def test_a_long_comment_or_profile_does_not_make_a_png_unreadable():
    comment = PngImagePlugin.PngInfo()
    comment.add_text("comment", "x" * 3_000_000, zip=True)
    for options in ({"pnginfo": comment}, {"icc_profile": bytes(3_000_000)}):
        assert colour(encoded(SOME, **options), 32, 32) == SOME.tolist()
