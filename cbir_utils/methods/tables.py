"""The tables of notebooks 06 and 09."""

from cbir_utils.metrics import markdown_table


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
