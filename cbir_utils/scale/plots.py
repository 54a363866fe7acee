"""The figures of notebook 11."""

import numpy as np

from cbir_utils.methods.plots import LOOKS
from cbir_utils.plots import GREY


def memory_by_kind(ax, sizes, needed, chosen, budget):
    """Memory of each kind of index against the number of images, and which kind the rule chooses.

    ``needed`` maps a kind to its bytes at each of ``sizes``; ``chosen`` names the kind at each size (``None``: none).
    """
    for (kind, bytes_), look in zip(needed.items(), LOOKS, strict=False):
        at = [place for place, name in enumerate(chosen) if name == kind]
        ax.plot(sizes, np.asarray(bytes_) / 1e9, label=kind, markevery=at, markersize=9, **look)
    ax.axhline(budget / 1e9, color=GREY, linestyle=":")
    ax.annotate(
        f"budget {budget / 1e9:.1f} GB", (sizes[0], budget / 1e9), (0, 5), textcoords="offset points", color=GREY
    )
    ax.set(xscale="log", yscale="log", xlabel="images", ylabel="memory, GB")
    ax.legend(fontsize=11)
    largest, kind = max((budget * sizes[-1] / bytes_[-1], kind) for kind, bytes_ in needed.items())
    ax.set_title(f"In {budget / 1e9:.1f} GB: up to {int(largest):,} images ({kind})")


def recall_against_speed(ax, curves, k):
    """Recall@k against queries per second: ``curves`` maps a name to ``[(recall, queries per second), ...]``."""
    for (name, points), look in zip(curves.items(), LOOKS, strict=False):
        ax.plot(*zip(*points, strict=True), label=name, **look)
    ax.set(yscale="log", xlabel=f"recall@{k}", ylabel="queries per second")
    ax.legend(fontsize=11)
    enough = [(speed, name, recall) for name, points in curves.items() for recall, speed in points if recall >= 0.95]
    if enough:
        speed, name, recall = max(enough)
        ax.set_title(f"{name}: {speed:,.0f} queries per second at recall {recall:.3f}")
