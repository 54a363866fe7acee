"""Encoding on many cores or machines: Ray Data hands out the images, Parquet shards keep ids and codes.

Each worker (a Ray actor) loads the encoder once and encodes one shard after another. This process writes each shard,
whole or not at all; a second start makes only the missing ones. To move to a cluster, give its ``address``. Needs the
extra ``scale``; importing this module does not.
"""

import hashlib
import json
import os
import socket
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from cbir_utils.artifacts.files import atomic_path, sha256, write_json
from cbir_utils.artifacts.locks import exclusive
from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.datasets import DatasetError, folder_kind, load_dataset
from cbir_utils.folders.files import image_or_reason
from cbir_utils.folders.folder import list_files, save_rejects
from cbir_utils.scale.workers import ShardError, encoded, parquet

#: Of the shards and their manifest.
FORMAT = 3


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
    encoder, folder : str or Path
        The encoder's ``.keras`` file, and where the shards go.
    shard_size, workers : int
        Images per shard, which a worker holds at a time; and processes, each on one core. One that dies is replaced.
    address : str, optional
        Of a Ray cluster, ``"host:port"`` or ``"auto"``; its machines must see a folder of images. By default, Ray
        runs on this machine for as long as it is needed. A Ray that this process has started or joined is used.

    Raises
    ------
    ShardError
        If Ray is missing or does not answer, the folder cannot be written or holds other shards, codes are not finite,
        or workers fail. Finished shards stay.
    ValueError
        If the file is no encoder, or the source is missing, damaged or empty (DatasetError).
    """
    if shard_size < 1 or workers < 1:
        raise ValueError(f"shard_size and workers must be 1 or more, not {shard_size} and {workers}")
    pq, encoder, folder = parquet(), Path(encoder), Path(folder).resolve()
    if folder_kind(source) and folder.is_relative_to(Path(source).resolve()):
        raise ShardError(f"{folder} lies in the source {source}; choose another folder for the shards")
    from cbir_utils.training import load_model  # TensorFlow takes seconds to import

    if len(shape := load_model(encoder).output_shape) != 2:
        raise ValueError(f"{encoder} is no encoder: its output has the shape {shape}")
    ids, read, signature, rejects = _open(source)
    facts = {"format": FORMAT, "encoder": sha256(encoder), "source": signature, "shard_size": shard_size}
    paths = _paths(folder, len(ids), shard_size)
    try:
        with exclusive(folder):
            missing = [number for number, path in enumerate(paths) if _read(path, facts) is None]
            write_json(folder / "manifest.json", {**facts, "source_name": str(source), "images": len(ids)})
            if missing:
                tables = [_rows(ids, number * shard_size, shard_size) for number in missing]
                with closing(encoded(tables, encoder.read_bytes(), read, workers, address)) as results:
                    _write(results, paths, facts, sum(map(len, tables)))
            columns = [pq.ParquetFile(path).read(["id", "reason"]) for path in paths]
            failed = [row for table in columns for row in table.filter(table["reason"].is_valid()).to_pylist()]
            rejects = sorted([*rejects, *((row["id"], row["reason"]) for row in failed)])
            with atomic_path(folder / "rejects.csv") as path:
                save_rejects(path, rejects)
    except ArtifactError as error:
        raise ShardError(f"{folder} is being written to by another process; wait for it to end") from error
    except OSError as error:
        raise ShardError(f"{folder} cannot be written ({error}); finished shards are kept") from error
    return Encoded(len(ids) - len(failed), len(rejects), len(paths), len(paths) - len(missing))


def read_shards(folder, *, encoder_hash=None):
    """Read what :func:`encode_shards` wrote, shard by shard: for databases larger than memory.

    Yields pairs in the order of the source: ids, a list of n str, and codes, ``(n, D)`` float32. ``encoder_hash`` is
    the SHA-256 of the encoder that must have made the codes. Raises ShardError if the manifest or a shard is missing,
    damaged or another encoder's.
    """
    parquet()
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        facts = {name: manifest[name] for name in ("format", "encoder", "source", "shard_size")}
        paths = _paths(folder, manifest["images"], manifest["shard_size"])
    except (OSError, ValueError, KeyError) as error:
        raise ShardError(f"{folder} has no manifest.json that can be read; run encode_shards first") from error
    if encoder_hash not in (None, facts["encoder"]):
        raise ShardError(
            f"{folder} holds codes of another encoder ({facts['encoder'][:12]}…, not {encoder_hash[:12]}…); "
            "encode the images into another folder"
        )
    for path in paths:
        table = _read(path, facts)
        if table is None:
            raise ShardError(f"{path} is missing or damaged; run encode_shards again, it is made anew")
        yield table.filter(table["reason"].is_null())["id"].to_pylist(), _codes(table)


def load_codes(folder, *, encoder_hash=None):
    """All ids and codes, in the order of the source, as :func:`read_shards` gives them: N str, ``(N, D)`` float32."""
    ids, codes = zip(*read_shards(folder, encoder_hash=encoder_hash), strict=True)
    return list(chain(*ids)), np.concatenate(codes)


# -- what is encoded ------------------------------------------------------------------------------------------------


def _open(source):
    """Ids, a function for the workers, a hash of the source, and what is no image at all.

    ``read(row, id, shape)`` gives an image, or a text: why there is none.
    """
    if folder_kind(source) == "images":
        folder = Path(source).resolve()
        ids, rejects = list_files(folder)
        if not ids:
            raise DatasetError(f"there are no images in {source}")
        facts = [(name, (entry := os.stat(folder / name)).st_size, entry.st_mtime_ns) for name in ids]
        return ids, partial(_read_file, folder), hashlib.sha256(repr((folder, facts)).encode()).hexdigest(), rejects
    data = load_dataset(source)
    images = data.database.images
    ids = data.ids or [str(row) for row in range(len(images))]
    return ids, lambda row, name, shape: images[row], data.content_hash, data.rejects


def _read_file(folder, row, name, shape):
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there on {socket.gethostname()}; all machines must see the source")
    return image_or_reason(folder / name, shape)


def _rows(ids, first, count):
    """The table of rows and ids that a worker gets for a shard."""
    import pyarrow

    names = [os.fsencode(name) for name in ids[first : first + count]]  # a file name need not be valid UTF-8
    return pyarrow.table({"row": range(first, first + len(names)), "id": pyarrow.array(names)})


# -- shards on disk -------------------------------------------------------------------------------------------------


def _paths(folder, images, shard_size):
    return [folder / f"shard-{number:06d}.parquet" for number in range(-(-images // shard_size))]


def _write(tables, paths, facts, total):
    """Write each table to the path of its shard, as it comes."""
    with tqdm(total=total, unit=" images") as bar:
        for table in tables:
            if not np.isfinite(_codes(table)).all():
                raise ShardError("the encoder gives codes that are not finite; train it again")
            shard = paths[table["row"][0].as_py() // facts["shard_size"]]
            table = table.replace_schema_metadata({"cbir_utils": json.dumps(facts | {"shard": shard.name})})
            with atomic_path(shard) as path:
                parquet().write_table(table, path, use_dictionary=False, write_page_checksum=True)
            bar.update(len(table))


def _read(path, facts):
    """The table in a shard; ``None`` if the file is missing or damaged, ShardError if it is of others."""
    import pyarrow

    facts = facts | {"shard": path.name}
    try:
        table = parquet().ParquetFile(path, page_checksum_verification=True).read()
        noted = json.loads(table.schema.metadata[b"cbir_utils"])
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
    other = [name for name in facts if noted.get(name) != facts[name]]
    if other:
        raise ShardError(f"{path} is of another {' and '.join(other)}; choose another folder, or delete {path.parent}")
    return table


def _codes(table):
    """The codes ``(n, D)`` of those images of a shard that have one."""
    codes = table["code"].combine_chunks()
    return codes.flatten().to_numpy().reshape(-1, codes.type.list_size)
