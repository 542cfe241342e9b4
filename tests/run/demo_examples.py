"""Small untrained bridges behind the demo's page, with fabricated digits, and questions to the server."""

import contextlib
import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo.painter import painter_of
from demo.server import Server

from csb.bridge import Bridge, BridgeSpec, KernelSpec, build_bridge
from csb.problems import build_problem, mnist

PROBLEMS = ("mnist_inpaint_anywhere", "mnist_inpaint")
VECTORS = "bod"
TEST = 30


def write_digits(root: Path) -> dict[str, str]:
    """Fabricated files of bright bars in MNIST's layout, and their MD5s."""
    rng = np.random.default_rng(0)

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.zeros((n, 28, 28), np.float32)
        for image, start in zip(pixels, rng.integers(4, 20, n)):
            image[4:24, start : start + 4] = 0.9
        return pixels.reshape(n, -1), rng.integers(0, 10, n)

    raw = mnist.files_of(root).folder
    raw.mkdir(parents=True)
    mnist.write_idx(raw, (split(5000), split(20), split(TEST)))
    return {name: hashlib.md5((raw / name).read_bytes()).hexdigest() for name in mnist.MD5}


def untrained(name: str, root: Path | str) -> tuple[Bridge, BridgeSpec, dict[str, Any]]:
    """A bridge of one of PROBLEMS, and what its file holds beside it."""
    if name == VECTORS:
        problem, covariance = build_problem({"name": name}), "diagonal"
        network = {"name": "mlp", "width": 8, "depth": 1}
    else:
        problem, covariance = build_problem({"name": name, "root": str(root)}), "low_rank"
        network = {"name": "unet", "channels": 8, "multipliers": [1, 1], "attention": False}
    part = KernelSpec(network, "x0", covariance, rank=4)
    spec = BridgeSpec([1.0, 0.5, 0.1], problem.new_transform().spec(), part, part)
    bridge = build_bridge(spec, seed=0)
    bridge.about = {"problem": problem.spec(), "config": {"names": ["rate", "$k$"]}, "versions": {}}
    return bridge, spec, bridge.about


@contextlib.contextmanager
def serving(name: str, root: Path, md5: dict[str, str]) -> Iterator[Server]:
    """A server on a free port, its digits read from fabricated files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "MD5", md5)
        patch.setattr(mnist, "SOURCES", ())
        painter = painter_of(untrained(name, root)[0], "tiny", None)
        painter.prepare()
    server = Server(painter, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server
    server.stop()
    thread.join(10)
    assert not thread.is_alive()


def ask(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple:
    """The status, the headers and the decoded answer; a body that is no string or bytes is sent as JSON."""
    sent = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, sent, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        text, found = answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, found, json.loads(text) if "json" in found.get("content-type", "") else text
