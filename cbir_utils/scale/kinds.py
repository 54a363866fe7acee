"""What the kinds of approximate index are made of: FAISS's parts, how they are trained, and what they cost."""

import faiss
import numpy as np

from cbir_utils.scale.copies import ById, Copies, distinct

#: What FAISS calls the kinds.
KINDS = {
    "hnsw": faiss.IndexHNSWFlat,
    "sq8": faiss.IndexIVFScalarQuantizer,
    "ivfpq": faiss.IndexIVFPQ,
    "ivfpq_fast": faiss.IndexIVFPQFastScan,
}

#: Links of a row in each layer of an HNSW graph (twice as many in the lowest), and among how many they are chosen.
LINKS, EF_CONSTRUCTION = 16, 100

#: Codes that the kinds with lists learn from at least, and per list: the fewest that FAISS advises.
LEAST, PER_LIST = 256, 39

#: Exact search may read so many numbers for a query, which takes a few milliseconds.
EXACT_NUMBERS = 10**7


class Searched:
    """FAISS's index, taken apart: what is searched, what shortens codes before it, and the full codes beside it.

    ``inside``: the index keeps the full codes. ``rows`` are FAISS's row numbers by id ``(N,)``, ``None`` where they are
    the ids: a graph keeps equal codes that are added together as one row, see :class:`copies.Copies`. Raises ValueError
    if ``stored`` is of another kind.
    """

    def __init__(self, stored, kind, inside, rows=None):
        base, full, self.shortening = stored, None, []
        if isinstance(base, faiss.IndexRefine):
            base, full = faiss.downcast_index(base.base_index), faiss.downcast_index(base.refine_index)
        if isinstance(base, faiss.IndexPreTransform):
            chain = base.chain
            self.shortening = [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())]
            base = faiss.downcast_index(base.index)
        if not isinstance(base, KINDS[kind]) or (full is not None) != inside:
            raise ValueError(f"this is no index of the kind {kind}")
        if kind == "hnsw" and not self.shortening:
            full = faiss.downcast_index(base.storage)
        self.faiss, self.inner, self.full, self.kind = stored, base, full, kind
        self.copies = None if rows is None else Copies(np.array(rows))

    def __len__(self):
        return self.faiss.ntotal if self.copies is None else len(self.copies.rows)

    def add(self, codes):
        """Append codes ``(N, D)``. Among many copies of a row a graph would lose its way to the others."""
        if self.kind == "hnsw":
            rows, first = distinct(codes)
            if self.copies is not None or len(first) < len(codes):
                known = np.arange(len(self)) if self.copies is None else self.copies.rows
                self.copies = Copies(np.append(known, self.faiss.ntotal + rows))
                codes = codes[first]
        self.faiss.add(codes)

    def vectors(self):
        """The full codes by id, ``(N, D)`` float32 or uint8, FAISS's own memory; ``None`` if it has none."""
        if self.full is None:
            return None
        bytewise = isinstance(self.full, faiss.IndexScalarQuantizer)
        numbers = self.full.codes.data() if bytewise else self.full.get_xb()
        kept = faiss.rev_swig_ptr(numbers, self.full.ntotal * self.full.d).reshape(self.full.ntotal, self.full.d)
        return kept if self.copies is None else ById(kept, self.copies.rows)

    def look(self, queries, k, width, allowed):
        """Squared distances and ids of ``k`` rows by short or compressed codes; -1 where there are no more.

        ``width`` is ef or nprobe; infinity looks at all rows. ``allowed`` are the ids that may be found; None: all.
        """
        for transform in self.shortening:
            queries = transform.apply(queries)
        inner, chosen = self.inner, {} if allowed is None else {"sel": self._selector(allowed)}
        if self.kind != "hnsw":
            nprobe = int(min(inner.nlist, max(1, np.rint(width))))
            parameters = faiss.SearchParametersIVF(nprobe=nprobe, **chosen)
        elif width == np.inf:
            inner, parameters = faiss.downcast_index(inner.storage), faiss.SearchParameters(**chosen)
        else:
            parameters = faiss.SearchParametersHNSW(efSearch=int(min(inner.ntotal, width)), **chosen)
        squared, ids = inner.search(queries, k, params=parameters)
        if self.copies is not None:
            squared, ids = self.copies.expanded(squared, ids, allowed)
        return np.where(ids < 0, np.inf, np.maximum(squared, 0)), ids  # compressed codes can give a little below 0

    def _selector(self, ids):
        """What lets a search find the rows with these ids only."""
        mask = np.zeros(self.faiss.ntotal, bool)
        mask[ids if self.copies is None else self.copies.rows[ids]] = True
        return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))

    def numbers_read(self, k, width, again):
        """About how many numbers a query for ``k`` hits reads, if ``again`` candidates are measured by full codes."""
        inner = self.inner
        if self.kind == "hnsw":
            searched = max(width, k, again) * 2 * LINKS * inner.d
        else:
            searched = inner.nlist * inner.d + width / inner.nlist * inner.ntotal * inner.code_size
        return searched + again * self.faiss.d


