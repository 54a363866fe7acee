"""The explorer's figures: the way to a hit, what matters for it, where it is."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

from cbir_utils.folders.files import data_url
from cbir_utils.plots import BLUE, ORANGE, STYLE, latent_map, map_cells, short, show_image

CENTRED = {"ha": "center", "va": "center", "fontweight": "bold"}


@plt.style.context(STYLE)
def decoded_path(query, hit, images, rank, distance):
    """What lies between a query and a hit: ``images`` decoded on the way from one code to the other."""
    count = len(images)
    figure, axes = plt.subplots(1, count + 2, figsize=(1.15 * (count + 2), 2.1))
    show_image(axes[0], query, "query", "black")
    for ax, image, share in zip(axes[1:-1], images, np.linspace(0, 100, count), strict=True):
        show_image(ax, image, f"{share:.0f} %")
    show_image(axes[-1], hit, f"hit {rank}", "black")
    figure.suptitle(f"From the query's code to that of hit {rank}, at distance {short(distance)}", fontweight="bold")
    return figure


@plt.style.context(STYLE)
def occlusion(query, hit, changes, rank, distance):
    """Which parts of a query speak for a hit: ``changes (H, W)`` of their distance when a part is covered.

    The parts that matter most are marked with the sign of their change.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9.2, 3.5), width_ratios=(1, 1, 1.2))
    show_image(axes[0], query, "query", "black")
    show_image(axes[1], hit, f"hit {rank}", "black")
    limit = max(float(np.abs(changes).max()), 1e-12)
    shown = axes[2].imshow(changes, cmap="PuOr", vmin=-limit, vmax=limit)
    grey = np.asarray(query, dtype=np.float32).mean(axis=-1)
    if grey.min() < 128 < grey.max():
        axes[2].contour(grey, [128], colors="black", linewidths=1)
    halo = [withStroke(linewidth=4, foreground="white")]
    for sign, signed in (("+", changes), ("–", -changes)):
        y, x = np.unravel_index(signed.argmax(), changes.shape)
        if signed[y, x] > limit / 20:
            axes[2].text(x, y, sign, path_effects=halo, **CENTRED, fontsize=22)
    axes[2].set(xticks=[], yticks=[])
    axes[2].set_title("change when covered", fontsize=12, fontweight="normal")
    bar = figure.colorbar(shown, ax=axes[2])
    bar.ax.set_title("farther", fontsize=10, fontweight="normal")
    bar.ax.set_xlabel("nearer", fontsize=10)
    bar.ax.tick_params(labelsize=10)
    figure.suptitle(
        f"Distance {short(distance)}: covering a part changes it by {changes.min():+.2g} to {changes.max():+.2g}",
        fontweight="bold",
    )
    return figure


@plt.style.context(STYLE)
def where_it_is(points, images, *, query, hits, of, cells=16):
    """A query and its hits on a map of codes: ``query`` and ``hits`` tell which of the ``points (N, 2)`` they are.

    The query is a star, the hits are circles with their rank; ``of`` is how many images there are in all.
    """
    figure, ax = plt.subplots(figsize=(5.4, 5.4))
    height, width = images.shape[1:3]
    latent_map(ax, points, images, cells=cells)
    ax.images[-1].set_alpha(0.4)
    x, y = (map_cells(points, cells) * (width, -height) + (-0.5, cells * height - 0.5)).T
    hits = list(hits)
    box = {"boxstyle": "circle,pad=.2", "fc": "white", "ec": BLUE, "lw": 1.5}
    circle = {"bbox": box, "arrowprops": {"arrowstyle": "-", "color": BLUE, "lw": 1.5}, "fontsize": 12}
    for rank, row in reversed(list(enumerate(hits, 1))):  # the nearest on top; numbers fan out, for hits lie close
        angle = 2 * np.pi * (rank - 1) / len(hits)
        beside = 26 * np.sin(angle), 26 * np.cos(angle)
        ax.annotate(str(rank), (x[row], y[row]), beside, textcoords="offset points", **CENTRED, **circle)
        ax.plot([x[row]], [y[row]], "o", color=BLUE, markeredgecolor="white", markersize=8)
    ax.plot([x[query]], [y[query]], "*", color=ORANGE, markeredgecolor="black", markersize=20, label="query")
    ax.plot([], [], "o", color=BLUE, markersize=8, label="hits, by rank")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, fontsize=12)
    ax.set_title(f"t-SNE of the codes of {len(points) - 1 - len(hits):,} of {of:,} images")
    return figure


def figure_url(figure):
    """A figure as a ``data:`` URL, ``None`` for none; the figure is closed."""
    if figure is None:
        return None
    figure.set_dpi(90)
    figure.canvas.draw()
    image = np.array(figure.canvas.buffer_rgba())
    plt.close(figure)
    return data_url(image)
