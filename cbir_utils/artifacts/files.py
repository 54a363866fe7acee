"""Files that appear whole or not at all, and JSON that holds its own hash. Nothing is ever unpickled."""

import hashlib
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path

import numpy as np


class ArtifactError(RuntimeError):
    """A run's file is missing, damaged or another's; the message names it and the command that makes it anew."""


@contextmanager
def partial_path(path):
    """Yield a temporary path beside ``path``, with the same ending; whatever is left of it is deleted at the end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{secrets.token_hex(4)}-{path.name[-60:]}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, delete it if not.

    The temporary name keeps the ending of ``path`` (Keras and Matplotlib choose their format by it).
    """
    with partial_path(path) as partial:
        yield partial
        os.replace(partial, path)


def sha256(path):
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path, value):
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def sealed(facts):
    """A dict with the SHA-256 of what it says as its ``"seal"``, so that a damaged byte of its JSON file is noticed."""
    facts = {name: value for name, value in facts.items() if name != "seal"}
    return {**facts, "seal": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}


def read_sealed(path):
    """The dict in a JSON file that was written with :func:`sealed`; a ValueError says what is wrong with it."""
    path = Path(path)
    try:
        facts = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON that can be read") from error
    if not isinstance(facts, dict) or "seal" not in facts:
        raise ValueError(f"{path.name} was made by an older version, or is damaged")
    if sealed(facts) != facts:
        raise ValueError(f"{path.name} differs from its own hash")
    del facts["seal"]
    return facts


def write_npy(path, array):
    """Write an array as ``.npy``, without pickling."""
    with open(path, "wb") as file:
        np.save(file, np.asarray(array), allow_pickle=False)
