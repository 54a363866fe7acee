"""How often a digit drawn on the explorer's pad finds its like first: scripted drawings, by method.

Each drawing is a digit's strokes, of which some have two ways, slanted, turned, scaled, moved and shaken at random,
with the pad's own pen. `python tests/bench_drawing.py --results results/digits`; nothing is asserted.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cbir_utils.explorer.drawing import drawing_to_image, measure_hand
from cbir_utils.lessons.tables import markdown_table
from cbir_utils.retrieval.retriever import Retriever, available_methods, run_data
from cbir_utils.run import Run

SIDE, PEN = 112, 0.085  # of the pad


def arc(x, y, width, height, start, stop):
    angles = np.radians(np.linspace(start, stop, 24))
    return [*zip(x + width * np.cos(angles), y + height * np.sin(angles), strict=True)]


#: For each digit its ways of being written; a way is a list of strokes, points of the unit square.
WAYS = (
    [[arc(0.5, 0.5, 0.22, 0.32, -90, 270)]],
    [[[(0.5, 0.18), (0.5, 0.82)]], [[(0.38, 0.32), (0.52, 0.18), (0.52, 0.82)]]],
    [[[*arc(0.5, 0.34, 0.2, 0.17, -170, 40), (0.62, 0.46), (0.3, 0.8), (0.72, 0.8)]]],
    [[arc(0.47, 0.34, 0.2, 0.16, -150, 90) + arc(0.47, 0.66, 0.22, 0.17, -90, 150)]],
    [
        [[(0.42, 0.18), (0.28, 0.56), (0.74, 0.56)], [(0.62, 0.3), (0.62, 0.84)]],
        [[(0.58, 0.84), (0.58, 0.16), (0.28, 0.6), (0.76, 0.6)]],
    ],
    [[[(0.68, 0.2), (0.36, 0.2), (0.34, 0.47), *arc(0.48, 0.62, 0.2, 0.19, -110, 150)]]],
    [[[(0.62, 0.18), (0.42, 0.4), *arc(0.5, 0.64, 0.19, 0.19, -150, 210)]]],
    [
        [[(0.28, 0.2), (0.72, 0.2), (0.46, 0.84)]],
        [[(0.28, 0.2), (0.72, 0.2), (0.46, 0.84)], [(0.36, 0.52), (0.68, 0.52)]],
    ],
    [[arc(0.5, 0.33, 0.16, 0.15, 90, 450) + arc(0.5, 0.66, 0.19, 0.18, -90, 270)]],
    [
        [[*arc(0.48, 0.36, 0.18, 0.18, 0, 360), (0.66, 0.36), (0.6, 0.84)]],
        [[*arc(0.48, 0.36, 0.18, 0.18, 0, 360), (0.66, 0.7), *arc(0.5, 0.7, 0.16, 0.14, 0, 120)]],
    ],
)


def drawings(seed, each=12):
    """Ink ``(10 · each, SIDE, SIDE)`` uint8 and digits."""
    rng, inks = np.random.default_rng(seed), []
    for ways in WAYS:
        for number in range(each):
            turn = np.radians(rng.uniform(-8, 8))
            turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            slanted = np.diag([rng.uniform(0.85, 1.15), 1]) * rng.uniform(0.75, 1.1)
            slanted[0, 1] += rng.uniform(-0.25, 0.15)
            moved, sheet = rng.uniform(-0.06, 0.06, 2), Image.new("L", (4 * SIDE, 4 * SIDE))
            pen, draw = PEN * 4 * SIDE, ImageDraw.Draw(sheet)
            for stroke in ways[number % len(ways)]:
                points = (np.array(stroke) - 0.5) @ (slanted @ turned).T + 0.5 + moved
                points = np.clip(points + rng.normal(0, 0.008, points.shape), 0, 1) * 4 * SIDE
                draw.line([tuple(point) for point in points], 255, int(pen), joint="curve")
                for x, y in points:
                    draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), 255)
            inks.append(np.asarray(sheet.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return np.stack(inks), np.repeat(np.arange(10), each)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/digits"), help="a run on digits or MNIST")
    parser.add_argument("--seeds", type=int, default=6, help="sets of 120 drawings (6)")
    arguments = parser.parse_args()
    run = Run(arguments.results.name, arguments.results.parent)
    data, lines = run_data(run), []
    hand, shape = measure_hand(data.database.images, data.light), data.database.images.shape[1:]
    for method in available_methods(run):
        retriever, row = Retriever(run, data, method), [method]
        for fitted in (hand, None):
            right = []
            for seed in range(arguments.seeds):
                ink, digits = drawings(seed)
                images = np.stack([drawing_to_image(one, shape, fitted, light=data.light) for one in ink])
                found = data.database.labels[retriever.search(images, 5).ids]
                right.append((found == digits[:, None])[:, 0].mean())
            row += [f"{np.mean(right):.3f}", f"{min(right):.3f}"]
        lines.append(row)
        print(*row, flush=True)
    print(hand)
    print(markdown_table(["codes", "P@1, fitted", "worst set", "P@1, as drawn", "worst set"], lines))
