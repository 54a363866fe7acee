"""Reaching Milvus: a server by its address, or the embedded engine by its file.

milvus-lite takes a damaged manifest for an empty collection, and deletes the codes. So the SHA-256 of each file in the
engine's folder is written to ``seal.json`` when it is closed, and compared when it is opened.
"""

import atexit
import json
import logging
import os
import re
import warnings
from collections import Counter
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from cbir_utils.store import sha256

SEAL = "seal.json"

#: Seconds to wait for a connection.
CONNECT = 5

#: HNSW: edges of a node, and candidates kept when a node is added.
M, EF_CONSTRUCTION = 16, 200

#: How many clients are open of each embedded engine, by its folder.
_OPEN = Counter()


class EngineError(RuntimeError):
    """The engine cannot be reached or refuses, or a collection is another's; the message names the address."""


def is_embedded(address):
    """Whether an address is a file of the embedded engine."""
    return address.endswith(".db") and "://" not in address


def shown(address):
    """The address without a password."""
    return re.sub(r"//[^/@]*@", "//", address)


def ask(address, call, *arguments, **options):
    """Call pymilvus; what it raises becomes an :class:`EngineError` of one sentence."""
    import grpc
    import pymilvus

    try:
        return call(*arguments, **options)
    except (pymilvus.MilvusException, grpc.RpcError) as error:
        reason = " ".join(str(getattr(error, "message", error)).split())[:300]
        if isinstance(error, pymilvus.exceptions.ConnectionConfigException):
            reason = "it is open in another program, or none of the engine's; close it there, or choose another name"
        raise EngineError(f"Milvus at {shown(address)} does not answer, or refuses: {reason}") from error


def connect(address, name):
    """A client of the engine at ``address``."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
        raise ValueError(f"{name!r} is no name of a collection: letters, digits and _ only, and no digit first")
    if not is_embedded(address) and not re.match(r"https?://[^/]", address):
        raise ValueError(
            f"{shown(address)!r} is no address of an engine; give a path that ends in .db, or http://host:port"
        )
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import pymilvus

        if is_embedded(address):
            import milvus_lite  # noqa: F401
    except ImportError as error:
        raise EngineError(f"an engine needs the package {error.name}; install it: pip install -e '.[scale]'") from error
    for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # their tracebacks would stand above our sentences
    make_client = partial(ask, address, pymilvus.MilvusClient, address, dedicated=True, timeout=CONNECT)
    return _connect_file(address, make_client) if is_embedded(address) else make_client()


def disconnect(address, client):
    client.close()
    if is_embedded(address):
        _release(address)


def schema(client, numbers):
    """Of a collection: an id, and a code of so many numbers."""
    from pymilvus import DataType

    fields = client.create_schema(auto_id=False, enable_dynamic_field=False)
    fields.add_field("id", DataType.INT64, is_primary=True)
    fields.add_field("code", DataType.FLOAT_VECTOR, dim=numbers)
    return fields


def graph(client, exact):
    """HNSW; or none for the embedded engine, whose HNSW has lost rows when it merged its files."""
    hnsw = {"index_type": "HNSW", "params": {"M": M, "efConstruction": EF_CONSTRUCTION}}
    indexes = client.prepare_index_params()
    indexes.add_index("code", metric_type="L2", **({"index_type": "FLAT"} if exact else hnsw))
    return indexes


# -- the embedded engine's file ----------------------------------------------------------------------------------


def _connect_file(address, make_client):
    """A client of the embedded engine; EngineError if the file is damaged or cannot be written."""
    folder = Path(address).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"{address} cannot be written ({error.strerror}); choose another name") from error
    sealed = _OPEN[folder] or _check_seal(folder)
    client = make_client()
    if not sealed:
        warnings.warn(
            f"{address} was not closed properly: if an add was cut off, repeat it with the same ids", stacklevel=4
        )
    (folder / SEAL).unlink(missing_ok=True)
    _OPEN[folder] += 1
    _close_at_exit()
    return client


def _release(address):
    """Stop the engine of a file that nobody has open any more, so that other programs can open it, and seal it."""
    from milvus_lite.server_manager import server_manager_instance

    folder = Path(address).absolute()
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
    """Compare the files with their hashes. Returns whether there were hashes, or there is nothing to check."""
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
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("LOCK", SEAL))
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(files)}
