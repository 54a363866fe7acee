"""Encoding on many cores or machines: images from files, through Ray Data, to Parquet shards of ids and codes.

The images are divided into *shards*. Each worker (a Ray actor) loads the encoder once, takes one shard after another,
reads its images, encodes them with :func:`cbir_utils.training.encode` and writes one Parquet file, whole or not at
all. A shard is always the same rows, so one that is done twice is written twice alike, and one that is there is
skipped. To move from this machine to a cluster is to change the address::

    from cbir_utils.scale.shards import encode_shards, load_codes

    encode_shards("my photos", "results/photos/convolutional/encoder.keras", "results/photos/shards", workers=2)
    ids, codes = load_codes("results/photos/shards")

Needs the extra ``scale``; importing this module does not.
"""

import hashlib
import importlib
import json
import logging
import os
import socket
import tempfile
import time
from contextlib import closing, contextmanager, nullcontext
from functools import cached_property
from itertools import islice
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cbir_utils.datasets import DatasetError, folder_kind, load_dataset, read_idx
from cbir_utils.folders.files import UnreadableImageError, list_files, read_image, save_rejects
from cbir_utils.run import ArtifactError, Run, atomic_path, sha256, write_json

#: Of the shards and their manifest.
FORMAT = 1

#: Images that a worker reads and encodes at a time, which bounds its memory.
BATCH = 512

#: A shard that kills its worker (too little memory, a crash in a decoder) is tried so often.
TRIES = 4

#: Seconds to wait for a cluster to answer; Ray itself waits for minutes, and then ends the process.
CONNECT = 5

#: Attempts to start a Ray on this machine.
STARTS = 3

#: Bytes of Ray's object store on this machine: the images and codes never go through it.
OBJECT_STORE = 100_000_000

#: Of a worker, so that one worker keeps one core busy.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


class ShardError(RuntimeError):
    """Shards cannot be made or read, or are another encoder's or source's; the message names the place."""


class Encoded(NamedTuple):
    """What :func:`encode_shards` left in its folder."""

    images: int  #: encoded, in all shards
    rejects: int  #: that could not be read: see rejects.csv
    shards: int
    skipped: int  #: shards that were there already


def encode_shards(source, encoder, folder, *, shard_size=4096, workers=2, address=None, progress=None):
    """Encode images on several cores or machines, into Parquet shards of ids and codes.

    ``folder`` gets ``shard-000000.parquet`` and so on, with the columns ``id`` (string) and ``code`` (a list of D
    float32), ``manifest.json`` (the encoder's SHA-256, the source, the rows of each shard) and ``rejects.csv`` (file
    and reason of each image that could not be read). When it is started again, finished shards are skipped.

    Parameters
    ----------
    source : str or Path
        - a folder of images: each is fitted to what the encoder takes, as by
          :func:`~cbir_utils.folders.files.read_image`; ids are relative paths;
        - an IDX file of images, plain or gzipped; ids are row numbers, ``"0"`` and so on;
        - a Parquet file, or a folder of them, with a column ``id`` and a column ``image``. Values of the type binary
          (or structs with a field ``bytes``) are image files, fitted like those of a folder; lists of uint8, and
          binary of a fixed size, are pixels in the encoder's shape ``(H, W, C)``, row by row;
        - anything else that :func:`~cbir_utils.datasets.load_dataset` takes, such as ``"digits"``: its database.
    encoder : str or Path
        The encoder's ``.keras`` file. The workers get its content, so only this machine must see it.
    folder : str or Path
        Where the shards go; it is made if need be. On a cluster, all machines must see it and the source.
    shard_size : int
        Images per shard; a shard never goes beyond the end of a Parquet file.
    workers : int
        Processes that encode, each on one core.
    address : str, optional
        Of a Ray cluster, ``"host:port"`` or ``"auto"``. By default a Ray of this machine is started, and stopped at
        the end. Where this process has started or joined one already, that is used, and left running.
    progress : callable, optional
        Called after each shard as ``progress(done, total)``, in images. By default a line is printed now and then.

    Returns
    -------
    Encoded

    Raises
    ------
    ShardError
        If Ray is not installed or cannot be reached, the folder holds shards of another encoder, source or shard
        size, a shard cannot be written (finished ones stay), the encoder cannot be loaded or its codes are not
        finite, or workers keep dying.
    DatasetError
        If the source is missing, damaged, empty or none of these.
    """
    _import("ray.data", "pyarrow")
    if shard_size < 1 or workers < 1:
        raise ValueError(f"shard_size and workers must be 1 or more, not {shard_size} and {workers}")
    encoder, folder = Path(encoder), Path(folder).resolve()
    if not encoder.is_file():
        raise ShardError(f"{encoder} does not exist; give the encoder's .keras file")
    plan = _plan(source, shard_size)
    if folder == Path(plan["place"]) or (plan["kind"] == "images" and folder.is_relative_to(plan["place"])):
        raise ShardError(f"{folder} lies in the source {plan['place']}; choose another folder for the shards")
    facts = {"format": FORMAT, "encoder": sha256(encoder), "source": plan["signature"], "shard_size": shard_size}
    try:
        with Run(folder.name, folder.parent).exclusive():
            finished = _finished(folder, facts)
            for left in folder.glob(".tries-*"):
                left.unlink()
            rows = [item["rows"] for item in plan["items"]]
            described = {key: plan[key] for key in ("kind", "place", "rejects")}
            write_json(folder / "manifest.json", {**facts, **described, "encoder_file": str(encoder), "rows": rows})
            todo = [{"shard": n, "item": json.dumps(i)} for n, i in enumerate(plan["items"]) if n not in finished]
            arguments = (encoder.read_bytes(), str(encoder), plan["kind"], plan["place"], str(folder), facts)
            if todo:
                _make_shards(todo, arguments, workers, address, progress or _Printed(), sum(rows))
            notes = list(_notes(folder))
            rejects = [*plan["rejects"], *(tuple(reject) for note in notes for reject in note["rejects"])]
            with atomic_path(folder / "rejects.csv") as partial:
                save_rejects(partial, sorted(rejects))
    except ArtifactError as error:
        raise ShardError(f"{folder} is being written to by another process; wait for it to end") from error
    except OSError as error:
        raise ShardError(_cannot_write(error.filename or folder, error)) from error
    images = sum(note["images"] for note in notes)
    return Encoded(images, len(rejects), len(rows), len(finished))


