"""Nearest-neighbour search in a database engine, in the words of :class:`~cbir_utils.index.Index`.

Milvus keeps the codes: a path that ends in ``.db`` is its embedded engine (milvus-lite, in this process, exact), and
``http://host:port`` is a server or a cluster (an HNSW graph, approximate: Malkov and Yashunin 2020). Needs the extra
``scale``; importing this module does not.
"""

import json
import sys

import numpy as np
from tqdm.auto import tqdm

from cbir_utils.codes import checked_codes, checked_k, checked_queries, own_rows, rows_of, unit_length, whole_numbers
from cbir_utils.index import Hits, nearest_first, without
from cbir_utils.scale import engine
from cbir_utils.scale.engine import EngineError

#: What Milvus calls those of the distances of ``Index`` that it offers.
ENGINE_METRICS = {"euclidean": "L2", "cosine": "IP"}

#: Of the facts that are kept with a collection, and the properties where they, the next code's id and the least number
#: of codes are kept.
FORMAT, FACTS, NEXT_ID, LEAST = 3, "cbir_utils.facts", "cbir_utils.next_id", "cbir_utils.least"

#: Milvus returns no more hits than this for a query.
MOST_HITS = 16_384

#: Sent at a time: numbers of codes (4 MB), ids in a filter, queries, and hits of a call.
NUMBERS, IDS, QUERIES, HITS = 2**20, 10_000, 1000, 2**20

#: Candidates that a server keeps as it walks its graph: the least and the most.
EF, MOST_EF = 128, 32_768

#: Seconds to wait for an answer, and for a large collection that is loaded into memory.
ANSWER, LOAD = 60, 600


