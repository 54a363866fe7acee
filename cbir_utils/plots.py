"""Every figure of the notebooks. A function takes ``ax`` or returns a Figure; none calls ``show``.

Images are ``(H, W, C)`` or ``(H, W)``, uint8 in 0–255 or float in [0, 1]. What is right or wrong is told by a word
and a line style beside the colour.
"""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
GREY = "#767676"
CLASS_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, "#000000", "#8C6D31", "#6A3D9A", "#7F7F7F")


#: The project's figure style, for ``plt.style``.
STYLE = Path(__file__).with_name("cbir.mplstyle")


def use_style():
    """Use the project's figure style from here on in this notebook."""
    plt.style.use(STYLE)


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
    ax.set_title(title, fontsize=12, fontweight="normal")
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


# -- the primer (paper, section IV) ---------------------------------------------------------------------------------


def pixels_and_weights(image, weights, bias):
    """What one neuron does: pixel values, its weights ``(H * W,)`` and their products, each as a picture.

    ``image`` is ``(H, W)`` in [0, 1]. The title gives the sum of the products and what tanh makes of it and ``bias``.
    """
    image = np.asarray(image)
    weights = np.reshape(weights, image.shape)
    figure, axes = plt.subplots(1, 3, figsize=(7.5, 4))
    total = float((image * weights).sum())
    limit = float(np.abs(weights).max())
    names = ("pixel values\nof the image", "weights\nof the neuron", "pixel × weight")
    for ax, values, name in zip(axes, (image, weights, image * weights), names, strict=True):
        colours = {"vmin": 0, "vmax": 1} if values is image else {"cmap": "PuOr", "vmin": -limit, "vmax": limit}
        drawn = ax.imshow(values, **colours)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(True)
        ax.set_title(name, fontsize=13, fontweight="normal")
    figure.colorbar(drawn, ax=axes[1:], shrink=0.8, ticks=MaxNLocator(5))
    answer = np.tanh(total + bias)
    figure.suptitle(f"Products summed: {total:+.2f}; the neuron's answer: {answer:+.2f}", fontweight="bold")
    return figure


def guesses(images, probabilities, labels, class_names):
    """Images, each over the probability that a network gives to each class.

    ``probabilities`` is ``(N, classes)``, ``labels`` ``(N,)`` the true classes. A right answer is blue, a wrong one
    orange, hatched and in a dashed frame.
    """
    figure, axes = plt.subplots(2, len(images), figsize=(1.35 * len(images) + 1, 4), height_ratios=(2, 1.1))
    answers = np.argmax(probabilities, axis=1)
    columns = zip(axes.T, images, probabilities, labels, answers, strict=True)
    for (top, bottom), image, row, label, answer in columns:
        colour, style, hatch = (BLUE, "-", "") if answer == label else (ORANGE, "--", "//")
        show_image(top, image, class_names[label], colour, style)
        bars = bottom.barh(class_names, row, color="white", edgecolor="black")
        bars[answer].set(facecolor=colour, hatch=hatch)
        bottom.set(xlim=(0, 1), xticks=[])
        bottom.invert_yaxis()
        bottom.tick_params(length=0)
        bottom.set_title(f"{class_names[answer]} {row[answer]:.2f}", fontsize=11, fontweight="normal")
        if bottom is not axes[1, 0]:
            bottom.set_yticks([])
    right = int((answers == labels).sum())
    figure.suptitle(f"{right} of {len(images)} answers are right", fontweight="bold")
    return figure


