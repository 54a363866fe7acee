"""Damaged files, killed processes, full disks, an open door: what happens, counted, in one table (`make test-faults`).

Each file kind is damaged a thousand times (pictures 200 times a format) by a seeded generator: bytes changed, cut off,
doubled, put in. What comes of each is *the same* as before, *one sentence* (an error of our own), *other data*, *a raw
traceback*, or *a hang* of more than ten seconds. Pictures, IDX files and a Milvus file that was not closed have no
checksum, so there other data can be accepted; nowhere else. Then processes are killed at random moments, disks are
full (a tmpfs, where root may mount one), writers and readers work side by side, and the explorer's door is tried.
The table goes to results/bench/faults.md.
"""

import argparse
import errno
import importlib.util
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
import warnings
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from door import attempts
from PIL import Image

from cbir_utils.artifacts.index_files import IndexFileError
from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.datasets import DatasetError
from cbir_utils.folders.files import UnreadableImageError, read_image
from cbir_utils.folders.mnist import read_idx
from cbir_utils.index import Index
from cbir_utils.lessons.tables import markdown_table
from cbir_utils.methods.descriptors import oriented_gradients
from cbir_utils.retrieval.library import add_images
from cbir_utils.retrieval.retriever import Retriever, run_data
from cbir_utils.retrieval.sync import sync
from cbir_utils.run import Run
from cbir_utils.scale.engine import EngineError
from cbir_utils.scale.workers import ShardError

SENTENCES = (ArtifactError, DatasetError, UnreadableImageError, IndexFileError, EngineError, ShardError)
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
OUTCOMES = ("same", "one sentence", "other data", "raw traceback", "hang")
#: A process may take so much; a file of less than a megabyte needs far less.
MEMORY = 4 * 2**30
KINDS = ("pictures", "idx", "run")
SCALE = ("shards", "milvus")  # with the extra scale
SHAPE = (16, 16, 3)
#: What has no checksum.
UNSEALED = ("pictures", "IDX", "Milvus, not closed")


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


def counted(jobs, send, limit):
    """Each of ``(kind, use, expected)`` tried; sends a Counter by kind, the raw errors, and the most memory taken."""
    if limit:
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
    run.save_json("library.json", {"content_hash": data.content_hash, "removed": ["20.png"]})
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


