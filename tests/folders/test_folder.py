"""Folders of images: which files count, what is rejected, and the dataset that they make, packed or not."""

import csv
import hashlib
import json
import os
import socket
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbir_utils.artifacts.files import sealed
from cbir_utils.datasets import DatasetError, folder_kind, is_light, load_dataset
from cbir_utils.folders import folder as module
from cbir_utils.folders.folder import list_files, pack_folder, read_folder, save_rejects

DATA_HOME = os.environ.get("CBIR_DATA_HOME")
NO_IMAGE = "not an image (PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF, JPEG 2000 or PPM)"
RED = [255, 0, 0]


def write(path, pixels=10):
    """A file: of bytes as they are, of an array or of one grey level 4 × 4 as a PNG image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(pixels, bytes):
        path.write_bytes(pixels)
    else:
        Image.fromarray(np.uint8(pixels) if np.ndim(pixels) else np.full((4, 4), pixels, np.uint8)).save(path)


NAMES = ("B.png", "a.png", "a/1.png", "a/10.png", "a/2.png", "a/b/c.png", "z.png", "é.png")


def test_files_are_listed_in_the_order_of_their_ids_whatever_the_file_system_s(tmp_path, monkeypatch):
    for name in (*reversed(NAMES), ".hidden.png", ".hidden/x.png", "a/.hidden"):
        write(tmp_path / name, b"listed, not read")
    (tmp_path / "link").symlink_to(tmp_path)
    forwards = list_files(tmp_path)
    assert forwards[0] == NAMES and list_files(str(tmp_path) + "/") == forwards
    assert list_files(tmp_path / "link") == forwards  # the folder itself may be reached by a link
    walk = os.walk
    backwards = lambda *args, **options: ((i, folders, files[::-1]) for i, folders, files in walk(*args, **options))  # noqa: E731
    monkeypatch.setattr(os, "walk", backwards)
    assert list_files(tmp_path) == forwards


def test_links_that_leave_the_folder_lead_nowhere_or_go_round_are_rejected(tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "folder and more"
    write(folder / "a" / "1.png")
    write(outside / "2.png")
    (folder / "in.png").symlink_to(folder / "a" / "1.png")
    (folder / "out.png").symlink_to(outside / "2.png")
    (folder / "out").symlink_to(outside)
    (folder / "broken.png").symlink_to("nothing.png")
    (folder / "self.png").symlink_to("self.png")
    (folder / "a" / "round").symlink_to("..")
    (folder / "twice").symlink_to("a")
    (folder / "by way of outside.png").symlink_to(outside / "back.png")
    (outside / "back.png").symlink_to(folder / "a" / "1.png")
    ids, rejects = list_files(folder)
    assert ids == ("a/1.png", "by way of outside.png", "in.png")
    assert dict(rejects) == {
        "a/round": "a link to a folder; its files are read where they lie",
        "broken.png": "a link that leads nowhere",
        "out": "a link that leaves the folder",
        "out.png": "a link that leaves the folder",
        "self.png": "a link that leads nowhere",
        "twice": "a link to a folder; its files are read where they lie",
    }
    assert [name for name, _ in rejects] == sorted(name for name, _ in rejects)


def test_pipes_sockets_and_closed_folders_are_rejected_and_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe.png")
    write(Path("closed/2.png"))
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.png")
        ids, rejects = list_files(".")
    assert ids == ()
    assert rejects == (
        ("closed", "it cannot be read (Permission denied)"),
        ("pipe.png", "not a file"),
        ("socket.png", "not a file"),
    )


@pytest.fixture
def folder(tmp_path):
    """Seven files, of which three are images, and a link that leads nowhere."""
    folder = tmp_path / "folder"
    write(folder / "1.png", 10)
    write(folder / "2.png", (folder / "1.png").read_bytes()[:50])
    write(folder / "3" / "1.png", np.full((9, 5), 20))
    write(folder / "3" / "notes.txt", b"words")
    write(folder / "3" / "empty.gif", b"")
    (folder / "a.png").symlink_to("nothing")
    write(folder / "x.bmp", np.full((1, 1), 30))
    return folder


REJECTS = (
    ("2.png", "damaged or truncated"),
    ("3/empty.gif", "empty (zero bytes)"),
    ("3/notes.txt", NO_IMAGE),
    ("a.png", "a link that leads nowhere"),
)


@pytest.mark.parametrize("in_file, chunk", [(False, 2), (True, 1), (True, 100)])
def test_a_folder_is_read_in_order_and_its_rejects_are_named(folder, tmp_path, monkeypatch, in_file, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    path = tmp_path / "images.npy" if in_file else None
    images, ids, rejects = read_folder(folder, path=path)
    assert ids == ("1.png", "3/1.png", "x.bmp") and rejects == REJECTS
    assert images.shape == (3, 28, 28, 1) and images.dtype == np.uint8
    assert [np.unique(image).tolist() for image in images] == [[10], [20], [30]]
    assert isinstance(images, np.memmap) == in_file
    if in_file:
        assert not images.flags.writeable
        np.testing.assert_array_equal(np.load(path, allow_pickle=False), images)


def test_one_file_in_colour_makes_a_folder_of_colour_if_it_is_looked_at(folder, monkeypatch):
    write(folder / "3" / "z.png", np.full((4, 4, 3), RED))
    images, ids, _ = read_folder(folder)
    assert images.shape == (4, 128, 128, 3)
    assert images[ids.index("3/z.png"), 0, 0].tolist() == RED and images[0, 0, 0].tolist() == [10, 10, 10]
    assert read_folder(folder, channels=1).images.shape == (4, 28, 28, 1)
    assert read_folder(folder, size=9).images.shape == (4, 9, 9, 3)
    monkeypatch.setattr(module, "COLOUR_SAMPLE", 2)  # the first and the last
    assert read_folder(folder).images.shape == (4, 28, 28, 1)


@pytest.mark.parametrize(
    ("tint", "pixels", "channels"),
    [(16, 1024, 1), (17, 1024, 3), (200, 10, 1), (200, 11, 3)],  # 1 % of 32 × 32 is 10.24
)
def test_neither_a_slight_tint_nor_a_speck_is_colour(tmp_path, tint, pixels, channels):
    image = np.full((32 * 32, 3), 50, np.uint8)
    image[:pixels, 2] += tint
    write(tmp_path / "1.png", image.reshape(32, 32, 3))
    assert read_folder(tmp_path).images.shape[3] == channels


def test_a_folder_without_a_readable_image_says_what_is_wrong_with_most(tmp_path):
    with pytest.raises(DatasetError, match=f"none of the 0 files in {tmp_path} is a readable image; add some"):
        load_dataset(tmp_path)
    for name, content in (("1.png", b""), ("2.txt", b"words"), ("3.txt", b"words")):
        write(tmp_path / name, content)
    with pytest.raises(DatasetError, match=r"none of the 3 files .* \(of 2 the reason is: not an image .*\); add some"):
        read_folder(tmp_path)
    write(tmp_path / "only.png")
    with pytest.raises(DatasetError, match=r"holds one readable image \(only.png\), and a search needs two or more"):
        load_dataset(tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no file names that are not UTF-8")
def test_a_name_that_is_not_utf_8_is_read_packed_and_written(tmp_path):
    for name in (b"1.png", b"\xfe.png"):
        write(tmp_path / "folder" / os.fsdecode(name))
    write(tmp_path / "folder" / os.fsdecode(b"\xff.png"), b"words")
    data = pack_folder(tmp_path / "folder", tmp_path / "packed", labels=True)
    assert data.ids == ("1.png", "\udcfe.png") and data.rejects == (("\udcff.png", NO_IMAGE),)
    assert same_dataset(data, load_dataset(tmp_path / "packed"))
    save_rejects(tmp_path / "rejects.csv", [*data.rejects, ("a, b\n.png", 'a "reason"')])
    with open(tmp_path / "rejects.csv", newline="", encoding="utf-8") as file:
        rows = [["file", "reason"], ["\\udcff.png", NO_IMAGE], ["a, b\n.png", 'a "reason"']]
        assert list(csv.reader(file)) == rows


LEVELS_BY_ID = {"a.png": 10, "cats/big/1.png": 20, "cats/small.png": 30, "dogs/9.png": 40}


@pytest.fixture
def pictures(tmp_path):
    """Four images of one grey level each, in folders, and two files that are no images."""
    folder = tmp_path / "pictures"
    for name, level in LEVELS_BY_ID.items():
        write(folder / name, level)
    write(folder / "dogs" / "empty.png", b"")
    write(folder / "notes.txt", b"words")
    return folder


def levels(split):
    return split.images[:, 0, 0, 0].tolist()


def test_in_a_folder_of_images_all_are_database_and_queries(pictures):
    dataset = load_dataset(pictures)
    assert dataset.name == "pictures" and dataset.ids == tuple(LEVELS_BY_ID)
    assert dataset.database.images.shape == (4, 28, 28, 1) and dataset.database.images.dtype == np.uint8
    assert levels(dataset.database) == list(LEVELS_BY_ID.values())
    assert dataset.queries is dataset.database  # no second copy
    assert dataset.own_rows.tolist() == [0, 1, 2, 3] and dataset.own_rows.dtype == np.int64
    assert dataset.database.labels is None and dataset.class_names == ()
    assert dataset.rejects == (("dogs/empty.png", "empty (zero bytes)"), ("notes.txt", NO_IMAGE)) and not dataset.light
    assert is_light(np.pad(np.zeros((1, 26, 26, 1), np.uint8), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=200))
    dataset = load_dataset(str(pictures), labels=True)
    assert dataset.class_names == (".", "cats", "cats/big", "dogs")
    assert dataset.database.labels.tolist() == [0, 2, 1, 3] and dataset.database.labels.dtype == np.int64


def test_of_a_large_folder_some_are_queries_chosen_by_the_hash_of_their_ids(pictures, monkeypatch):
    # The ids' hashes begin with 7f, b3, a9 and 06 (`printf a.png | sha256sum`): all but the second are the least three.
    monkeypatch.setattr(module, "MAX_QUERIES", 3)
    dataset = load_dataset(pictures, labels=True)
    assert dataset.own_rows.tolist() == [0, 2, 3]
    assert levels(dataset.queries) == [10, 30, 40] and levels(dataset.database) == [10, 20, 30, 40]
    assert dataset.queries.labels.tolist() == [0, 1, 3]
    assert load_dataset(pictures).queries.labels is None


def test_the_content_hash_of_a_folder_covers_pixels_size_and_ids_but_neither_labels_nor_format(pictures):
    hashes = [load_dataset(pictures).content_hash, load_dataset(pictures, size=9).content_hash]
    assert load_dataset(pictures, labels=True).content_hash == hashes[0]
    (pictures / "notes.txt").unlink()
    Image.open(pictures / "a.png").save(pictures / "a.bmp")
    (pictures / "a.bmp").replace(pictures / "a.png")
    assert load_dataset(pictures).content_hash == hashes[0]
    (pictures / "a.png").rename(pictures / "b.png")
    hashes.append(load_dataset(pictures).content_hash)
    write(pictures / "b.png", 11)
    hashes.append(load_dataset(pictures).content_hash)
    assert len(set(hashes)) == 4


def test_a_folder_may_hold_a_dataset_json_but_not_be_named_like_a_dataset_or_be_a_file(pictures):
    (pictures / "dataset.json").write_text('{"title": "Pictures"}')
    assert folder_kind(pictures) == "images" and load_dataset(pictures).ids == tuple(LEVELS_BY_ID)
    with pytest.raises(DatasetError, match="a.png is not a folder that can be read .Not a directory"):
        list_files(pictures / "a.png")
    named = pictures.rename(pictures.with_name("shapes"))
    for attempt in (load_dataset, lambda folder: pack_folder(folder, folder.with_name("packed"))):
        with pytest.raises(DatasetError, match="a folder may not be named like a dataset"):
            attempt(named)


def same_dataset(one, other):
    for split in ("database", "queries"):
        np.testing.assert_array_equal(getattr(one, split).images, getattr(other, split).images)
        np.testing.assert_array_equal(getattr(one, split).labels, getattr(other, split).labels)
    np.testing.assert_array_equal(one.own_rows, other.own_rows)
    names = ("name", "class_names", "content_hash", "ids", "rejects")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
    return True


@pytest.mark.parametrize("labels, most", [(False, 4), (True, 3)])
def test_a_packed_folder_is_the_same_dataset(pictures, tmp_path, monkeypatch, labels, most):
    monkeypatch.setattr(module, "MAX_QUERIES", most)
    plain = load_dataset(pictures, size=9, labels=labels)
    made = pack_folder(pictures, tmp_path / "packed", size=9, labels=labels)
    again = load_dataset(tmp_path / "packed")
    assert same_dataset(plain, made) and same_dataset(plain, again)
    for dataset in (made, again):
        assert isinstance(dataset.database.images, np.memmap) and not dataset.database.images.flags.writeable
        assert (dataset.queries is dataset.database) == (most == 4)
    fewer = ["queries.npy"] if most == 3 else []
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["dataset.json", "images.npy", *fewer]
    note = json.loads((tmp_path / "packed" / "dataset.json").read_text())
    assert note["source"] == str(pictures) and note["labelled"] is labels and note["size"] == 9
    assert note["sha256"] == hashlib.sha256((tmp_path / "packed" / "images.npy").read_bytes()).hexdigest()


@pytest.fixture
def readings(monkeypatch):
    """A list that grows whenever a folder's images are read."""
    seen, read_folder = [], module.read_folder

    def counted(*args, **options):
        seen.append(args[0])
        return read_folder(*args, **options)

    monkeypatch.setattr(module, "read_folder", counted)
    return seen