def loss_along_weight(ax, values, losses, value, slope):
    """The loss for many ``values`` of one weight, and the slope that backpropagation found at ``value``."""
    height = float(np.interp(value, values, losses))
    reach = 0.35 * np.ptp(values)
    ax.plot(values, losses, color=BLUE, label="loss")
    ax.plot([value - reach, value + reach], [height - slope * reach, height + slope * reach], "--", color=ORANGE,
            label="slope")  # fmt: skip
    ax.plot([value], [height], "o", color="black", markersize=9, label="weight now")
    margin = 0.25 * np.ptp(losses)
    ax.set(xlabel="value of one weight", ylabel="loss", ylim=(min(losses) - margin, max(losses) + margin))
    ax.legend()
    ax.set_title(f"Slope at {value:+.3f}: {slope:+.4f}, so the weight should go {'down' if slope > 0 else 'up'}")


def gradient_check(ax, backward, numerical, difference):
    """Slopes by backpropagation against slopes by trying, one dot a weight; ``difference`` is the largest, relative."""
    limit = 1.1 * float(np.abs(numerical).max())
    ax.plot([-limit, limit], [-limit, limit], color=GREY, linestyle=":")
    ax.plot(numerical, backward, "o", color=BLUE, markersize=5, alpha=0.6)
    ax.set(xlabel="slope by trying", ylabel="slope by backpropagation", xlim=(-limit, limit), ylim=(-limit, limit))
    ax.locator_params(nbins=5)
    ax.set_title(f"{len(backward)} weights, largest relative difference {difference:.0e}")


def learning_curves(steps, training, held_out):
    """Loss and accuracy while a network learns: ``training`` and ``held_out`` are ``(steps, 2)``, loss and accuracy."""
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.3))
    for ax, column, factor, name in zip(axes, (0, 1), (1, 100), ("loss", "right answers (%)"), strict=True):
        ax.plot(steps, factor * training[:, column], "--", color=SKY, label="training images")
        ax.plot(steps, factor * held_out[:, column], color=BLUE, label="held-out images")
        ax.set(xlabel="step", ylabel=name)
        ax.set_ylim(bottom=0)
        ax.locator_params(nbins=5)
    axes[0].legend()
    low = int(np.argmin(held_out[:, 0]))
    axes[0].set_title(f"Held-out: lowest {held_out[low, 0]:.2f}, step {steps[low]}")
    axes[1].set_title(f"In the end {100 * training[-1, 1]:.0f} % and {100 * held_out[-1, 1]:.0f} %")
    return figure


def weights_as_images(before, after, shape):
    """The weights of some neurons, ``(H * W, neurons)``, before and after training, each as a picture."""
    count = before.shape[1]
    figure, axes = plt.subplots(2, count, figsize=(count + 1.8, 3.6))
    limit = float(np.abs(after).max())
    for line, weights, name in zip(axes, (before, after), ("before", "after"), strict=True):
        for ax, column in zip(line, weights.T, strict=True):
            drawn = ax.imshow(column.reshape(shape), cmap="PuOr", vmin=-limit, vmax=limit)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(True)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=13)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="weight", ticks=MaxNLocator(5))
    size = np.abs(after).mean() / np.abs(before).mean()
    figure.suptitle(f"After training: {size:.1f} times as large", fontweight="bold")
    return figure


def two_losses(ax, steps, ours, theirs, difference):
    """One training done twice: ``theirs`` at every step, ``ours`` at ``steps``; ``difference`` is of the weights."""
    ax.plot(np.arange(len(theirs)), theirs, color=SKY, linewidth=4, label="Keras")
    ax.plot(steps, ours, "o", color="black", markersize=5, label="by hand")
    ax.set(xlabel="step", ylabel="loss", ylim=(0, None))
    ax.locator_params(nbins=5)
    ax.legend(loc="lower left")
    ax.set_title(f"After {len(theirs)} steps no weight differs by more than {difference:.0e}")


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
        members, names = [np.flatnonzero(labels == c) for c in classes], [class_names[c] for c in classes]
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
    ax.annotate(f"{needed} directions: 90 %", (needed, 90), (needed * 1.8, 62), fontsize=14,
                arrowprops={"arrowstyle": "->", "color": ORANGE})  # fmt: skip
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
    ax.set_title(f"Held-out loss {history.best_loss:.3f} (epoch {history.best_epoch}); constant image "
                 f"{history.constant_loss:.3f}")  # fmt: skip


