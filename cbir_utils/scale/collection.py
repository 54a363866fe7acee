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

import json
import sys
from functools import partial

import numpy as np
from tqdm.auto import tqdm

from cbir_utils.codes import checked_codes, checked_k, checked_queries, own_rows, rows_of, unit_length, whole_numbers
from cbir_utils.index import Hits
from cbir_utils.scale import engine
from cbir_utils.scale.engine import EngineError

#: The distances that Milvus offers of those of ``Index``.
ENGINE_METRICS = ("euclidean", "cosine")

#: Of the facts that are kept with a collection, and the properties where they and the next code's id are kept.
FORMAT, FACTS, NEXT_ID = 2, "cbir_utils.facts", "cbir_utils.next_id"

#: Milvus returns no more hits than this for a query, and its code for a collection that is not loaded yet.
MOST_HITS, NOT_LOADED = 16_384, 101

#: Sent at a time: numbers of codes (4 MB), ids in a filter, queries, and hits of a call.
NUMBERS, IDS, QUERIES, HITS = 2**20, 10_000, 1000, 2**20

#: Candidates that a server keeps as it walks its graph: the least and the most.
EF, MOST_EF = 128, 32_768

#: Seconds to wait for an answer, and for a large collection that is loaded into memory.
ANSWER, LOAD = 60, 600


