"""Nearest-neighbour search in a database engine, in the words of :class:`~cbir_utils.index.Index`.

Milvus keeps the codes: a path that ends in ``.db`` is its embedded engine (milvus-lite, in this process, exact), and
``http://host:port`` is a server or a cluster (an HNSW graph, approximate: Malkov and Yashunin 2020). To move from one
to the next is to change the address::

    from cbir_utils.scale.collection import Collection

    index = Collection("results/digits.db", "convolutional", metric="cosine", encoder_hash=encoder_hash)
    index.add(codes, ids)
    hits = index.search(queries, 10)

Needs the extra ``scale``; importing this module does not.
"""

import atexit
import hashlib
import json
import logging
import os
import re
import warnings
from collections import Counter, deque
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np

from cbir_utils.codes import checked_codes, unit_length
from cbir_utils.index import METRICS, Hits

#: The distances that are offered; Milvus has no Manhattan distance.
ENGINE_METRICS = ("euclidean", "cosine")

#: Of the facts that are kept with a collection.
FORMAT = 1

#: Milvus returns no more hits than this for a query.
MOST_HITS = 16_384

#: Sent at a time: numbers of codes (4 MB), ids in a filter, queries, and hits of a call.
NUMBERS, IDS, QUERIES, HITS = 2**20, 10_000, 1000, 2**20

#: HNSW: edges of a node, and candidates kept when a node is added and (the least) when it is searched.
M, EF_CONSTRUCTION, EF = 16, 200, 128
MOST_EF = 32_768

#: Seconds to wait for a connection, and for an answer: a large collection takes its time to be loaded into memory.
CONNECT, ANSWER, LOAD = 5, 60, 600

#: Properties of a collection, where the facts about it are kept as JSON, and the id that the next code gets.
FACTS, NEXT_ID = "cbir_utils.facts", "cbir_utils.next_id"

#: In the folder of the embedded engine: the SHA-256 of each file, written when it is closed and removed when it is
#: opened. milvus-lite itself takes a damaged manifest for an empty collection, and deletes the codes.
SEAL = "seal.json"

