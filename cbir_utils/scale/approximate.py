"""Approximate and compact nearest-neighbour search, for databases that exact search is too slow or too large for.

The kinds are FAISS's (Douze et al. 2024): a graph of near rows, ``hnsw`` (Malkov and Yashunin 2016); lists around
k-means centres, of which a search looks into a few, with 8 bits per number, ``sq8``, or product-quantised, ``ivfpq``
(Jégou et al. 2011) and its 4-bit form ``ivfpq_fast``; and packed bits, ``binary``, which are searched exactly.
"""

import json
from pathlib import Path

import faiss
import numpy as np

from cbir_utils.codes import checked_codes, unit_length
from cbir_utils.index import Hits, Index, IndexFileError, read_index, write_index

#: What FAISS calls the kinds.
KINDS = {
    "hnsw": faiss.IndexHNSWFlat,
    "sq8": faiss.IndexIVFScalarQuantizer,
    "ivfpq": faiss.IndexIVFPQ,
    "ivfpq_fast": faiss.IndexIVFPQFastScan,
    "binary": faiss.IndexBinaryFlat,
}

#: Links of a row in each layer of an HNSW graph (twice as many in the lowest), and among how many they are chosen.
LINKS, EF_CONSTRUCTION = 16, 100

#: Codes that the kinds with lists learn from at least, and per list: the fewest that FAISS advises.
LEAST, PER_LIST = 256, 39

#: Codes whose principal components are taken.
SAMPLE = 2**14

#: Exact search may look at so many numbers for a query; it takes a few milliseconds.
EXACT_NUMBERS = 10**7

#: A subset of up to so many rows is searched exactly. Rows read, and numbers measured, at a time.
SMALL, ROWS, NUMBERS = 10_000, 2**16, 2**22

#: What is saved of an index beside its rows.
SETTINGS = ("short", "rows", "pq_bytes", "seed", "ef", "nprobe", "refine")


#: Whole numbers from 0 to 255, kept as they are.
WHOLE = faiss.ScalarQuantizer.QT_8bit_direct


