"""The figures of notebook 00 (paper, section IV): networks of a few neurons."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from cbir_utils.plots import BLUE, GREY, ORANGE, SKY, show_image


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
