"""Nearest-neighbour search in a database engine, in the words of :class:`~cbir_utils.index.Index`.

Milvus keeps the codes: a path that ends in ``.db`` is its embedded engine (milvus-lite, in this process, exact), and
``http://host:port`` is a server or a cluster (an HNSW graph, approximate: Malkov and Yashunin 2020). To move from one
to the next, change the address::

    from cbir_utils.scale.collection import Collection

    index = Collection("results/digits.db", "convolutional", metric="cosine", encoder_hash=encoder_hash)
    index.add(codes, ids)
    hits = index.search(queries, 10)

Needs the extra ``scale``; importing this module does not.
"""

import atexit
import json
import logging
import os
import re
import sys
import warnings
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from cbir_utils.codes import checked_codes, checked_k, checked_queries, own_rows, rows_of, unit_length, whole_numbers
from cbir_utils.index import Hits
from cbir_utils.run import sha256

#: The distances that Milvus offers of those of ``Index``.
ENGINE_METRICS = ("euclidean", "cosine")

#: Of the facts that are kept with a collection.
FORMAT = 2

#: Milvus returns no more hits than this for a query.
MOST_HITS = 16_384

#: Sent at a time: numbers of codes (4 MB), ids in a filter, queries, and hits of a call.
NUMBERS, IDS, QUERIES, HITS = 2**20, 10_000, 1000, 2**20

#: HNSW: edges of a node, and candidates kept when a node is added and (the least) when it is searched.
M, EF_CONSTRUCTION, EF = 16, 200, 128
MOST_EF = 32_768

#: Seconds to wait for a connection, and for an answer: a large collection takes its time to be loaded into memory.
CONNECT, ANSWER, LOAD = 5, 60, 600

#: Properties of a collection: facts about it as JSON, and the id that the next code gets.
FACTS, NEXT_ID = "cbir_utils.facts", "cbir_utils.next_id"

#: Milvus's code for a collection that a restarted server has not loaded yet.
NOT_LOADED = 101

#: In the folder of the embedded engine: the SHA-256 of each file, written when it is closed and removed when it is
#: opened. milvus-lite itself takes a damaged manifest for an empty collection, and deletes the codes.
SEAL = "seal.json"

#: How many collections are open of each embedded engine.
_OPEN = Counter()


class EngineError(RuntimeError):
    """The engine cannot be reached or refuses, or a collection is another's; the message names the address."""


