"""A saved index: FAISS's file and its description beside it, which become valid together."""

import json
import os
from contextlib import suppress
from pathlib import Path

import faiss

from cbir_utils.artifacts.files import partial_path, read_sealed, sealed, sha256

#: Of a saved index. Before 3, its description had no seal.
FORMAT = 3


class IndexFileError(ValueError):
    """A saved index is missing, damaged or another encoder's; the message names the file."""


def write_index(path, stored, facts):
    """Write a FAISS index to ``path``, and ``facts`` about it with its SHA-256 to a JSON file beside it.

    Both are written beside their names and then renamed. Raises :class:`IndexFileError` if that fails; what was there
    stays.
    """
    path, facts_path = Path(path), Path(path).with_suffix(".json")
    try:
        with partial_path(path) as partial, partial_path(facts_path) as described:
            with open(partial, "wb") as file:  # Python's file tells when the disk is full, FAISS's own does not
                faiss.write_index(stored, faiss.PyCallbackIOWriter(file.write, 2**20))
            facts = facts | {"format": FORMAT, "sha256": sha256(partial)}
            with suppress(OSError, ValueError):  # of the old rows, which stay until the new ones are renamed
                before = read_sealed(facts_path)
                facts["previous"] = [before, *before.pop("previous", [])][:2]
            described.write_text(json.dumps(sealed(facts), indent=2) + "\n")
            os.replace(described, facts_path)
            os.replace(partial, path)
    except (RuntimeError, OSError) as error:  # FAISS raises RuntimeError
        raise IndexFileError(f"{path} could not be written ({error}); what was there before is unchanged") from error


def read_index(path, *, encoder_hash=None):
    """What :func:`write_index` wrote: the FAISS index and the facts about it; IndexFileError as in Index.load."""
    path, facts_path = Path(path), Path(path).with_suffix(".json")
    for file in (path, facts_path):
        if not file.is_file():
            raise IndexFileError(f"{file} does not exist; build the index and save it")
    try:
        facts = _facts_of(path, facts_path)
    except ValueError as error:
        raise IndexFileError(f"{path} has no description ({error}); build the index anew") from error
    if facts["format"] > FORMAT:
        raise IndexFileError(
            f"{path} has format {facts['format']}, and this version reads up to {FORMAT}; update cbir_utils, "
            "or build the index anew"
        )
    if encoder_hash not in (None, facts["encoder_hash"]):
        raise IndexFileError(
            f"{path} holds the codes of another encoder ({str(facts['encoder_hash'])[:12]}…, not "
            f"{encoder_hash[:12]}…); encode the database and build the index anew"
        )
    if facts["sha256"] is None:
        raise IndexFileError(f"{path} is not the file that {facts_path.name} describes; build the index anew")
    try:
        return faiss.read_index(str(path)), facts
    except (RuntimeError, MemoryError) as error:
        raise IndexFileError(f"{path} cannot be read by this FAISS ({error}); build the index anew") from error


def _facts_of(path, facts_path):
    """The facts about the rows that are in ``path`` now; their ``sha256`` is ``None`` if these are of other rows.

    While an index is written, the description names the rows of before as well; if just then both files are replaced,
    they are read once more.
    """
    for _ in range(2):
        facts = read_sealed(facts_path)
        found = sha256(path)
        for described in (facts, *facts.get("previous", [])):
            if described["sha256"] == found:
                return described
    return facts | {"sha256": None}
