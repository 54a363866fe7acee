"""How retrieval works, drawn with a run's own images and codes (paper, figures 1 and 5)."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import FancyArrowPatch

from cbir_utils.plots import BLUE, GREEN, SKY, show_image


def _box(ax, x, y, text, colour):
    frame = {"boxstyle": "round,pad=.5", "fc": "white", "ec": colour, "lw": 2.5}
    ax.text(x, y, text, ha="center", va="center", fontsize=13, bbox=frame)


def _place(ax, picture, x, y, size, **imshow):
    """Put a small picture on a drawing, centred at (x, y), ``size`` pixels high, framed."""
    picture = np.asarray(picture)
    image = OffsetImage(picture, zoom=size / picture.shape[0], interpolation="nearest", **imshow)
    ax.add_artist(AnnotationBbox(image, (x, y), pad=0.12))


def _code_strip(code):
    """A part of a code as a picture of 16 × 2 cells, its numbers taken at even steps."""
    return np.asarray(code)[np.linspace(0, len(code) - 1, 32).astype(int)].reshape(16, 2)


def retrieval_steps(database, codes, query, query_code, hits, distances):
    """The steps of indexing and of querying (paper, figure 1), with real images, codes and distances.

    Up to four ``database`` images with their ``codes``, the ``query`` with its code, up to five ``hits`` with their
    ``distances``; codes less the mean code.
    """
    figure, ax = plt.subplots(figsize=(11, 5.2))
    ax.set(xlim=(0, 13), ylim=(0.2, 6.2))
    ax.axis("off")
    limit = max(np.abs(codes).max(), np.abs(query_code).max())
    code_range = {"cmap": "PuOr", "norm": plt.Normalize(-limit, limit)}
    ax.text(0.1, 5.95, "Indexing, once", fontsize=16, fontweight="bold", va="top")
    for i in range(len(database)):
        _place(ax, np.squeeze(database[i]), 0.75 + 0.8 * i, 4.5, 48, cmap="gray")
        _place(ax, _code_strip(codes[i]), 7.0 + 0.45 * i, 4.5, 84, **code_range)
    _box(ax, 5.3, 4.5, "encoder", BLUE)
    _box(ax, 11.1, 4.5, "index: all codes\nof the database", GREEN)
    ax.text(0.1, 2.95, "Querying", fontsize=16, fontweight="bold", va="top")
    _place(ax, np.squeeze(query), 0.85, 1.6, 66, cmap="gray")
    _box(ax, 2.85, 1.6, "encoder", BLUE)
    _place(ax, _code_strip(query_code), 4.5, 1.6, 84, **code_range)
    _box(ax, 6.6, 1.6, "nearest codes\nby distance", GREEN)
    for i, (hit, distance) in enumerate(zip(hits, distances, strict=True)):
        _place(ax, np.squeeze(hit), 8.85 + 0.87 * i, 1.6, 52, cmap="gray")
        ax.text(8.85 + 0.87 * i, 0.85, f"{distance:.2f}", ha="center", fontsize=12)
    words = {"database images": (1.95, 3.75), "their codes": (7.7, 3.45), "query": (0.85, 0.75), "its code": (4.5, 0.5)}
    for text, place in {**words, "hits, with their distances": (10.6, 0.4)}.items():
        ax.text(*place, text, ha="center", fontsize=12)
    to_the_right = {
        4.5: ((3.7, 4.5), (6.1, 6.75), (8.65, 9.9)),
        1.6: ((1.5, 2.1), (3.6, 4.2), (4.8, 5.35), (7.85, 8.4)),
    }
    arrows = [((start, y), (end, y)) for y, ends in to_the_right.items() for start, end in ends]
    for start, end in [*arrows, ((11.1, 3.85), (6.9, 2.3))]:
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=22, color="black", linewidth=2))
    ax.set_title(f"From query to hits: the nearest of the database is at distance {distances[0]:.2f}")
    return figure


def ranked_codes(query, query_code, images, codes, distances, ranks):
    """How the query's code is compared with the database's (paper, figure 5): rows from the nearest to the farthest.

    Codes less the mean code; one image, code, distance and rank per row below the query's.
    """
    size = (10.5, 0.86 * (len(ranks) + 1) + 0.7)
    figure, axes = plt.subplots(len(ranks) + 1, 3, figsize=size, width_ratios=(1, 5, 6))
    limit = max(np.abs(codes).max(), np.abs(query_code).max())
    for row, (image, code) in enumerate(zip([query, *images], [query_code, *codes], strict=True)):
        show_image(axes[row, 0], image)
        axes[row, 1].imshow(np.reshape(code, (1, -1)), cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
        axes[row, 1].set(xticks=[], yticks=[])
        label = "query" if row == 0 else f"rank {ranks[row - 1]:,}"
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=12)
        axes[row, 2].axis("off")
        if row:
            length = distances[row - 1]
            axes[row, 2].barh([0], [length], 0.6, color=SKY, edgecolor="black")
            axes[row, 2].text(length + 0.01 * max(distances), 0, f"{length:.2f}", va="center", fontsize=13)
            axes[row, 2].set(xlim=(0, 1.15 * max(distances)), ylim=(-0.6, 0.6))
    axes[0, 1].set_title("code", fontsize=13)
    axes[0, 2].set_title("distance to the query's code", fontsize=13)
    ratio = distances[-1] / distances[0] if distances[0] > 0 else np.inf
    figure.suptitle(f"Ranked by distance: the last image is {ratio:.1f} times as far as the first", fontweight="bold")
    return figure