class Collection:
    """Codes in a Milvus collection, which is made by the first ``add``.

    Distances are those of :class:`~cbir_utils.index.Index`, but summed in float32 by the engine. The embedded engine is
    exact. A server searches an HNSW graph: it may miss a near row, and of rows at equal distance it may find any. Each
    of its answers waits until all that was added can be found, some 0.2 s: send many queries in one call.

    The engine is asked for Euclidean distances only. For cosine it gets codes of unit length, as |q - r|² = 2 - 2 q·r,
    with one number more: 1 for a code of zeros, which is then at cosine distance 1 from everything, and 0 for others.

    Parameters
    ----------
    address : str or path
        ``name.db`` for the embedded engine (a folder of that name appears), or ``http://host:port`` for a server,
        ``http://user:password@host:port`` for one that asks who is there.
    name : str
        Of the collection: letters, digits and underscores, not beginning with a digit.
    metric : {"euclidean", "cosine"}, optional
        Of a new collection euclidean if not given, of an existing one its own; another one is refused.
    encoder_hash : str, optional
        Hash of the encoder that made the codes. Kept with a new collection; an existing one of another's is refused.

    Attributes
    ----------
    dimension : int or None
        The code length D; ``None`` as long as there is no collection.

    Raises
    ------
    EngineError
        If no server answers at the address (within 10 seconds), the file is damaged, in use or cannot be written, the
        collection is another encoder's or has another metric, or ``pymilvus`` is not installed.
    """

    def __init__(self, address, name, *, metric=None, encoder_hash=None):
        self.address, self.name = str(address), name
        self.metric, self.encoder_hash, self.dimension = metric, encoder_hash, None
        if metric not in (None, *ENGINE_METRICS):
            raise ValueError(
                f"Milvus has no metric {metric!r}; choose one of {', '.join(ENGINE_METRICS)}, or search with Index"
            )
        self._client = _connect(self.address, name)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __repr__(self):
        return f"the collection {self.name} at {_shown(self.address)}"

    def __len__(self):
        if not self._exists():
            return 0
        return self._call("query", filter="", output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Leave the engine. The embedded one writes its file and lets go of it when its last collection is closed."""
        if self._client is not None:
            _disconnect(self.address, self._client)
            self._client = None

    def add(self, codes, ids=None):
        """Add ``(N, D)`` float32 codes; a code whose id is there already replaces the one that was. Returns itself.

        ``ids`` are N different ids of 0 or more. Without them the numbering is continued, from 0 on: several programs
        that add to one collection have to give ids. Raises ValueError for unfit codes or ids, and EngineError if the
        engine fails in the middle: the same ``add`` with the same ids then loses and doubles nothing.
        """
        exists = self._exists()
        codes = checked_codes(codes, "codes", self.dimension)
        next_id = self._next_id() if exists else 0
        ids = np.arange(next_id, next_id + len(codes)) if ids is None else _new_ids(ids, len(codes))
        if not exists:
            self._create(codes.shape[1])
        if ids.max() >= next_id:  # kept first: an id is never given twice, whatever fails later
            self._call("alter_collection_properties", {NEXT_ID: str(ids.max() + 1)})
        codes, step = self._vectors(codes), max(1, NUMBERS // self.dimension)
        for start in tqdm(range(0, len(codes), step), disable=len(codes) <= step):
            part = slice(start, start + step)
            rows = [{"id": i, "code": code} for i, code in zip(ids[part].tolist(), codes[part], strict=True)]
            try:
                self._call("upsert", rows)
            except EngineError as error:
                raise EngineError(
                    f"{error}; {start:,} of {len(codes):,} codes had arrived: add the same codes with the same ids "
                    f"again, from {ids[0]} to {ids[-1]}, and none is lost or doubled"
                ) from error
        return self

    def remove(self, ids):
        """Remove the codes with these ids, a sequence of int; none of them is given again. Returns itself.

        Raises ValueError if an id is not in the collection; then nothing is removed.
        """
        for part in _parts(self._known(ids, "ids")):
            self._call("delete", filter=_is_in(part))
        return self

    def search(self, queries, k, *, exclude_self=None, subset=None, ef=None):
        """The ``k`` nearest codes of each query.

        Parameters
        ----------
        queries : ndarray
            ``(Q, D)`` float32, or ``(D,)`` for one query (which then counts as Q = 1).
        k : int
            1 ≤ k ≤ the number of codes, and 16,384 (each less one with ``exclude_self``).
        exclude_self : sequence of int, optional
            For queries that are in the database: the id of each, left out of its own hits.
        subset : sequence of int, optional
            Ids to search within; 10,000 go into a call.
        ef : int, optional
            Candidates that a server keeps as it walks the graph: with more it finds more and takes longer. At least
            k + 2; 128, or 4 k for large k, if not given. The embedded engine is exact and has no use for it.

        Returns
        -------
        Hits
            ``distances (Q, K)`` float32 and ``ids (Q, K)`` int64, nearest first, at equal distance the lower id.

        Raises
        ------
        ValueError
            For k or ef out of range, an empty collection, unknown ids, or unfit queries.
        """
        queries = checked_queries(queries, self.dimension if self._exists() else None)
        k, without_self = checked_k(k, sys.maxsize if self.dimension else 0), exclude_self is not None
        if k > MOST_HITS - without_self:
            raise ValueError(f"k is {k}, but Milvus returns {MOST_HITS - without_self} hits at most; ask for fewer")
        if ef is not None and not k + 2 <= ef <= MOST_EF:
            raise ValueError(f"ef must be from k + 2 = {k + 2} to {MOST_EF}, not {ef!r}")
        own, filters = None, [""]
        if without_self:
            known = self._known(exclude_self, "exclude_self")
            own = known[own_rows(exclude_self, known, len(queries))]
        if subset is not None:
            subset = self._known(subset, "subset")
            checked_k(k, len(subset), without_self)
            filters = [_is_in(part) for part in _parts(subset)]
        step = max(1, min(QUERIES, HITS // k, NUMBERS // self.dimension))
        blocks = []
        for start in range(0, len(queries), step):
            these = slice(start, start + step)
            wanted = k + without_self  # one more, in case the query itself is there
            found = [self._nearest(queries[these], wanted, each, ef or max(EF, 4 * k)) for each in filters]
            distances, ids = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
            if own is not None:
                distances[ids == own[these, None]] = np.inf
            blocks.append(_sorted(distances, ids, k))
        distances, ids = (np.concatenate(part) for part in zip(*blocks, strict=True))
        least = np.isfinite(distances).sum(axis=1).min()
        if least < k:
            checked_k(k, len(self), without_self)
            raise EngineError(f"{self} found only {least} of {k} hits; ask for fewer, or give a larger ef")
        return Hits(distances.astype(np.float32), ids)

    # -- how it is done ---------------------------------------------------------------------------------------

    def _nearest(self, queries, wanted, expression, ef):
        """Distances and ids of the ``wanted`` nearest, ``(Q, K)`` float64 and int64, at equal distance the lowest ids.

        Where the engine finds fewer, the rest are infinity and -1.
        """
        distances, ids = np.empty((len(queries), wanted)), np.empty((len(queries), wanted), np.int64)
        left, ask = np.arange(len(queries)), wanted + 1
        while len(left):
            ask = min(ask, MOST_HITS)
            found, found_ids = self._answers(queries[left], ask, expression, min(max(ef, ask), MOST_EF))
            distances[left], ids[left] = _sorted(found, found_ids, wanted)
            # Of rows at equal distance the engine returns any: ask for more until the last is beyond them.
            cut = np.isfinite(found[:, -1]) & (found[:, wanted - 1] == found[:, -1])
            left = left[cut & (ask < MOST_HITS)]
            ask *= 2
        return distances, ids

    def _answers(self, queries, ask, expression, ef):
        """What the engine answers to queries, as ``_nearest`` has it, but for ties."""
        vectors = self._vectors(queries)
        if self.metric == "cosine":
            vectors[:, -1] = 0  # a query of zeros is as far from codes of zeros as from the others
        how = {"metric_type": "L2", "params": {} if _embedded(self.address) else {"ef": ef}}
        fields = {"anns_field": "code", "output_fields": ["id"], "consistency_level": "Strong"}
        answer = self._call("search", vectors, filter=expression, limit=ask, search_params=how, **fields)
        squared, ids = np.full((len(queries), ask), np.inf), np.full((len(queries), ask), -1)
        for row, hits in enumerate(answer):  # Milvus does not take the root
            squared[row, : len(hits)], ids[row, : len(hits)] = hits.distances, hits.ids
        if self.metric == "euclidean":
            return np.sqrt(squared), ids
        squared[~queries.any(axis=1)] = 2  # a query of zeros has no direction either
        return np.where(ids >= 0, squared / 2, np.inf), ids

    def _vectors(self, codes):
        """Codes as the engine gets them."""
        if self.metric == "euclidean":
            return codes
        return np.column_stack([unit_length(codes), (~codes.any(axis=1)).astype(np.float32)])

    def _create(self, dimension):
        """Make the collection, unless another program does so at this moment."""
        import pymilvus

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", pymilvus.DataType.INT64, is_primary=True)
        schema.add_field("code", pymilvus.DataType.FLOAT_VECTOR, dim=dimension + (self.metric == "cosine"))
        facts = {"format": FORMAT, "metric": self.metric, "dimension": dimension, "encoder_hash": self.encoder_hash}
        properties = {FACTS: json.dumps(facts), NEXT_ID: "0"}
        try:
            self._call("create_collection", schema=schema, consistency_level="Strong", properties=properties)
        except EngineError:
            if not self._call("has_collection"):
                raise
        self._open()
        if self.dimension != dimension:
            raise EngineError(f"{self} has just been made for codes of {self.dimension} numbers, not {dimension}")

    def _exists(self):
        """Whether there is a collection; another program may have made it since this one looked."""
        if self.dimension is None:
            self._open()
        return self.dimension is not None

    def _open(self):
        """Look for the collection; if there is one, check that it is the one that is asked for, and load it."""
        if not self._call("has_collection"):
            self.metric = self.metric or "euclidean"
            return
        try:
            facts = json.loads(self._call("describe_collection")["properties"][FACTS])
            facts = {name: facts[name] for name in ("format", "metric", "dimension", "encoder_hash")}
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self} was not made by cbir_utils; choose another name") from error
        self.metric = self.metric or facts["metric"]
        self.encoder_hash = self.encoder_hash or facts["encoder_hash"]
        for name, what, wanted in (
            ("format", "has the format", FORMAT),
            ("metric", "has the metric", self.metric),
            ("encoder_hash", "holds the codes of another encoder:", self.encoder_hash),
        ):
            if facts[name] != wanted:
                raise EngineError(
                    f"{self} {what} {str(facts[name])[:12]}, not {str(wanted)[:12]}; "
                    f"choose another name, or delete it with drop({_shown(self.address)!r}, {self.name!r})"
                )
        self._load()
        self.dimension = facts["dimension"]

    def _load(self):
        """Make the collection ready to be searched; with its index, unless it has one."""
        if not self._call("list_indexes"):
            graph = {"index_type": "HNSW", "params": {"M": M, "efConstruction": EF_CONSTRUCTION}}
            indexes = self._client.prepare_index_params()
            # The HNSW of the embedded engine has lost rows when it merged its files.
            indexes.add_index(
                "code", metric_type="L2", **({"index_type": "FLAT"} if _embedded(self.address) else graph)
            )
            self._call("create_index", indexes, sync=False)
        self._call("load_collection", timeout=LOAD)

    def _next_id(self):
        """One more than the highest id there has been."""
        return int(self._call("describe_collection")["properties"][NEXT_ID])

    def _known(self, ids, what):
        """``ids``, ascending and each once, after asking the engine whether it has them all."""
        ids, known = whole_numbers(ids, what), [np.empty(0, np.int64)]
        for part in _parts(np.unique(ids)) if self._exists() else []:
            answer = self._call("query", filter=_is_in(part), output_fields=["id"], consistency_level="Strong")
            known.append(np.array([row["id"] for row in answer], np.int64))
        known = np.sort(np.concatenate(known))
        rows_of(ids, known, what)
        return known

    def _call(self, method, *arguments, timeout=ANSWER, **options):
        """Call a method of the client about this collection; whatever goes wrong becomes one sentence."""
        if self._client is None:
            raise EngineError(f"{self} has been closed; open it again with Collection")
        call = getattr(self._client, method)
        try:
            return _ask(self.address, call, self.name, *arguments, timeout=timeout, **options)
        except EngineError as error:
            if getattr(error.__cause__, "code", None) != NOT_LOADED or method == "load_collection":
                raise
        self._load()  # the server has been started anew, and is not ready yet
        return _ask(self.address, call, self.name, *arguments, timeout=timeout, **options)


def drop(address, name):
    """Delete the collection ``name`` at ``address`` with all its codes; nothing happens if there is none."""
    client = _connect(str(address), name)
    try:
        _ask(str(address), client.drop_collection, name, timeout=ANSWER)
    finally:
        _disconnect(str(address), client)


def _embedded(address):
    return address.endswith(".db") and "://" not in address


def _shown(address):
    """The address without a password."""
    return re.sub(r"//[^/@]*@", "//", address)


def _ask(address, call, *arguments, **options):
    """Call pymilvus; what it raises becomes an :class:`EngineError` of one sentence."""
    import grpc
    import pymilvus

    try:
        return call(*arguments, **options)
    except (pymilvus.MilvusException, grpc.RpcError) as error:
        reason = " ".join(str(getattr(error, "message", error)).split())[:300]
        if isinstance(error, pymilvus.exceptions.ConnectionConfigException):
            reason = "it is open in another program, or none of the engine's; close it there, or choose another name"
        raise EngineError(f"Milvus at {_shown(address)} does not answer, or refuses: {reason}") from error


def _connect(address, name):
    """A client of the engine at ``address``."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
        raise ValueError(f"{name!r} is no name of a collection: letters, digits and _ only, and no digit first")
    if not _embedded(address) and not re.match(r"https?://[^/]", address):
        raise ValueError(
            f"{_shown(address)!r} is no address of an engine; give a path that ends in .db, or http://host:port"
        )
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import pymilvus

        if _embedded(address):
            import milvus_lite  # noqa: F401
    except ImportError as error:
        raise EngineError(f"an engine needs the package {error.name}; install it: pip install -e '.[scale]'") from error
    for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # their tracebacks would stand above our sentences
    if not _embedded(address):
        return _ask(address, pymilvus.MilvusClient, address, dedicated=True, timeout=CONNECT)
    folder = Path(address).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"{address} cannot be written ({error.strerror}); choose another name") from error
    sealed = _OPEN[folder] or _check_seal(folder)
    client = _ask(address, pymilvus.MilvusClient, address, dedicated=True, timeout=CONNECT)
    if not sealed:
        warnings.warn(
            f"{address} was not closed properly: if an add was cut off, repeat it with the same ids", stacklevel=3
        )
    (folder / SEAL).unlink(missing_ok=True)
    _OPEN[folder] += 1
    _close_at_exit()
    return client