def collapse(histories):
    """Loss curves of several seeds for each loss, relative to the best constant image.

    ``histories`` maps the title of a panel to its list of histories. Above the line at 1, a network knows less
    about an image than the mean image does.
    """
    figure, axes = plt.subplots(1, len(histories), figsize=(5.6 * len(histories), 4.4), sharey=True, squeeze=False)
    for ax, (title, runs) in zip(axes[0], histories.items(), strict=True):
        for run in runs:
            ratio = np.array(run.held_out_loss) / run.constant_loss
            dead = run.collapsed
            ax.plot(np.arange(1, len(ratio) + 1), ratio, "--" if dead else "-", color=ORANGE if dead else BLUE)
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
    for ax, text in zip(
        axes[:, 0], ("input\nx", f"code\nE(x)\n{codes.shape[1]}\nnumbers", "output\nD(E(x))"), strict=True
    ):
        ax.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=13)
    figure.suptitle(f"Input, code, reconstruction: mean squared error {error:.4f} per pixel", fontweight="bold")
    return figure


# -- the latent space -------------------------------------------------------------------------------------------


def latent_map(ax, points, images, *, cells=22):
    """The latent space as a map (paper, figure 2): ``points (N, 2)``, a thumbnail per occupied cell."""
    scaled = _map_cells(points, cells)
    cell = np.minimum(scaled.astype(int), cells - 1)
    centre = np.abs(scaled - cell - 0.5).max(axis=1)
    height, width = images.shape[1:3]
    canvas = np.full((cells * height, cells * width, *images.shape[3:]), 150, np.uint8)  # grey where nothing lies
    for key in np.unique(cell, axis=0):
        members = np.flatnonzero((cell == key).all(axis=1))
        x, y = key[0] * width, (cells - 1 - key[1]) * height  # row 0 of a picture is its top
        canvas[y : y + height, x : x + width] = images[members[np.argmin(centre[members])]]
    show_image(ax, canvas)


