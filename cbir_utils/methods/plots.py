"""The figures of notebooks 06 to 09."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from cbir_utils.methods.manifold import before_gap
from cbir_utils.names import plain
from cbir_utils.plots import BLUE, CLASS_COLOURS, GREY, ORANGE

#: How the lines of several methods differ.
LOOKS = [
    {"color": colour, "linestyle": line, "marker": marker}
    for colour, line, marker in zip(CLASS_COLOURS, ("-", "--", "-.", ":", "-"), "osD^v", strict=False)
]


def reconstruction_against_retrieval(ax, rows):
    """The reconstruction error of each method against its mAP."""
    errors, quality = ([row[name] for row in rows] for name in ("reconstruction_error", "mAP"))
    for row, x, y in zip(rows, errors, quality, strict=True):
        ax.plot([x], [y], "X" if row["collapsed"] else "o", color=ORANGE if row["collapsed"] else BLUE, markersize=9)
        ax.annotate(row["method"], (x, y), (6, 5), textcoords="offset points", fontsize=11)
    ax.margins(x=0.2, y=0.15)
    ax.set(xlabel="reconstruction error on queries (mean squared)", ylabel="mAP")
    sharpest, best = rows[int(np.argmin(errors))]["method"], rows[int(np.argmax(quality))]["method"]
    verdict = "is also the best retrieval" if sharpest == best else f"is not the best retrieval ({best})"
    ax.set_title(f"The best reconstruction ({sharpest})\n{verdict}")


def hard_queries_chart(curves, name, corruptions):
    """How the metric ``name`` falls as queries get worse, ``{method: {kind: values}}``: a panel per corruption."""
    figure, axes = plt.subplots(2, 4, figsize=(11.5, 5.4), sharey=True)
    for ax, (kind, corruption) in zip(axes.flat, corruptions.items(), strict=False):
        for (method, values), look in zip(curves.items(), LOOKS, strict=False):
            ax.plot(corruption.strengths, values[kind], markersize=5, label=method, **look)
        best = max(curves, key=lambda method: np.mean(curves[method][kind]))
        ax.set_title(f"{kind}\nbest: {best} {np.mean(curves[best][kind]):.2f}", fontsize=12)
        ax.set(xlabel=corruption.unit, ylim=(0, 1.03))
    for line in axes:
        line[0].set_ylabel(name)
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", fontsize=13)
    return figure


def novelty_histogram(ax, scores, area):
    """The novelty scores of two kinds of query, ``{name: scores}``, and the limit at 1; ``area`` is the AUROC."""
    largest = max(np.max(values) for values in scores.values())
    bins = np.linspace(0, min(largest, 6) * 1.02, 50)
    for (name, values), colour, hatch in zip(scores.items(), (BLUE, ORANGE), ("", "//"), strict=False):
        values = np.minimum(values, bins[-1])
        ax.hist(values, bins, color=colour, hatch=hatch, alpha=0.6, density=True, label=plain(name))
    ax.axvline(1, color="black", linestyle=":")
    ax.set(xlabel="novelty score (1: the 99th percentile over the database)", ylabel="density")
    ax.legend()
    ax.set_title(f"AUROC {area:.3f} (0.5: no better than chance)")


def teaching(ax, history):
    """The loss of each epoch."""
    ax.plot(np.arange(1, len(history.loss) + 1), history.loss, color=BLUE, marker="o", markersize=4)
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(f"Loss {history.loss[0]:.2f} → {history.loss[-1]:.2f} in {sum(history.seconds):.0f} s")


def eigenvalues(ax, values, time):
    """The walk's eigenvalues, and what is left of them after ``time`` steps."""
    at, gap = np.arange(1, len(values) + 1), before_gap(values)
    ax.axvline(gap + 0.5, color=GREY, linestyle=":", label=f"largest gap of frequencies, behind {gap}")
    ax.plot(at, values, "o-", color=BLUE, markersize=4, label="eigenvalue")
    ax.plot(at, np.maximum(values, 0) ** time, "s--", color=ORANGE, markersize=4, label=f"after {time:.0f} steps")
    half = int((np.maximum(values, 0) ** time > 0.5).sum())
    ax.set(xlabel="eigenvector", ylim=(-0.03, 1.05))
    ax.legend()
    ax.set_title(f"After {time:.0f} steps {half} of {len(values)} directions keep more than half")


def quantization(ax, losses):
    """ITQ's loss by iteration for several code lengths, ``{bits: (loss without a rotation, losses)}``."""
    for (bits, (unrotated, values)), style in zip(losses.items(), ("-", "--", "-."), strict=False):
        ax.plot(np.arange(len(values)), np.array(values) / unrotated, style, label=f"{bits} bits")
    ax.axhline(1, color="black", linestyle=":")
    saved = max(1 - values[-1] / unrotated for unrotated, values in losses.values())
    ax.set(xlabel="iteration", ylabel="loss, relative to no rotation")
    ax.legend()
    ax.set_title(f"Rotating saves up to {100 * saved:.0f} % of the quantisation loss")


def bits_against_quality(ax, rows, published=()):
    """mAP against bytes per image: a line per method; ``published`` are (name, bytes, mAP) from papers."""
    for method, look in zip(dict.fromkeys(row["method"] for row in rows), LOOKS, strict=False):
        these = sorted((row["bytes_per_image"], row["mAP"]) for row in rows if row["method"] == method)
        ax.plot(*zip(*these, strict=True), label=method, **look)
    for name, size, quality in published:
        ax.plot([size], [quality], "x", color=GREY, markersize=9)
        ax.annotate(name, (size, quality), (6, -4), textcoords="offset points", fontsize=10, color=GREY)
    lowest = min([row["mAP"] for row in rows] + [quality for _, _, quality in published])
    ax.set(xscale="log", ylim=(max(0, lowest - 0.05), 1.01), xlabel="bytes per image", ylabel="mAP")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize=11)
    binary = max((row for row in rows if row["bits"]), key=lambda row: row["mAP"])
    ax.set_title(f"{binary['bits']} bits keep mAP {binary['mAP']:.3f} ({binary['method']})")
