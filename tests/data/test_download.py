"""The addresses of the table cannot be reached by tests: a server on this machine stands in for them."""

import hashlib
import os

import pytest

from hypersign._checks import HypersignError
from hypersign.data import download as downloads
from hypersign.data.download import ATTEMPTS, CHUNK, download
from hypersign.data.sources import Stored

BODY = bytes(range(256)) * 2000  # 512 kB: several chunks


@pytest.fixture
def wanted(server):
    server.contents["x.bin"] = BODY
    return Stored("x.bin", len(BODY), hashlib.sha256(BODY).hexdigest(), server.address)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_whole_at_once(wanted, server, tmp_path):
    path = download(wanted, tmp_path)
    assert path == tmp_path / "x.bin"
    assert path.read_bytes() == BODY
    assert names(tmp_path) == ["x.bin"]
    assert server.ranges == [None]


def test_what_is_there_is_not_asked_for_and_what_is_damaged_is_replaced(wanted, server, tmp_path):
    (tmp_path / "x.bin").write_bytes(BODY)
    download(wanted, tmp_path)
    assert server.ranges == []
    (tmp_path / "x.bin").write_bytes(BODY[:-1] + b"?")
    assert download(wanted, tmp_path).read_bytes() == BODY


def test_a_broken_connection_goes_on_where_it_broke(wanted, server, tmp_path):
    server.faults = [("cut", 5 * CHUNK + 7), ("cut", 2 * CHUNK)]
    assert download(wanted, tmp_path).read_bytes() == BODY
    assert server.ranges == [None, f"bytes={5 * CHUNK}-", f"bytes={7 * CHUNK}-"]
    assert names(tmp_path) == ["x.bin"]


def test_a_server_without_ranges_starts_again(wanted, server, tmp_path):
    server.faults = [("cut", 5 * CHUNK), ("no range",)]
    assert download(wanted, tmp_path).read_bytes() == BODY
    assert server.ranges == [None, f"bytes={5 * CHUNK}-"]


def test_a_later_call_goes_on_from_the_part(wanted, server, tmp_path):
    server.faults = [("cut", CHUNK), *[("cut", 0)] * (ATTEMPTS - 1)]
    with pytest.raises(
        HypersignError,
        match=rf"x\.bin could not be downloaded from http://127.* {CHUNK} of {len(BODY)} bytes arrived",
    ):
        download(wanted, tmp_path)
    assert len(server.ranges) == ATTEMPTS
    assert names(tmp_path) == ["x.bin.part"]
    server.ranges.clear()
    assert download(wanted, tmp_path).read_bytes() == BODY
    assert server.ranges == [f"bytes={CHUNK}-"]