def _map_cells(points, cells):
    """Where points ``(N, 2)`` lie on a map of ``cells`` × ``cells``, counted in cells from its lower left."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - low) / np.where(high > low, high - low, 1) * cells


def codes_on_three_axes(points, labels, class_names, shares):
    """Codes on three axes (paper, figure 3): ``points (N, 3)``; each class has a colour and its name as the mark."""
    figure = plt.figure(figsize=(7.6, 6.6))
    ax = figure.add_subplot(projection="3d")
    for label in np.unique(labels):
        x, y, z = points[labels == label].T
        colour = CLASS_COLOURS[label % len(CLASS_COLOURS)]
        name = class_names[label][:2] if class_names[label][:2].isalnum() else str(label)  # "$_$" cannot be typeset
        ax.scatter(x, y, z, s=45, marker=f"${name}$", color=colour, alpha=0.75, linewidths=0.4)
    for axis, share, name in zip((ax.xaxis, ax.yaxis, ax.zaxis), shares, "123", strict=True):
        axis.set_label_text(f"axis {name} ({100 * share:.0f} %)")
        axis.set_ticklabels([])
    ax.set_box_aspect(None, zoom=0.95)
    ax.set_title(f"Three axes hold {100 * np.sum(shares):.0f} % of the codes' variance")
    return figure


def interpolation(rows, titles, ends):
    """Strips that lead from one image to another; ``rows`` are lists of images, ``ends`` the two images themselves."""
    count = len(rows[0])
    figure, axes = plt.subplots(len(rows), count + 2, figsize=(1.15 * (count + 2) + 1.3, 1.45 * len(rows) + 0.6))
    for row, (images, title) in enumerate(zip(rows, titles, strict=True)):
        for column, image in enumerate([ends[0], *images, ends[1]]):
            text = {0: "from", count + 1: "to"}.get(column, "") if row == 0 else ""
            show_image(axes[row, column], image, text, colour=GREY if column in (0, count + 1) else None)
        axes[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=13)
    return figure


def distance_distributions(ax, within, between):
    """Histograms of distances between images of one class and of two; the title states how often they mislead.

    The number is the chance that a random pair of one class is farther apart than a random pair of two classes
    (1 - AUROC): 0 is perfect, 0.5 is no information.
    """
    pairs = np.concatenate([within, between])
    ranks = np.argsort(np.argsort(pairs, kind="stable")) + 1.0
    n, m = len(within), len(between)
    misled = (ranks[:n].sum() - n * (n + 1) / 2) / (n * m)
    bins = np.linspace(0, pairs.max(), 60)
    ax.hist(within, bins, density=True, color=BLUE, alpha=0.55, label="same class")
    ax.hist(between, bins, density=True, histtype="step", color=ORANGE, linewidth=2.5, label="two classes")
    ax.set(xlabel="distance between two codes", ylabel="density", yticks=[])
    ax.legend()
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


def occlusion(query, hit, changes, rank, distance):
    """Which parts of a query speak for a hit: ``changes (H, W)`` of their distance when a part is covered.

    The parts that matter most are marked with the sign of their change.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9.2, 3.5), width_ratios=(1, 1, 1.2))
    show_image(axes[0], query, "query", "black")
    show_image(axes[1], hit, f"hit {rank}", "black")
    limit = max(float(np.abs(changes).max()), 1e-12)
    picture = axes[2].imshow(changes, cmap="PuOr", vmin=-limit, vmax=limit)
    grey = np.asarray(query, dtype=np.float32).mean(axis=-1)
    if grey.min() < 128 < grey.max():
        axes[2].contour(grey, [128], colors="black", linewidths=1)
    for place, sign in ((changes.argmax(), "+"), (changes.argmin(), "–")):
        y, x = np.unravel_index(place, changes.shape)
        if (changes[y, x] if sign == "+" else -changes[y, x]) > limit / 20:
            axes[2].text(x, y, sign, ha="center", va="center", fontsize=22, fontweight="bold",
                         path_effects=[withStroke(linewidth=4, foreground="white")])  # fmt: skip
    axes[2].set(xticks=[], yticks=[])
    axes[2].set_title("change when covered", fontsize=12, fontweight="normal")
    bar = figure.colorbar(picture, ax=axes[2])
    bar.ax.set_title("farther", fontsize=10, fontweight="normal")
    bar.ax.set_xlabel("nearer", fontsize=10)
    bar.ax.tick_params(labelsize=10)
    figure.suptitle(
        f"Distance {short(distance)}: covering a part changes it by {changes.min():+.2g} to {changes.max():+.2g}",
        fontweight="bold",
    )
    return figure


def where_it_is(ax, points, images, *, query, hits, share, cells=16):
    """A query and its hits on the latent map: ``query`` and ``hits`` tell which of the ``points (N, 2)`` they are.

    The query is a star, the hits are circles with their rank; ``share`` is the part of the variance that the map holds.
    """
    height, width = images.shape[1:3]
    latent_map(ax, points, images, cells=cells)
    ax.images[-1].set_alpha(0.4)
    x, y = (_map_cells(points, cells) * (width, -height) + (-0.5, cells * height - 0.5)).T
    hits = list(hits)
    for rank, row in reversed(list(enumerate(hits, 1))):  # the nearest on top; numbers fan out, for hits lie close
        angle = 2 * np.pi * (rank - 1) / len(hits)
        ax.annotate(str(rank), (x[row], y[row]), (26 * np.sin(angle), 26 * np.cos(angle)), textcoords="offset points",
                    ha="center", va="center", fontsize=12, fontweight="bold",
                    bbox={"boxstyle": "circle,pad=.2", "fc": "white", "ec": BLUE, "lw": 1.5},
                    arrowprops={"arrowstyle": "-", "color": BLUE, "lw": 1.5})  # fmt: skip
        ax.plot([x[row]], [y[row]], "o", color=BLUE, markeredgecolor="white", markersize=8)
    ax.plot([x[query]], [y[query]], "*", color=ORANGE, markeredgecolor="black", markersize=20, label="query")
    ax.plot([], [], "o", color=BLUE, markersize=8, label="hits, by rank")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, fontsize=12)
    ax.set_title(f"Two axes hold {100 * share:.0f} % of the codes' variance")