def read_shards(folder, *, encoder_hash=None):
    """Read what :func:`encode_shards` wrote, shard by shard: for databases larger than memory.

    Parameters
    ----------
    folder : str or Path
    encoder_hash : str, optional
        SHA-256 of the encoder that is to have made the codes.

    Returns
    -------
    iterator
        Of pairs: ids, a list of n str, and codes, ``(n, D)`` float32, in the order of the source.

    Raises
    ------
    ShardError
        At once if the manifest is missing or damaged, a shard is missing or another's, or the encoder is another
        one; while reading, if a shard is damaged.
    """
    _import("pyarrow")
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        facts = {name: manifest[name] for name in ("format", "encoder", "source", "shard_size")}
        rows = manifest["rows"]
    except FileNotFoundError as error:
        raise ShardError(f"{folder} has no manifest.json; make the shards with encode_shards") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{folder / 'manifest.json'} is damaged; run encode_shards again, it is made anew") from error
    if facts["format"] > FORMAT:
        raise ShardError(f"{folder} holds shards of a newer format ({facts['format']}); update cbir_utils")
    if encoder_hash is not None and facts["encoder"] != encoder_hash:
        raise ShardError(
            f"{folder} holds codes of another encoder ({facts['encoder'][:12]}…, not {encoder_hash[:12]}…); "
            "encode the images into another folder"
        )
    paths = [_shard_path(folder, number) for number in range(len(rows))]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise ShardError(
            f"{len(missing):,} of {len(paths):,} shards are missing, {missing[0]} first; "
            "run encode_shards again, it makes the rest"
        )
    return (_read_shard(path, facts, number, rows[number]) for number, path in enumerate(paths))


def load_codes(folder, *, encoder_hash=None):
    """All ids and codes that :func:`encode_shards` wrote: a list of N str, and ``(N, D)`` float32.

    They stand in the order of the source. Arguments and errors are those of :func:`read_shards`; an id that stands
    twice is a ShardError too.
    """
    parts = list(read_shards(folder, encoder_hash=encoder_hash))
    ids = [name for part, _ in parts for name in part]
    if len(set(ids)) < len(ids):
        seen = set()
        twice = next(name for name in ids if name in seen or seen.add(name))
        raise ShardError(f"{folder}: the id {twice!r} stands twice; the source must give each image an id of its own")
    return ids, np.concatenate([codes for _, codes in parts])