#: How many collections are open of each embedded engine, and what the libraries have logged.
_OPEN, _LOGGED = Counter(), deque(maxlen=100)


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
        ``name.db`` for the embedded engine (a folder of that name appears), or ``http://host:port`` for a server.
    name : str
        Of the collection: letters, digits and underscores, not beginning with a digit.
    metric : {"euclidean", "cosine"}, optional
        Of a new collection euclidean if not given, of an existing one its own; another one is refused.
    encoder_hash : str, optional
        Hash of the encoder that made the codes. Kept with a new collection; an existing one of another's is refused.
    token : str
        ``user:password`` or an API key, for a server that asks for it.

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

    def __init__(self, address, name, *, metric=None, encoder_hash=None, token=""):
        self.address, self.name = str(address), name
        self.metric, self.encoder_hash, self.dimension = metric, encoder_hash, None
        self._next = None  # the id that the next code gets, once it has been asked for
        if metric is not None and metric not in METRICS:
            raise ValueError(f"there is no metric {metric!r}; choose one of {', '.join(ENGINE_METRICS)}")
        if metric is not None and metric not in ENGINE_METRICS:
            raise ValueError(
                f"Milvus has no metric {metric!r}; choose one of {', '.join(ENGINE_METRICS)}, or search with Index"
            )
        self._client = _connect(self.address, name, token)
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
        if self._client is None:
            return
        self._client.close()
        self._client = None
        if _embedded(self.address):
            _release(self.address)

    def add(self, codes, ids=None, *, progress=None):
        """Add ``(N, D)`` float32 codes; a code whose id is there already replaces the one that was. Returns itself.

        Parameters
        ----------
        codes : ndarray
            ``(N, D)`` float32.
        ids : sequence of int, optional
            N different ids of 0 or more. Without them the numbering is continued, from 0 on: several programs that
            add to one collection have to give ids.
        progress : callable, optional
            Called after each batch as ``progress(done, total)``, in codes.

        Raises
        ------
        ValueError
            For codes of the wrong dtype, rank or length, or not finite, and for ids that are not N different ones.
        EngineError
            If the engine fails in the middle; the message says how many codes have arrived. The same ``add`` with the
            same ids loses and doubles nothing.
        """
        exists = self._exists()
        codes = checked_codes(codes, "codes", self.dimension)
        if ids is None:
            first = self._next_id()
            ids = np.arange(first, first + len(codes))
        ids = _checked_ids(ids, len(codes))
        if not exists:
            self._create(codes.shape[1])
        codes = self._vectors(codes)
        step = max(1, NUMBERS // self.dimension)
        for start in range(0, len(codes), step):
            stop = min(start + step, len(codes))
            rows = [{"id": i, "code": c} for i, c in zip(ids[start:stop].tolist(), codes[start:stop], strict=True)]
            try:
                self._call("upsert", rows)
            except EngineError as error:
                arrived = f" (ids {ids[0]} to {ids[start - 1]})" if start else ""
                raise EngineError(
                    f"{error}; {start:,} of {len(codes):,} codes had arrived{arrived}: add the same codes with the "
                    f"same ids again, from {ids[0]} to {ids[-1]}, and none is lost or doubled"
                ) from error
            if progress is not None:
                progress(stop, len(codes))
        if self._next is not None:
            self._next = max(self._next, int(ids.max()) + 1)
        return self

    def remove(self, ids):
        """Remove the codes with these ids, a sequence of int; none of them is given again. Returns itself.

        Raises ValueError if an id is not in the collection; then nothing is removed.
        """
        ids = self._known(ids, "ids")
        self._call("alter_collection_properties", {NEXT_ID: str(self._next_id())})
        for part in _parts(np.unique(ids)):
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
            For k or ef out of range, an empty collection, unknown ids, or queries of the wrong dtype, rank or length,
            or not finite.
        """
        if not self._exists():
            raise ValueError("the index is empty; add codes before searching it")
        queries = np.asarray(queries)
        queries = checked_codes(queries[None] if queries.ndim == 1 else queries, "queries", self.dimension)
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"k must be a whole number of 1 or more, not {k!r}")
        k, most = int(k), MOST_HITS - (exclude_self is not None)  # pymilvus takes no NumPy number
        if k > most:
            without = " besides the query itself" if exclude_self is not None else ""
            raise ValueError(f"k is {k}, but Milvus returns {most} hits at most{without}; ask for fewer")
        if ef is not None and not k + 2 <= ef <= MOST_EF:
            raise ValueError(f"ef must be from k + 2 = {k + 2} to {MOST_EF}, not {ef!r}")
        own, filters = None, [""]
        if exclude_self is not None:
            own = self._known(exclude_self, "exclude_self")
            if len(own) != len(queries):
                raise ValueError(f"exclude_self has {len(own)} id(s) for {len(queries)} queries; give one for each")
        if subset is not None:
            subset = np.unique(self._known(subset, "subset"))
            _check_enough(k, len(subset), own)
            filters = [_is_in(part) for part in _parts(subset)]

        step = max(1, min(QUERIES, HITS // k, NUMBERS // self.dimension))
        blocks = []
        for start in range(0, len(queries), step):
            these = slice(start, start + step)
            wanted = k + (own is not None)  # one more, in case the query itself is there
            found = [self._nearest(queries[these], wanted, each, ef or max(EF, 4 * k)) for each in filters]
            distances, ids = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
            if own is not None:
                distances[ids == own[these, None]] = np.inf
            blocks.append(_sorted(distances, ids, k))
        distances, ids = (np.concatenate(part) for part in zip(*blocks, strict=True))
        least = np.isfinite(distances).sum(axis=1).min()
        if least < k:
            _check_enough(k, len(self) if subset is None else len(subset), own)
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
        answer = self._call(
            "search", vectors, anns_field="code", filter=expression, limit=ask, output_fields=["id"],
            search_params={"metric_type": "L2", "params": {} if _embedded(self.address) else {"ef": ef}},
            consistency_level="Strong",
        )  # fmt: skip
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
        properties = {FACTS: json.dumps(facts)}
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
        facts = self._stored_facts()
        self.metric = self.metric or facts.get("metric", "euclidean")
        if facts:
            self.encoder_hash = self.encoder_hash or facts["encoder_hash"]
            self._check(facts)
            self._load()
            self.dimension = facts["dimension"]

    def _load(self):
        """Make the collection ready to be searched; with its index, unless it has one."""
        if not self._call("list_indexes"):
            if _embedded(self.address):  # its HNSW has lost rows when it merged its files
                kind = {"index_type": "FLAT"}
            else:
                kind = {"index_type": "HNSW", "params": {"M": M, "efConstruction": EF_CONSTRUCTION}}
            indexes = self._client.prepare_index_params()
            indexes.add_index("code", metric_type="L2", **kind)
            self._call("create_index", indexes, sync=False)
        self._call("load_collection", timeout=LOAD)

    def _stored_facts(self):
        """The facts that are kept with the collection; empty if there is no collection."""
        if not self._call("has_collection"):
            return {}
        description = self._call("describe_collection")
        for record in _LOGGED:  # a file that was not closed has no seal; what the engine misses it only logs
            if record.name == "milvus_lite.engine.recovery" and record.levelno >= logging.WARNING:
                raise EngineError(f"{self} is damaged ({record.getMessage()}); delete it and add the codes anew")
        try:
            facts = json.loads(description["properties"][FACTS])
            return {name: facts[name] for name in ("format", "metric", "dimension", "encoder_hash")}
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self} was not made by cbir_utils; choose another name") from error

    def _check(self, facts):
        """Refuse a collection of a newer format, another metric or another encoder."""
        instead = f"choose another name, or delete it with engine.drop({_shown(self.address)!r}, {self.name!r})"
        if facts["format"] > FORMAT:
            raise EngineError(
                f"{self} has format {facts['format']}, and this version reads up to {FORMAT}; update cbir_utils"
            )
        if facts["metric"] != self.metric:
            raise EngineError(f"{self} has the metric {facts['metric']}, not {self.metric}; {instead}")
        if facts["encoder_hash"] != self.encoder_hash:
            raise EngineError(
                f"{self} holds the codes of another encoder ({str(facts['encoder_hash'])[:12]}…, not "
                f"{self.encoder_hash[:12]}…); {instead}"
            )

    def _next_id(self):
        """One more than the highest id there has been; 0 for none."""
        if self._next is None:
            self._next = 0 if self.dimension is None else self._highest_id() + 1
        return self._next

    def _highest_id(self):
        """The highest id there has been; -1 for none."""
        properties = self._call("describe_collection")["properties"]

        def reaches(low):
            query = {"filter": f"id >= {low}", "output_fields": ["id"], "limit": 1}
            return bool(self._call("query", consistency_level="Strong", **query))

        # Milvus has no maximum. N different ids of 0 or more reach N - 1 at least, and mostly no further.
        least = beyond = max(len(self), int(properties.get(NEXT_ID, 0)))
        while reaches(beyond):
            least, beyond = beyond + 1, 2 * beyond + 1
        while least < beyond:
            middle = (least + beyond) // 2
            if reaches(middle):
                least = middle + 1
            else:
                beyond = middle
        return beyond - 1

    def _known(self, ids, what):
        """``ids`` as an array, after asking the engine whether it has them all."""
        if not self._exists():
            raise ValueError("the index is empty; add codes first")
        ids = _whole_numbers(ids, what)
        there = []
        for part in _parts(np.unique(ids)):
            answer = self._call("query", filter=_is_in(part), output_fields=["id"], consistency_level="Strong")
            there += [row["id"] for row in answer]
        absent = ids[~np.isin(ids, there)]
        if len(absent):
            raise ValueError(f"{what} name {len(absent)} id(s) that are not in the index, first {absent[0]}")
        return ids

    def _call(self, method, *arguments, timeout=ANSWER, **options):
        """Call a method of the client about this collection; whatever goes wrong becomes one sentence."""
        if self._client is None:
            raise EngineError(f"{self} has been closed; open it again with Collection")
        call = partial(getattr(self._client, method), self.name, *arguments, timeout=timeout, **options)
        try:
            return _ask(self.address, call)
        except EngineError as error:
            if method not in ("query", "search") or "not loaded" not in str(error):
                raise
        self._load()  # the server has been started anew, and is not ready yet
        return _ask(self.address, call)


def drop(address, name, *, token=""):
    """Delete the collection ``name`` at ``address`` with all its codes; nothing happens if there is none."""
    address = str(address)
    client = _connect(address, name, token)
    try:
        _ask(address, client.drop_collection, name, timeout=ANSWER)
    finally:
        client.close()
        if _embedded(address):
            _release(address)


def _embedded(address):
    return address.endswith(".db") and "://" not in address


def _shown(address):
    """The address without a password."""
    return re.sub(r"//[^/@]*@", "//", address)


def _connect(address, name, token):
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
    for logger in map(logging.getLogger, ("pymilvus", "pymilvus.milvus_client", "milvus_lite", "grpc._server")):
        # Their tracebacks would stand above the sentences of this module.
        logger.handlers, logger.propagate = [_LOG], False
    _LOGGED.clear()
    if _embedded(address):
        try:
            Path(address).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(f"{address} cannot be written ({error.strerror})") from error
    if not _embedded(address):
        return _ask(address, pymilvus.MilvusClient, address, token=token, dedicated=True, timeout=CONNECT)
    folder = os.path.abspath(address)
    sealed = _OPEN[folder] or _check_seal(folder)
    client = _ask(address, pymilvus.MilvusClient, address, dedicated=True, timeout=CONNECT)
    if not sealed:
        warnings.warn(
            f"{address} was not closed properly: if an add was cut off, repeat it with the same ids", stacklevel=3
        )
    Path(folder, SEAL).unlink(missing_ok=True)
    _OPEN[folder] += 1
    _close_at_exit()
    return client


def _release(address):
    """Stop the embedded engine of a file that nobody has open any more, so that other programs can open it."""
    from milvus_lite.server_manager import server_manager_instance

    folder = os.path.abspath(address)
    _OPEN[folder] -= 1
    if not _OPEN[folder]:
        server_manager_instance.release_server(folder)
        with suppress(OSError):  # without a seal there is a warning at the next start
            Path(folder, SEAL).write_text(json.dumps(_hashes(folder), indent=1))


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
        expected = json.loads(Path(folder, SEAL).read_text())
    except (OSError, ValueError):
        return not any(Path(folder).glob("collections/*"))
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
    hashes = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.name not in ("LOCK", SEAL):
            with open(path, "rb") as file:
                hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _ask(address, call, *arguments, **options):
    """Call pymilvus; what it raises becomes an :class:`EngineError` of one sentence."""
    import grpc
    import pymilvus

    try:
        return call(*arguments, **options)
    except (pymilvus.MilvusException, grpc.RpcError) as error:
        raise EngineError(_sentence(address, error)) from error


def _sentence(address, error):
    """What went wrong at ``address``."""
    reason = str(getattr(error, "message", "")) or f"{error.code().name}: {error.details()}"
    causes = [str(record.exc_info[1]) for record in _LOGGED if record.exc_info]
    if causes and "Open local milvus failed" in reason:  # pymilvus knows no more; milvus-lite has logged the cause
        reason = causes[-1]
    reason = " ".join(reason.split())[:300]
    if not _embedded(address):
        if re.search("connect|unavailable|unimplemented|deadline|retry|timeout", f"{reason} {error}", re.I):
            return f"no Milvus server answers at {_shown(address)}; start it, or correct address or token ({reason})"
        return f"the Milvus server at {_shown(address)} refused: {reason}"
    if "another process holds the lock" in reason:
        return f"{address} is open in another program; close it there first"
    if Path(address).is_file():
        return f"{address} is a file that the embedded engine did not write; choose another name"
    return f"the embedded engine cannot work with {address}: {reason}"


class _Log(logging.Handler):
    """Keeps what is logged, instead of printing it."""

    def emit(self, record):
        _LOGGED.append(record)


_LOG = _Log()


def _parts(ids):
    """Ids in parts that fit into a filter."""
    return [ids[start : start + IDS] for start in range(0, len(ids), IDS)]


def _is_in(ids):
    return f"id in {ids.tolist()}"


def _whole_numbers(ids, what):
    """Ids as an array, or a ValueError."""
    ids = np.atleast_1d(np.asarray(ids))
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
        raise ValueError(f"{what} must be a non-empty sequence of whole numbers, not {ids.dtype} of shape {ids.shape}")
    return ids


def _checked_ids(ids, count):
    """Ids for ``count`` codes as int64, or a ValueError."""
    ids = _whole_numbers(ids, "ids")
    if len(ids) != count:
        raise ValueError(f"ids has {len(ids)} id(s) for {count} codes; give one for each")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int64).max:
        raise ValueError(f"ids must be from 0 to 2**63 - 1, not {ids.min() if ids.min() < 0 else ids.max()}")
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < count:
        raise ValueError(f"ids name {(counts > 1).sum()} id(s) more than once, first {values[counts > 1][0]}")
    return ids.astype(np.int64)


def _check_enough(k, count, own):
    """Refuse a k that is more than the number of rows."""
    if not count:
        raise ValueError("the index is empty; add codes before searching it")
    most = count - (own is not None)
    if k > most:
        without = " besides the query itself" if own is not None else ""
        raise ValueError(f"k is {k}, but the index holds only {most} rows{without}")


def _sorted(distances, ids, k):
    """The first k of each row by distance, then by id."""
    order = np.lexsort((ids, distances), axis=-1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)
