"""A run that follows its folder: what is new, changed, renamed, gone and removed."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.folders.folder import pack_folder
from cbir_utils.retrieval.library import add_folder
from cbir_utils.retrieval.retriever import Retriever, run_data
from cbir_utils.retrieval.sync import Synced, remove, sync
from cbir_utils.run import Run

QUIET = Synced(0, 0, 0, 0, False)


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 100, (28, 28), dtype=np.uint8)).save(path)


@pytest.fixture
def album(tmp_path):
    """A folder of ten pictures and its run, packed as the command line does it."""
    folder = tmp_path / "album"
    for number in range(10):
        draw(folder / f"{number}.png", number)
    run = Run("album", tmp_path / "results")
    data = pack_folder(folder, run.path("dataset"))
    run.belongs_to(folder, data.content_hash)
    return run, run_data(run), folder


def first(run, data, path):
    """The id that a file finds, and its distance."""
    from cbir_utils.folders.files import read_image

    retriever = Retriever(run, data, "pixels")
    (distance,), (row,) = (part[0] for part in retriever.search(read_image(path, (28, 28, 1))[None], 1))
    return retriever.ids[row], round(float(distance), 3)


def test_new_changed_renamed_and_gone_files_and_then_nothing(album):
    run, data, folder = album
    assert sync(run, data) == QUIET
    draw(folder / "new.png", 20)
    draw(folder / "1.png", 21)
    (folder / "2.png").rename(folder / "renamed.png")
    (folder / "3.png").unlink()
    (folder / "bad.png").write_bytes(b"\x89PNG")
    assert sync(run, data) == Synced(2, 1, 1, 1, False)
    for name in ("new.png", "1.png", "renamed.png", "0.png"):
        assert first(run, data, folder / name) == (name, 0.0)
    assert len(Retriever(run, data)) == 10
    assert sync(run, data) == QUIET._replace(rejects=1)


def test_a_file_that_comes_back_is_found_again(album):
    run, data, folder = album
    (folder / "3.png").unlink()
    assert sync(run, data).gone == 1
    draw(folder / "3.png", 3)
    assert sync(run, data).added == 0
    assert first(run, data, folder / "3.png") == ("3.png", 0.0) and len(Retriever(run, data)) == 10


def test_two_files_change_places(album):
    run, data, folder = album
    os.rename(folder / "4.png", folder / "x")
    os.rename(folder / "5.png", folder / "4.png")
    os.rename(folder / "x", folder / "5.png")
    sync(run, data)
    for name in ("4.png", "5.png"):
        assert first(run, data, folder / name) == (name, 0.0)
    assert len(Retriever(run, data)) == 10


def test_a_removed_image_stays_out_and_its_file_stays(album):
    run, data, folder = album
    remove(run, data, ["6.png"])
    assert first(run, data, folder / "6.png")[0] != "6.png"
    assert sync(run, data) == QUIET and len(Retriever(run, data)) == 9
    assert (folder / "6.png").exists()
    with pytest.raises(ArtifactError, match="no image 'nothing.png'"):
        remove(run, data, ["nothing.png"])


def test_what_several_remove_at_once_stays_removed(album):
    run, data, _ = album
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: remove(run, data, [f"{number}.png"]), range(8)))
    assert len(Retriever(run, data)) == 2


def test_images_of_another_folder_stay(album, tmp_path):
    run, data, folder = album
    draw(tmp_path / "other" / "a.png", 30)
    add_folder(run, data, tmp_path / "other")
    assert sync(run, data) == QUIET
    assert first(run, data, tmp_path / "other" / "a.png") == ("other/a.png", 0.0)


def test_much_change_is_told_and_a_run_without_a_folder_refused(album, tmp_path):
    run, data, folder = album
    for number in range(4):
        (folder / f"{number}.png").unlink()
    assert sync(run, data).much
    other = Run("digits", tmp_path / "results")
    other.record(source="digits", content_hash=data.content_hash)
    with pytest.raises(ArtifactError, match="not made from a folder"):
        sync(other, data)
