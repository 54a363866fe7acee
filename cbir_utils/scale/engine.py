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
from pathlib import Path

from cbir_utils.artifacts.files import sha256

SEAL = "seal.json"

#: Seconds to wait for a connection.
CONNECT = 5

#: How many clients are open of each embedded engine, by its folder.
_OPEN = Counter()


class EngineError(RuntimeError):
    """The engine cannot be reached or refuses, or a collection is another's; the message names the address."""


def is_embedded(address):
    """Whether an address is a file of the embedded engine."""
    return address.endswith(".db") and "://" not in address


def shown(text):
    """A text with addresses in it, without their passwords."""
    return re.sub(r"//[^/@]*@", "//", text)


def ask(address, call, *arguments, **options):
    """Call pymilvus; what it raises becomes an :class:`EngineError` of one sentence."""
    import grpc
    import pymilvus

    try:
        return call(*arguments, **options)
    except (pymilvus.MilvusException, grpc.RpcError) as error:
        reason = " ".join(str(getattr(error, "message", error)).split())[:300]
        if is_embedded(address) and isinstance(error, pymilvus.exceptions.ConnectionConfigException):
            reason = "it is open in another program, or none of the engine's; close it there, or choose another name"
        raise EngineError(shown(f"Milvus at {address} does not answer, or refuses: {reason}")) from error


def connect(address):
    """A client of the engine at ``address``."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import pymilvus

        if is_embedded(address):
            import milvus_lite.server_manager  # noqa: F401
    except ImportError as error:
        raise EngineError(f"an engine needs the package {error.name}; install it: pip install -e '.[scale]'") from error
    for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # their tracebacks would stand above our sentences
    if not is_embedded(address):
        return ask(address, pymilvus.MilvusClient, address, dedicated=True, timeout=CONNECT)
    folder = Path(address).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"{address} cannot be written ({error.strerror}); choose another name") from error
    sealed = _OPEN[folder] or _check_seal(folder)
    client = ask(address, pymilvus.MilvusClient, address, dedicated=True, timeout=CONNECT)
    if not sealed:
        warnings.warn(
            f"{address} was not closed properly: if an add was cut off, repeat it with the same ids", stacklevel=4
        )
    (folder / SEAL).unlink(missing_ok=True)
    if not _OPEN[folder]:
        atexit.register(_seal, folder)  # programs need not close; this comes before what milvus-lite does at their end
    _OPEN[folder] += 1
    return client


def disconnect(address, client):
    """Close a client; a file that nobody has open any more is sealed, so that other programs can open it."""
    client.close()
    if is_embedded(address):
        folder = Path(address).absolute()
        _OPEN[folder] -= 1
        if not _OPEN[folder]:
            _seal(folder)


def layout(client, dimension, metric, exact):
    """Of a collection: its fields, an id and a code, and its index.

    The index is an HNSW graph; none for the embedded engine, whose HNSW has lost rows when it merged its files.
    """
    from pymilvus import DataType

    fields, indexes = client.create_schema(auto_id=False, enable_dynamic_field=False), client.prepare_index_params()
    fields.add_field("id", DataType.INT64, is_primary=True)
    fields.add_field("code", DataType.FLOAT_VECTOR, dim=dimension)
    graph = {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}}
    indexes.add_index("code", metric_type=metric, **({"index_type": "FLAT"} if exact else graph))
    return {"schema": fields, "index_params": indexes}


# -- the embedded engine's file ----------------------------------------------------------------------------------


def _seal(folder):
    """Stop the engine of a file and note the hashes, unless that has been done."""
    from milvus_lite.server_manager import server_manager_instance

    if folder in _OPEN:
        del _OPEN[folder]
        server_manager_instance.release_server(str(folder))
        with suppress(OSError):  # without a seal there is a warning at the next start
            (folder / SEAL).write_text(json.dumps(_hashes(folder), indent=1))


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
