"""Encoding on many cores or machines: Ray Data hands out the images, Parquet shards keep ids and codes.

Each worker (a Ray actor) loads the encoder once and encodes one shard after another. This process writes each shard,
whole or not at all; a second start checks the shards that are there and makes only the missing ones. To move to a
cluster, change the address::

    from cbir_utils.scale.shards import encode_shards, load_codes

    encode_shards("my photos", "results/photos/convolutional/encoder.keras", "results/photos/shards", workers=2)
    ids, codes = load_codes("results/photos/shards")

Needs the extra ``scale``; importing this module does not.
"""

import hashlib
import json
import os
import socket
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from cbir_utils.datasets import DatasetError, folder_kind, load_dataset
from cbir_utils.folders.files import UnreadableImageError, read_image
from cbir_utils.folders.folder import list_files, save_rejects
from cbir_utils.run import Run
from cbir_utils.scale.workers import ShardError, encoded, parquet
from cbir_utils.store import ArtifactError, atomic_path, sha256, write_json

#: Of the shards and their manifest.
FORMAT = 2


class Encoded(NamedTuple):
    """What :func:`encode_shards` left in its folder."""

    images: int  #: encoded, in all shards
    rejects: int  #: images that could not be read: see rejects.csv
    shards: int
    skipped: int  #: shards that were there already


def encode_shards(source, encoder, folder, *, shard_size=4096, workers=2, address=None):
    """Encode images on several cores or machines, into Parquet shards of ids and codes.

    A shard has the columns ``id`` (string), ``code`` (D float32) and ``reason`` (string). An image that cannot be read
    has a reason instead of a code, and stands in ``rejects.csv``. ``manifest.json`` names the encoder's SHA-256.

    Parameters
    ----------
    source : str or Path
        What :func:`~cbir_utils.datasets.load_dataset` takes: its database is encoded. Of a folder of images, each
        worker reads its own and fits them to what the encoder takes. Ids are relative paths, or else row numbers.
    encoder : str or Path
        The encoder's ``.keras`` file; the workers get its content.
    folder : str or Path
        Where the shards go.
    shard_size : int
        Images per shard; a worker holds so many at a time.
    workers : int
        Processes that encode, each on one core. One that dies is replaced, and its shard is given out again.
    address : str, optional
        Of a Ray cluster, ``"host:port"`` or ``"auto"``; its machines must see a folder of images. By default, Ray
        runs on this machine for as long as it is needed. A Ray that this process has started or joined is used.

    Raises
    ------
    ShardError
        If Ray is missing or does not answer, the folder cannot be written or holds shards of another encoder, source
        or size, the file is no encoder or its codes are not finite, or workers fail. Finished shards stay.
    DatasetError
        If the source is missing, damaged or empty.
    """
    pq = parquet()
    if shard_size < 1 or workers < 1:
        raise ValueError(f"shard_size and workers must be 1 or more, not {shard_size} and {workers}")
    encoder, folder = Path(encoder), Path(folder).resolve()
    if folder_kind(source) and folder.is_relative_to(Path(source).resolve()):
        raise ShardError(f"{folder} lies in the source {source}; choose another folder for the shards")
    _check_encoder(encoder)
    ids, read, signature, rejects = _open(source)
    facts = {"format": FORMAT, "encoder": sha256(encoder), "source": signature, "shard_size": shard_size}
    paths = _paths(folder, len(ids), shard_size)
    try:
        with Run(folder.name, folder.parent).exclusive():
            missing = [number for number, path in enumerate(paths) if _read(path, facts) is None]
            write_json(folder / "manifest.json", {**facts, "source_name": str(source), "images": len(ids)})
            if missing:
                tables = [_rows(ids, number * shard_size, shard_size) for number in missing]
                with closing(encoded(tables, encoder.read_bytes(), read, workers, address)) as results:
                    _write(results, paths, facts, sum(map(len, tables)))
            failed = {"columns": ["id", "reason"], "filters": [("reason", "!=", "")], "partitioning": None}
            found = [pq.read_table(path, **failed) for path in paths]
            rejects = [*rejects, *(tuple(row.values()) for table in found for row in table.to_pylist())]
            with atomic_path(folder / "rejects.csv") as path:
                save_rejects(path, sorted(rejects))
    except ArtifactError as error:
        raise ShardError(f"{folder} is being written to by another process; wait for it to end") from error
    except OSError as error:
        raise ShardError(f"{folder} cannot be written ({error}); finished shards are kept") from error
    return Encoded(len(ids) - sum(map(len, found)), len(rejects), len(paths), len(paths) - len(missing))


