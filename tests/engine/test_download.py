"""Downloads from a server of this machine: whole, cut, resumed, refused, shared by processes."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from labelenc.config import ConfigError
from labelenc.engine import CheckpointError, DownloadError, fetch_weight, load_file
from labelenc.engine.download import download

ROOT = Path(__file__).resolve().parents[2]
WHOLE = pickle.dumps({"conv1_w": np.arange(50_000, dtype=np.float32)}, protocol=2)


class Server(ThreadingHTTPServer):
    """Serves ``content`` as /R-50.pkl; attributes make it misbehave. ``ranges`` has one entry per request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = WHOLE
        self.ranges: list[str | None] = []
        self.cuts: list[int] = []  # bytes after which the next answers end
        self.supports_ranges = True
        self.announced: int | None = len(WHOLE)
        self.status = 200
        self.modified = time.time() - 10_000
        self.delay = 0.0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/R-50.pkl"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.supports_ranges else 0
        if start and start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        if server.announced is not None:
            self.send_header("Content-Length", str(server.announced - start))
        self.send_header("Last-Modified", formatdate(server.modified, usegmt=True))
        self.end_headers()
        time.sleep(server.delay)
        body = server.content[start:]
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "MSRA" / "R-50.pkl"


def part_of(path):
    return path.with_name("R-50.pkl.part")


def assert_whole(path):
    assert path.read_bytes() == WHOLE
    record = path.with_name("R-50.pkl.sha256").read_text()
    assert record == f"{hashlib.sha256(WHOLE).hexdigest()}  R-50.pkl\n"
    assert not part_of(path).exists()


def test_a_download_and_its_second_use_without_network(server, path):
    download(server.url, path)
    assert_whole(path)
    assert torch.equal(load_file(path)["conv1_w"], torch.arange(50_000.0))
    assert server.ranges == [None]
    download("http://127.0.0.1:9/gone", path)
    assert_whole(path)


def test_a_file_that_a_person_put_there_is_taken(path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"any content")
    download("http://127.0.0.1:9/gone", path)
    assert path.read_bytes() == b"any content"


def test_a_connection_that_breaks_is_taken_up_again(server, path):
    server.cuts = [30_000, 50_000]
    download(server.url, path)
    assert_whole(path)
    assert server.ranges == [None, "bytes=30000-", "bytes=80000-"]


def test_an_earlier_run_is_continued(server, path):
    path.parent.mkdir(parents=True)
    part_of(path).write_bytes(WHOLE[:70_000])
    download(server.url, path)
    assert_whole(path)
    assert server.ranges == ["bytes=70000-"]


def test_a_server_without_ranges_starts_anew(server, path):
    server.supports_ranges = False
    path.parent.mkdir(parents=True)
    part_of(path).write_bytes(b"x" * 70_000)
    download(server.url, path)
    assert_whole(path)
    assert server.ranges == ["bytes=70000-"]


@pytest.mark.parametrize("length", [len(WHOLE), len(WHOLE) + 5])
def test_a_part_that_is_too_long_starts_anew(server, path, length):
    path.parent.mkdir(parents=True)
    part_of(path).write_bytes(b"x" * length)
    download(server.url, path)
    assert_whole(path)
    assert server.ranges == [f"bytes={length}-", None]


def test_a_file_that_changed_on_the_server_starts_anew(server, path):
    path.parent.mkdir(parents=True)
    part_of(path).write_bytes(b"x" * 70_000)
    server.modified = time.time() + 100
    download(server.url, path)
    assert_whole(path)
    assert server.ranges == ["bytes=70000-", None]


def test_without_an_announced_length(server, path):
    server.announced = None
    download(server.url, path)
    assert_whole(path)


def test_the_server_ends_early_every_time(server, path):
    server.cuts = [1000, *[0] * 9]
    with pytest.raises(DownloadError, match=f"the connection ended after 1000 of {len(WHOLE)} bytes"):
        download(server.url, path)
    assert not path.exists()
    assert part_of(path).read_bytes() == WHOLE[:1000]
    server.cuts = []
    download(server.url, path)
    assert_whole(path)
    assert server.ranges == [None, "bytes=1000-", "bytes=1000-"]


@pytest.mark.parametrize("content", [b"<html>please log in</html>", WHOLE[:-500], b""])
def test_what_is_no_file_of_weights_is_not_kept(server, path, content):
    server.content, server.announced = content, len(content)
    with pytest.raises(DownloadError, match="sent is no file of weights"):
        download(server.url, path)
    assert not path.exists()
    assert not part_of(path).exists()


