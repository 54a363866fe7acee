"""Reading a folder of many small image files: seconds and peak memory, each way in a process of its own.

Half of the files are grey and half in colour, of several sizes, all PNG. Speed and memory are measured here and
asserted nowhere.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cbir_utils.datasets import load_dataset, pack_folder
from cbir_utils.folders.folder import read_folder

SEED, PER_FOLDER = 0, 1_000


def make_files(folder, count):
    """Write ``count`` PNG files of 20 to 60 pixels, 1,000 to a folder."""
    rng = np.random.default_rng(SEED)
    for number in range(count):
        if number % PER_FOLDER == 0:
            (folder / f"{number // PER_FOLDER:04}").mkdir()
        height, width = rng.integers(20, 61, 2)
        shape = (height, width) if number % 2 else (height, width, 3)
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        image.save(folder / f"{number // PER_FOLDER:04}" / f"{number:06}.png", compress_level=1)


def measure(name, folder, target, size):
    """Run one way and print what it took."""
    ways = {
        "read_folder": lambda: read_folder(folder, size=size).images,
        "pack_folder": lambda: pack_folder(folder, target, size=size).database.images,
        "pack_folder again": lambda: pack_folder(folder, target, size=size).database.images,
        "load_dataset, packed": lambda: load_dataset(target).database.images,
    }
    start = time.perf_counter()
    images = ways[name]()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"  {name:<22} {seconds:8.1f} s {peak:8,.0f} MB at most   {images.shape}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="number of files (100,000)")
    parser.add_argument("--size", type=int, help="side that they are fitted to (32, the default for colour)")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")  # a fork would begin with this process's memory
    with tempfile.TemporaryDirectory() as temporary:
        folder, target = Path(temporary, "images"), Path(temporary, "packed")
        folder.mkdir()
        start = time.perf_counter()
        make_files(folder, arguments.count)
        print(f"{arguments.count:,} files (made in {time.perf_counter() - start:.0f} s)", flush=True)
        for name in ("read_folder", "pack_folder", "pack_folder again", "load_dataset, packed"):
            process = context.Process(target=measure, args=(name, folder, target, arguments.size))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
