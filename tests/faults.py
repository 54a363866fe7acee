"""Damaged files, killed processes, writers side by side: what happens, counted, in one table (`make test-faults`).

Each file kind is damaged a thousand times (pictures 200 times a format) by a seeded generator: bytes changed, cut off,
doubled, put in. What comes of each is *the same* as before, *one sentence* (an error of our own), *other data*, *a raw
traceback*, or *a hang* of more than ten seconds. Pictures, IDX files and the manifest itself have no checksum, so there
other data can be accepted; nowhere else. The table goes to results/bench/faults.md.
"""

import argparse
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from cbir_utils.datasets import DatasetError
from cbir_utils.folders.files import UnreadableImageError, read_image
from cbir_utils.folders.mnist import read_idx
from cbir_utils.index import Index, IndexFileError
from cbir_utils.methods.descriptors import oriented_gradients
from cbir_utils.metrics import markdown_table
from cbir_utils.retrieval.library import add_images
from cbir_utils.retrieval.retriever import Retriever, run_data
from cbir_utils.run import Run
from cbir_utils.store import ArtifactError

SENTENCES = (ArtifactError, DatasetError, UnreadableImageError, IndexFileError)
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
OUTCOMES = ("same", "one sentence", "other data", "raw traceback", "hang")
#: A process may take so much; a file of less than a megabyte needs far less.
MEMORY = 4 * 2**30
KINDS = ("pictures", "idx", "run")
SHAPE = (16, 16, 3)
#: What has no checksum.
UNSEALED = ("pictures", "IDX", "manifest.json")


def damaged(content, rng):
    """The bytes with one to four faults: bytes changed, a piece cut off, doubled or put in."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content) + 1)
        what = rng.randrange(5)
        if what == 0 and content:
            content[place % len(content)] = rng.randrange(256)
        elif what == 1:
            del content[place:]
        elif what == 2:
            del content[place : place + rng.randint(1, 40)]
        elif what == 3:
            content[place:place] = content[place : place + rng.randint(1, 40)]
        else:
            content[place:place] = rng.randbytes(rng.randint(1, 40))
    return bytes(content)


class Hang(BaseException):
    """A case took more than ten seconds."""


def outcome(use, expected):
    """What comes of ``use()``, and the type of an error that is not ours."""

    def ring(*_):
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(10)
    try:
        found = use()
        return ("same" if expected is not None and np.array_equal(found, expected) else "other data"), None
    except SENTENCES as error:
        return ("one sentence" if "\n" not in str(error).strip() else "raw traceback"), None
    except Hang:
        return "hang", None
    except Exception as error:
        return "raw traceback", f"{type(error).__name__}: {str(error)[:80]}"
    finally:
        signal.alarm(0)


def counted(jobs, send):
    """Each of ``(kind, use, expected)`` tried; sends a Counter by kind, the raw errors, and the most memory taken."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counts, raw = {}, Counter()
    for kind, use, expected in jobs():
        found, error = outcome(use, expected)
        counts.setdefault(kind, Counter())[found] += 1
        if error:
            raw[f"{kind}: {error}"] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    send.send((counts, raw, peak))


