"""A real Milvus server, from the package ``milvus``, for the tests in this folder."""

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

#: Milvus listens on these ports beside the one for its clients.
PORTS = ("proxy_port", "proxy_internal_port", "etcd_port", "root_coord_port", "query_coord_port", "query_node_port",
         "index_coord_port", "index_node_port", "data_coord_port", "data_node_port")  # fmt: skip

#: Ends the server when the tests end, however they end: its standard input is closed then.
WATCH = """
import select, subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)
print(server.pid, flush=True)
while server.poll() is None and not select.select([sys.stdin], [], [], 0.2)[0]:
    pass
server.kill()
server.wait()
"""


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
        self.folder, self.watch, self.pid = folder, None, None

    def start(self):
        environment = {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self.health_port),
            "MILVUS_RUN_DIR": str(self.folder / "run"),
            "LD_LIBRARY_PATH": os.path.dirname(self.program),
        }
        with open(self.folder / "logs" / "output.log", "ab") as log:
            self.watch = subprocess.Popen(
                [sys.executable, "-c", WATCH, self.program, "run", "standalone"],
                cwd=self.folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.pid = int(self.watch.stdout.readline())
        for _ in range(600):
            if self.watch.poll() is not None:
                break
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/healthz", timeout=5).read()
                if b"OK" in answer:
                    return
            time.sleep(0.2)
        self.stop()
        pytest.fail(
            f"no Milvus server started (does one run already? its etcd needs port 2380); see {self.folder}/logs"
        )

    def kill(self):
        """End the server as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def stop(self):
        if self.watch is not None:
            self.watch.stdin.close()
            self.watch.wait(timeout=30)
            self.watch.stdout.close()
            self.watch = None


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("milvus"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