def several_queries(queries, images, distances, relevant, names):
    """A row of hits for each of several queries; all arguments have one entry per query (``relevant`` may be None)."""
    count, k = len(queries), len(images[0])
    relevant = [None] * count if relevant is None else relevant
    figure, axes = plt.subplots(count, k + 1, figsize=(1.6 * (k + 1) + 1, 2.0 * count), squeeze=False)
    for row, query, *hits, name in zip(axes, queries, images, distances, relevant, names, strict=True):
        show_image(row[0], query, "query", "black")
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=12)
        hits_row(row[1:], *hits)
    return figure


def metrics_chart(ax, rows):
    """A bar for each metric and row of ``metrics.json``, with the number on it; mAP with its interval."""
    names = ("P@1", "P@5", "P@10", "R-precision", "mAP")
    hatches = ("", "//", "..", "xx", "\\\\", "oo")
    height = 0.8 / len(rows)
    for i, row in enumerate(rows):
        at = np.arange(len(names)) + i * height
        values = [row[name] for name in names]
        colour = CLASS_COLOURS[i % len(CLASS_COLOURS)]
        label = f"{row['method']}, {row['distance']}"
        ax.barh(at, values, height * 0.92, color=colour, alpha=0.75, hatch=hatches[i % len(hatches)], label=label)
        low, high = row["mAP_interval"]
        for y, name, value in zip(at, names, values, strict=True):
            ax.text((high if name == "mAP" else value) + 0.008, y, f"{value:.3f}", va="center", fontsize=10)
        ax.plot([low, high], [at[names.index("mAP")]] * 2, color="black", linewidth=3)
    ax.set(
        yticks=np.arange(len(names)) + 0.4 - height / 2, yticklabels=names, xlim=(0, 1.09), xlabel="mean over queries"
    )
    ax.invert_yaxis()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=11)
    best = max(rows, key=lambda row: row["mAP"])
    ax.set_title(f"Best mAP: {best['mAP']:.3f} ({best['method']}, {best['distance']})")


# -- how it works (paper, figures 1 and 5) ------------------------------------------------------------------------


def _arrow(ax, start, end):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=22, color="black", linewidth=2))