def test_what_holds_code_is_not_kept(server, path):
    server.content = pickle.dumps({"a": print})
    server.announced = len(server.content)
    with pytest.raises(DownloadError, match=r"builtins\.print"):
        download(server.url, path)
    assert not path.exists()


@pytest.mark.parametrize("status", [403, 404, 500])
def test_the_server_refuses(server, path, status):
    server.status = status
    with pytest.raises(DownloadError, match=str(status)):
        download(server.url, path)
    assert server.ranges == [None]


def test_without_network_the_message_says_everything(path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/R-50.pkl"
    with pytest.raises(CheckpointError) as caught:
        download(url, path)
    for words in (
        f"Download {url} ",
        f"put it at {path} ",
        "LABELENC_CACHE",
        "MODEL.WEIGHT to",
        '""',
        "refused",
    ):
        assert words in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(server, path, monkeypatch):
    monkeypatch.setattr(sys.modules[download.__module__], "TIMEOUT", 0.2)
    server.delay = 1.0
    with pytest.raises(DownloadError, match="timed out"):
        download(server.url, path)


def test_a_damaged_file_is_noticed_and_replaced(server, path, caplog):
    download(server.url, path)
    damaged = bytearray(WHOLE)
    damaged[60_000] ^= 1
    path.write_bytes(damaged)
    download(server.url, path)
    assert_whole(path)
    assert f"{path} is damaged" in caplog.text
    assert server.ranges == [None, None]


def test_a_damaged_file_without_network_is_an_error(server, path):
    download(server.url, path)
    path.write_bytes(WHOLE[:-1])
    with pytest.raises(DownloadError, match="put it at"):
        download("http://127.0.0.1:9/gone", path)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DownloadError, match=r"(?s)cache.*LABELENC_CACHE"):
        download(server.url, tmp_path / "cache" / "R-50.pkl")
    assert server.ranges == []


def test_names_and_paths(tmp_path, monkeypatch):
    assert fetch_weight("some/where.pth") == "some/where.pth"
    with pytest.raises(ConfigError, match="did you mean catalog://ImageNetPretrained/MSRA/R-50"):
        fetch_weight("catalog://ImageNetPretrained/MSRA/R-5")
    monkeypatch.setenv("LABELENC_CACHE", str(tmp_path))
    path = tmp_path / "ImageNetPretrained/MSRA/R-50.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(WHOLE)
    assert fetch_weight("catalog://ImageNetPretrained/MSRA/R-50") == str(path)


PROGRAM = """
import sys
from pathlib import Path
from labelenc.engine import DownloadError, close_distributed, setup_distributed
from labelenc.engine.download import download
process = setup_distributed("cpu")
try:
    download(sys.argv[1], Path(sys.argv[2]))
except DownloadError as error:
    print("failed:", error)
else:
    print("sees", Path(sys.argv[2]).stat().st_size)
close_distributed()
"""


def run_twice(url, paths, port, together):
    """The outputs of two processes: a group with ranks, or two that know nothing of each other."""
    programs = []
    for rank, path in enumerate(paths):
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if together:
            variables |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-c", PROGRAM, url, str(path)]
        programs.append(
            subprocess.Popen(
                command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    try:
        return [program.communicate(timeout=120)[0] for program in programs]
    finally:
        for program in programs:
            program.kill()


@pytest.mark.parametrize("together", [True, False], ids=["group", "two runs"])
def test_two_processes_download_once(server, path, free_port, together):
    server.delay = 0.0 if together else 3.0
    outputs = run_twice(server.url, [path, path], free_port(), together)
    assert outputs == [f"sees {len(WHOLE)}\n"] * 2
    assert server.ranges == [None]
    assert_whole(path)


def test_two_machines_have_a_copy_each(server, path, free_port, tmp_path):
    other = tmp_path / "other" / "R-50.pkl"
    outputs = run_twice(server.url, [path, other], free_port(), together=True)
    assert outputs == [f"sees {len(WHOLE)}\n"] * 2
    assert_whole(path)
    assert_whole(other)
    assert server.ranges == [None, None]


def test_all_processes_hear_of_a_failure(server, path, free_port):
    server.status = 404
    for output in run_twice(server.url, [path, path], free_port(), together=True):
        assert output.startswith("failed: cannot get R-50.pkl: HTTP Error 404")
    assert server.ranges == [None]
