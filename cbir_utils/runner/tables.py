"""The measured tables in RESULTS.md and README.md, written from results/ by one command."""

import re
from pathlib import Path

from cbir_utils.artifacts.files import atomic_path
from cbir_utils.lessons.tables import binary_table, family_table, markdown_table, results_table
from cbir_utils.run import Run

#: The tables of one dataset: the artifact that each comes from, and the function that draws it.
TABLES = {
    "results": ("metrics.json", results_table),
    "autoencoders": ("autoencoders.json", family_table),
    "binary": ("binary_codes.json", binary_table),
}

#: The rows of README's table, cosine distance, and what they are.
SUMMARY = {
    "pixels": "raw pixels, nothing learned",
    "convolutional": "the paper's network",
    "denoising": "the best other autoencoder (denoising)",
    "hog": "HOG, a descriptor without training",
    "hog, matched": "HOG, looked at twice, and a map: no network",
    "matched": "**a network that learned from that map, looked at twice**",
}


def update_tables(page, results):
    """Write the tables of a page anew, between ``<!-- KIND NAME -->`` and ``<!-- end -->``, from ``results/``.

    KIND is ``results``, ``autoencoders`` or ``binary``, with a dataset's name; ``summary``, with the names of two; or
    ``bench``, with that of ``results/bench/NAME.md``. A block without results is left as it is. Returns what was
    written, as texts ``KIND NAME``.
    """
    written = []

    def fill(match):
        table = _table(match[1], match[2].split(), Path(results))
        if table is None:
            return match[0]
        written.append(f"{match[1]} {match[2]}")
        return f"<!-- {match[1]} {match[2]} -->\n{table}\n<!-- end -->"

    pattern = rf"<!-- ({'|'.join(TABLES)}|summary|bench) ([\w ]+) -->\n.*?<!-- end -->"
    text = re.sub(pattern, fill, page.read_text(), flags=re.S)
    with atomic_path(page) as partial:
        partial.write_text(text)
    return written


def _table(kind, names, results):
    """One table as Markdown, or ``None`` where what it comes from does not exist."""
    if kind == "bench":
        measured = results / "bench" / f"{names[0]}.md"
        return measured.read_text().strip() if measured.exists() else None
    runs, (artifact, draw) = [Run(name, results) for name in names], TABLES.get(kind, TABLES["results"])
    if not all(run.path(artifact).exists() for run in runs):
        return None
    tables = [run.load_json(artifact) for run in runs]
    if kind == "summary":
        return _summary(names, tables)
    rows, machine, packages = tables[0], runs[0].manifest["machine"], runs[0].manifest["packages"]
    protocol = re.sub(r"; seeds? [\d, ]+\.$", ".", rows[0]["protocol"])  # the seeds differ from row to row
    measured = f"{protocol} Measured {max(row['measured'] for row in rows)}"
    where = f"{machine['system']} {machine['architecture']}, {machine['cores']} cores"
    return f"{draw(rows)}\n\n{measured}, {where}, TensorFlow {packages['tensorflow']}."


def _summary(names, tables):
    """P@1, P@5 and mAP of a few methods on several datasets."""
    rows = [{row["method"]: row for row in table if row["distance"] == "cosine"} for table in tables]
    metrics = ("P@1", "P@5", "mAP")
    lines = [
        [text, *(f"{row[method][metric]:.3f}" if method in row else "–" for row in rows for metric in metrics)]
        for method, text in SUMMARY.items()
    ]
    return markdown_table(["codes", *(f"{name} {metric}" for name in names for metric in metrics)], lines)