def trained(settings, codes):
    """An empty index that has learned from codes ``(N, D)``; the settings are those of an ApproximateIndex.

    Short codes are principal components. For product quantisation these are dealt out to its groups so that each has
    about the same product of variances, which is optimal if the codes are Gaussian (Ge et al. 2013, section 3.2.2).
    """
    (count, dimension), kind, short = codes.shape, settings.kind, settings.short
    if short is not None and short > dimension:
        raise ValueError(f"short is {short}, but the codes have only {dimension} numbers")
    least = max(0 if kind == "hnsw" else LEAST, (short or 0) + 1)
    # Where fewer differ, nothing is left for the fast form to compress, and its distances would be NaN.
    differ = len(np.unique(codes, axis=0)) if kind == "ivfpq_fast" else count
    if differ < least:
        raise ValueError(
            f"{kind} learns from {least} different codes or more, and these are {differ}; fit it to more of the "
            "database, or use kind='exact'"
        )
    width, groups = short or dimension, _groups(kind, short or dimension, settings.pq_bytes)
    width = max(groups, 1) * -(-width // max(groups, 1))  # groups of equal size
    lists = settings.lists or 2 ** round(np.log2(4 * np.sqrt(settings.rows or count)))
    lists = min(lists, 2 ** int(np.log2(max(1, count // PER_LIST))))
    parts = {
        "hnsw": f"HNSW{LINKS}",
        "sq8": f"IVF{lists},SQ8",
        "ivfpq": f"IVF{lists},PQ{groups}",
        "ivfpq_fast": f"IVF{lists},PQ{groups}x4fsr",
    }
    before = (f"Pad{width}," if width > dimension else "") + (f"PCA{width}," if short or groups else "")
    beside = "" if not settings.inside else {"memory": ",RFlat", "uint8": ",Refine(SQ8_direct)"}[settings.originals]
    searched = Searched(faiss.index_factory(dimension, before + parts[kind] + beside), kind, settings.inside)
    if kind == "hnsw":
        searched.inner.hnsw.efConstruction = EF_CONSTRUCTION
    else:
        for clustering in [searched.inner.cp, *([searched.inner.pq.cp] if groups else [])]:
            clustering.seed = settings.seed
            clustering.min_points_per_centroid = 1  # so that FAISS prints no warning
    if groups:
        searched.shortening[-1].balanced_bins = groups
    searched.faiss.train(codes)
    return searched


def check_settings(kind, metric, short, originals, pq_bytes):
    """A ValueError that says which settings of an index do not go together."""
    if kind not in KINDS:
        raise ValueError(f"there is no approximate index of the kind {kind!r}; choose one of {', '.join(KINDS)}")
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"{kind} searches by euclidean or cosine, not by {metric!r}; use kind='exact' for that")
    named = originals if isinstance(originals, str) else None
    if named not in (None, "memory", "uint8"):
        raise ValueError(f"originals must be 'memory', 'uint8' or an (N, D) array, not {named!r}")
    if named == "uint8" and metric == "cosine":
        raise ValueError("originals='uint8' keeps pixels as they are, for euclidean; use 'memory' for cosine")
    if pq_bytes < 1 or (short is not None and short < 1):
        raise ValueError(f"short and pq_bytes must be 1 or more, not {short} and {pq_bytes}")


def _groups(kind, width, pq_bytes):
    """Into how many groups product quantisation divides a code; the fast form, of 4 bits each, has an even number."""
    if kind == "ivfpq_fast":
        return min(2 * pq_bytes, 2 * -(-width // 2))
    return min(pq_bytes, width) if kind == "ivfpq" else 0


def choose_kind(rows, dimension, memory=2 * 2**30, **options):
    """The kind that ``kind="auto"`` stands for: the first of these that will do for ``rows`` codes of length D.

    1. ``exact`` as long as a query reads no more than ten million numbers: N · D ≤ 10⁷;
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
        "are; allow more memory, fewer pq_bytes, or search on several machines"
    )


def bytes_per_row(kind, dimension, *, short=None, originals=None, pq_bytes=16):
    """Bytes that a row of length D takes in an index and its file; what the index has learned comes on top, once.

    With d for ``short``, or D if there is none: ``exact`` 4 D. ``hnsw`` 4 d for the code, 4 (2 M + M / (M - 1)) for its
    links (M = 16; a row is in the layer above with probability 1 / M), and 12. The kinds with lists keep an id of 8
    bytes with each code, of d bytes for ``sq8`` and ``pq_bytes`` for ``ivfpq`` and ``ivfpq_fast`` (fewer if d has fewer
    numbers). Originals in the index are D numbers more.
    """
    width = short or dimension
    groups = _groups(kind, width, pq_bytes)
    own = {
        "exact": 4 * dimension,
        "hnsw": 4 * width + 4 * (2 * LINKS + LINKS / (LINKS - 1)) + 12,
        "sq8": 8 + width,
        "ivfpq": 8 + groups,
        "ivfpq_fast": 8 + groups / 2,
    }[kind]
    full = {"memory": 4, "uint8": 1}.get(originals, 0) if isinstance(originals, str) and kind != "exact" else 0
    return own + full * dimension
