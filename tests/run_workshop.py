"""``make test-workshop``: run the participants' notebooks as they are handed out, and see every check say not yet.

Prints the seconds of each, those of the processor (what other work on the machine does not change much) and the slowest
cell. Everything is written to ``results/check-workshop``.
"""

import os
import shutil
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from cbir_utils.runner import cli
from cbir_utils.runner.workshop import has_tag

FOLDER = Path("results/check-workshop")


def run(path):
    """Run a notebook where it lies, as "run all" does; returns its cells and ``{number of a cell: seconds}``."""
    notebook = nbformat.read(path, as_version=4)
    started, seconds = {}, {}

    def on_start(cell, cell_index):
        started[cell_index] = time.perf_counter()

    def on_end(cell, cell_index, execute_reply):
        seconds[cell_index] = time.perf_counter() - started[cell_index]

    NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=on_start, on_cell_executed=on_end,
        extra_arguments=["--log-level=ERROR"],  # ipykernel warns that it talks to this machine without encryption
    ).execute()  # fmt: skip  # an error of any cell but a check ends it
    return notebook.cells, seconds


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    if cli.main(["workshop", "--results", str(FOLDER)]):
        raise SystemExit("the participants' copies were not written")
    print(f"{'notebook':<26} {'seconds':>8} {'processor':>10}   checks      slowest cell")
    for path in sorted((FOLDER / "workshop").glob("*.ipynb")):
        before, start = os.times(), time.perf_counter()
        cells, seconds = run(path)
        spent, after = time.perf_counter() - start, os.times()
        processor = sum(after[2:4]) - sum(before[2:4])  # of the kernel, which has ended
        checks = [cell for cell in cells if has_tag(cell, "check")]
        said = [output.get("evalue", output.get("text")) for cell in checks for output in cell.outputs]
        if len(said) != len(checks) or not all(text.startswith("not yet: ") for text in said):
            raise SystemExit(f"{path}: an empty exercise did not say not yet, but {said}")
        slowest = max(seconds, key=seconds.get)
        first = cells[slowest].source.splitlines()[0]
        print(f"{path.stem:<26} {spent:8.1f} {processor:10.1f}   {len(said)} not yet  ", end=" ", flush=True)
        print(f"{seconds[slowest]:.1f} s: {first}", flush=True)


if __name__ == "__main__":
    main()