class Collection:
    """Codes in a Milvus collection, which is made by the first ``add``.

    Distances are those of :class:`~cbir_utils.index.Index`, summed in float32. The embedded engine is exact. A server
    searches an HNSW graph: it may miss a near row, and of rows at equal distance it may find any. Each of its answers
    waits until all that was added can be found, some 0.2 s: send many queries in one call.

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

    Raises
    ------
    EngineError
        If no server answers within 10 seconds, the file is damaged, in use or cannot be written, the collection has
        another metric or encoder, or ``pymilvus`` is not installed.
    """

    def __init__(self, address, name, *, metric=None, encoder_hash=None):
        self.address, self.name = str(address), name
        self.metric, self.encoder_hash, self.dimension = metric, encoder_hash, None
        if metric not in (None, *ENGINE_METRICS):
            raise ValueError(
                f"Milvus has no metric {metric!r}; choose one of {', '.join(ENGINE_METRICS)}, or search with Index"
            )
        self._client = engine.connect(self.address, name)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __repr__(self):
        return f"the collection {self.name} at {engine.shown(self.address)}"

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
            engine.disconnect(self.address, self._client)
            self._client = None

    def add(self, codes, ids=None):
        """Add ``(N, D)`` float32 codes; a code whose id is there already replaces the one that was. Returns itself.

        ``ids`` are N different ids of 0 or more. Without them the numbering is continued, from 0 on: several programs
        that add to one collection have to give ids. Raises ValueError for unfit codes or ids, and EngineError if the
        engine fails in the middle: the same ``add`` with the same ids then loses and doubles nothing.
        """
        codes = checked_codes(codes, "codes", self.dimension if self._exists() else None)
        ids = ids if ids is None else _new_ids(ids, len(codes))
        if self.dimension is None:
            self._create(codes.shape[1])
        next_id = int(self._call("describe_collection")["properties"][NEXT_ID])
        ids = _new_ids(np.arange(next_id, next_id + len(codes)), len(codes)) if ids is None else ids
        if ids.max() >= next_id:  # kept first: an id is never given twice, whatever fails later
            self._call("alter_collection_properties", {NEXT_ID: str(int(ids.max()) + 1)})
        codes, step = _vectors(codes, self.metric), max(1, NUMBERS // self.dimension)
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
        for expression in _filters(self._known(ids, "ids")):
            self._call("delete", filter=expression)
        return self

    def search(self, queries, k, *, exclude_self=None, subset=None, ef=None):
        """The ``k`` nearest codes of each query.

        Arguments, hits and errors are those of :meth:`cbir_utils.index.Index.search`; k is at most 16,384 (one less
        with ``exclude_self``). ``ef`` candidates are kept as a server walks the graph, k + 2 or more: with more it
        finds more and takes longer. 128, or 4 k for large k, if not given; the embedded engine has no use for it.
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
            filters = _filters(subset)
        step, blocks = max(1, min(QUERIES, HITS // k, NUMBERS // self.dimension)), []
        answers = [partial(self._answers, each, ef or max(EF, 4 * k)) for each in filters]
        for start in range(0, len(queries), step):
            these = slice(start, start + step)
            # One more than k, in case the query itself is there.
            found = [_nearest(answer, queries[these], k + without_self) for answer in answers]
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

    def _answers(self, expression, ef, queries, ask):
        """Distances and ids that the engine answers, ``(Q, ask)``; where it finds fewer, infinity and -1."""
        vectors = _vectors(queries, self.metric)
        if self.metric == "cosine":
            vectors[:, -1] = 0  # a query of zeros is as far from codes of zeros as from the others
        ef = {} if engine.is_embedded(self.address) else {"ef": min(max(ef, ask), MOST_EF)}
        how = {"metric_type": "L2", "params": ef}
        fields = {"anns_field": "code", "output_fields": ["id"], "consistency_level": "Strong"}
        answer = self._call("search", vectors, filter=expression, limit=ask, search_params=how, **fields)
        squared, ids = np.full((len(queries), ask), np.inf), np.full((len(queries), ask), -1)
        for row, hits in enumerate(answer):
            squared[row, : len(hits)], ids[row, : len(hits)] = hits.distances, hits.ids
        return _distances(squared, queries, self.metric), ids

    def _create(self, dimension):
        """Make the collection, unless another program does so at this moment."""
        facts = {"format": FORMAT, "metric": self.metric, "dimension": dimension, "encoder_hash": self.encoder_hash}
        how = {"consistency_level": "Strong", "properties": {FACTS: json.dumps(facts), NEXT_ID: "0"}}
        schema = engine.schema(self._client, dimension + (self.metric == "cosine"))
        try:
            self._call("create_collection", schema=schema, **how)
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
        for name, wanted in (("format", FORMAT), ("metric", self.metric), ("encoder_hash", self.encoder_hash)):
            if facts[name] != wanted:
                raise EngineError(
                    f"{self} has the {name} {str(facts[name])[:12]}, not {str(wanted)[:12]}; choose another name, or "
                    "delete it with drop(address, name)"
                )
        self._load()
        self.dimension = facts["dimension"]

    def _load(self):
        """Make the collection ready to be searched; with its index, unless it has one."""
        if not self._call("list_indexes"):
            self._call("create_index", engine.graph(self._client, engine.is_embedded(self.address)), sync=False)
        self._call("load_collection", timeout=LOAD)

    def _known(self, ids, what):
        """``ids``, ascending and each once, after asking the engine whether it has them all."""
        ids, known = whole_numbers(ids, what), [np.empty(0, np.int64)]
        for expression in _filters(np.unique(ids)) if self._exists() else []:
            answer = self._call("query", filter=expression, output_fields=["id"], consistency_level="Strong")
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
            return engine.ask(self.address, call, self.name, *arguments, timeout=timeout, **options)
        except EngineError as error:
            if getattr(error.__cause__, "code", None) != NOT_LOADED or method == "load_collection":
                raise
        self._load()  # the server has been started anew, and is not ready yet
        return engine.ask(self.address, call, self.name, *arguments, timeout=timeout, **options)


def drop(address, name):
    """Delete the collection ``name`` at ``address`` with all its codes; nothing happens if there is none."""
    client = engine.connect(str(address), name)
    try:
        engine.ask(str(address), client.drop_collection, name, timeout=ANSWER)
    finally:
        engine.disconnect(str(address), client)


# -- what goes over ---------------------------------------------------------------------------------------------


def _vectors(codes, metric):
    """Codes as the engine gets them, which is asked for Euclidean distances only.

    For cosine they have unit length, as |q - r|² = 2 - 2 q·r, and one number more: 1 for a code of zeros, which is
    then at cosine distance 1 from everything, and 0 for others.
    """
    if metric == "euclidean":
        return codes
    return np.column_stack([unit_length(codes), (~codes.any(axis=1)).astype(np.float32)])


def _distances(squared, queries, metric):
    """Distances ``(Q, K)`` from the engine's squared ones; infinity stays."""
    if metric == "euclidean":
        return np.sqrt(squared)
    squared[~queries.any(axis=1)[:, None] & np.isfinite(squared)] = 2  # a query of zeros has no direction either
    return squared / 2


def _nearest(answers, queries, wanted):
    """The ``wanted`` nearest by a function ``answers(queries, ask)``, at equal distance those with the lowest ids.

    Of rows at equal distance the engine returns any, so it is asked for more until the last is beyond them.
    """
    distances, ids = np.empty((len(queries), wanted)), np.empty((len(queries), wanted), np.int64)
    left, ask = np.arange(len(queries)), wanted + 1
    while len(left):
        ask = min(ask, MOST_HITS)
        found, found_ids = answers(queries[left], ask)
        distances[left], ids[left] = _sorted(found, found_ids, wanted)
        cut = np.isfinite(found[:, -1]) & (found[:, wanted - 1] == found[:, -1])
        left, ask = left[cut & (ask < MOST_HITS)], 2 * ask
    return distances, ids


def _filters(ids):
    """Filters that take these ids, in as many calls as they need."""
    return [f"id in {ids[start : start + IDS].tolist()}" for start in range(0, len(ids), IDS)]


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
