"""``make test-workshop``: run the participants' notebooks as they are handed out, and see every check say not yet.

Prints the seconds of each, and its slowest cell. Everything is written to ``results/check-workshop``.
"""

import shutil
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from cbir_utils import pipeline
from cbir_utils.workshop import has_tag

FOLDER = Path("results/check-workshop")


def run(path):
    """Run a notebook where it lies, as "run all" does; returns its cells and the seconds of each."""
    notebook = nbformat.read(path, as_version=4)
    started, seconds = {}, {}
    client = NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=lambda cell, cell_index: started.update({cell_index: time.perf_counter()}),
        on_cell_executed=lambda cell, cell_index, execute_reply: seconds.update(
            {cell_index: time.perf_counter() - started[cell_index]}
        ),
    )  # fmt: skip
    client.execute()  # an error of any cell but a check ends it
    return notebook.cells, seconds


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    pipeline.main(["workshop", "--results", str(FOLDER)])
    print("notebook                     seconds   checks   slowest cell")
    for path in sorted((FOLDER / "workshop").glob("*.ipynb")):
        start = time.perf_counter()
        cells, seconds = run(path)
        said = [
            output.get("evalue", output.get("text"))
            for cell in cells
            if has_tag(cell, "check")
            for output in cell.outputs
        ]
        count = sum(has_tag(cell, "check") for cell in cells)
        assert len(said) == count > 0 and all(text.startswith("not yet: ") for text in said), (path.name, said)
        slowest = max(seconds, key=seconds.get)
        first = cells[slowest].source.splitlines()[0]
        print(
            f"{path.stem:<26} {time.perf_counter() - start:9.1f}   {count} not yet   {seconds[slowest]:.1f} s: {first}",
            flush=True,
        )


if __name__ == "__main__":
    main()
