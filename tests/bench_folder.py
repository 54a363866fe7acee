"""Reading a folder of many small image files: seconds and peak memory, each way in a process of its own.

Half of the PNG files are grey and half in colour, of 20 to 60 pixels. Nothing is asserted.
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

from cbir_utils.datasets import load_dataset
from cbir_utils.folders.folder import pack_folder, read_folder

WAYS = {
    "read_folder": lambda folder, target: read_folder(folder).images,
    "pack_folder": lambda folder, target: pack_folder(folder, target).database.images,
    "pack_folder again": lambda folder, target: pack_folder(folder, target).database.images,
    "load_dataset, packed": lambda folder, target: load_dataset(target).database.images,
}


def measure(name, folder, target):
    start = time.perf_counter()
    images = WAYS[name](folder, target)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"  {name:<22} {seconds:8.1f} s {peak:8,.0f} MB at most   {images.shape}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="number of files (100,000)")
    count, rng = parser.parse_args().count, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder, target = Path(temporary, "images"), Path(temporary, "packed")
        for number in range(count):
            path = folder / f"{number // 1000:04}" / f"{number:06}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (*rng.integers(20, 61, 2), 3), dtype=np.uint8)
            Image.fromarray(pixels[..., 0] if number % 2 else pixels).save(path, compress_level=1)
        for name in WAYS:  # a fork would begin with this process's memory
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(name, folder, target))
            process.start()
            process.join()