def make_a_file_longer(folder):
    facts = (folder / "a.png").stat()
    with open(folder / "a.png", "ab") as file:
        file.write(b"more")
    os.utime(folder / "a.png", ns=(facts.st_atime_ns, facts.st_mtime_ns))


CHANGES = {
    "nothing": (lambda folder: None, {}, 1),
    "a file renamed": (lambda folder: (folder / "a.png").rename(folder / "b.png"), {}, 2),
    "a file touched": (lambda folder: os.utime(folder / "a.png", ns=(1, 1)), {}, 2),
    "a file longer": (make_a_file_longer, {}, 2),
    "a link broken": (lambda folder: (folder / "link.png").symlink_to("nothing"), {}, 2),
    "another size": (lambda folder: None, {"size": 9}, 2),
    "with labels": (lambda folder: None, {"labels": True}, 2),
}


@pytest.mark.parametrize(("change", "options", "times"), CHANGES.values(), ids=CHANGES)
def test_a_folder_is_packed_anew_only_if_it_or_the_wish_changed(pictures, tmp_path, readings, change, options, times):
    pack_folder(pictures, tmp_path / "packed")
    change(pictures)
    made = pack_folder(pictures, tmp_path / "packed", **options)
    assert len(readings) == times
    assert same_dataset(made, load_dataset(pictures, **options))


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("images.npy", lambda data: data[:-1] + b"\1", "images.npy differs from its hash in dataset.json"),
        ("images.npy", None, "images.npy"),
        ("dataset.json", lambda data: data[:40], ""),
        ("dataset.json", lambda data: data.replace(b'"ids"', b'"idx"'), "dataset.json differs from its own hash"),
        ("dataset.json", lambda data: data.replace(b"a.png", b"b.png"), "dataset.json differs from its own hash"),
        ("dataset.json", lambda data: b"[" * 200_000, "no JSON that can be read"),
        ("dataset.json", lambda data: b"[]", ""),
    ],
)
def test_a_damaged_packed_folder_is_refused_and_made_anew(pictures, tmp_path, file, damage, reason):
    pack_folder(pictures, tmp_path / "packed")
    path = tmp_path / "packed" / file
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=f"packed images are damaged .*{reason}.*; pack the folder again"):
        module.load_packed(tmp_path / "packed")
    assert same_dataset(pack_folder(pictures, tmp_path / "packed"), load_dataset(pictures))
    assert same_dataset(load_dataset(tmp_path / "packed"), load_dataset(pictures))