# -- what is to be done ---------------------------------------------------------------------------------------------


def _plan(source, shard_size):
    """What ``source`` is (``kind``, ``place``, ``signature``), its shards (``items``) and what is no image at all.

    An item says which ``rows`` (a number) it has: by ``ids`` for files, else from row ``start`` on (of ``file``).
    """
    path = Path(source)
    place = str(path.resolve())
    tables = [path] if path.suffix == ".parquet" else sorted(path.glob("*.parquet")) if path.is_dir() else []
    if tables:
        counts = {table.name: _parquet_rows(table) for table in tables}
        items = [{"file": f, **item} for f, count in counts.items() for item in _ranges(count, shard_size)]
        place, rejects = str(tables[0].resolve().parent), ()
        kind, signature = "parquet", _signature(place, counts)
    elif path.is_file():
        images = read_idx(path)
        if images.ndim not in (3, 4) or images.dtype != np.uint8:
            raise DatasetError(f"{path}: images must be uint8 (N, H, W), but this holds {images.dtype} {images.shape}")
        kind, signature, items, rejects = "idx", sha256(path), _ranges(len(images), shard_size), ()
    elif folder_kind(source) == "images":
        ids, rejects = list_files(path)
        items = [{**item, "ids": ids[item["start"] :][: item["rows"]]} for item in _ranges(len(ids), shard_size)]
        kind, signature = "images", _signature(place, ids)
    else:
        dataset = load_dataset(source)
        place = place if path.is_dir() else str(source)
        items, rejects = _ranges(len(dataset.database), shard_size), dataset.rejects
        kind, signature = "dataset", dataset.content_hash
    if not items:
        raise DatasetError(f"there are no images in {source}")
    return {"kind": kind, "place": place, "signature": signature, "items": items, "rejects": rejects}


def _ranges(count, shard_size):
    return [{"start": start, "rows": min(shard_size, count - start)} for start in range(0, count, shard_size)]


def _parquet_rows(path):
    """The number of rows of a Parquet file, if it has the columns that are needed; else a DatasetError."""
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is not a Parquet file that can be read (damaged or truncated?)") from error
    if not {"id", "image"} <= set(schema.names):
        raise DatasetError(f"{path} has the columns {', '.join(schema.names)}; the columns id and image are needed")
    kind, types = schema.field("image").type, pyarrow.types
    if types.is_struct(kind) and "bytes" in kind.names:
        kind = kind.field("bytes").type
    pixels = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    files = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    if not (files or (pixels and kind.value_type == pyarrow.uint8())):
        raise DatasetError(f"{path}: the column image must be binary (image files) or lists of uint8, not {kind}")
    return count


def _signature(place, names):
    """SHA-256 over a folder's path and its files' names, sizes and times of change; no file is opened."""
    digest = hashlib.sha256(os.fsencode(place))
    for name in names:
        try:
            facts = os.stat(os.path.join(place, name))
            digest.update(os.fsencode(f"\0{name}\0{facts.st_size}\0{facts.st_mtime_ns}"))
        except OSError:  # removed since it was listed: reading will tell
            digest.update(os.fsencode(f"\0{name}"))
    return digest.hexdigest()


# -- shards on disk -------------------------------------------------------------------------------------------------


def _shard_path(folder, number):
    return Path(folder) / f"shard-{number:06d}.parquet"


def _cannot_write(path, error):
    reason = os.strerror(error.errno) if error.errno else error
    return f"{path} cannot be written ({reason}); make room or choose another folder: the finished shards are kept"


def _write_shard(path, ids, codes, note):
    """Write a shard, whole or not at all; ``note`` is kept in the file's metadata."""
    import pyarrow
    import pyarrow.parquet as pq

    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(codes.ravel()), codes.shape[1])
    # A file name need not be valid UTF-8, and Parquet's strings must be.
    texts = pyarrow.array([name.encode("utf-8", "backslashreplace").decode() for name in ids], pyarrow.string())
    table = pyarrow.table({"id": texts, "code": values}).replace_schema_metadata({"cbir_utils": json.dumps(note)})
    with atomic_path(path) as partial:
        pq.write_table(table, partial, use_dictionary=False, write_page_checksum=True)


def _note(path):
    """What :func:`_write_shard` was given as ``note``; ``None`` if the file is missing, damaged or no shard."""
    import pyarrow
    import pyarrow.parquet as pq

    try:
        return json.loads(pq.read_schema(path).metadata[b"cbir_utils"])
    except (pyarrow.ArrowException, OSError, TypeError, KeyError, ValueError):
        return None


