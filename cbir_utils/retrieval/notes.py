"""What a run notes of the images that it searches: their files, and which count no more."""

#: The artifact in which ``sync`` and ``remove`` note what they did.
LIBRARY = "library.json"


def library(run):
    """What ``sync`` and ``remove`` noted of a run's images: a dict; notes on other data do not count.

    ``files`` are those seen, ``{id: [size, time of change, hash of the pixels]}``; ``renamed`` gives the new ids of
    images whose file moved; ``removed`` lists what the user took out; ``gone`` is the set of ids that count no more.
    """
    known = run.load_json(LIBRARY) if LIBRARY in run.manifest.get("files", {}) else {}
    if known.get("content_hash") != run.manifest.get("content_hash"):
        known = {"removed": known.get("removed", [])}  # what the user took out stays out
    gone = {*known.get("gone", ()), *known.get("removed", ())}
    return {"files": {}, "renamed": {}, "removed": [], **known, "gone": gone}
