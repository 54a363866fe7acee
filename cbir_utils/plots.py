"""The figures of notebooks 01 to 05, and what all figures share.

A function takes ``ax`` or returns a Figure; none calls ``show``.

Images are ``(H, W, C)`` or ``(H, W)``, uint8 in 0–255 or float in [0, 1]. What is right or wrong is told by a word
and a line style beside the colour.
"""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from scipy.stats import mannwhitneyu

from cbir_utils.names import plain

BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
GREY = "#767676"
CLASS_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, "#000000", "#8C6D31", "#6A3D9A", "#7F7F7F")

#: The project's figure style, for ``plt.style``.
STYLE = Path(__file__).with_name("cbir.mplstyle")


def caption(figure, text):
    """Write an italic caption under a figure, in lines no longer than the figure is wide; returns the figure."""
    lines = textwrap.fill(text, int(12 * figure.get_figwidth()))  # at least 12 letters of this size to an inch
    figure.supxlabel(lines, fontsize=11, style="italic", color="#444444")
    return figure


def show_image(ax, image, title="", colour=None, style="-"):
    """Draw one image without axes; with ``colour``, in a frame of that colour and line style."""
    image = np.asarray(image)
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    ax.imshow(image, vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
    ax.set(xticks=[], yticks=[])
    ax.set_title(plain(title), fontsize=12, fontweight="normal")
    for spine in ax.spines.values():
        spine.set(visible=colour is not None, color=colour, linewidth=3, linestyle=style)


def show_code(ax, code, limit):
    """Draw a code's deviation from the mean code as a small heat map: brown below, violet above, up to ``limit``."""
    code = np.asarray(code).ravel()
    columns = max(1, int(np.sqrt(len(code) / 2)))
    cells = np.full(-(-len(code) // columns) * columns, np.nan)
    cells[: len(code)] = code
    ax.imshow(cells.reshape(-1, columns), cmap="PuOr", vmin=-limit, vmax=limit)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)


# -- the dataset (paper, figure 6) ------------------------------------------------------------------------------


def image_grid(images, labels, class_names, *, rows=10, columns=10):
    """A grid of images: a row for each of the first classes, with its first images; without labels the first images."""
    height, width = images.shape[1:3]
    if labels is None:
        first = np.arange(min(rows * columns, len(images)))
        members = [first[start : start + columns] for start in range(0, len(first), columns)]
        names = [""] * len(members)
    else:
        classes = np.unique(labels)[:rows]
        members, names = [np.flatnonzero(labels == c) for c in classes], [plain(class_names[c]) for c in classes]
    grid = np.full((len(members) * (height + 2), columns * (width + 2), *images.shape[3:]), 255, np.uint8)
    for row, those in enumerate(members):
        for column, i in enumerate(those[:columns]):
            y, x = row * (height + 2) + 1, column * (width + 2) + 1
            grid[y : y + height, x : x + width] = images[i]
    figure, ax = plt.subplots(figsize=(0.75 * columns + 1, 0.75 * columns * grid.shape[0] / grid.shape[1] + 0.8))
    show_image(ax, grid)
    ax.set_yticks((np.arange(len(names)) + 0.5) * (height + 2), names, fontsize=14)
    ax.tick_params(length=0)
    return figure


def pixel_redundancy(ax, shares):
    """How many directions hold the images' variance: ``shares`` are PCA's, largest first (Jolliffe 2002)."""
    total = np.cumsum(shares)
    needed = int(np.searchsorted(total, 0.9)) + 1
    ax.plot(np.arange(1, len(total) + 1), 100 * total)
    ax.axhline(90, color=GREY, linestyle=":")
    ax.plot([needed], [90], "o", color=ORANGE, markersize=10)
    arrow = {"arrowstyle": "->", "color": ORANGE}
    ax.annotate(f"{needed} directions: 90 %", (needed, 90), (needed * 1.8, 62), fontsize=14, arrowprops=arrow)
    ax.set(xscale="log", ylim=(0, 102), xlabel="principal directions kept", ylabel="variance kept (%)")
    ax.set_title(f"{needed} of {len(shares)} directions hold 90 % of the pixels' variance")


# -- training ---------------------------------------------------------------------------------------------------


def loss_curves(ax, history):
    """Loss per epoch on the training part and on the held-out part, with the best constant image's loss."""
    epochs = np.arange(1, len(history.held_out_loss) + 1)
    ax.plot(epochs, history.loss[: len(epochs)], "--", color=SKY, label="training part")
    ax.plot(epochs, history.held_out_loss, color=BLUE, label="held-out part")
    ax.axhline(history.constant_loss, color=ORANGE, linestyle=":", label="best constant image")
    ax.plot([history.best_epoch], [history.best_loss], "o", color=BLUE, markersize=9)
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    best, constant = f"{history.best_loss:.3f} (epoch {history.best_epoch})", f"{history.constant_loss:.3f}"
    ax.set_title(f"Held-out loss {best}; constant image {constant}")


def collapse(histories):
    """Loss curves of several seeds for each loss, relative to the best constant image.

    ``histories`` maps the title of a panel to its list of histories. Above the line at 1, a network knows less
    about an image than the mean image does.
    """
    figure, axes = plt.subplots(1, len(histories), figsize=(5.6 * len(histories), 4.4), sharey=True, squeeze=False)
    for ax, (title, runs) in zip(axes[0], histories.items(), strict=True):
        for run in runs:
            ratio = np.array(run.held_out_loss) / run.constant_loss
            look = {"color": ORANGE, "linestyle": "--"} if run.collapsed else {"color": BLUE}
            ax.plot(np.arange(1, len(ratio) + 1), ratio, **look)
        ax.axhline(1, color="black", linestyle=":", linewidth=1.5)
        ax.set_title(f"{title}\n{sum(r.collapsed for r in runs)} of {len(runs)} seeds collapsed")
        ax.set(xlabel="epoch", yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 4, 8]))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    axes[0, 0].set_ylabel("held-out loss / loss of the\nbest constant image")
    axes[0, 0].plot([], [], "-", color=BLUE, label="learns")
    axes[0, 0].plot([], [], "--", color=ORANGE, label="collapsed")
    axes[0, 0].legend()
    return figure