class Collection:
    """Codes in a Milvus collection, which is made by the first ``add``.

    Distances are those of :class:`~cbir_utils.index.Index`, in float32. The embedded engine is exact. A server searches
    an HNSW graph: it may miss a near row, and of rows at equal distance it may find any. Each of its answers waits
    until all that was added can be found, some 0.2 s: send many queries in one call.

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
        self._client = engine.connect(self.address)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __repr__(self):
        return f"the collection {self.name} at {engine.shown(self.address)}"

    def __len__(self):
        return self._query("", "count(*)")[0] if self._open() else 0

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
        codes = checked_codes(codes, "codes", self.dimension if self._open() else None)
        ids = ids if ids is None else _new_ids(ids, len(codes))
        if self.dimension is None:
            self._create(codes.shape[1])
        next_id = int(self._call("describe_collection")["properties"][NEXT_ID])
        ids = _new_ids(np.arange(next_id, next_id + len(codes)), len(codes)) if ids is None else ids
        if ids.max() >= next_id:  # kept first: an id is never given twice, whatever fails later
            self._call("alter_collection_properties", {NEXT_ID: str(int(ids.max()) + 1)})
        if self.metric == "cosine":
            codes = unit_length(codes)
        step = max(1, NUMBERS // self.dimension)
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
        self._note_least()
        return self

    def remove(self, ids):
        """Remove the codes with these ids, a sequence of int; none of them is given again. Returns itself.

        Raises ValueError if an id is not in the collection; then nothing is removed.
        """
        known = self._known(ids, "ids")
        if len(known):  # noted first: whatever fails later, so many are left
            self._note_least(without=len(known))
        for expression in _filters(known):
            self._call("delete", filter=expression)
        return self

    def search(self, queries, k, *, exclude_self=None, subset=None, ef=None):
        """The ``k`` nearest codes of each query.

        Arguments, hits and errors are those of :meth:`cbir_utils.index.Index.search`; k is at most 16,384 (one less
        with ``exclude_self``). ``ef`` candidates are kept as a server walks the graph, k + 2 or more: with more it
        finds more and takes longer. 128, or 4 k for large k, if not given; the embedded engine has no use for it.
        """
        queries = checked_queries(queries, self.dimension if self._open() else None)
        k, without_self = checked_k(k, sys.maxsize if self.dimension else 0), exclude_self is not None
        wanted = k + without_self  # one more, in case the query itself is there
        if wanted > MOST_HITS:
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
        if self.metric == "cosine":
            queries = unit_length(queries)
        step, blocks, ef = max(1, min(QUERIES, HITS // k, NUMBERS // self.dimension)), [], ef or max(EF, 4 * k)
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            found = [self._nearest(part, wanted, wanted + 1, expression, ef) for expression in filters]
            blocks.append(nearest_first(*map(np.hstack, zip(*found, strict=True)), wanted))
        hits = Hits(*map(np.concatenate, zip(*blocks, strict=True)))
        hits = without(hits, own) if without_self else hits
        least = np.isfinite(hits.distances).sum(axis=1).min()
        if least < k:
            checked_k(k, len(self), without_self)
            raise EngineError(f"{self} found only {least} of {k} hits; ask for fewer, or give a larger ef")
        return hits

    def _nearest(self, queries, wanted, ask, expression, ef):
        """The ``wanted`` nearest, at equal distance those with the lowest ids; infinity and -1 where there are fewer.

        Of rows at equal distance the engine returns any, so it is asked for more until the last is beyond them.
        """
        ask = min(ask, MOST_HITS)
        params = {} if engine.is_embedded(self.address) else {"ef": min(max(ef, ask), MOST_EF)}
        how = {"anns_field": "code", "search_params": {"metric_type": ENGINE_METRICS[self.metric], "params": params}}
        how |= {"filter": expression, "limit": ask, "output_fields": ["id"], "consistency_level": "Strong"}
        distances, ids = np.full((len(queries), ask), np.inf, np.float32), np.full((len(queries), ask), -1)
        for row, hits in enumerate(self._call("search", queries, **how)):
            found = np.array(hits.distances)
            found = np.sqrt(found) if self.metric == "euclidean" else np.maximum(1 - found, 0)
            distances[row, : len(hits)], ids[row, : len(hits)] = found, hits.ids
        hits = nearest_first(distances, ids, wanted)
        tied = np.isfinite(distances[:, -1]) & (distances[:, wanted - 1] == distances[:, -1])
        if ask < MOST_HITS and tied.any():
            more = self._nearest(queries[tied], wanted, 2 * ask, expression, ef)
            hits.distances[tied], hits.ids[tied] = more
        return hits

    def _note_least(self, without=0):
        """Note how many codes a file holds at least, to see a loss when it is opened. A server needs no note."""
        if engine.is_embedded(self.address):
            self._call("alter_collection_properties", {LEAST: str(len(self) - without)})

    def _create(self, dimension):
        """Make the collection, unless another program does so at this moment."""
        facts = {"format": FORMAT, "metric": self.metric, "dimension": dimension, "encoder_hash": self.encoder_hash}
        how = {"consistency_level": "Strong", "properties": {FACTS: json.dumps(facts), NEXT_ID: "0", LEAST: "0"}}
        exact = engine.is_embedded(self.address)
        how |= engine.layout(self._client, dimension, ENGINE_METRICS[self.metric], exact)
        try:
            self._call("create_collection", **how)
        except EngineError:
            if not self._call("has_collection"):
                raise
        self._open()
        if self.dimension != dimension:
            raise EngineError(f"{self} has just been made for codes of {self.dimension} numbers, not {dimension}")

    def _open(self):
        """Whether there is a collection: one that another program has made counts. It is checked once, and loaded."""
        if self.dimension is not None:
            return True
        if not self._call("has_collection"):
            self.metric = self.metric or "euclidean"
            return False
        try:
            properties = self._call("describe_collection")["properties"]
            facts, least = json.loads(properties[FACTS]), int(properties.get(LEAST, 0))
            facts = {name: facts[name] for name in ("format", "metric", "dimension", "encoder_hash")}
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self} was not made by cbir_utils; choose another name") from error
        _check_facts(self, facts)
        self._call("load_collection", timeout=LOAD)
        if least and (count := self._query("", "count(*)")[0]) < least:
            raise EngineError(
                f"{self} is damaged: it holds {count:,} codes of {least:,}; delete {self.address} and add them anew"
            )
        self.metric, self.encoder_hash, self.dimension = facts["metric"], facts["encoder_hash"], facts["dimension"]
        return True

    def _known(self, ids, what):
        """``ids``, ascending and each once, after asking the engine whether it has them all."""
        ids = whole_numbers(ids, what)
        found = [self._query(each, "id") for each in _filters(np.unique(ids))] if self._open() else []
        known = np.sort(np.concatenate([np.empty(0, np.int64), *found]))
        rows_of(ids, known, what)
        return known

    def _query(self, expression, field):
        """One field of the codes that fit a filter, ``(M,)`` int64."""
        rows = self._call("query", filter=expression, output_fields=[field], consistency_level="Strong")
        return np.array([row[field] for row in rows], np.int64)

    def _call(self, method, *arguments, timeout=ANSWER, **options):
        """Call a method of the client about this collection; whatever goes wrong becomes one sentence."""
        if self._client is None:
            raise EngineError(f"{self} has been closed; open it again with Collection")
        call = getattr(self._client, method)
        return engine.ask(self.address, call, self.name, *arguments, timeout=timeout, **options)


def drop(address, name):
    """Delete the collection ``name`` at ``address`` with all its codes; nothing happens if there is none."""
    client = engine.connect(str(address))
    try:
        engine.ask(str(address), client.drop_collection, name, timeout=ANSWER)
    finally:
        engine.disconnect(str(address), client)


def _check_facts(collection, facts):
    """An EngineError if a collection that is there has another format, metric or encoder than was asked for."""
    wanted = {"format": FORMAT, "metric": collection.metric, "encoder_hash": collection.encoder_hash}
    for name, value in wanted.items():
        if value not in (None, facts[name]):
            raise EngineError(
                f"{collection} has the {name} {str(facts[name])[:12]}, not {str(value)[:12]}; choose another name, or "
                "delete it with drop(address, name)"
            )


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
