"""Label-free content-based image retrieval with autoencoders.

Importing the package loads no library: each module brings in what it needs, so a notebook that only
searches never waits for TensorFlow. Start with ``from cbir_utils import datasets, index``.
"""

__version__ = "0.1.0"