def reconstructions(images, codes, decoded):
    """Input, code and reconstruction, one column per image (paper, figure 4); ``codes`` less the mean code."""
    figure, axes = plt.subplots(3, len(images), figsize=(1.3 * len(images) + 1, 5.4), height_ratios=(1, 1.9, 1))
    error = float(np.mean((np.asarray(images) / 255.0 - decoded) ** 2))
    for column, (image, code, output) in enumerate(zip(images, codes, decoded, strict=True)):
        show_image(axes[0, column], image)
        show_code(axes[1, column], code, np.abs(codes).max())
        show_image(axes[2, column], output)
    bar = figure.colorbar(axes[1, -1].images[0], ax=axes[1, :], shrink=0.8, pad=0.01)
    bar.set_label("code less\nthe mean code")
    names = ("input\nx", f"code\nE(x)\n{codes.shape[1]}\nnumbers", "output\nD(E(x))")
    for ax, text in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=13)
    figure.suptitle(f"Input, code, reconstruction: mean squared error {error:.4f} per pixel", fontweight="bold")
    return figure


# -- the latent space -------------------------------------------------------------------------------------------


def latent_map(ax, points, images, *, cells=22):
    """The latent space as a map (paper, figure 2): ``points (N, 2)``, a thumbnail per occupied cell; their number."""
    scaled = map_cells(points, cells)
    cell = np.minimum(scaled.astype(int), cells - 1)
    centre = np.abs(scaled - cell - 0.5).max(axis=1)
    height, width = images.shape[1:3]
    canvas = np.full((cells * height, cells * width, *images.shape[3:]), 255, np.uint8)
    occupied = np.unique(cell, axis=0)
    for key in occupied:
        members = np.flatnonzero((cell == key).all(axis=1))
        x, y = key[0] * width, (cells - 1 - key[1]) * height  # row 0 of a picture is its top
        canvas[y : y + height, x : x + width] = images[members[np.argmin(centre[members])]]
    show_image(ax, canvas)
    return len(occupied)