def _disconnect(address, client):
    client.close()
    if _embedded(address):
        _release(Path(address).absolute())


def _release(folder):
    """Stop the embedded engine of a file that nobody has open any more, so that other programs can open it."""
    from milvus_lite.server_manager import server_manager_instance

    _OPEN[folder] -= 1
    if not _OPEN[folder]:
        server_manager_instance.release_server(str(folder))
        with suppress(OSError):  # without a seal there is a warning at the next start
            (folder / SEAL).write_text(json.dumps(_hashes(folder), indent=1))


@cache
def _close_at_exit():
    """For programs that do not close their collections (as notebooks do); before milvus-lite does it in its way."""

    def close():
        for folder in +_OPEN:
            _OPEN[folder] = 1
            _release(folder)

    atexit.register(close)


def _check_seal(folder):
    """Compare an embedded engine's files with their hashes. Returns whether they were there, or nothing is to check."""
    try:
        expected = json.loads((folder / SEAL).read_text())
    except (OSError, ValueError):
        return not any(folder.glob("collections/*"))
    found = _hashes(folder)
    for name in sorted(expected | found):
        if expected.get(name) != found.get(name):
            raise EngineError(
                f"{folder} is damaged, or another program has changed it: {name} is not what it was when it was "
                "closed; delete the folder and add the codes anew"
            )
    return True


def _hashes(folder):
    """The SHA-256 of each file in a folder, by its path in there; without those that say nothing about the codes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("LOCK", SEAL))
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(files)}


def _parts(ids):
    """Ids in parts that fit into a filter."""
    return [ids[start : start + IDS] for start in range(0, len(ids), IDS)]


def _is_in(ids):
    return f"id in {ids.tolist()}"


def _new_ids(ids, count):
    """Ids for ``count`` codes as int64, or a ValueError."""
    ids = whole_numbers(ids, "ids")
    if len(ids) != count:
        raise ValueError(f"ids has {len(ids)} id(s) for {count} codes; give one for each")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int64).max:
        raise ValueError(f"ids must be from 0 to 2**63 - 1, not {ids.min() if ids.min() < 0 else ids.max()}")
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < count:
        raise ValueError(f"ids name {(counts > 1).sum()} id(s) more than once, first {values[counts > 1][0]}")
    return ids.astype(np.int64)


def _sorted(distances, ids, k):
    """The first k of each row by distance, then by id."""
    order = np.lexsort((ids, distances), axis=-1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)
