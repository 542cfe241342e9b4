"""The demo's server: what it answers, what it refuses, and that nothing but this machine reaches it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack

import pytest
import torch
from demo.painter import WAITING, DigitRequest, Digits, painter_of
from demo.server import BODY, Server
from demo_examples import PROBLEMS, TEST, VECTORS, ask, serving, untrained, write_digits

from csb.bridge.checkpoint import save
from csb.cli.scripts import loopback, of_checkout
from csb.problems import MnistInpaint
from csb.process import seeded
from tests.conftest import ROOT, one_line, refused

GOOD = {"image": [v % 256 for v in range(784)], "top": 3, "left": 11, "n": 5, "seed": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    return root, write_digits(root)


@pytest.fixture(scope="module")
def servers(data):
    """By the names of their problems."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(serving(name, *data)) for name in (*PROBLEMS, VECTORS)}


@pytest.fixture
def server(servers):
    return servers[PROBLEMS[0]]


class TestAnswers:
    def test_the_page_loads_nothing_from_elsewhere(self, server):
        for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/digits.js", "text/javascript")):
            status, headers, text = ask(server.port, "GET", path)
            assert status == 200
            assert headers["content-type"].startswith(kind)
            assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
            assert "://" not in text
            comments = r"^\s*//[^\n]*|\s// [^\n]*" if kind == "text/javascript" else "$^"
            assert "//" not in re.sub(comments, "", text, flags=re.M)

    def test_info_and_the_digits_of_the_test_set(self, server):
        info = ask(server.port, "GET", "/api/info")[2]
        assert (info["hole"], info["top"], info["left"], info["movable"], info["why"]) == (14, 7, 7, True, "")
        assert info["digits"] == TEST
        pairs = server.painter.problem.pairs("test")
        for index in (0, TEST - 1):
            found = ask(server.port, "GET", f"/api/pick?index={index}")[2]
            assert found["label"] == int(pairs.labels[index])
            assert found["image"] == (255 * pairs.x[index]).round().int().flatten().tolist()

    def test_a_fixed_hole(self, servers):
        port = servers["mnist_inpaint"].port
        info = ask(port, "GET", "/api/info")[2]
        assert not info["movable"]
        assert "cannot move" in info["why"]
        assert len(ask(port, "POST", "/api/sample", GOOD | {"top": 7, "left": 7})[2]["samples"]) == 5
        status, _, found = ask(port, "POST", "/api/sample", GOOD)
        assert (status, found) == (400, {"error": "the hole of this bridge cannot move; send top and left 7"})

    def test_samples_are_those_of_the_bridge(self, server):
        status, _, found = ask(server.port, "POST", "/api/sample", GOOD)
        assert status == 200
        painter = server.painter
        y = torch.zeros(2, 28, 28)
        y[0] = torch.tensor(GOOD["image"]).view(28, 28) / 255
        y[1] = 1
        y[:, 3:17, 11:25] = 0
        x = painter.bridge.sample(y, 5, generator=seeded(2)).x
        for key, expected in (("mean", x.mean(0)), ("std", x.std(0))):
            assert found[key] == (255 * expected).round().int().flatten().tolist()
        samples = torch.tensor(found["samples"]).view(5, 28, 28)
        assert torch.equal(samples, (255 * x[:, 0]).round().int())
        known = y[1].bool()
        assert torch.equal(samples[:, known], torch.tensor(GOOD["image"]).view(28, 28)[known].expand(5, -1))
        assert float(samples[:, ~known].float().std(0).mean()) > 5
        assert found["calls"] == 2
        assert 0 < found["milliseconds"] < 10_000
        other = torch.tensor(GOOD["image"]).view(28, 28)
        other[3:17, 11:25] = 255 - other[3:17, 11:25]  # what is behind the hole changes nothing
        hidden = GOOD | {"image": other.flatten().tolist()}
        assert ask(server.port, "POST", "/api/sample", hidden)[2]["samples"] == found["samples"]
        assert ask(server.port, "POST", "/api/sample", GOOD | {"seed": 3})[2]["samples"] != found["samples"]

    def test_vectors(self, servers):
        vectors = servers[VECTORS]
        info, picked = ask(vectors.port, "GET", "/api/info")[2], ask(vectors.port, "GET", "/api/pick?index=3")[2]
        assert (info["names"], len(info["x"]), len(info["y"])) == (["rate", "$k$"], 2, 5)
        pairs = vectors.painter.problem.pairs("test", 4)
        assert picked["truth"] == pytest.approx(pairs.x[3].tolist())
        assert picked["y"] == pytest.approx(pairs.y[3].tolist())
        asked = {"y": picked["y"], "n": 7, "seed": 2}
        status, _, found = ask(vectors.port, "POST", "/api/sample", asked)
        expected = vectors.painter.bridge.sample(pairs.y[3], 7, generator=seeded(2)).x
        torch.testing.assert_close(torch.tensor(found["samples"]), expected, rtol=1e-4, atol=1e-5)
        assert (status, found["calls"]) == (200, 2)
        assert "javascript" in ask(vectors.port, "GET", "/vectors.js")[1]["content-type"]
        for wrong in ({"y": [1.0]}, {"y": "x"}, {"y": [1.0] * 5, "n": 0}, {"y": [float("nan")] * 5}):
            assert error_of(vectors.port, "POST", "/api/sample", asked | wrong) == 400


