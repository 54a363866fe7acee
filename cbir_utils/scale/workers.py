"""Workers that encode shards: Ray Data starts them, on this machine or on a cluster, and replaces those that die."""

import logging
import os
import socket
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from cbir_utils.folders.folder import quiet

#: Seconds to wait for a cluster (Ray waits for minutes, and ends the process), and attempts to start Ray (which gives
#: itself 30 seconds: too few on a busy machine).
CONNECT, STARTS = 5, 3

#: Set to 1 for workers, before TensorFlow is imported, so that each keeps one core busy.
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


class ShardError(RuntimeError):
    """Shards cannot be made or read, or belong to another encoder or source; the message names the place."""


def parquet():
    """Arrow's Parquet, if it and Ray are installed."""
    try:
        import pyarrow.parquet
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ShardError(f"shards need the package {error.name}; install it: pip install -e '.[scale]'") from error
    return pyarrow.parquet


class Encoder:
    """What a worker does: load the encoder once, then encode one shard after another."""

    def __init__(self, content, get_read):
        os.environ.update(dict.fromkeys(THREADS, "1") | os.environ)
        from cbir_utils.training import load_model

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "encoder.keras")
            path.write_bytes(content)
            self.encoder = load_model(path)
        self.read = get_read()

    def __call__(self, table):
        import pyarrow

        from cbir_utils.training import encode

        names = [os.fsdecode(name) for name in table["id"].to_pylist()]
        rows, shape = table["row"].to_pylist(), self.encoder.input_shape[1:]
        images = [self.read(row, name, shape) for row, name in zip(rows, names, strict=True)]
        failed = np.array([isinstance(image, str) for image in images])
        codes = np.zeros((len(images), self.encoder.output_shape[1]), np.float32)
        if not failed.all():
            codes[~failed] = encode(self.encoder, np.stack([image for image in images if not isinstance(image, str)]))
        columns = {
            "row": table["row"],
            "id": [name.encode("utf-8", "backslashreplace").decode() for name in names],
            "code": pyarrow.FixedSizeListArray.from_arrays(codes.ravel(), codes.shape[1], mask=pyarrow.array(failed)),
            "reason": pyarrow.array([image if isinstance(image, str) else None for image in images], pyarrow.string()),
        }
        return pyarrow.table(columns)


def encoded(tables, content, read, workers, address):
    """Have Ray's workers encode the tables; yield what :class:`Encoder` makes of each, as it comes."""
    import ray.data

    started = not ray.is_initialized()
    try:
        if started:
            _start(workers, address)
        cores = ray.cluster_resources().get("CPU", 0)
        if cores < workers:
            raise ShardError(f"Ray has {cores:g} cores, fewer than workers={workers}; lower workers")
        results = ray.data.from_arrow(tables).map_batches(
            Encoder,
            fn_constructor_args=(content, partial(ray.get, ray.put(read))),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(tables))),
            num_cpus=1,
        )
        results.context.enable_progress_bars = results.context.print_on_execution_start = False
        results.context.raise_original_map_exception = True
        results.context.target_max_block_size = None  # else Ray cuts a large shard
        yield from results.iter_batches(batch_size=None, batch_format="pyarrow")
    except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as error:
        cause, *_ = str(getattr(error, "cause", None) or error).splitlines()
        raise ShardError(f"the workers failed ({cause}); finished shards are kept") from error
    finally:
        if started:
            ray.shutdown()


def _start(workers, address):
    """Start a Ray on this machine, or join a cluster, whose machines get this package from here."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal")  # the first: a report to its makers
    how = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    if address:
        how = {"address": address, "runtime_env": {"py_modules": [str(Path(__file__).parents[1])]}}
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    for left in [0] if address else reversed(range(STARTS)):
        try:
            if host:
                socket.create_connection((host, port), timeout=CONNECT).close()
            with quiet():
                return ray.init(**how, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # where its time is up, Ray raises no more special one
            ray.shutdown()
            if not left:
                where = address or "this machine"
                raise ShardError(f"no Ray answers at {where} ({error}); start one with `ray start --head`") from error