def _finished(folder, facts):
    """The numbers of the shards in ``folder`` that need not be made; ShardError if one was made of something else."""
    finished = set()
    for path in sorted(folder.glob("shard-*.parquet")):
        note = _note(path)
        if note is None:  # damaged: it is made anew
            continue
        for name, what in (
            ("format", "by another version of cbir_utils"),
            ("encoder", "by another encoder"),
            ("source", "from another source, or before it changed"),
        ):
            if note.get(name) != facts[name]:
                raise ShardError(f"{path} was made {what}; choose another folder, or delete {folder} to encode anew")
        if note["shard_size"] != facts["shard_size"]:
            raise ShardError(
                f"{path} was made with shard_size={note['shard_size']}; go on with that, or choose another folder"
            )
        if path == _shard_path(folder, note["shard"]):
            finished.add(note["shard"])
    return finished


def _notes(folder):
    """The notes of all shards that the manifest names, in order."""
    rows = json.loads((folder / "manifest.json").read_text())["rows"]
    for number in range(len(rows)):
        note = _note(_shard_path(folder, number))
        if note is None:
            raise ShardError(f"{_shard_path(folder, number)} is missing or damaged; start again, it is made anew")
        yield note


def _read_shard(path, facts, number, rows):
    """Ids and codes of one shard; ShardError if it is damaged or does not belong here."""
    import pyarrow
    import pyarrow.parquet as pq

    note = _note(path)
    if note is not None and any(note.get(name) != value for name, value in {**facts, "shard": number}.items()):
        raise ShardError(f"{path} does not belong to the other shards; delete it and run encode_shards again")
    try:
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None)
        codes = table["code"].combine_chunks()
        codes = codes.flatten().to_numpy().reshape(len(table), codes.type.list_size)
        if len(table) + len(note["rejects"]) != rows:
            raise ValueError("rows are missing")
    except (pyarrow.ArrowException, OSError, TypeError, KeyError, ValueError) as error:
        raise ShardError(f"{path} is damaged; delete it and run encode_shards again") from error
    return table["id"].to_pylist(), codes


def _make_shards(todo, arguments, workers, address, progress, total):
    """Have the shards in ``todo`` made, and report; ShardError as soon as one cannot be made."""
    done = total - sum(json.loads(row["item"])["rows"] for row in todo)
    with closing(_results(todo, arguments, workers, address)) as results:
        for result in results:
            if result["error"]:
                raise ShardError(result["error"])
            done += result["rows"]
            progress(done, total)


# -- workers --------------------------------------------------------------------------------------------------------