def _box(ax, x, y, text, colour):
    ax.text(x, y, text, ha="center", va="center", fontsize=13, bbox={"boxstyle": "round,pad=.5", "fc": "white",
            "ec": colour, "lw": 2.5})  # fmt: skip


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

    Four ``database`` images with their ``codes``, the ``query`` with its code, five ``hits`` with ``distances``; codes
    less the mean code.
    """
    figure, ax = plt.subplots(figsize=(11, 5.2))
    ax.set(xlim=(0, 13), ylim=(0.2, 6.2))
    ax.axis("off")
    limit = max(np.abs(codes).max(), np.abs(query_code).max())
    code_range = {"cmap": "PuOr", "norm": plt.Normalize(-limit, limit)}
    ax.text(0.1, 5.95, "Indexing, once", fontsize=16, fontweight="bold", va="top")
    for i in range(4):
        _place(ax, np.squeeze(database[i]), 0.75 + 0.8 * i, 4.5, 48, cmap="gray")
        _place(ax, _code_strip(codes[i]), 7.0 + 0.45 * i, 4.5, 84, **code_range)
    _arrow(ax, (3.7, 4.5), (4.5, 4.5))
    _box(ax, 5.3, 4.5, "encoder", BLUE)
    _arrow(ax, (6.1, 4.5), (6.75, 4.5))
    _arrow(ax, (8.65, 4.5), (9.9, 4.5))
    _box(ax, 11.1, 4.5, "index: all codes\nof the database", GREEN)
    ax.text(1.95, 3.75, "database images", ha="center", fontsize=12)
    ax.text(7.7, 3.45, "their codes", ha="center", fontsize=12)
    ax.text(0.1, 2.95, "Querying", fontsize=16, fontweight="bold", va="top")
    _place(ax, np.squeeze(query), 0.85, 1.6, 66, cmap="gray")
    _arrow(ax, (1.5, 1.6), (2.1, 1.6))
    _box(ax, 2.85, 1.6, "encoder", BLUE)
    _arrow(ax, (3.6, 1.6), (4.2, 1.6))
    _place(ax, _code_strip(query_code), 4.5, 1.6, 84, **code_range)
    _arrow(ax, (4.8, 1.6), (5.35, 1.6))
    _box(ax, 6.6, 1.6, "nearest codes\nby distance", GREEN)
    _arrow(ax, (11.1, 3.85), (6.9, 2.3))
    _arrow(ax, (7.85, 1.6), (8.4, 1.6))
    for i, (hit, distance) in enumerate(zip(hits, distances, strict=True)):
        _place(ax, np.squeeze(hit), 8.85 + 0.87 * i, 1.6, 52, cmap="gray")
        ax.text(8.85 + 0.87 * i, 0.85, f"{distance:.2f}", ha="center", fontsize=12)
    ax.text(0.85, 0.75, "query", ha="center", fontsize=12)
    ax.text(4.5, 0.5, "its code", ha="center", fontsize=12)
    ax.text(10.6, 0.4, "hits, with their distances", ha="center", fontsize=12)
    ax.set_title(f"From query to hits: the nearest of the database is at distance {distances[0]:.2f}")
    return figure


def ranked_codes(query, query_code, images, codes, distances, ranks):
    """How the query's code is compared with the database's (paper, figure 5): rows from the nearest to the farthest.

    Codes less the mean code; one image, code, distance and rank per row below the query's.
    """
    figure, axes = plt.subplots(len(ranks) + 1, 3, figsize=(10.5, 0.86 * (len(ranks) + 1) + 0.7),
                                width_ratios=(1, 5, 6), sharey=False)  # fmt: skip
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


# -- comparing methods ----------------------------------------------------------------------------------------------


def methods_ranked(ax, rows):
    """Methods from the best mAP down, each a bar with its interval, P@5 as a diamond and its bytes per image."""
    rows = sorted(rows, key=lambda row: row["mAP"])
    for y, row in enumerate(rows):
        trained = row.get("weights", 0) > 0
        ax.barh(y, row["mAP"], color=BLUE if trained else GREY, hatch="" if trained else "//", alpha=0.75)
        low, high = row["mAP_interval"]
        ax.plot([low, high], [y, y], color="black", linewidth=3)
        ax.plot([row["P@5"]], [y], "D", color=ORANGE, markersize=9)
        ax.text(high + 0.012, y, f"{row['mAP']:.3f}", va="center", fontsize=11)
    ax.set(yticks=range(len(rows)), yticklabels=[r["method"] for r in rows], xlim=(0, 1.02), xlabel="mean over queries")
    ax.plot([], [], "D", color=ORANGE, label="P@5")
    ax.bar([0], [0], color=BLUE, alpha=0.75, label="mAP, trained")
    ax.bar([0], [0], color=GREY, hatch="//", alpha=0.75, label="mAP, not trained")
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.12), ncols=3, fontsize=12)
    ax.set_title(f"Best mAP: {rows[-1]['mAP']:.3f} ({rows[-1]['method']})")


def reconstruction_against_retrieval(ax, rows):
    """The reconstruction error of each method against its mAP."""
    errors, quality = ([row[name] for row in rows] for name in ("reconstruction_error", "mAP"))
    for row, x, y in zip(rows, errors, quality, strict=True):
        ax.plot([x], [y], "X" if row["collapsed"] else "o", color=ORANGE if row["collapsed"] else BLUE, markersize=9)
        ax.annotate(row["method"], (x, y), (6, 5), textcoords="offset points", fontsize=11)
    ax.margins(x=0.2, y=0.15)
    ax.set(xlabel="reconstruction error on queries (mean squared)", ylabel="mAP")
    ax.set_title(f"Correlation over {len(rows)} kinds: {np.corrcoef(errors, quality)[0, 1]:+.2f}")


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


def hard_queries(curves, name, corruptions):
    """How a metric falls as queries get worse: a panel per corruption, a line per method.

    ``curves`` is ``{method: {kind: values}}``, ``name`` the metric's; ``corruptions`` tells strengths and unit of each.
    """
    figure, axes = plt.subplots(2, 4, figsize=(11.5, 5.4), sharey=True)
    looks = list(zip(CLASS_COLOURS, ("-", "--", "-.", ":", "-"), "osD^v", strict=False))
    for ax, (kind, corruption) in zip(axes.flat, corruptions.items(), strict=False):
        for (method, values), (colour, line, marker) in zip(curves.items(), looks, strict=False):
            ax.plot(corruption.strengths, values[kind], line, color=colour, marker=marker, markersize=5, label=method)
        best = max(curves, key=lambda method: np.mean(curves[method][kind]))
        ax.set_title(f"{kind}\nbest: {best} {np.mean(curves[best][kind]):.2f}", fontsize=12)
        ax.set(xlabel=corruption.unit, ylim=(0, 1.03))
    for line in axes:
        line[0].set_ylabel(name)
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", fontsize=13)
    return figure


def novelty(ax, scores, area):
    """The novelty scores of several kinds of query, ``{name: scores}``, and the limit at 1; ``area`` is the AUROC."""
    largest = max(np.max(values) for values in scores.values())
    bins = np.linspace(0, min(largest, 6) * 1.02, 50)
    for (name, values), colour, hatch in zip(scores.items(), (BLUE, ORANGE), ("", "//"), strict=False):
        values = np.minimum(values, bins[-1])
        ax.hist(values, bins, color=colour, hatch=hatch, alpha=0.6, density=True, label=name)
    ax.axvline(1, color="black", linestyle=":")
    ax.set(xlabel="novelty score (1: as far as the database's farthest hundredth)", ylabel="density")
    ax.legend()
    ax.set_title(f"AUROC {area:.3f} (0.5: no better than chance)")


# -- the manifold -----------------------------------------------------------------------------------------------------


def guided_training(ax, history):
    """The loss of each epoch, and the share of mutual hits at each retrieval."""
    epochs = np.arange(1, len(history.loss) + 1)
    ax.plot(epochs, history.loss, color=BLUE, marker="o", markersize=4)
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    shares = history.mutual_share
    if shares:
        twin = ax.twinx()
        twin.plot(history.plain_epochs + np.arange(1, len(shares) + 1), 100 * np.array(shares), "s--", color=ORANGE)
        twin.set_ylabel("mutual hits (%)", color=ORANGE)
        twin.set_ylim(0, 100)
        twin.spines["right"].set_visible(True)
        ax.axvspan(
            history.plain_epochs + 0.5,
            max(len(epochs), history.plain_epochs + len(shares)) + 0.5,
            color=SKY,
            alpha=0.15,
        )
    ending = f"; mutual hits {100 * shares[0]:.1f} → {100 * shares[-1]:.1f} %" if shares else ""
    ax.set_title(f"Loss {history.loss[0]:.2f} → {history.loss[-1]:.2f}{ending}")


def eigenvalues(ax, values, time):
    """The walk's eigenvalues, and what is left of them after ``time`` steps."""
    at = np.arange(1, len(values) + 1)
    ax.plot(at, values, "o-", color=BLUE, markersize=4, label="eigenvalue")
    ax.plot(at, np.maximum(values, 0) ** time, "s--", color=ORANGE, markersize=4, label=f"after {time:.0f} steps")
    half = int((np.maximum(values, 0) ** time > 0.5).sum())
    ax.set(xlabel="eigenvector", ylim=(-0.03, 1.05))
    ax.legend()
    ax.set_title(f"After {time:.0f} steps {half} of {len(values)} directions keep more than half")


