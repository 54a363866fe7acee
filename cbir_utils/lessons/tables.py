"""Tables in Markdown: of results, of the kinds of autoencoder, of binary codes."""


def markdown_table(header, lines):
    """A header and lines of texts as a Markdown table, columns aligned.

    >>> print(markdown_table(["method", "mAP"], [["pixels", ".436"]]))
    | method | mAP  |
    | ------ | ---- |
    | pixels | .436 |
    """
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def results_table(rows):
    """The rows of ``metrics.json`` as a Markdown table, columns aligned; a dash where a ranking is too short."""
    names = ("P@1", "P@5", "P@100", "R-precision")
    lines = []
    for row in rows:
        numbers = [f"{row[name]:.3f}" if name in row else "–" for name in names]
        quality = "{:.3f} [{:.3f}, {:.3f}]".format(row["mAP"], *row["mAP_interval"])
        seconds = f"{row['train_seconds']:.0f}" if row.get("train_seconds") else "–"
        lines.append([row["method"], row["distance"], *numbers, quality, str(len(row["seeds"])), seconds])
    return markdown_table(["method", "distance", *names, "mAP [95 % interval]", "seeds", "training (s)"], lines)


def family_table(rows):
    """What notebook 06's methods cost and are worth, best first, as Markdown; a dash where a ranking is too short."""
    names = ("P@1", "P@5", "P@100", "R-precision")
    costs = ["weights", "bytes/image", "training (s)", "recon. error", "collapsed"]
    lines = []
    for row in sorted(rows, key=lambda row: -row["mAP"]):
        precisions = [f"{row[name]:.3f}" if name in row else "–" for name in names]
        quality = "{:.3f} [{:.3f}, {:.3f}]".format(row["mAP"], *row["mAP_interval"])
        error = "–" if row["reconstruction_error"] is None else f"{row['reconstruction_error']:.4f}"
        collapsed = f"{row['collapsed']} of {row['trainings']}" if row["weights"] else "–"
        sizes = [f"{row['weights']:,}", f"{row['bytes_per_image']:,}", f"{row['train_seconds']:.0f}"]
        lines.append([row["method"], *precisions, quality, *sizes, error, collapsed])
    return markdown_table(["method", *names, "mAP [95 % interval]", *costs], lines)


def binary_table(rows):
    """The mAP of binary codes beside the float codes they were made of, as a Markdown table: a line per method."""
    lines = [["method", "16 bits", "32 bits", "64 bits", "float32", "bytes/image of float32"]]
    for method in dict.fromkeys(row["method"] for row in rows):
        these = {row["bits"]: row for row in rows if row["method"] == method}
        lines.append([method, *(f"{these[bits]['mAP']:.3f}" for bits in (16, 32, 64, 0)),
                      f"{these[0]['bytes_per_image']:,}"])  # fmt: skip
    return markdown_table(lines[0], lines[1:])