def test_a_part_of_another_file_is_thrown_away(wanted, server, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(b"?" * 5000)
    assert download(wanted, tmp_path).read_bytes() == BODY
    assert server.ranges == ["bytes=5000-", None]
    assert names(tmp_path) == ["x.bin"]


def test_a_part_longer_than_the_file_is_thrown_away(wanted, server, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(BODY + b"?")
    assert download(wanted, tmp_path).read_bytes() == BODY


def test_a_wrong_checksum(wanted, server, tmp_path):
    server.contents["x.bin"] = BODY[:-1] + b"?"
    with pytest.raises(HypersignError, match=rf"{len(BODY)} bytes but not the SHA-256 {wanted.sha256}"):
        download(wanted, tmp_path)
    assert names(tmp_path) == []
    assert server.ranges == [None]


def test_a_file_too_short_on_the_server(wanted, server, tmp_path):
    server.contents["x.bin"] = BODY[:5000]
    with pytest.raises(HypersignError, match=r"of 512000 bytes arrived in 5 attempts"):
        download(wanted, tmp_path)
    assert "x.bin" not in names(tmp_path)


def test_a_file_too_long_on_the_server(wanted, server, tmp_path):
    server.contents["x.bin"] = BODY * 3
    with pytest.raises(HypersignError, match="sent more than the expected 512000 bytes"):
        download(wanted, tmp_path)
    assert names(tmp_path) == []


def test_not_found_is_asked_once(wanted, server, tmp_path):
    server.contents.clear()
    with pytest.raises(HypersignError, match=r"x\.bin could not be downloaded from .*: 404 .*Not Found"):
        download(wanted, tmp_path)
    assert server.ranges == [None]
    assert names(tmp_path) == []


def test_a_busy_server_is_asked_again(wanted, server, tmp_path):
    server.faults = [("status", 503), ("status", 429)]
    assert download(wanted, tmp_path).read_bytes() == BODY


def test_nobody_listens(wanted, server, tmp_path):
    gone = Stored(wanted.name, wanted.size, wanted.sha256, "http://127.0.0.1:1/")
    with pytest.raises(HypersignError, match=r"x\.bin could not be downloaded from http://127.0.0.1:1/x.bin: 0 of"):
        download(gone, tmp_path)


def test_redirects(wanted, server, tmp_path):
    server.faults = [("redirect", "/x.bin"), ("redirect", f"{server.address}x.bin")]
    assert download(wanted, tmp_path).read_bytes() == BODY
    assert server.ranges == [None] * 3


@pytest.mark.parametrize(
    "address", ["file:///etc/hostname", "ftp://127.0.0.1/x.bin", "data:,x", "x:y", "http://[::1", "http://x:99999/"]
)
def test_a_redirect_to_no_web_address_is_refused_for_that_reason(address, wanted, server, tmp_path):
    server.faults = [("redirect", address)]
    reason = r"redirects to '\S+', and only http and https addresses are followed$"
    with pytest.raises(
        HypersignError, match=rf"x\.bin could not be downloaded from http://127.*: the server {reason}"
    ):
        download(wanted, tmp_path)
    assert server.ranges == [None]
    assert names(tmp_path) == []


@pytest.mark.parametrize("address", ["http://a..b/", "http://%00/", f"http://{'a' * 70}.b/"])
def test_a_redirect_to_no_address_at_all(address, wanted, server, tmp_path):
    server.faults = [("redirect", address)]
    with pytest.raises(HypersignError, match=r"^x\.bin could not be downloaded from http://127") as caught:
        download(wanted, tmp_path)
    assert "SHA-256" not in str(caught.value)


def test_a_circle_of_redirects(wanted, server, tmp_path):
    server.faults = [("redirect", "/x.bin")] * 20
    with pytest.raises(HypersignError, match="redirects more than 10 times"):
        download(wanted, tmp_path)


@pytest.mark.parametrize("fault", [("drip", 0.05), ("drip header", 0.05)])
def test_a_server_that_drips_is_given_up_and_the_rest_is_asked_for(fault, wanted, server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PATIENCE", 0.3)
    server.faults = [fault]
    assert download(wanted, tmp_path).read_bytes() == BODY
    assert server.ranges == [None, None]  # no whole chunk arrived
    (tmp_path / "x.bin").unlink()
    server.faults = [fault] * ATTEMPTS
    with pytest.raises(HypersignError, match=f"0 of 512000 bytes arrived in 5 attempts .less than {CHUNK} bytes in"):
        download(wanted, tmp_path)


def test_a_download_has_a_limit_in_all(wanted, server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PATIENCE", 0.3)
    monkeypatch.setattr(downloads, "SLOWEST", 1e9)
    server.faults = [("drip", 0.05)] * ATTEMPTS
    with pytest.raises(HypersignError, match="0 of 512000 bytes arrived in 1 attempts"):
        download(wanted, tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full, which is always full")
def test_a_full_disk(wanted, tmp_path):
    (tmp_path / "x.bin.part").symlink_to("/dev/full")
    with pytest.raises(
        HypersignError, match=r"x\.bin, 512000 bytes, could not be written into .*: No space left .*; make room"
    ):
        download(wanted, tmp_path)
    assert names(tmp_path) == []