# -- binary codes -----------------------------------------------------------------------------------------------------


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
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for method, marker, style, colour in zip(
        methods, "osD^v", ("-", "--", "-.", ":", "-"), CLASS_COLOURS, strict=False
    ):
        these = sorted((row["bytes_per_image"], row["mAP"]) for row in rows if row["method"] == method)
        ax.plot(*zip(*these, strict=True), linestyle=style, marker=marker, color=colour, label=method)
    for name, size, quality in published:
        ax.plot([size], [quality], "x", color=GREY, markersize=9)
        ax.annotate(name, (size, quality), (6, -4), textcoords="offset points", fontsize=10, color=GREY)
    ax.set(xscale="log", ylim=(0, 1.03), xlabel="bytes per image", ylabel="mAP")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize=11)
    binary = max((row for row in rows if row["bits"]), key=lambda row: row["mAP"])
    ax.set_title(f"{binary['bits']} bits keep mAP {binary['mAP']:.3f} ({binary['method']})")


# -- search at scale --------------------------------------------------------------------------------------------


def memory_by_kind(ax, sizes, needed, chosen, budget):
    """Memory of each kind of index against the number of images, and which kind the rule chooses.

    ``needed`` maps a kind to its bytes at each of ``sizes``; ``chosen`` names the kind at each size (``None``: none).
    """
    for (kind, bytes_), marker, style, colour in zip(
        needed.items(), "osD^v", ("-", "--", "-.", ":", "-"), CLASS_COLOURS, strict=False
    ):
        gigabytes = np.asarray(bytes_) / 1e9
        ax.plot(sizes, gigabytes, linestyle=style, color=colour, label=kind)
        at = [place for place, name in enumerate(chosen) if name == kind]
        ax.plot(np.asarray(sizes)[at], gigabytes[at], marker, color=colour, markersize=9)
    ax.axhline(budget / 1e9, color=GREY, linestyle=":")
    ax.annotate(
        f"budget {budget / 1e9:.1f} GB", (sizes[0], budget / 1e9), (0, 5), textcoords="offset points", color=GREY
    )
    ax.set(xscale="log", yscale="log", xlabel="images", ylabel="memory, GB")
    ax.legend(fontsize=11)
    largest = max(size for size, name in zip(sizes, chosen, strict=True) if name is not None)
    ax.set_title(f"In {budget / 1e9:.1f} GB: up to {largest:,.0f} images ({chosen[list(sizes).index(largest)]})")


def recall_against_speed(ax, curves, k):
    """Recall@k against queries per second: ``curves`` maps a name to ``[(recall, queries per second), ...]``."""
    for (name, points), marker, style, colour in zip(
        curves.items(), "osD^v", ("-", "--", "-.", ":", "-"), CLASS_COLOURS, strict=False
    ):
        recall, speed = zip(*points, strict=True)
        ax.plot(recall, speed, marker=marker, linestyle=style, color=colour, label=name)
    ax.set(yscale="log", xlabel=f"recall@{k}", ylabel="queries per second")
    ax.legend(fontsize=11)
    best = max(
        ((speed, name, recall) for name, points in curves.items() for recall, speed in points if recall >= 0.95),
        default=None,
    )
    if best:
        ax.set_title(f"{best[1]}: {best[0]:,.0f} queries per second at recall {best[2]:.3f}")