class _Worker:
    """A Ray actor: loads the encoder once, then makes one shard per call. What goes wrong comes back as a sentence."""

    def __init__(self, encoder, encoder_file, kind, place, folder, facts):
        for name, value in ONE_THREAD.items():  # before TensorFlow is imported
            os.environ.setdefault(name, value)
        from cbir_utils.training import load_model

        self.kind, self.place, self.folder, self.facts = kind, place, Path(folder), facts
        self.encoder_file, self.error = encoder_file, ""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "encoder.keras")
            try:
                path.write_bytes(encoder)
                self.encoder = load_model(path)
            except OSError as error:
                self.error = _cannot_write(path, error)
            except ValueError as error:
                self.error = str(error).replace(str(path), encoder_file)

    def __call__(self, row):
        item, error = json.loads(row["item"]), self.error
        if not error:
            try:
                self._make(row["shard"], item)
            except ValueError as raised:
                error = str(raised)
            except OSError as raised:
                error = _cannot_write(_shard_path(self.folder, row["shard"]), raised)
            self._tries(row["shard"]).unlink(missing_ok=True)
        return {"rows": item["rows"], "error": error}

    def _make(self, number, item):
        """Read, encode and write one shard."""
        from cbir_utils.training import encode

        needed = [self.folder / "manifest.json", Path(self.place, item.get("file", ""))]
        for path in needed[: 1 if self.kind == "dataset" else 2]:
            if not path.exists():
                raise ValueError(
                    f"{path} is not there on {socket.gethostname()}: "
                    "all machines of a cluster must see the source and the folder of the shards"
                )
        shape = self.encoder.input_shape[1:]
        if len(self.encoder.output_shape) != 2:
            raise ValueError(f"{self.encoder_file} is no encoder: its output has the shape {self.encoder.output_shape}")
        with open(self._tries(number), "a") as file:
            file.write(".")
        if self._tries(number).stat().st_size > TRIES:
            raise ValueError(
                f"{_shard_path(self.folder, number)}: {TRIES} workers have died of this shard (too little memory, or "
                "an image that crashes its decoder?); start again with a smaller shard_size, in another folder"
            )
        ids, rejects, codes = [], [], [np.empty((0, self.encoder.output_shape[1]), np.float32)]
        rows = self._rows(item, shape)
        while batch := list(islice(rows, BATCH)):
            read = [(name, image) for name, image in batch if not isinstance(image, str)]
            rejects += [(name, reason) for name, reason in batch if isinstance(reason, str)]
            if read:
                ids += [name for name, _ in read]
                codes.append(encode(self.encoder, np.stack([image for _, image in read])))
                if not np.isfinite(codes[-1]).all():
                    raise ValueError(f"{self.encoder_file} gives codes that are not finite; train it again")
        note = {**self.facts, "shard": number, "images": len(ids), "rejects": rejects}
        _write_shard(_shard_path(self.folder, number), ids, np.concatenate(codes), note)

    def _tries(self, number):
        """A file with a byte for each worker that has begun a shard; it goes when one has ended it, well or badly."""
        return self.folder / f".tries-{number:06d}"

    def _rows(self, item, shape):
        """Yield pairs: an id, and an image ``(H, W, C)`` uint8 or the reason (a text) why there is none."""
        start, stop = item["start"], item["start"] + item["rows"]
        if self.kind == "images":
            for name in item["ids"]:
                yield name, _image_or_reason(read_image, os.path.join(self.place, name), shape)
        elif self.kind == "parquet":
            yield from _table_rows(os.path.join(self.place, item["file"]), start, stop, shape)
        else:
            ids, images = self._array
            for row in range(start, stop):
                yield ids[row] if ids else str(row), images[row]

    @cached_property
    def _array(self):
        """Ids (or ``None``) and images of a source that is one array."""
        if self.kind == "idx":
            images, ids, signature = read_idx(self.place), None, sha256(self.place)
            images = images[..., None] if images.ndim == 3 else images
        else:
            dataset = load_dataset(self.place)
            images, ids, signature = dataset.database.images, dataset.ids, dataset.content_hash
        if signature != self.facts["source"]:
            raise ValueError(f"{self.place} on {socket.gethostname()} differs from where encode_shards was called")
        return ids, images


def _image_or_reason(read, *what):
    try:
        return read(*what)
    except UnreadableImageError as error:
        return str(error)


def _table_rows(path, start, stop, shape):
    """The rows from ``start`` to ``stop`` of a Parquet file, as :meth:`_Worker._rows` yields them."""
    import pyarrow
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read any more; was it changed?") from error
    with file:
        end = 0
        for group in range(file.num_row_groups):
            first, end = end, end + file.metadata.row_group(group).num_rows
            if first < stop and start < end:
                yield from _group_rows(file, group, max(start - first, 0), min(stop, end) - first, first, path, shape)


def _group_rows(file, group, start, stop, first, path, shape):
    """The rows from ``start`` to ``stop`` of a row group, whose own first row is the file's row ``first``."""
    import pyarrow

    row, before = start, 0
    try:
        for batch in file.iter_batches(BATCH, row_groups=[group], columns=["id", "image"]):
            part = batch.slice(min(row - before, len(batch)), stop - row)
            before += len(batch)
            for name, value in zip(part["id"], part["image"], strict=True):
                if name.is_valid:
                    yield str(name), _image_or_reason(_image_of, value, shape)
                else:
                    yield f"{os.path.basename(path)}:{first + row}", "it has no id"
                row += 1
            if row == stop:
                return
    except (pyarrow.ArrowException, OSError):
        for lost in range(row, stop):
            yield f"{os.path.basename(path)}:{first + lost}", "its Parquet file is damaged here"