def test_what_cannot_be_packed_leaves_nothing_behind_and_a_size_comes_too_late(pictures, tmp_path):
    write(tmp_path / "folder" / "only.png")
    with pytest.raises(DatasetError, match="holds one readable image"):
        pack_folder(tmp_path / "folder", tmp_path / "packed")
    assert list((tmp_path / "packed").iterdir()) == []
    pack_folder(pictures, tmp_path / "packed")
    with pytest.raises(DatasetError, match="size and labels are for a folder of images, and .*packed is not one"):
        load_dataset(tmp_path / "packed", size=28)


def test_another_folder_s_images_are_not_packed_over(pictures, tmp_path):
    """Two folders of the same last name have the same run: the second must not replace the first's images."""
    packed = pack_folder(pictures, tmp_path / "packed")
    write(tmp_path / "other" / "pictures" / "1.png")
    write(tmp_path / "other" / "pictures" / "2.png")
    with pytest.raises(DatasetError, match="packed holds the images of .*/pictures, not of .*other/pictures; .*--resu"):
        pack_folder(tmp_path / "other" / "pictures", tmp_path / "packed")
    assert same_dataset(load_dataset(tmp_path / "packed"), packed)
    moved = pictures.rename(tmp_path / "moved")
    assert pack_folder(moved, tmp_path / "packed").content_hash == packed.content_hash


