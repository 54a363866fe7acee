"""Which notebook makes which artifact: the one place that knows, so that an error can name the command to run."""

from fnmatch import fnmatch

#: The first pattern that fits an artifact's name, and the notebooks, from which to which, that make it.
MADE_BY = {
    "labels_*.npy": ("01", "01"),
    "convolutional/codes_*.npy": ("03", "03"),
    "three_numbers/*": ("03", "03"),
    "convolutional/index.*": ("04", "04"),
    "convolutional/*": ("02", "02"),
    "metrics.json": ("05", "08"),
    "autoencoders.json": ("06", "06"),
    "hard_queries.json": ("07", "07"),
    "novelty.json": ("07", "07"),
    **{f"{method}/*": ("08", "08") for method in ("taught", "joint", "manifold", "fused", "matched")},
    "binary/*": ("09", "09"),
    "binary_codes.json": ("09", "09"),
    "rejects.csv": ("10", "10"),
    **{f"{method}/*": ("10", "10") for method in ("photo", "pretrained")},
    "*/codes_*.npy": ("06", "06"),
    "*/*coder.keras": ("06", "06"),
    "pca/*": ("06", "06"),
}


def made_by(name):
    """The first and last notebook that make the artifact ``name``; those of the paper's system where none is known.

    >>> made_by("convolutional/index.faiss")
    ('04', '04')
    """
    return next((notebooks for pattern, notebooks in MADE_BY.items() if fnmatch(name, pattern)), ("01", "05"))