def _image_of(value, shape):
    """The image ``(H, W, C)`` uint8 in a value of the column ``image``: an image file, or pixels."""
    import pyarrow

    if value.is_valid and pyarrow.types.is_struct(value.type):
        value = value["bytes"]
    if not value.is_valid:
        raise UnreadableImageError("empty (null)")
    if pyarrow.types.is_binary(value.type) or pyarrow.types.is_large_binary(value.type):
        return read_image(value.as_py(), shape)
    if pyarrow.types.is_fixed_size_binary(value.type):
        pixels = np.frombuffer(value.as_py(), np.uint8)
    else:
        pixels = value.values.to_numpy(zero_copy_only=False)
    if len(pixels) != prod(shape) or pixels.dtype != np.uint8:  # with a null in it, it is of floats
        raise UnreadableImageError(f"{len(pixels):,} values of type {pixels.dtype}, not {prod(shape):,} of type uint8")
    return pixels.reshape(shape)


# -- Ray ------------------------------------------------------------------------------------------------------------


def _import(*names):
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ShardError(
                f"cbir_utils.scale.shards needs {name.split('.')[0]}, which is not installed: pip install -e '.[scale]'"
            ) from error


def _results(todo, arguments, workers, address):
    """Have the shards in ``todo`` made; yield what comes back from each, as it comes."""
    import ray

    with _quiet(), _ray(workers, address):
        blocks = min(len(todo), 10_000)  # one is given to a worker at a time
        results = ray.data.from_items(todo, override_num_blocks=blocks).map(
            _Worker,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
        )  # a worker that dies is started again, and its shards are given out again, without end: see TRIES
        try:
            yield from results.iter_rows()
        except (ray.exceptions.RayError, ray.data.exceptions.SystemException) as error:
            raise ShardError(f"the workers failed ({_last_line(error)}); finished shards are kept") from error


def _last_line(error):
    return str(error).strip().splitlines()[-1]


@contextmanager
def _ray(workers, address):
    """A Ray to work with: the one that runs in this process, or the cluster's, or one for this block alone."""
    import ray

    started = not ray.is_initialized()
    with _light_imports() if started and address is None else nullcontext():
        try:
            if started:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its makers
                _start(workers) if address is None else _join(address)
            cores = ray.cluster_resources().get("CPU", 0)
            if cores < workers:
                raise ShardError(f"Ray has {cores:g} cores, fewer than workers={workers}; lower workers")
            yield
        finally:
            if started:
                ray.shutdown()


def _start(workers):
    """Start a Ray on this machine; a busy one may need longer than Ray gives it, so there are several attempts."""
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            return ray.init(
                "local",
                num_cpus=workers,
                object_store_memory=OBJECT_STORE,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # where its time is up, Ray raises no more special one
            ray.shutdown()
            if attempt == STARTS:
                raise ShardError(f"Ray could not be started on this machine ({_last_line(error)})") from error


def _join(address):
    """Join a cluster, whose machines get this package from here, so that they run the same code."""
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():
            socket.create_connection((host, int(port)), timeout=CONNECT).close()
        package = {"py_modules": [str(Path(__file__).parent)]}
        ray.init(address, runtime_env=package, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise ShardError(
            f"no Ray answers at {address} ({_last_line(error)}); start one there with `ray start --head`"
        ) from error


@contextmanager
def _light_imports():
    """Spare Ray's processes the import of ``rfc3987_syntax``, which nothing in them uses.

    Where Jupyter is installed, Ray imports it (by way of jsonschema), and it compiles a grammar each time: 2.3 of 3.4
    seconds, in each of seven processes. On two busy cores they then miss the 15 seconds that Ray gives them to start.
    """
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rfc3987_syntax.py").write_text("raise ImportError\n")
        package = str(Path(__file__).parent.parent)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, package, *([before] if before else [])])
        try:
            yield
        finally:
            os.environ.pop("PYTHONPATH")
            if before is not None:
                os.environ["PYTHONPATH"] = before


@contextmanager
def _quiet():
    """Silence Ray's notes, its progress bars, and file descriptor 2, where its C++ part writes."""
    import ray.data

    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.print_on_execution_start, log.level
    context.enable_progress_bars = context.print_on_execution_start = False
    log.setLevel(logging.ERROR)
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        context.enable_progress_bars, context.print_on_execution_start = before[:2]
        log.setLevel(before[2])


class _Printed:
    """Progress as lines: one for each tenth that is done, or every half minute."""

    def __init__(self):
        self.start = self.last = time.perf_counter()
        self.tenths = 0

    def __call__(self, done, total):
        now, tenths = time.perf_counter(), 10 * done // total
        if tenths > self.tenths or now - self.last > 30:
            print(f"encoded {done:,} of {total:,} images {now - self.start:7.1f} s", flush=True)
            self.tenths, self.last = tenths, now
