"""``make site``: the notebooks with their stored outputs, the report and an explorer, as pages that need no server.

Everything is made from the committed notebooks and from the run in results/digits. The pages are in results/site/pages;
index.html opens from the disk.
"""

import json
import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
from sphinx.cmd.build import main as sphinx

from cbir_utils.datasets import load_dataset
from cbir_utils.folders.files import data_url
from cbir_utils.models import keras
from cbir_utils.paper.report import write_report
from cbir_utils.run import Run
from cbir_utils.training import load_model

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
SITE = ROOT / "results" / "site"

INDEX = """\
# Label-free image retrieval with autoencoders

An autoencoder learns, without any label, to describe each image by a short code. A query returns the images with the
nearest codes. These are the lessons as they ran on the bundled handwritten digits. Some of their figures move.

- [Draw a digit and see its hits](explorer.html): the paper's network runs in this page.
- [The report on the paper](report.html): every claim, figure and equation, with a verdict.

```{{toctree}}
:maxdepth: 1
:caption: Lessons

{lessons}
```

```{{toctree}}
:maxdepth: 1
:caption: More

teaching
results
```
"""


def write_sources(source):
    """The pages before Sphinx: notebooks, tables, their pictures, and what is copied as it is."""
    (source / "extra").mkdir(parents=True)
    shutil.copy(HERE / "conf.py", source)
    lessons = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for path in lessons:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace("../RESULTS.md", "results.md").replace("](README.md", "](teaching.md")
            else:
                cell.outputs = [output for output in cell.outputs if not needs_a_kernel(output)]
                tags = cell.metadata.setdefault("tags", [])
                tags += ["hide-input"] * bool({"solution", "check"} & set(tags))
        nbformat.write(notebook, source / path.name)
    for page, name in ((ROOT / "notebooks" / "README.md", "teaching.md"), (ROOT / "RESULTS.md", "results.md")):
        (source / name).write_text(page.read_text().replace("](notebooks/", "]("))
    shutil.copytree(ROOT / "notebooks" / "pictures", source / "pictures")
    (source / "index.md").write_text(INDEX.format(lessons="\n".join(path.stem for path in lessons)))


def needs_a_kernel(output):
    """Whether an output is a widget, of which a page without a kernel could only show the name."""
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def explorer(run, data):
    """The page on which one draws: the paper's encoder as numbers, the database's codes, its images in one sheet."""
    encoder = load_model(run.checked_path("convolutional/encoder.keras"))
    weights = [
        [part.tolist() for part in (kernel.round(5), bias.round(5))]
        for kernel, bias in (
            [keras.ops.convert_to_numpy(w) for w in layer.weights] for layer in encoder.layers if layer.weights
        )
    ]
    codes, images = run.load_codes("convolutional")[0], data.database.images[..., 0]
    step, columns = float(codes.max()) / 255, 40
    lines = -(-len(images) // columns)
    sheet = np.zeros((lines * columns, 28, 28), np.uint8)
    sheet[: len(images)] = images
    sheet = sheet.reshape(lines, columns, 28, 28).swapaxes(1, 2).reshape(lines * 28, columns * 28)
    facts = {
        "weights": weights,
        "step": step,
        "codes": data_url(np.rint(codes / step).astype(np.uint8)[..., None]),  # a PNG, one line for each image
        "sheet": data_url(sheet[..., None]),
        "columns": columns,
        "count": len(images),
        "names": [data.class_names[label] for label in data.database.labels],
    }
    return (HERE / "explorer.html").read_text().replace("{{ facts }}", json.dumps(facts, separators=(",", ":")))


def main(results=ROOT / "results", site=SITE):
    """Write the site; the exit status is Sphinx's, which fails at a page that it cannot read."""
    shutil.rmtree(site, ignore_errors=True)
    source, run, data = site / "source", Run("digits", results), load_dataset("digits")
    run.same_data(data.content_hash)
    write_sources(source)
    (source / "extra" / "explorer.html").write_text(explorer(run, data))
    shutil.copy(write_report(run)[0], source / "extra" / "report.html")
    status = sphinx(["-q", "-W", "--keep-going", "-b", "html", str(source), str(site / "pages")])
    if status == 0:
        print(f"open {site / 'pages' / 'index.html'} in a browser")
    return status


if __name__ == "__main__":
    sys.exit(main())