@pytest.mark.skipif(not DATA_HOME, reason="CBIR_DATA_HOME is unset; it names the folder with Omniglot's zip file")
def test_real_omniglot_loads(tmp_path):
    with zipfile.ZipFile(Path(DATA_HOME) / "omniglot_background_small1.zip") as archive:
        archive.extractall(tmp_path)
    dataset = load_dataset(tmp_path / "images_background_small1", labels=True)
    assert dataset.database.images.shape == (2720, 28, 28, 1) and dataset.rejects == () and dataset.light
    assert len(dataset.class_names) == 136 and np.bincount(dataset.database.labels).tolist() == [20] * 136


def test_a_folder_read_by_other_rules_is_packed_anew(pictures, tmp_path, readings, monkeypatch):
    pack_folder(pictures, tmp_path / "packed")
    monkeypatch.setattr(module, "READER", module.READER + 1)
    pack_folder(pictures, tmp_path / "packed")
    assert len(readings) == 2


def test_what_systems_keep_is_left_out_with_its_number(tmp_path):
    write(tmp_path / "a.png")
    for name in ("@eaDir/a.png/thumb.png", "@eaDir/more.png", "b/$RECYCLE.BIN/x.png", "b/c.png"):
        write(tmp_path / name)
    ids, rejects = list_files(tmp_path)
    why = "left out with {} files: a system keeps thumbnails or deleted files there"
    assert ids == ("a.png", "b/c.png")
    assert rejects == (("@eaDir", why.format(2)), ("b/$RECYCLE.BIN", why.format(1)))