def map_cells(points, cells):
    """Where points ``(N, 2)`` lie on a map of ``cells`` × ``cells``, counted in cells from its lower left."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - low) / np.where(high > low, high - low, 1) * cells


def codes_on_three_axes(points, labels, class_names):
    """Codes of three numbers (paper, figure 3): ``points (N, 3)``; each class has a colour and its name as the mark."""
    figure = plt.figure(figsize=(7.6, 6.6))
    ax = figure.add_subplot(projection="3d")
    for label in np.unique(labels):
        x, y, z = points[labels == label].T
        colour = CLASS_COLOURS[label % len(CLASS_COLOURS)]
        name = class_names[label][:2] if class_names[label][:2].isalnum() else str(label)  # "$_$" cannot be typeset
        ax.scatter(x, y, z, s=45, marker=f"${name}$", color=colour, alpha=0.75, linewidths=0.4)
    for axis, name in zip((ax.xaxis, ax.yaxis, ax.zaxis), "xyz", strict=True):
        axis.set_label_text(name)
        axis.set_ticklabels([])
    ax.set_box_aspect(None, zoom=0.95)
    ax.set_title(f"{len(points)} codes of three numbers")
    return figure


def distance_distributions(ax, within, between):
    """Histograms of distances between images of one class and of two; the title states how often they mislead.

    The number is the chance that a random pair of one class is farther apart than a random pair of two classes, ties
    counted as one half (1 - AUROC): 0 is perfect, 0.5 is no information. Pairs of one kind alone are not compared.
    """
    bins = np.linspace(0, np.max([*within, *between], initial=0) or 1, 60)
    if len(within):
        ax.hist(within, bins, density=True, color=BLUE, alpha=0.55, label="same class")
    if len(between):
        ax.hist(between, bins, density=True, histtype="step", color=ORANGE, linewidth=2.5, label="two classes")
    ax.set(xlabel="distance between two codes", ylabel="density", yticks=[])
    if not len(within) or not len(between):
        ax.set_title("No pairs of " + ("two classes" if len(within) else "one class") + ": nothing to compare")
        return
    ax.legend()
    misled = mannwhitneyu(within, between).statistic / (len(within) * len(between))
    ax.set_title(f"In {100 * misled:.0f} % of comparisons the pair of one class is farther apart")


# -- retrieval --------------------------------------------------------------------------------------------------


def short(distance):
    """A distance as text: two decimals, or two digits that count where these would be zeros."""
    return f"{distance:.2f}" if distance >= 0.1 or distance == 0 else f"{distance:.2g}"


def hits_row(axes, images, distances, relevant=None):
    """Draw hits into ``axes`` with rank and distance; a wrong one has a dashed frame and says so.

    Without ``relevant`` nothing is said of right and wrong.
    """
    relevant = [None] * len(images) if relevant is None else relevant
    looks = {None: ("", GREY, "-"), True: ("✓", GREEN, "-"), False: ("✗ wrong", ORANGE, "--")}
    for rank, (ax, image, distance, right) in enumerate(zip(axes, images, distances, relevant, strict=True), 1):
        mark, colour, style = looks[right if right is None else bool(right)]
        show_image(ax, image, f"{rank}: {short(distance)} {mark}".rstrip(), colour, style)


def query_and_hits(query, images, distances, relevant=None):
    """One query and its hits (paper, figures 7 and 8); without ``relevant`` the title tells how far they are."""
    figure, axes = plt.subplots(1, len(images) + 1, figsize=(1.75 * (len(images) + 1), 2.9))
    show_image(axes[0], query, "query", "black")
    hits_row(axes[1:], images, distances, relevant)
    if relevant is None:
        title = f"{len(images)} nearest images, at distances from {short(distances[0])} to {short(distances[-1])}"
    else:
        title = f"{int(np.sum(relevant))} of {len(images)} hits are of the query's class"
    figure.suptitle(title, fontweight="bold")
    return figure


def several_queries(queries, images, distances, relevant, names):
    """A row of hits for each of several queries; all arguments have one entry per query (``relevant`` may be None)."""
    count, k = len(queries), len(images[0])
    relevant = [None] * count if relevant is None else relevant
    figure, axes = plt.subplots(count, k + 1, figsize=(1.6 * (k + 1) + 1, 2.0 * count), squeeze=False)
    for row, query, *hits, name in zip(axes, queries, images, distances, relevant, names, strict=True):
        show_image(row[0], query, "query", "black")
        row[0].set_ylabel(plain(name), rotation=0, ha="right", va="center", fontsize=12)
        hits_row(row[1:], *hits)
    return figure


def metrics_chart(ax, rows):
    """A line for each row of ``metrics.json``, best mAP on top: dots for P@1, P@5 and mAP, and mAP's interval."""
    rows = sorted(rows, key=lambda row: row["mAP"])
    at = np.arange(len(rows))
    ax.grid(axis="y", color=GREY, linewidth=0.6, linestyle=":")
    for name, mark, colour in (("P@1", "^", GREEN), ("P@5", "s", ORANGE), ("mAP", "o", BLUE)):
        ax.plot([row.get(name, np.nan) for row in rows], at, mark, color=colour, markersize=9, label=name)
    ax.hlines(at, *np.transpose([row["mAP_interval"] for row in rows]), color="black", linewidth=3)
    for y, row in zip(at, rows, strict=True):
        ax.text(row["mAP"], y + 0.16, f"{row['mAP']:.3f}", ha="center", va="bottom", fontsize=11)
    ax.set_yticks(at, [f"{row['method']}, {row['distance']}" for row in rows])
    lowest = min(row.get(name, 1) for row in rows for name in ("P@1", "P@5"))
    lowest = min(lowest, *(row["mAP_interval"][0] for row in rows))
    ax.set(ylim=(-0.5, len(rows) - 0.3), xlim=(max(0, lowest - 0.05), 1.01), xlabel="mean over queries")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    best = rows[-1]
    ax.set_title(f"Best mAP: {best['mAP']:.3f} ({best['method']}, {best['distance']})")


# -- comparing methods ----------------------------------------------------------------------------------------------


def strips(rows, titles, captions=None):
    """Rows of images under one another, such as noisy, restored and original: each row an array of images."""
    columns = len(rows[0])
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(0.95 * columns + 1.2, 1.0 * len(rows) + 0.8), squeeze=False
    )
    for line, images, title in zip(axes, rows, titles, strict=True):
        for ax, image in zip(line, images, strict=True):
            show_image(ax, image)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=13)
    for ax, text in zip(axes[0], captions or [""] * columns, strict=True):
        ax.set_title(text, fontsize=11, fontweight="normal")
    return figure
