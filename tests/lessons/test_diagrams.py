"""The drawings of the paper's steps: that they take any image, and say what they were given."""

import numpy as np
import pytest
from figures import CODES, IMAGES, nothing_is_shown, texts

from cbir_utils import plots
from cbir_utils.lessons import diagrams

__all__ = ["nothing_is_shown"]


@pytest.mark.parametrize("colour", [False, True])
def test_the_drawings_of_the_steps_take_any_image(colour):
    images = np.repeat(IMAGES, 3, axis=3) if colour else IMAGES
    steps = diagrams.retrieval_steps(images[:4], CODES[:4], images[4], CODES[4], images[5:10], np.arange(1.0, 6))
    ranked = diagrams.ranked_codes(images[0], CODES[0], images[1:4], CODES[1:4], [1.0, 2.0, 8.0], [1, 2, 1437])
    for figure in (steps, ranked):
        plots.caption(figure, "below").canvas.draw()
        assert "below" in texts(figure)
    assert {"1.00", "5.00", "query"} <= set(texts(steps))
    assert {"rank 1,437", "8.00", "Ranked by distance: the last image is 8.0 times as far as the first"} <= set(
        texts(ranked)
    )