def error_of(*request):
    """The status of an answer that is one line of an error."""
    status, _, answer = ask(*request)
    assert set(answer) == {"error"}
    assert "\n" not in answer["error"]
    assert 10 < len(answer["error"]) < 200
    return status


class TestRefusals:
    @pytest.mark.parametrize(
        "body",
        [
            [1, 2],
            {k: v for k, v in GOOD.items() if k != "seed"},
            *(
                GOOD | wrong
                for wrong in (
                    {"path": "/etc/passwd"}, {"image": [0] * 783}, {"image": [0] * 783 + [256]},
                    {"image": [True] + [0] * 783}, {"image": [float("nan")] + [0] * 783}, {"top": 15}, {"n": 65},
                    {"n": "x" * 9000}, {"seed": 2**63},
                )
            ),
            '{"image": [', "[" * 10_000, b"\xff\xfe\x00",
        ],
        ids=lambda body: str(body)[-30:],
    )  # fmt: skip
    def test_bad_requests(self, server, body):
        assert error_of(server.port, "POST", "/api/sample", body) == 400

    @pytest.mark.parametrize(
        ("method", "path", "headers", "status"),
        [
            *(("GET", f"/api/pick{query}", {}, 400) for query in ("", "?index=", f"?index={TEST}", "?index=-1")),
            *(("GET", f"/api/pick?index={index}", {}, 400) for index in ("1e3", "%D9%A3")),
            ("GET", "/api/nothing", {}, 404),
            ("GET", "/%2e%2e/painter.py", {}, 404),
            ("GET", "/api/sample", {}, 405),
            ("POST", "/api/sample", {"Origin": "http://evil.example"}, 403),
            ("POST", "/api/sample", {"Origin": "null"}, 403),
            ("POST", "/api/sample", {"Content-Type": "text/plain"}, 415),
        ],
    )
    def test_other_pages_digits_and_origins(self, server, method, path, headers, status):
        assert error_of(server.port, method, path, GOOD if method == "POST" else None, headers) == status

    def test_another_name_of_this_machine_and_a_long_body(self, server):
        """As somebody may point a name at 127.0.0.1."""
        for host in ("evil.example:7860", "127.0.0.1.evil.example"):
            assert ask(server.port, "POST", "/api/sample", GOOD, {"Host": host})[0] == 400
        assert error_of(server.port, "POST", "/api/sample", "0" * (BODY + 1)) == 413

    def test_a_body_that_drips(self, server, monkeypatch):
        monkeypatch.setattr("demo.server.SECONDS", 0.3)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(
                f"POST /api/sample HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 9\r\n"
                "Content-Type: application/json\r\n\r\n1".encode()
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")

    def test_a_failure_inside_is_one_line_too(self, server, monkeypatch):
        monkeypatch.setattr(Digits, "info", lambda self: 1 / 0)
        status, _, answer = ask(server.port, "GET", "/api/info")
        assert status == 500
        assert "division" not in answer["error"]


class TestManyAtOnce:
    def test_one_after_the_other_and_no_endless_queue(self, server, monkeypatch):
        bridge, at_work, most = server.painter.bridge, [], []
        original = bridge.sample

        def slow(*args, **kwargs):
            at_work.append(1)
            most.append(len(at_work))
            time.sleep(0.3)
            found = original(*args, **kwargs)
            at_work.pop()
            return found

        monkeypatch.setattr(bridge, "sample", slow)
        with ThreadPoolExecutor(WAITING + 4) as pool:
            answers = list(pool.map(lambda _: ask(server.port, "POST", "/api/sample", GOOD), range(WAITING + 4)))
        statuses = [status for status, _, _ in answers]
        assert sorted(statuses) == [200] * (1 + WAITING) + [503] * 3
        assert max(most) == 1
        assert all("busy" in answer["error"] for status, _, answer in answers if status == 503)


class TestStart:
    @pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::1", "example.org", "", None, 2130706433])
    def test_hosts_that_others_reach(self, host):
        assert "is not this machine alone" in one_line(lambda: loopback(host))
        assert [loopback(own) for own in ("127.0.0.1", "localhost", "127.8.8.8")] == [*["127.0.0.1"] * 2, "127.8.8.8"]

    def test_a_port_that_is_taken(self, server):
        assert server.socket.getsockname() == ("127.0.0.1", server.port)
        message = one_line(lambda: Server(server.painter, "127.0.0.1", server.port))
        assert f"port={server.port} of 127.0.0.1 cannot be used" in message

    def test_a_bridge_of_another_problem(self, data):
        bridge = untrained("mnist_inpaint", data[0])[0]
        bridge.about = {"problem": {"name": "mnist_deblur"}}
        message = one_line(lambda: painter_of(bridge, "x", None))
        assert "run=x is a bridge of mnist_deblur, which the page cannot show" in message

    def test_without_a_checkout(self, monkeypatch, tmp_path):
        monkeypatch.setattr("csb.__file__", str(tmp_path / "csb" / "__init__.py"))
        message = one_line(lambda: of_checkout("demo.server", "demo"))
        assert "csb demo runs the scripts of a checkout" in message

    def test_without_digits_visitors_draw_their_own(self, tmp_path, monkeypatch):
        monkeypatch.setattr("csb.problems.mnist.SOURCES", ())
        painter = painter_of(untrained("mnist_inpaint", "data")[0], "x", str(tmp_path))
        assert isinstance(painter.problem, MnistInpaint)
        assert painter.problem.root == str(tmp_path)
        painter.prepare()
        info = painter.info()
        assert info["digits"] == 0
        assert info["without_digits"].startswith("MNIST is not available")
        assert "MNIST is not available" in one_line(lambda: painter.picked("3"))
        assert len(painter.sample(DigitRequest(**GOOD | {"top": 7, "left": 7}))["samples"]) == 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    bridge, _, about = untrained("mnist_inpaint_anywhere", folder / "no_data")
    save(bridge, folder / "bridge.safetensors", about)
    return folder


class TestCommand:
    def test_refused(self, run):
        for argument, message in (
            ("host=0.0.0.0", "host='0.0.0.0' is not this machine alone"),
            ("port=70000", "port=70000 is not possible"),
            ("-m", "csb demo cannot be swept over"),
            ("run=nowhere", "run=nowhere is not a folder"),
        ):
            assert refused("demo", f"run={run}", argument).startswith(message)

    @pytest.mark.nightly
    @pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
    def test_serves_until_stopped(self, run, sent):
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PIP_NO_INDEX": "1", "https_proxy": "http://127.0.0.1:9"}
        command = [sys.executable, "scripts/demo.py", f"run={run}", "port=0"]
        own = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}  # a shell may ignore it
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **own
        )
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "open http" in line)
            port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
            assert "behind the hole" in ask(port, "GET", "/")[2]
            with ThreadPoolExecutor(4) as pool:  # while requests are answered
                asked = [pool.submit(ask, port, "POST", "/api/sample", GOOD | {"n": 64}) for _ in range(4)]
                time.sleep(0.1)
                process.send_signal(sent)
                wait([*asked], 60)
            assert process.wait(120) == 0  # the machine may be busy
            assert "stopped" in process.stdout.read()
        finally:
            process.kill()
            process.wait()