def read_shards(folder, *, encoder_hash=None):
    """Read what :func:`encode_shards` wrote, shard by shard: for databases larger than memory.

    Yields pairs in the order of the source: ids, a list of n str, and codes, ``(n, D)`` float32. ``encoder_hash`` is
    the SHA-256 of the encoder that must have made the codes. Raises ShardError: at once if the manifest or a shard is
    missing or the encoder is another one, while reading if a shard is damaged or came from elsewhere.
    """
    parquet()
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        facts = {"format": FORMAT, **{name: manifest[name] for name in ("encoder", "source", "shard_size")}}
        paths = _paths(folder, manifest["images"], manifest["shard_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{folder} has no manifest.json that can be read; run encode_shards first") from error
    if encoder_hash not in (None, facts["encoder"]):
        raise ShardError(
            f"{folder} holds codes of another encoder ({facts['encoder'][:12]}…, not {encoder_hash[:12]}…); "
            "encode the images into another folder"
        )
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise ShardError(f"{missing[0]} and {len(missing) - 1:,} more are missing; run encode_shards again")
    return (_ids_and_codes(path, facts) for path in paths)


def load_codes(folder, *, encoder_hash=None):
    """All ids and codes that :func:`encode_shards` wrote: a list of N str, and ``(N, D)`` float32.

    They stand in the order of the source. Arguments and errors are those of :func:`read_shards`.
    """
    parts = list(read_shards(folder, encoder_hash=encoder_hash))
    return [name for ids, _ in parts for name in ids], np.concatenate([codes for _, codes in parts])


# -- what is encoded ------------------------------------------------------------------------------------------------


def _open(source):
    """Ids, a function ``read(row, id, shape)`` for the workers, a hash of the source, and what is no image at all."""
    if folder_kind(source) == "images":
        folder = Path(source).resolve()
        ids, rejects = list_files(folder)
        if not ids:
            raise DatasetError(f"there are no images in {source}")
        facts = [(name, (entry := os.stat(folder / name)).st_size, entry.st_mtime_ns) for name in ids]
        return ids, partial(_read_file, folder), hashlib.sha256(repr((folder, facts)).encode()).hexdigest(), rejects
    data = load_dataset(source)
    ids = data.ids or [str(row) for row in range(len(data.database))]
    return ids, partial(_read_row, data.database.images), data.content_hash, data.rejects


def _read_row(images, row, name, shape):
    return images[row]


def _read_file(folder, row, name, shape):
    """The image in a file, or a text: why there is none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there on {socket.gethostname()}; all machines must see the source")
    try:
        return read_image(folder / name, shape)
    except UnreadableImageError as error:
        return str(error)


def _rows(ids, first, count):
    """The table of rows and ids that a worker gets for a shard."""
    import pyarrow

    names = [os.fsencode(name) for name in ids[first : first + count]]  # a file name need not be valid UTF-8
    return pyarrow.table({"row": range(first, first + len(names)), "id": pyarrow.array(names)})


# -- shards on disk -------------------------------------------------------------------------------------------------


def _check_encoder(path):
    from cbir_utils.training import load_model

    try:
        shape = load_model(path).output_shape
    except ValueError as error:
        raise ShardError(str(error)) from error
    if len(shape) != 2:
        raise ShardError(f"{path} is no encoder: its output has the shape {shape}")


def _paths(folder, images, shard_size):
    return [folder / f"shard-{number:06d}.parquet" for number in range(-(-images // shard_size))]


def _write(tables, paths, facts, total):
    """Write each table to the path of its shard, as it comes."""
    how = {"use_dictionary": False, "write_page_checksum": True}
    with tqdm(total=total, unit=" images") as bar:
        for table in tables:
            if not np.isfinite(_codes(table)).all():
                raise ShardError("the encoder gives codes that are not finite; train it again")
            shard = table["row"][0].as_py() // facts["shard_size"]
            table = table.replace_schema_metadata({"cbir_utils": json.dumps([shard, facts])})
            with atomic_path(paths[shard]) as path:
                parquet().write_table(table, path, **how)
            bar.update(len(table))


def _read(path, facts):
    """The table in a shard; ``None`` if the file is missing, damaged or misnamed, ShardError if it is of others."""
    import pyarrow

    try:
        table = parquet().read_table(path, page_checksum_verification=True, partitioning=None)
        shard, noted = json.loads(table.schema.metadata[b"cbir_utils"])
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
    other = [name for name in facts if noted.get(name) != facts[name]]
    if other:
        raise ShardError(f"{path} is of another {' and '.join(other)}; choose another folder, or delete {path.parent}")
    return table if path.name == f"shard-{shard:06d}.parquet" else None


def _codes(table):
    """The codes ``(n, D)`` of those images of a shard that have one."""
    codes = table["code"].combine_chunks()
    return codes.flatten().to_numpy().reshape(-1, codes.type.list_size)


def _ids_and_codes(path, facts):
    table = _read(path, facts)
    if table is None:
        raise ShardError(f"{path} is damaged; run encode_shards again, it is made anew")
    return table.filter(table["reason"].is_null())["id"].to_pylist(), _codes(table)