def shards(count):
    """Shards of codes: the encoder is one that hands the pixels on."""
    import keras

    from cbir_utils.scale.shards import encode_shards, load_codes

    rng, folder = random.Random(4), Path(tempfile.mkdtemp())
    keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()]).save(folder / "encoder.keras")
    encode_shards("digits", folder / "encoder.keras", folder / "shards", shard_size=500, workers=1)
    expected = load_codes(folder / "shards")[1]
    for path in sorted((folder / "shards").glob("*.parquet"))[:2]:
        content = path.read_bytes()
        for _ in range(max(1, count // 2)):
            path.write_bytes(damaged(content, rng))
            yield "shard of codes", lambda: load_codes(folder / "shards")[1], expected
        path.write_bytes(content)
    shutil.rmtree(folder)


MILVUS = """
import os, sys, time, numpy as np
from cbir_utils.scale.collection import Collection
index = Collection(sys.argv[1], "codes").add(np.random.default_rng(0).normal(size=(300, 16)).astype("f4"))
if sys.argv[2] == "closed": index.close()
if sys.argv[2] == "flushed": index._client.flush("codes")
time.sleep(1)  # the engine writes its index behind our back; killed meanwhile it leaves an empty one, and says so
os._exit(0)
"""


def milvus(count):
    """Files of the embedded engine: closed, and left by a killed process before and after it wrote its tables."""
    from cbir_utils.scale.collection import Collection

    def found(path):
        with warnings.catch_warnings(action="ignore"), Collection(path, "codes") as index:
            return index.search(np.eye(16, dtype=np.float32), len(index)).ids

    rng, folder = random.Random(5), Path(tempfile.mkdtemp())
    for state in ("closed", "killed", "flushed"):
        made = folder / state / "codes.db"
        made.parent.mkdir()
        subprocess.run([sys.executable, "-c", MILVUS, made, state], check=True)
        names = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file() and path.name != "LOCK")
        expected = found(shutil.copytree(made, folder / "whole.db"))
        shutil.rmtree(folder / "whole.db")
        for number in range(max(1, count // 50)):
            copy = shutil.copytree(made, folder / f"{state}{number}.db")
            file = copy / names[number % len(names)]
            file.write_bytes(damaged(file.read_bytes(), rng))
            yield f"Milvus, {'closed' if state == 'closed' else 'not closed'}", lambda copy=copy: found(copy), expected
            shutil.rmtree(copy)
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


SAVE = """
import sys, numpy as np
from cbir_utils.index import Index
from cbir_utils.run import Run
run = Run("album", sys.argv[1])
codes = run.load_codes("hog")[0]
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    run.keep("hog", codes, codes)
    run.keep_index("hog", Index("cosine").add(codes))
    run.add_rows("metrics.json", [{"method": "hog", "process": sys.argv[2]}], ("method", "process"))
"""

SYNC = """
import sys
from cbir_utils.retrieval.retriever import run_data
from cbir_utils.retrieval.sync import sync
from cbir_utils.run import Run
run = Run("album", sys.argv[1])
data = run_data(run)
print("ready", flush=True)
print(sync(run, data))
"""


def started(code, made, *words):
    """A process that does something to a run, once it is ready to."""
    process = subprocess.Popen([sys.executable, "-c", code, made.results, *words], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def killed(what, times):
    """A process is killed at some moments: what it changed is there afterwards as a whole, or not at all."""
    counts, rng = Counter(), random.Random(3)
    with tempfile.TemporaryDirectory() as folder:
        made = small_run(Path(folder))
        before = len(Retriever(made, run_data(made), "hog"))
        for number in range(times):
            if what == "run":
                words = ["run", "--dataset", str(Path(folder) / "album"), "--to", "01", "--results", str(made.results)]
                process = subprocess.Popen([sys.executable, "-m", "cbir_utils", *words], stdout=subprocess.DEVNULL)
                time.sleep(rng.uniform(0, 6))
            else:
                for n in range(5 * (what == "sync")):
                    pixels = np.random.default_rng([number, n]).integers(0, 255, (28, 28), dtype=np.uint8)
                    Image.fromarray(pixels).save(Path(folder) / "album" / f"new_{number}_{n}.png")
                code, word = {"add": (ADD, str(number)), "save": (SAVE, "1000"), "sync": (SYNC, "")}[what]
                process = started(code, made, word)
                time.sleep(rng.uniform(0, 0.5 if what == "save" else 0.12))
            process.kill()
            process.wait()
            try:
                searched(made)
                more, now = {"add": 20, "sync": 5}.get(what, 0), len(Retriever(made, run_data(made), "hog"))
                counts["none" if now == before else "all" if now == before + more else "other data"] += 1
                if what == "sync":
                    sync(made, run_data(made))
                    now = len(Retriever(made, run_data(made), "hog"))
                    counts["rows lost or doubled"] += abs(now - (32 + 5 * (number + 1)))
                before = now
            except Exception as error:
                print(f"{what} was killed: {type(error).__name__}: {error}")
                counts["raw traceback"] += 1
    return counts


def side_by_side(code, words):
    """Some processes change a run at once while a reader searches: nothing is lost, doubled, or refused."""
    counts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        made = small_run(Path(folder))
        before = len(Retriever(made, run_data(made), "hog").ids)
        running = [started(code, made, word) for word in words]
        while any(process.poll() is None for process in running):
            try:
                searched(made)
                counts["answered"] += 1
            except SENTENCES as error:
                print(f"a reader beside writers: {error}")
                counts["refused"] += 1
        ids = Retriever(made, run_data(made), "hog").ids
        added = 20 * len(words) if code == ADD else 0
        counts["lost"] = abs(before + added - len(set(ids))) + len(ids) - len(set(ids))
        if code == SAVE:
            counts["lost"] += len(words) - len(made.load_json("metrics.json"))
    return counts


def full_disk(times):
    """Images are added and an index saved on a disk that is full sooner or later; ``None`` if none can be mounted."""
    counts, rng = Counter(), random.Random(6)
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
            return None
        try:
            made = small_run(disk)
            data = run_data(made)
            for number in range(times):
                before, ids = searched(made)[:, :1], set(Retriever(made, data, "hog").ids)
                room = shutil.disk_usage(disk).free - rng.randrange(0, 200_000)
                (disk / "ballast").write_bytes(b"x" * max(0, room))
                images = np.random.default_rng(number).integers(0, 255, (3, 28, 28, 1), dtype=np.uint8)
                new = [f"{number}_{n}.png" for n in range(3)]
                try:
                    add_images(made, data, images, new)
                    made.keep_index("hog", Index("cosine").add(made.load_codes("hog")[0]))
                    counts["done"] += 1
                except (*SENTENCES, OSError) as error:  # the command line prints an OSError as a sentence, too
                    full = not isinstance(error, OSError) or error.errno == errno.ENOSPC
                    counts["one sentence" if full else "raw traceback"] += 1
                (disk / "ballast").unlink()
                now = set(Retriever(made, data, "hog").ids)
                whole = now in (ids, ids | set(new)) and np.array_equal(searched(made)[:, :1], before)
                counts["lost"] += not whole
                for path in made.folder.glob("added/*.npz"):  # so that the disk does not fill up by itself
                    path.unlink()
        finally:
            subprocess.run(["umount", "-l", disk], check=True)
    return counts


def door():
    """The attempts of tests/door.py on the explorer of a small run, and the server's memory before and after."""
    with tempfile.TemporaryDirectory() as folder:
        made = small_run(Path(folder))
        words = ["app", "--results", str(made.folder), "--port", "8867"]
        server = subprocess.Popen([sys.executable, "-m", "cbir_utils", *words], stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().split()[-1]
            before = memory_of(server)
            return [*attempts(address)], before, memory_of(server)
        finally:
            server.terminate()
            server.wait()


def memory_of(process):
    """Megabytes of a process."""
    told = subprocess.run(["ps", "-o", "rss=", "-p", str(process.pid)], capture_output=True, text=True).stdout
    return int(told) / 1024


def damage(count):
    """The counts of each kind of damaged file, the raw errors, and the most memory of each process."""
    rows, peaks, raw = {}, [], Counter()
    scale = all(map(importlib.util.find_spec, ("ray", "milvus_lite")))
    for kind in (*KINDS, *(SCALE if scale else ())):  # each in a process of its own, so that a crash is seen
        context = multiprocessing.get_context("spawn" if kind in SCALE else "fork")
        receive, send = context.Pipe(False)
        process = context.Process(target=_child, args=(kind, count, send))
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
    return rows, raw, peaks


def main(count):
    start = time.time()
    rows, raw, peaks = damage(count)
    lines = [[name, str(sum(c.values())), *(str(c[o]) for o in OUTCOMES)] for name, c in rows.items()]
    tables = [markdown_table(["damaged file", "tried", *OUTCOMES], lines)]
    kills = {what: killed(what, 20) for what in ("add", "sync", "save", "run")}
    columns = ("none", "all", "other data", "rows lost or doubled", "raw traceback")
    lines = [[what, str(c["none"] + c["all"] + c["other data"] + c["raw traceback"]), *(str(c[o]) for o in columns)]
             for what, c in kills.items()]  # fmt: skip
    tables.append(markdown_table(["killed while it does", "times", *columns], lines))
    beside = {"add 20 images": side_by_side(ADD, "0123"), "save 30 times": side_by_side(SAVE, ["30", "31", "32", "33"])}
    lines = [[what, *(str(c[o]) for o in ("answered", "refused", "lost"))] for what, c in beside.items()]
    tables.append(markdown_table(["four at once", "a reader: answered", "refused", "rows lost"], lines))
    tries, before, after = door()
    lines = [[what, answer, "yes" if right else "NO"] for what, answer, right in tries]
    tables.append(markdown_table(["attempt on the explorer", "answer", "right"], lines))
    full = full_disk(50)
    disks = "No disk could be mounted to be filled." if full is None else (
        f"On a full disk (50 sizes of room) images were added and an index saved: {full['done']} times done, "
        f"{full['one sentence']} times one sentence, {full['raw traceback']} raw tracebacks, {full['lost']} times "
        "something else was lost.")  # fmt: skip
    where = f"Most memory of a process: {'; '.join(peaks)}. {datetime.now(UTC).date()}, {os.cpu_count()} cores."
    visits = f"{before:,.0f} MB before these visits and {after:,.0f} MB after (the first search loads Numba)"
    more = f"{disks} The explorer's server took {visits}. {where}"
    text = "\n\n".join([*tables, textwrap.fill(more, 120)]) + "\n"
    folder = Path("results/bench")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.md").write_text(text)
    print(text)
    for error, times in raw.most_common(20):
        print(f"{times:>5}  {error}")
    print(f"{time.time() - start:.0f} s")
    accepted = sum(c["other data"] for name, c in rows.items() if not name.startswith(UNSEALED))
    bad = sum(c["raw traceback"] + c["hang"] for c in rows.values())
    bad += sum(c["other data"] + c["rows lost or doubled"] + c["raw traceback"] for c in kills.values())
    bad += sum(c["refused"] + c["lost"] for c in beside.values()) + sum(not right for *_, right in tries)
    bad += 0 if full is None else full["raw traceback"] + full["lost"]
    return int(bool(accepted + bad))


def _child(kind, count, send):
    jobs = {"pictures": pictures, "idx": idx, "run": run, "shards": shards, "milvus": milvus}[kind]
    counted(lambda: jobs(count), send, limit=kind not in SCALE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="times that each kind is damaged (1000)")
    sys.exit(main(parser.parse_args().count))
