"""A real Milvus server, from the package ``milvus``, for the tests in this folder."""

import contextlib
import ctypes
import http.client
import os
import random
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

#: Milvus listens on these ports beside the one for its clients.
PORTS = ("proxy_port", "proxy_internal_port", "etcd_port", "root_coord_port", "query_coord_port", "query_node_port",
         "index_coord_port", "index_node_port", "data_coord_port", "data_node_port")  # fmt: skip


def die_with_parent():
    """Ends the server when the tests end, however they end (Linux: prctl's PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_ports(count):
    """Ports that nobody listens on, below those that systems give to outgoing connections: Milvus makes many."""
    ports = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    pytest.fail("there are no free ports")


class Server:
    """Milvus in a folder; it can be killed and started again on the same data and the same port."""

    def __init__(self, folder):
        from milvus import MilvusServer, MilvusServerConfig, _initialize_data_files

        *ports, self.health_port = free_ports(len(PORTS) + 1)
        config = MilvusServerConfig(data_dir=str(folder), **dict(zip(PORTS, ports, strict=True)))
        config.resolve()
        _initialize_data_files(str(folder))
        self.address = f"http://127.0.0.1:{config.get('proxy_port')}"
        self.program = MilvusServer(config).get_milvus_executable_path()
        self.folder, self.process = folder, None

    def start(self):
        environment = {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self.health_port),
            "MILVUS_RUN_DIR": str(self.folder / "run"),
            "LD_LIBRARY_PATH": os.path.dirname(self.program),
        }
        with open(self.folder / "logs" / "output.log", "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "run", "standalone"], cwd=self.folder, env=environment, preexec_fn=die_with_parent,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        for _ in range(600):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError, http.client.HTTPException):
                if b"OK" in urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/healthz", timeout=5).read():
                    return
            time.sleep(0.2)
        self.kill()
        pytest.fail(f"no Milvus server started (does another hold etcd's port 2380?); see {self.folder}/logs")

    def kill(self):
        """End the server as a power cut would."""
        self.process.kill()
        self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("milvus"))
    server.start()
    yield server
    server.kill()