class ApproximateIndex:
    """Nearest-neighbour search that finds nearly all of the nearest rows, in less time or memory than :class:`Index`.

    Ids number the rows in the order they were added. A removed row is left out of searches from then on; its bytes
    come back when the index is built anew. A search that finds fewer than ``k`` rows goes on to look at them all.

    Parameters
    ----------
    kind : {"hnsw", "sq8", "ivfpq", "ivfpq_fast", "binary"}
        :func:`bytes_per_row` says how much memory each takes.
    metric : {"euclidean", "cosine", "hamming"}
        ``hamming`` is for ``binary``, whose codes are packed ``(N, B)`` uint8. Distances are in :class:`Index`'s units;
        they are approximate unless the kind keeps full codes or candidates are re-measured.
    encoder_hash : str, optional
        Hash of the encoder that made the codes, as in :class:`Index`.
    short : int, optional
        Search the first ``short`` principal components of the codes, learned without labels: no distance grows.
    originals : "memory", "uint8" or array-like, optional
        Re-measure candidates by their full codes: kept in the index (``"uint8"``: as bytes, for codes that are whole
        numbers from 0 to 255, such as pixels), or those of an ``(N, D)`` float32 or float16 array whose row numbers
        are the ids (memory-mapped, it stays on disk; it is not saved with the index).
    rows : int, optional
        How many rows there will be: the number of lists follows from it. Those of :meth:`fit` if not given.
    lists : int, optional
        So many lists instead, or as many as the codes to learn from allow.
    pq_bytes : int
        Bytes of a code of ``ivfpq`` and ``ivfpq_fast``.
    seed : int
        Of the samples that are learned from.

    Attributes
    ----------
    ef, nprobe, refine : int
        How widely is searched, see :meth:`tune`: candidates kept on the way through the graph, lists looked into,
        and candidates re-measured per hit.
    """

    def __init__(
        self,
        kind,
        metric="euclidean",
        *,
        encoder_hash=None,
        short=None,
        originals=None,
        rows=None,
        lists=None,
        pq_bytes=16,
        seed=0,
    ):
        if kind not in KINDS:
            raise ValueError(f"there is no approximate index of the kind {kind!r}; choose one of {', '.join(KINDS)}")
        metrics = ("hamming",) if kind == "binary" else ("euclidean", "cosine")
        if metric not in metrics:
            raise ValueError(f"{kind} searches by {' or '.join(metrics)}, not by {metric!r}; use kind='exact' for that")
        if kind == "binary" and (short is not None or originals is not None):
            raise ValueError("binary codes are searched as they are; leave out short and originals")
        if isinstance(originals, str) and originals not in ("memory", "uint8"):
            raise ValueError(f"originals must be 'memory', 'uint8' or an (N, D) array, not {originals!r}")
        if isinstance(originals, str) and originals == "uint8" and metric == "cosine":
            raise ValueError("originals='uint8' keeps pixels as they are, for euclidean; use 'memory' for cosine")
        if pq_bytes < 1 or (short is not None and short < 1):
            raise ValueError(f"short and pq_bytes must be 1 or more, not {short} and {pq_bytes}")
        self.kind, self.metric, self.encoder_hash = kind, metric, encoder_hash
        self.short, self.originals, self.rows, self.lists = short, originals, rows, lists
        self.pq_bytes, self.seed = pq_bytes, seed
        self.ef, self.nprobe, self.refine = 64, 16, 4
        self._faiss = None
        self._mapped = False
        self._removed = np.empty(0, np.int64)
        self._zeros = np.empty(0, np.int64)  # rows of zeros: at cosine distance 1 from all, which L2 cannot say

    def __len__(self):
        return 0 if self._faiss is None else self._faiss.ntotal - len(self._removed)

    @property
    def dimension(self):
        """The code length D (in bits for ``binary``), or ``None`` before :meth:`fit`."""
        return None if self._faiss is None else self._faiss.d

    @property
    def ids(self):
        """The ids of the rows, ``(N,)`` int64, ascending."""
        return np.delete(np.arange(0 if self._faiss is None else self._faiss.ntotal), self._removed)

    def fit(self, codes):
        """Learn what the kind needs from ``(N, D)`` codes of the database: components, lists, quantiser. Returns self.

        A sample will do, best of 39 rows for each of the 4 √N lists that N rows get; from fewer, fewer lists are made.
        """
        if self._faiss is not None:
            raise ValueError("the index has been fitted already; make a new one to learn anew")
        codes = self._checked(codes, "codes")
        dimension = codes.shape[1]
        if self.kind == "binary":
            self._take(faiss.IndexBinaryFlat(8 * dimension))
            return self
        if self.short is not None and self.short > dimension:
            raise ValueError(f"short is {self.short}, but the codes have only {dimension} numbers")
        least = max(0 if self.kind == "hnsw" else LEAST, (self.short or 0) + 1)
        if len(codes) < least:
            raise ValueError(
                f"{self.kind} learns from {least} codes or more, and these are {len(codes)}; fit it to more of the "
                "database, or use kind='exact'"
            )
        index = self._untrained(dimension, len(codes))
        if self.short is not None or self.kind.startswith("ivfpq"):
            sample = codes[np.random.default_rng(self.seed).permutation(len(codes))[:SAMPLE]]
            matrix = _projection(sample, self.short or dimension, index)
            shortening = faiss.LinearTransform(dimension, index.d, True)
            faiss.copy_array_to_vector(matrix.ravel().astype(np.float32), shortening.A)
            faiss.copy_array_to_vector(-(matrix @ sample.mean(axis=0, dtype=np.float64)).astype("f4"), shortening.b)
            shortening.is_trained = True
            index = faiss.IndexPreTransform(shortening, index)
        index.train(codes)
        if self._outside or self.originals is None:
            self._take(index)
        elif self.originals == "memory":
            self._take(faiss.IndexRefineFlat(index))
        else:
            self._take(faiss.IndexRefine(index, faiss.IndexScalarQuantizer(dimension, WHOLE)))
        return self

    def add(self, codes):
        """Append ``(N, D)`` codes as :meth:`Index.add` does; an index that has not been fitted is fitted to them."""
        if self._mapped:
            raise ValueError("a memory-mapped index cannot grow; load it without mmap to add to it")
        codes = self._checked(codes, "codes")
        first = 0 if self._faiss is None else self._faiss.ntotal
        self._check_originals(first + len(codes), codes.shape[1])
        if not self._outside and self.originals == "uint8":
            other = np.flatnonzero(((codes != np.rint(codes)) | (codes < 0) | (codes > 255)).any(axis=1))
            if len(other):
                raise ValueError(f"originals='uint8' needs whole numbers from 0 to 255; row {other[0]} has others")
        if self._faiss is None:
            self.fit(codes)
        self._faiss.add(codes)
        if self.metric == "cosine":
            self._zeros = np.concatenate([self._zeros, first + np.flatnonzero(~codes.any(axis=1))])
        self._everything = self._allowing(None)
        return self

    def remove(self, ids):
        """Leave the rows with these ids out from now on; refuses like :meth:`Index.remove`. Returns the index."""
        self._removed = np.union1d(self._removed, self._known(ids, "ids"))
        self._zeros = np.setdiff1d(self._zeros, self._removed)
        self._everything = self._allowing(None)
        return self

    def search(self, queries, k, *, exclude_self=None, subset=None):
        """The ``k`` nearest rows of each query, as far as they are found: see :meth:`Index.search`.

        Of rows found at equal distance the lower id comes first. The smaller a subset, the wider is searched; one of
        up to 10,000 rows is searched exactly where there are full codes.
        """
        rows = len(self)
        if not rows:
            raise ValueError("the index is empty; add codes before searching it")
        queries = np.asarray(queries)
        queries = self._checked(queries[None] if queries.ndim == 1 else queries, "queries")
        own = None if exclude_self is None else self._known(exclude_self, "exclude_self")
        if own is not None and len(own) != len(queries):
            raise ValueError(f"exclude_self has {len(own)} id(s) for {len(queries)} queries; give one for each")
        allowed = None if subset is None else np.unique(self._known(subset, "subset"))
        most = (rows if allowed is None else len(allowed)) - (own is not None)
        if (type(k) is not int and not isinstance(k, np.integer)) or k < 1:
            raise ValueError(f"k must be a whole number of 1 or more, not {k!r}")
        if k > most:
            without = " besides the query itself" if own is not None else ""
            raise ValueError(f"k is {k}, but the index holds only {most} rows{without}")

        ask = int(k) + (own is not None)
        if allowed is not None and len(allowed) <= SMALL and self._vectors is not None:
            hits = exact_search(self._vectors, queries, ask, self.metric, ids=allowed)
        else:
            hits = self._search(queries, ask, allowed)
        return hits if own is None else _without(hits, own)

    def tune(self, codes=None, *, recall=0.95, k=10, sample=1000, seed=0):
        """Set ``ef`` or ``nprobe``, and ``refine``, to the cheapest that reach a recall@k; returns the recall reached.

        It is measured on ``sample`` rows of the database, drawn with ``seed`` and each left out of its own hits: no
        later query takes part. Cheap is what looks at few numbers; nothing is timed. ``codes`` are all codes by id
        (they may be memory-mapped), not needed where the index has them. Raises ValueError with the best recall there
        is, and changes nothing, if ``recall`` cannot be reached.
        """
        codes = self._all_codes(codes)
        own = np.sort(np.random.default_rng(seed).permutation(self.ids)[:sample])
        queries = np.asarray(codes[own], np.float32)
        exact = exact_search(codes, queries, k, self.metric, ids=self.ids, exclude_self=own)
        name, first, widest = ("ef", 8, 2048) if self.kind == "hnsw" else ("nprobe", 1, self._inner.nlist)
        steps = sorted({min(widest, round(first * 2 ** (i / 2))) for i in range(40)})
        refinements = [1] if self.originals is None else [64, 32, 16, 8, 4, 2, 1]
        before, best, found = (getattr(self, name), self.refine), 0.0, []
        # A stair along the border of what suffices: fewer candidates where a setting does, a wider search where not.
        while steps and refinements:
            setattr(self, name, steps[0])
            self.refine = refinements[0]
            reached = self.recall(codes, queries, k, exact=exact, exclude_self=own)
            best = max(best, reached)
            if reached < recall:
                steps.pop(0)
            else:
                found.append((self._numbers_read(k), steps[0], refinements.pop(0), reached))
        _, wide, self.refine, reached = min(found, default=(0, *before, best))
        setattr(self, name, wide)
        if not found:
            raise ValueError(
                f"recall@{k} of {recall} is out of reach: this index finds {best:.3f} of the nearest rows at best; "
                "give it originals to measure candidates by, a longer short code or more pq_bytes"
            )
        return reached

    def recall(self, codes, queries, k=10, *, exact=None, exclude_self=None):
        """Recall@k of ``queries``, in [0, 1]: the share of the hits that are no farther than the true k-th nearest row.

        ``codes`` are those of :meth:`tune`, or ``None``; ``exact`` the hits of exact search, if they are at hand.
        """
        codes = self._all_codes(codes)
        if exact is None:
            exact = exact_search(codes, queries, k, self.metric, ids=self.ids, exclude_self=exclude_self)
        found = self.search(queries, k, exclude_self=exclude_self).ids
        distances = _distances(codes, self._checked(queries, "queries"), found, self.metric)
        limit = exact.distances[:, k - 1 : k].astype(np.float64)
        return float((distances <= limit * (1 + 1e-6) + 1e-12).mean())

    def save(self, path):
        """Write the index to ``path`` and its description beside it, as :meth:`Index.save` does."""
        if not len(self):
            raise ValueError("the index is empty; add codes before saving it")
        count = self._faiss.ntotal  # with the removed rows, which are in the file, too
        facts = {
            **{"kind": self.kind, "metric": self.metric, "dimension": self.dimension, "rows": count, "next_id": count},
            "encoder_hash": self.encoder_hash,
            "settings": {name: getattr(self, name) for name in SETTINGS},
            "originals": _fingerprint(self.originals, count) if self._outside else self.originals,
            "removed": self._removed.tolist(),
            "zeros": self._zeros.tolist(),
        }
        write_index(path, self._faiss, facts)

    @classmethod
    def load(cls, path, *, encoder_hash=None, mmap=False, originals=None):
        """Read an index that :meth:`save` wrote, with the checks of :meth:`Index.load`.

        With ``mmap`` rows stay in the file until a search looks at them (all but those of ``ivfpq_fast``, which FAISS
        reads at once). ``originals`` is the array that candidates are measured by, where there was one.
        """
        stored, facts = read_index(path, encoder_hash=encoder_hash, mmap=mmap)
        if facts["kind"] == "exact":
            raise IndexFileError(f"{path} is an exact index; read it with Index.load")
        try:
            known = facts["originals"]
            kept = known if isinstance(known, str) else originals
            index = cls(facts["kind"], facts["metric"], encoder_hash=facts["encoder_hash"], originals=kept)
            for name in SETTINGS:
                setattr(index, name, facts["settings"][name])
            index._removed, index._zeros = (np.array(facts[name], np.int64) for name in ("removed", "zeros"))
            index._take(stored)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise IndexFileError(f"{path} is not the index that its description speaks of; build it anew") from error
        index._mapped = mmap
        if isinstance(known, list) and originals is None:
            raise ValueError(
                f"{path} measures candidates by codes that are kept apart from it; give them, for instance "
                "originals=np.load('codes_database.npy', mmap_mode='r')"
            )
        index._check_originals(stored.ntotal, stored.d)
        if isinstance(known, list) and not np.allclose(known, _fingerprint(originals, stored.ntotal), atol=1e-2):
            raise ValueError(f"originals are not the codes that {path} was built from; give those, or build it anew")
        return index

    # -- how it is computed -----------------------------------------------------------------------------------

    @property
    def _outside(self):
        """Whether the full codes are an array outside of the index."""
        return self.originals is not None and not isinstance(self.originals, str)

    @property
    def _vectors(self):
        """The full codes by id, an array or like one (unit length for cosine if the index keeps them), or ``None``."""
        if self._outside:
            return self.originals
        if self.originals is not None:
            flat = faiss.downcast_index(self._faiss.refine_index)
        elif self.kind == "hnsw" and self.short is None:
            flat = faiss.downcast_index(self._inner.storage)
        else:
            return None
        if isinstance(flat, faiss.IndexScalarQuantizer):
            return faiss.rev_swig_ptr(flat.codes.data(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
        return faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)

    def _untrained(self, dimension, count):
        """FAISS's index of this kind, to learn from ``count`` codes; ``d`` may be a little more than ``short``."""
        width = self.short or dimension
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(width, LINKS)
            index.hnsw.efConstruction = EF_CONSTRUCTION
            return index
        wanted = self.lists or 2 ** round(np.log2(4 * np.sqrt(self.rows or count)))
        lists = min(wanted, 2 ** int(np.log2(count // PER_LIST)))
        groups = _groups(self.kind, width, self.pq_bytes)
        if groups:
            width = groups * -(-width // groups)  # zeros fill it up to groups of equal size
        centres = faiss.IndexFlatL2(width)
        if self.kind == "sq8":
            index = faiss.IndexIVFScalarQuantizer(centres, width, lists, faiss.ScalarQuantizer.QT_8bit)
        elif self.kind == "ivfpq":
            index = faiss.IndexIVFPQ(centres, width, lists, groups, 8)
        else:
            index = faiss.IndexIVFPQFastScan(centres, width, lists, groups, 4)
            index.by_residual = True
        for clustering in [index.cp, *([index.pq.cp] if groups else [])]:
            clustering.seed = self.seed
            clustering.min_points_per_centroid = 1  # so that FAISS prints no warning
        return index

    def _take(self, stored):
        """Make FAISS's index the one that is searched, and keep its parts at hand."""
        inner = stored
        if isinstance(inner, faiss.IndexRefine):
            inner = faiss.downcast_index(inner.base_index)
        self._shortening = None
        if isinstance(inner, faiss.IndexPreTransform):
            self._shortening = faiss.downcast_VectorTransform(inner.chain.at(0))
            inner = faiss.downcast_index(inner.index)
        refines = isinstance(stored, faiss.IndexRefine)
        if not isinstance(inner, KINDS[self.kind]) or refines != isinstance(self.originals, str):
            raise ValueError(f"this is no index of the kind {self.kind}")
        self._faiss, self._inner = stored, inner
        self._parameters_known = None, None
        self._everything = self._allowing(None)

    def _allowing(self, allowed):
        """What lets FAISS find only the rows with these ids (``None``: all) that count, and how many they are."""
        hidden = np.concatenate([self._removed, self._zeros])
        if allowed is None and not len(hidden):
            return None, self._faiss.ntotal
        mask = np.full(self._faiss.ntotal, allowed is None)
        if allowed is not None:
            mask[allowed] = True
        mask[hidden] = False
        return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little")), int(mask.sum())

    def _parameters(self, selector, count):
        """FAISS's search parameters, for ``count`` rows that may be found: the fewer, the wider is searched.

        The last are kept, for they take longer to make than a short search.
        """
        key = selector, count, self.ef, self.nprobe, self.refine
        if self._parameters_known[0] != key:
            wider = self._faiss.ntotal / count
            chosen = {} if selector is None else {"sel": selector}
            if self.kind == "hnsw":
                parameters = faiss.SearchParametersHNSW(efSearch=min(len(self), int(self.ef * wider)), **chosen)
            else:
                nprobe = min(self._inner.nlist, max(1, round(self.nprobe * wider)))
                parameters = faiss.SearchParametersIVF(nprobe=nprobe, **chosen)
            if self._shortening is not None:
                parameters = faiss.SearchParametersPreTransform(index_params=parameters)
            if isinstance(self._faiss, faiss.IndexRefine):
                parameters = faiss.IndexRefineSearchParameters(k_factor=self.refine, base_index_params=parameters)
            self._parameters_known = key, parameters
        return self._parameters_known[1]

    def _search(self, queries, k, allowed):
        """Search with queries that have been checked, among ids that are known to be there (``None``: all)."""
        if self.kind == "binary":
            return _in_order(*self._search_bits(queries, k, allowed), k)
        selector, count = self._everything if allowed is None else self._allowing(allowed)
        if count:
            distances, ids = self._nearest(queries, min(k, count), selector, count)
        else:
            distances, ids = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if len(self._zeros):
            zeros = (self._zeros if allowed is None else np.intersect1d(self._zeros, allowed))[:k]
            distances = np.pad(distances, ((0, 0), (0, len(zeros))), constant_values=1)
            ids = np.hstack([ids, np.tile(zeros, (len(queries), 1))])
        return _in_order(distances, ids, k)

    def _search_bits(self, queries, k, allowed):
        """Distances and ids by the Hamming distance. FAISS filters no bits: of what may be found it gets a copy."""
        index = self._faiss
        if allowed is None and len(self._removed):
            allowed = self.ids
        if allowed is not None:
            index = faiss.IndexBinaryFlat(self.dimension)
            index.add(faiss.vector_to_array(self._faiss.xb).reshape(self._faiss.ntotal, -1)[allowed])
        distances, ids = index.search(queries, k)
        return distances.astype(np.float32), ids if allowed is None else allowed[ids]

    def _nearest(self, queries, k, selector, count):
        """Distances and ids of ``k`` rows or more for each query, in any order, out of ``count`` that may be found."""
        many = k if self.originals is None else min(count, k * self.refine)
        asked = many if self._outside else k
        found, ids = self._faiss.search(queries, asked, params=self._parameters(selector, count))
        distances = self._in_units(found, queries)
        few = (ids[:, k - 1] < 0).nonzero()[0]
        if len(few):
            distances_of_all, all_ids = self._look_at_all(queries[few], many, selector)
            if self.originals is not None:
                distances_of_all = _distances(self._vectors, queries[few], all_ids, self.metric)
            distances[few], ids[few] = _in_order(distances_of_all, all_ids, asked)
        if self._outside:
            distances = _distances(self.originals, queries, ids, self.metric)
        return distances, ids

    def _look_at_all(self, queries, k, selector):
        """The nearest by short or compressed codes of all rows, whatever lists or links there are."""
        chosen = {} if selector is None else {"sel": selector}
        short = queries if self._shortening is None else self._shortening.apply(queries)
        if self.kind == "hnsw":
            storage = faiss.downcast_index(self._inner.storage)
            distances, ids = storage.search(short, k, params=faiss.SearchParameters(**chosen))
        else:
            parameters = faiss.SearchParametersIVF(nprobe=self._inner.nlist, **chosen)
            distances, ids = self._inner.search(short, k, params=parameters)
        return self._in_units(distances, queries), ids

    def _in_units(self, squared, queries):
        """Squared Euclidean distances as those of the metric."""
        if self.metric == "euclidean":
            return np.sqrt(np.maximum(squared, 0))  # compressed codes can give one a little below 0
        return np.where(queries.any(axis=1)[:, None], np.maximum(squared, 0) / 2, np.float32(1))

    def _numbers_read(self, k):
        """About how many numbers a query looks at, with the settings as they are."""
        inner, measured = self._inner, 0 if self.originals is None else self.refine * k
        if self.kind == "hnsw":
            searched = max(self.ef, k, measured) * 2 * LINKS * inner.d
        else:
            searched = inner.nlist * inner.d + self.nprobe / inner.nlist * len(self) * inner.code_size
        return searched + measured * self.dimension

    # -- what is checked --------------------------------------------------------------------------------------

    def _checked(self, codes, what):
        """``codes`` as a contiguous matrix that fits the index, of unit length for cosine; or a ValueError."""
        if self.kind != "binary":
            codes = checked_codes(codes, what, self.dimension)
            return unit_length(codes) if self.metric == "cosine" else codes
        codes = np.asarray(codes)
        if codes.dtype != np.uint8 or codes.ndim != 2 or 0 in codes.shape:
            raise ValueError(f"{what} must be packed, non-empty uint8 (N, B), not {codes.dtype} {codes.shape}")
        if self.dimension not in (None, 8 * codes.shape[1]):
            raise ValueError(f"{what} have {8 * codes.shape[1]} bits each, but the index has {self.dimension}")
        return np.ascontiguousarray(codes)

    def _known(self, ids, what):
        """``ids`` as an array; a ValueError if one is not in the index."""
        if not len(self):
            raise ValueError("the index is empty; add codes first")
        ids = np.atleast_1d(np.asarray(ids))
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
            raise ValueError(
                f"{what} must be a non-empty sequence of whole numbers, not {ids.dtype} of shape {ids.shape}"
            )
        absent = ids[(ids < 0) | (ids >= self._faiss.ntotal) | np.isin(ids, self._removed)]
        if len(absent):
            raise ValueError(f"{what} name {len(absent)} id(s) that are not in the index, first {absent[0]}")
        return ids.astype(np.int64)

    def _check_originals(self, rows, dimension):
        """A ValueError unless originals outside of the index, if any, have ``rows`` rows of ``dimension`` numbers."""
        if self._outside:
            shape, dtype = np.shape(self.originals), getattr(self.originals, "dtype", None)
            if len(shape) != 2 or shape[0] < rows or shape[1] != dimension or dtype not in (np.float32, np.float16):
                raise ValueError(
                    f"originals must be ({rows}, {dimension}) float32 or float16, with a row for each id, not {dtype} "
                    f"of shape {shape}"
                )

    def _all_codes(self, codes):
        """All codes by id: those given, or else the index's own."""
        if self.kind == "binary":
            raise ValueError("binary codes are searched exactly; there is no recall to measure or to tune")
        if not len(self):
            raise ValueError("the index is empty; add codes first")
        codes = self._vectors if codes is None else codes
        if codes is None:
            raise ValueError(f"an index of the kind {self.kind} does not keep the codes; give them, row number = id")
        if np.shape(codes)[1:] != (self.dimension,) or len(codes) < self._faiss.ntotal:
            raise ValueError(
                f"codes must be ({self._faiss.ntotal}, {self.dimension}), a row for each id, not {np.shape(codes)}"
            )
        return codes


def choose_kind(rows, dimension, memory=2 * 2**30, **options):
    """The kind that ``kind="auto"`` stands for: the first of these that will do for ``rows`` codes of length D.

    1. ``exact`` as long as a query looks at no more than ten million numbers: N · D ≤ 10⁷;
    2. ``hnsw``, the fastest; 3. ``sq8``, a quarter of its codes; 4. ``ivfpq``, a few bytes per row:

    each if its rows fit into ``memory`` bytes, by :func:`bytes_per_row` with the ``options`` (``short``, ``originals``,
    ``pq_bytes``). Raises ValueError if none does.
    """
    sizes = {kind: rows * bytes_per_row(kind, dimension, **options) for kind in ("exact", "hnsw", "sq8", "ivfpq")}
    for kind, size in sizes.items():
        if size <= memory and (kind != "exact" or rows * dimension <= EXACT_NUMBERS):
            return kind
    raise ValueError(
        f"{rows} codes need {sizes['ivfpq'] / 2**30:.1f} GiB at least, more than the {memory / 2**30:.1f} GiB there "
        "are; allow more memory, fewer pq_bytes, or search on several machines (notebook 11_scale_out)"
    )


def bytes_per_row(kind, dimension, *, short=None, originals=None, pq_bytes=16):
    """Bytes that a row of length D takes in an index and its file; what it has learned comes on top, once.

    With d for ``short``, or D if there is none: ``exact`` 4 D. ``hnsw`` 4 d for the code, 4 (2 M + M / (M - 1)) for its
    links (M = 16; a row is in the layer above with probability 1 / M), and 12. The kinds with lists keep an id of 8
    bytes with each code, of d bytes for ``sq8`` and ``pq_bytes`` for ``ivfpq`` and ``ivfpq_fast`` (fewer if d has fewer
    numbers). Originals in memory are 4 D more. ``binary`` has D / 8, of D bits.
    """
    width = short or dimension
    groups = _groups(kind, width, pq_bytes)
    own = {
        "exact": 4 * dimension,
        "hnsw": 4 * width + 4 * (2 * LINKS + LINKS / (LINKS - 1)) + 12,
        "sq8": 8 + width,
        "ivfpq": 8 + groups,
        "ivfpq_fast": 8 + groups / 2,
        "binary": dimension / 8,
    }[kind]
    full = {"memory": 4, "uint8": 1}.get(originals, 0) if isinstance(originals, str) and kind != "exact" else 0
    return own + full * dimension


def make_index(
    kind="auto", metric="euclidean", *, rows=None, dimension=None, memory=2 * 2**30, encoder_hash=None, **options
):
    """An empty index: :class:`Index` for ``kind="exact"``, else :class:`ApproximateIndex` with the ``options``.

    ``"auto"`` asks :func:`choose_kind` with the number of ``rows`` there will be, their ``dimension`` and the
    ``memory`` in bytes; Manhattan distances are those of ``exact`` alone, Hamming distances those of ``binary``.
    Options that exact search has no use for are left aside.
    """
    if kind == "auto":
        if rows is None or dimension is None:
            raise ValueError("kind='auto' chooses by the size of the database; give rows and dimension")
        sized = {name: options[name] for name in ("short", "originals", "pq_bytes") if name in options}
        only = {"manhattan": "exact", "hamming": "binary"}
        kind = only.get(metric) or choose_kind(rows, dimension, memory, **sized)
    if kind == "exact":
        return Index(metric, encoder_hash=encoder_hash)
    return ApproximateIndex(kind, metric, encoder_hash=encoder_hash, rows=rows, **options)


def load_index(path, *, encoder_hash=None, mmap=False, originals=None):
    """Read an index of any kind: see :meth:`Index.load` and :meth:`ApproximateIndex.load`."""
    try:
        kind = json.loads(Path(path).with_suffix(".json").read_text())["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = "exact"  # its load says what is wrong
    if kind == "exact":
        return Index.load(path, encoder_hash=encoder_hash)
    return ApproximateIndex.load(path, encoder_hash=encoder_hash, mmap=mmap, originals=originals)


def exact_search(codes, queries, k, metric="euclidean", *, ids=None, exclude_self=None):
    """The true hits among ``codes``, an ``(N, D)`` array that is read bit by bit and may be memory-mapped.

    Searches the rows ``ids`` (ascending; all if not given). The rest is as in :meth:`Index.search`; ``exclude_self``
    are rows of ``ids``.
    """
    ids = np.arange(len(codes)) if ids is None else ids
    ask = k + (exclude_self is not None)
    distances, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, len(ids), ROWS):
        these = ids[start : start + ROWS]
        part = Index(metric).add(np.asarray(codes[these], np.float32)).search(queries, min(ask, len(these)))
        found = np.hstack([found, these[part.ids]])
        distances, found = _in_order(np.hstack([distances, part.distances]), found, ask)
    hits = Hits(distances, found)
    return hits if exclude_self is None else _without(hits, np.asarray(exclude_self))


def _without(hits, own):
    """Hits without each query's own row; where that is not among them, the last is one too many."""
    others = hits.ids != own[:, None]
    others[others.all(axis=1), -1] = False
    return Hits(*(part[others].reshape(len(own), -1) for part in hits))


def _in_order(distances, ids, k):
    """The ``k`` nearest, nearest first and the lower id first of those at equal distance."""
    if distances.shape[1] > k or (distances[:, 1:] <= distances[:, :-1]).any():
        order = np.lexsort((ids, distances))[:, :k]
        distances, ids = np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)
    return Hits(distances, ids)


def _distances(codes, queries, ids, metric):
    """How far each query is from the codes with its ids, ``(Q, C)`` (-1: none, infinitely far) → float32 alike.

    In float64 and rounded at the end, as :class:`Index` does; queries are of unit length for cosine.
    """
    distances = np.empty(ids.shape, np.float32)
    step = max(1, NUMBERS // (ids.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        these = slice(start, start + step)
        rows = np.asarray(codes[ids[these].ravel()], np.float32)
        if metric == "cosine":
            rows = unit_length(rows)
        rows = rows.reshape(*ids[these].shape, -1)
        apart = rows.astype(np.float64) - queries[these, None]
        squared = np.einsum("qcd,qcd->qc", apart, apart)
        if metric == "euclidean":
            distances[these] = np.sqrt(squared)
        else:  # |q - r|² = 2 - 2 q·r at unit length; zero rows are 1 from all
            distances[these] = np.where(queries[these].any(axis=1)[:, None] & rows.any(axis=2), squared / 2, 1)
    distances[ids < 0] = np.inf
    return distances


def _groups(kind, width, pq_bytes):
    """Into how many groups product quantisation divides a code; the fast form, of 4 bits each, has an even number."""
    if kind == "ivfpq_fast":
        return min(2 * pq_bytes, 2 * -(-width // 2))
    return min(pq_bytes, width) if kind == "ivfpq" else 0


def _projection(sample, width, index):
    """The ``width`` principal directions of codes, ``(index.d, D)``: orthonormal rows, and zeros below.

    For product quantisation they are dealt out to its groups so that the variances of each have about the same
    product, which is optimal if the codes are Gaussian (Ge et al. 2013, section 3.2.2).
    """
    covariance = np.cov(sample, rowvar=False, dtype=np.float64).reshape(2 * sample.shape[1:])
    variances, directions = np.linalg.eigh(covariance)
    order = np.arange(len(variances))[::-1][:width]  # by falling variance
    matrix = np.zeros((index.d, sample.shape[1]))
    if not hasattr(index, "pq"):
        matrix[:] = directions[:, order].T
        return matrix
    logarithms = np.log(np.maximum(variances / max(variances[-1], 1e-30), 1e-9)) - np.log(1e-9)  # none negative
    groups = index.pq.M
    products, filled = np.zeros(groups), np.zeros(groups, int)
    for direction in order:
        group = np.argmin(np.where(filled < index.d // groups, products, np.inf))
        matrix[group * (index.d // groups) + filled[group]] = directions[:, direction]
        products[group] += logarithms[direction]
        filled[group] += 1
    return matrix


def _fingerprint(originals, rows):
    """Eight of the ``rows`` first codes, each as a number between -1 and 1 that float16 would change by little."""
    some = np.asarray(originals[np.linspace(0, rows - 1, 8).astype(int)], np.float64)
    return (unit_length(some, np.float64) @ np.cos(np.arange(some.shape[1]))).tolist()
