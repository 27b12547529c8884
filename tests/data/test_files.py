import errno
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.data import NAMES, cache_folder, fetch, files, load, status
from hypersign.data.sources import SOURCES

BINS = [file.name for file in SOURCES["cifar-10"].files]


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock")


@pytest.fixture
def given(tmp_path, monkeypatch):
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv("HYPERSIGN_DATA", str(folder))
    return folder


def flip(data, middle):
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def freeze(folder):
    """What a given folder holds, with the times of change: to see that nothing was written."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [folder, *folder.rglob("*")]}


def test_the_cache_is_the_users(home):
    assert cache_folder() == home


def test_mnist_is_downloaded_once(tiny_mnist, server, home):
    assert fetch("mnist") == home / "mnist"
    assert tree(home) == sorted(["mnist", *(f"mnist/{name}" for name in tiny_mnist.archives)])
    assert len(server.ranges) == 4
    fetch("mnist")
    load("mnist")
    assert len(server.ranges) == 4


def test_cifar_is_downloaded_and_extracted(tiny_cifar, server, home):
    assert fetch("cifar-10") == home / "cifar-10" / "cifar-10-batches-bin"
    assert sorted(os.listdir(fetch("cifar-10"))) == sorted(BINS)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist_in_the_given_folder_is_used_in_place(tiny_mnist, server, home, given, ending):
    tiny_mnist.write(given / "mnist", *(f"{name}{ending}" for name in tiny_mnist.files))
    before = freeze(given)
    assert fetch("mnist") == given / "mnist"
    assert len(load("mnist").train) == 6
    assert freeze(given) == before
    assert not home.exists()
    assert server.ranges == []


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_cifar_files_in_the_given_folder_are_used_in_place(tiny_cifar, server, home, given, inside):
    tiny_cifar.write(given / "cifar-10" / inside, *BINS)
    before = freeze(given)
    assert fetch("cifar-10") == given / "cifar-10" / inside
    assert len(load("cifar-10").train) == 10
    assert freeze(given) == before
    assert not home.exists()


@pytest.mark.parametrize("archive", ["cifar-10-binary.tar.gz", "cifar-10-batches-bin.tar.xz"])
def test_an_archive_in_the_given_folder_is_extracted_once_into_the_cache(
    tiny_cifar, server, home, given, archive, monkeypatch
):
    tiny_cifar.write(given / "cifar-10", archive)
    before = freeze(given)
    load("cifar-10")
    assert tree(home / "cifar-10") == sorted(
        ["cifar-10-batches-bin", *(f"cifar-10-batches-bin/{name}" for name in BINS)]
    )
    monkeypatch.setattr(tarfile, "open", None)
    load("cifar-10")
    assert freeze(given) == before
    assert server.ranges == []


def test_the_given_folder_goes_before_the_cache(tiny_mnist, home, given):
    fetch("mnist")
    tiny_mnist.write(given / "mnist", *tiny_mnist.files)
    assert fetch("mnist") == given / "mnist"


def test_what_is_missing_in_the_given_folder_is_downloaded_into_the_cache(tiny_mnist, server, home, given):
    first, *rest = tiny_mnist.archives
    tiny_mnist.write(given / "mnist", *rest)
    load("mnist")
    assert tree(home / "mnist") == [first]


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:-1] + b"?"], ids=["short", "bit"])
def test_a_damaged_given_file_is_named_and_left_alone(tiny_mnist, server, home, given, spoil):
    tiny_mnist.write(given / "mnist", *tiny_mnist.archives)
    name = "t10k-labels-idx1-ubyte.gz"
    (given / "mnist" / name).write_bytes(spoil(tiny_mnist.archives[name]))
    before = freeze(given)
    for use in (load, fetch):
        with pytest.raises(
            HypersignError,
            match=rf"given/mnist/{name}: damaged, .* expected, .* found; get {server.address}{name} by hand "
            rf"and put it at .*given/mnist/{name}",
        ):
            use("mnist")
    assert freeze(given) == before
    assert not home.exists()


@pytest.mark.parametrize("spoil", [lambda data: data[:-9], lambda data: data[:-1] + b"?"], ids=["short", "bit"])
def test_a_damaged_given_archive_is_named(tiny_cifar, home, given, spoil):
    name = "cifar-10-batches-bin.tar.xz"
    tiny_cifar.write(given / "cifar-10", name)
    (given / "cifar-10" / name).write_bytes(spoil(tiny_cifar.archives[name]))
    with pytest.raises(
        HypersignError, match=rf"given/cifar-10/{name}: damaged, .* put it at .*given/cifar-10/cifar-10-binary"
    ):
        load("cifar-10")
    assert tree(home / "cifar-10") == []


def test_a_damaged_file_in_the_cache_is_named_by_load_and_replaced_by_fetch(tiny_cifar, tiny_mnist, home):
    for name, file in (("mnist", "train-images-idx3-ubyte.gz"), ("cifar-10", BINS[3])):
        path = fetch(name) / file
        data = path.read_bytes()
        path.write_bytes(data[:-1] + b"?")
        with pytest.raises(HypersignError, match=rf"{file}: damaged.*`hypersign data fetch {name}` replaces it"):
            load(name)
        fetch(name)
        assert path.read_bytes() == data


def test_a_damaged_archive_in_the_cache_is_downloaded_again(tiny_cifar, server, home):
    folder = home / "cifar-10"
    tiny_cifar.write(folder, "cifar-10-binary.tar.gz")
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"half of it")
    load("cifar-10")
    assert len(server.ranges) == 1
    assert (folder / "cifar-10-binary.tar.gz").read_bytes() == tiny_cifar.archives["cifar-10-binary.tar.gz"]


def test_a_failed_download_says_where_to_put_the_file(tiny_mnist, tiny_cifar, server, home):
    server.contents.clear()
    with pytest.raises(
        HypersignError,
        match=rf"^cifar-10: cifar-10-binary.tar.gz could not be downloaded from {server.address}cifar-10-binary"
        rf".tar.gz: 404 .*; or get .* by hand and put it at {home}/cifar-10/cifar-10-binary.tar.gz$",
    ):
        load("cifar-10")
    with pytest.raises(HypersignError, match=rf"put it at {home}/mnist/train-images-idx3-ubyte.gz$"):
        load("mnist")
    assert tree(home) == ["cifar-10", "mnist"]


def hostile_members():
    link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "../../../../outside"
    device = tarfile.TarInfo("cifar-10-batches-bin/device")
    device.type = tarfile.CHRTYPE
    return {
        "parent": tarfile.TarInfo("../outside"),
        "deep": tarfile.TarInfo("cifar-10-batches-bin/../../../outside"),
        "link": link,
        "device": device,
    }


@pytest.mark.parametrize("kind", hostile_members())
def test_an_archive_that_reaches_out_is_refused(reinstall_cifar, tiny_cifar, home, kind, tmp_path):
    path = tmp_path / "hostile.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(hostile_members()[kind])
    reinstall_cifar({"cifar-10-binary.tar.gz": path.read_bytes(), "b.tar.xz": b""})
    before = tree(tmp_path)
    with pytest.raises(HypersignError, match=r"cifar-10-binary\.tar\.gz: cannot be extracted"):
        load("cifar-10")
    assert set(tree(tmp_path)) - set(before) == {
        "cache",
        "cache/hypersign",
        "cache/hypersign/cifar-10",
        "cache/hypersign/cifar-10/cifar-10-binary.tar.gz",
    }


@pytest.mark.parametrize(
    "archives",
    [
        {"cifar-10-binary.tar.gz": b"no archive at all", "b.tar.xz": b""},
        {"cifar-10-binary.tar.gz": b"\x1f\x8b\x08\0cut", "b.tar.xz": b""},
        {"cifar-10-binary.tar.xz": b"\xfd7zXZ\0cut", "b.tar.xz": b""},
    ],
    ids=["text", "gz", "xz"],
)
def test_an_archive_that_is_none(reinstall_cifar, home, archives):
    """Its checksum is right here, so that extraction itself is met."""
    reinstall_cifar(archives)
    with pytest.raises(HypersignError, match="cannot be extracted"):
        load("cifar-10")
    assert tree(home / "cifar-10") == [next(iter(archives))]


@pytest.mark.parametrize("packer", ["gz", "xz"])
@pytest.mark.parametrize("spoil", [lambda data, middle: data[:middle], flip], ids=["truncated", "flipped"])
def test_a_spoilt_archive_leaves_nothing(reinstall_cifar, tiny_cifar, home, make_tar, packer, spoil):
    """Its checksum is that of the spoilt archive, so that the unpackers themselves are met."""
    members = {f"cifar-10-batches-bin/{name}": data for name, data in tiny_cifar.files.items()}
    data = make_tar(members, f"w:{packer}")
    reinstall_cifar({"a.tar": spoil(data, len(data) // 2), "b.tar": b""})
    with pytest.raises(HypersignError, match=r"a\.tar: cannot be extracted|data_batch_.*: damaged"):
        load("cifar-10")
    assert tree(home / "cifar-10") == ["a.tar"]


def test_an_archive_with_a_wrong_or_missing_file_leaves_nothing(reinstall_cifar, tiny_cifar, home, make_tar):
    members = {f"cifar-10-batches-bin/{name}": data for name, data in tiny_cifar.files.items()}
    wrong = {**members, f"cifar-10-batches-bin/{BINS[5]}": b"?"}
    reinstall_cifar({"cifar-10-binary.tar.gz": make_tar(wrong, "w:gz"), "b.tar.xz": b""})
    with pytest.raises(HypersignError, match=rf"{BINS[5]}: damaged, .* 6146 bytes expected, 1 found"):
        load("cifar-10")
    assert tree(home / "cifar-10") == ["cifar-10-binary.tar.gz"]
    members.pop(f"cifar-10-batches-bin/{BINS[0]}")
    reinstall_cifar({"cifar-10-binary.tar.gz": make_tar(members, "w:gz"), "b.tar.xz": b""})
    with pytest.raises(HypersignError, match=rf"{BINS[0]}: cannot be read \(No such file"):
        load("cifar-10")
    assert tree(home / "cifar-10") == ["cifar-10-binary.tar.gz"]


def test_a_disk_full_while_extracting_leaves_nothing(tiny_cifar, home, given, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    tiny_cifar.write(given / "cifar-10", "cifar-10-binary.tar.gz")
    monkeypatch.setattr(tarfile, "copyfileobj", full)
    with pytest.raises(HypersignError, match=r"cannot be written \(No space left on device\); make room"):
        load("cifar-10")
    assert tree(home / "cifar-10") == []


def test_what_a_killed_process_left_is_cleared_away(tiny_cifar, home):
    (home / "cifar-10" / ".extracting" / "half").mkdir(parents=True)
    load("cifar-10")
    assert not (home / "cifar-10" / ".extracting").exists()


def test_a_cache_that_cannot_be_written(tiny_mnist, home):
    home.parent.mkdir()
    home.write_text("a file where the folder should be")
    with pytest.raises(HypersignError, match=r"mnist: .* cannot be written .* XDG_CACHE_HOME"):
        load("mnist")


def test_those_that_start_together_download_and_extract_once(tiny_cifar, server, home, monkeypatch):
    """Each takes the lock with a file descriptor of its own, as processes do."""
    extracted = []
    extract = files._extract
    monkeypatch.setattr(files, "_extract", lambda *given: extracted.append(given) or extract(*given))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(fetch, ["cifar-10"] * 3))
    assert len(set(found)) == len(server.ranges) == len(extracted) == 1


def test_the_given_folder_must_exist(monkeypatch):
    monkeypatch.setenv("HYPERSIGN_DATA", "/no/such/folder")
    for use in (lambda: load("mnist"), status):
        with pytest.raises(HypersignError, match=r"HYPERSIGN_DATA must name a folder .* /no/such/folder"):
            use()


def test_fetch_names_what_it_knows():
    with pytest.raises(
        HypersignError, match=r"must be one of digits, mnist, fashion-mnist, cifar-10, cifar-100, .*; got 'cifar'"
    ):
        fetch("cifar")


def test_status_before_and_after(tiny_mnist, tiny_cifar, home, given):
    assert [item.name for item in status()] == list(NAMES)
    before = {item.name: item for item in status()}
    assert before["digits"].place == "scikit-learn"
    assert (before["mnist"].place, before["mnist"].path) == ("absent", None)
    assert before["mnist"].download_bytes == sum(map(len, tiny_mnist.archives.values()))
    assert before["cifar-10"].download_bytes == len(tiny_cifar.archives["cifar-10-binary.tar.gz"])
    assert before["cifar-10"].shape == (3, 32, 32)
    assert not home.exists()

    tiny_cifar.write(given / "cifar-10", "cifar-10-batches-bin.tar.xz")
    fetch("mnist")
    after = {item.name: item for item in status()}
    assert (after["mnist"].place, after["mnist"].path) == ("cache", str(home / "mnist"))
    assert (after["cifar-10"].place, after["cifar-10"].path) == ("HYPERSIGN_DATA", str(given / "cifar-10"))
    assert after["mnist"].download_bytes == after["cifar-10"].download_bytes == 0
    assert (after["mnist"].train_images, after["mnist"].test_images) == (6, 4)


@pytest.mark.parametrize("how", ["archive", "files", "downloaded"])
def test_cifar_100(how, tiny_cifar_100, server, given):
    """The archive is given or downloaded, or the two files are given."""
    tiny = tiny_cifar_100
    if how == "downloaded":
        server.contents |= tiny.archives
    else:
        tiny.write(given / "cifar-100", *(tiny.files if how == "files" else tiny.archives))
    data = load("cifar-100")
    assert data.train.labels.tolist() + data.test.labels.tolist() == tiny.labels.tolist()
    assert np.array_equal(data.train.images.numpy(), tiny.images[:5])
    assert (len(data.classes), data.classes[0], data.classes[99]) == (100, "apple", "worm")
    assert list(data.classes) == sorted(set(data.classes))