def test_the_folder_of_results_is_left_out(tmp_path):
    for name in ("a.png", "b/results/figure.png", "results/b.png"):
        write(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "b" / "results")
    assert list_files(tmp_path, without=tmp_path / "link")[0] == ("a.png", "results/b.png")


def test_folders_of_parts_are_no_classes(tmp_path):
    for number, name in enumerate(("train/cat", "Test/cat", "test/dog/small", "val", "bird", "x/train/cow")):
        write(tmp_path / name / f"{number}.png", number)
    data = load_dataset(tmp_path, labels=True)
    named = {
        Path(i).parent.as_posix(): data.class_names[c] for i, c in zip(data.ids, data.database.labels, strict=True)
    }
    assert named == {
        "train/cat": "cat", "Test/cat": "cat", "test/dog/small": "dog/small", "val": "val", "bird": "bird",
        "x/train/cow": "x/train/cow",
    }  # fmt: skip


def test_no_cell_of_the_rejects_is_a_formula(tmp_path):
    names = ("=1+1.png", "+a.png", "-a.png", "@a.png", "\ta.png", "a=.png")
    save_rejects(tmp_path / "rejects.csv", [(name, "empty") for name in names])
    with open(tmp_path / "rejects.csv", newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)][1:] == [*("'" + name for name in names[:5]), "a=.png"]


@pytest.mark.parametrize("ids", [["a.png", "a.png"], ["a.png"], ["a.png", "../../etc/passwd"], ["a.png", 5]])
def test_ids_that_are_not_those_of_the_images_are_refused(tmp_path, ids):
    for number, name in enumerate(("a.png", "b.png")):
        write(tmp_path / "two" / name, number)
    pack_folder(tmp_path / "two", tmp_path / "packed")
    path = tmp_path / "packed" / "dataset.json"
    note = json.loads(path.read_text()) | {"ids": ids}
    path.write_text(json.dumps(sealed(note)))  # as somebody would who knows the seal
    with pytest.raises(DatasetError, match="packed images are damaged"):
        load_dataset(tmp_path / "packed")