def pictures(count):
    rng = random.Random(0)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 30, 3), dtype=np.uint8))
    for form in FORMATS:
        buffer = io.BytesIO()
        image.save(buffer, form)
        content = buffer.getvalue()
        expected = read_image(content, SHAPE)
        for _ in range(max(1, count // 5)):
            broken = damaged(content, rng)
            yield f"pictures, {form}", lambda broken=broken: read_image(broken, SHAPE), expected


def idx(count):
    rng, folder = random.Random(1), Path(tempfile.mkdtemp())
    array = np.arange(600, dtype=np.uint8).reshape(6, 10, 10)
    content = b"\0\0\x08\3" + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    for _ in range(count):
        (folder / "x").write_bytes(damaged(content, rng))
        yield "IDX", lambda: read_idx(folder / "x"), array
    shutil.rmtree(folder)


def small_run(folder):
    """A run of a small folder of pictures: packed, with codes, an index, images added later and notes."""
    pictures, rng = folder / "album", np.random.default_rng(0)
    pictures.mkdir()
    for number in range(30):
        Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(pictures / f"{number:02}.png")
    from cbir_utils.folders.folder import pack_folder

    run = Run("album", folder / "results")
    data = pack_folder(pictures, run.path("dataset"))
    run.belongs_to(pictures, data.content_hash)
    codes = oriented_gradients(data.database.images)
    run.keep("hog", codes, codes)
    run.keep_index("hog", Index("cosine").add(codes))
    add_images(run, data, data.database.images[:3] // 2, ["x.png", "y.png", "z.png"])
    run.save_json("library.json", {"content_hash": data.content_hash, "removed": ["03.png"]})
    return run


def searched(run):
    """What a search of the run finds, by its images and by its kept index."""
    data = run_data(run)
    retriever = Retriever(run, data, "hog")
    hits = retriever.search(data.queries.images[:4], 20)
    kept = Index.load(run.checked_path("hog/index.faiss")).search(run.load_codes("hog")[0][:4], 20)
    return np.concatenate([hits.ids, kept.ids])


def run(count):
    rng, folder = random.Random(2), Path(tempfile.mkdtemp())
    made = small_run(folder)
    expected = searched(made)
    names = [str(path.relative_to(made.folder)) for path in made.folder.rglob("*") if path.is_file()]
    for name in sorted(n for n in names if ".lock" not in n and "queries" not in n):
        path = made.path(name)
        content = path.read_bytes()
        for _ in range(count if path.suffix == ".json" or "index" in name else max(1, count // 5)):
            path.write_bytes(damaged(content, rng))
            yield name, lambda: searched(made), expected
        path.write_bytes(content)
    shutil.rmtree(folder)


ADD = """
import sys, numpy as np
from cbir_utils.run import Run
from cbir_utils.retrieval.library import add_images
from cbir_utils.retrieval.retriever import run_data
run = Run("album", sys.argv[1])
data = run_data(run)
images = np.random.default_rng(int(sys.argv[2])).integers(0, 255, (20, 28, 28, 1), dtype=np.uint8)
print("ready", flush=True)
print(len(add_images(run, data, images, [f"{sys.argv[2]}_{n}.png" for n in range(20)])), flush=True)
"""


def killed(times):
    """A process that adds 20 images is killed at some moment: all of them are there afterwards, or none."""
    counts, rng = Counter(), random.Random(3)
    with tempfile.TemporaryDirectory() as folder:
        made = small_run(Path(folder))
        before = searched(made).shape[0] and len(Retriever(made, run_data(made), "hog").ids)
        for number in range(times):
            process = subprocess.Popen([sys.executable, "-c", ADD, made.results, str(number)], stdout=subprocess.PIPE)
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.12))
            process.kill()
            process.wait()
            try:
                now = len(Retriever(made, run_data(made), "hog").ids)
                counts["same" if now == before else "all added" if now == before + 20 else "other data"] += 1
                before = now
            except Exception as error:
                print(f"killed: {type(error).__name__}: {error}")
                counts["raw traceback"] += 1
    return counts


def side_by_side(writers):
    """Some processes add 20 images each at once, while a reader searches: none is lost, doubled, or refused."""
    counts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        made = small_run(Path(folder))
        before = len(Retriever(made, run_data(made), "hog").ids)
        command = [sys.executable, "-c", ADD, made.results]
        running = [subprocess.Popen([*command, str(n)], stdout=subprocess.DEVNULL) for n in range(writers)]
        while any(process.poll() is None for process in running):
            try:
                searched(made)
                counts["same"] += 1
            except SENTENCES as error:
                print(f"a reader beside writers: {error}")
                counts["one sentence"] += 1
        ids = Retriever(made, run_data(made), "hog").ids
        lost = before + 20 * writers - len(set(ids))
        counts["rows lost or doubled"] = abs(lost) + len(ids) - len(set(ids))
    return counts


def main(count):
    start, rows, peaks, raw = time.time(), {}, [], Counter()
    for kind in KINDS:  # each in a process of its own, so that memory is told apart and a crash is seen
        receive, send = multiprocessing.get_context("fork").Pipe(False)
        process = multiprocessing.get_context("fork").Process(target=_child, args=(kind, count, send))
        process.start()
        found = None
        with suppress(EOFError):
            send.close()
            found = receive.recv()
        process.join()
        if found is None:
            print(f"{kind}: the process died with {process.exitcode}")
            rows[kind] = Counter({"raw traceback": 1})
            continue
        rows |= found[0]
        raw += found[1]
        peaks.append(f"{kind} {found[2]:,.0f} MB")
    kills, beside = killed(20), side_by_side(4)
    lines = [[name, str(sum(c.values())), *(str(c[o]) for o in OUTCOMES)] for name, c in rows.items()]
    table = markdown_table(["damaged file", "tried", *OUTCOMES], lines)
    more = (
        f"A process that adds 20 images was killed at {sum(kills.values())} moments: {kills['all added']} times all "
        f"were added, {kills['same']} times none. Four processes added 20 images each at once, beside a reader: it was "
        f"answered {beside['same']} times and refused {beside['one sentence']} times; "
        f"{beside['rows lost or doubled']} rows were lost or doubled."
    )
    where = f"Most memory of a process: {'; '.join(peaks)}. {datetime.now(UTC).date()}, {os.cpu_count()} cores."
    text = f"{table}\n\n" + textwrap.fill(f"{more} {where}", 120) + "\n"
    folder = Path("results/bench")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.md").write_text(text)
    print(text)
    for error, times in raw.most_common(20):
        print(f"{times:>5}  {error}")
    print(f"{time.time() - start:.0f} s")
    accepted = sum(c["other data"] for name, c in rows.items() if not name.startswith(UNSEALED))
    bad = sum(c["raw traceback"] + c["hang"] for c in (*rows.values(), kills)) + kills["other data"]
    return int(bool(accepted + bad + beside["rows lost or doubled"] + beside["one sentence"]))


def _child(kind, count, send):
    counted(lambda: {"pictures": pictures, "idx": idx, "run": run}[kind](count), send)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="times that each kind of file is damaged (1000)")
    sys.exit(main(parser.parse_args().count))
