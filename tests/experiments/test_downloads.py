"""Downloads from a server of the test's own, and folders that the user names."""

import http.server
import tarfile
import threading
from functools import partial

import pytest

from experiments import data, downloads
from tests.experiments.test_data import TEST, TRAIN, cifar_files, md5, mnist_files, write


def test_named_folders_are_searched_for_the_one_that_holds_the_set(tmp_path, monkeypatch):
    contents, *_ = mnist_files()
    accepted = write(tmp_path / "second", contents)
    named = f"{tmp_path / 'first'}:{tmp_path / 'second'}"
    assert downloads.locate("mnist", named) == tmp_path / "second"
    monkeypatch.setenv("JAXCOMPRESS_DATA", named)
    assert len(data.load("mnist", validation=2, accepted=accepted).test.labels) == TEST
    next((tmp_path / "second").rglob("*.gz")).unlink()
    with pytest.raises(FileNotFoundError, match="second.*1 of 4"):
        downloads.locate("mnist")


def test_every_published_file_has_checksums():
    published = {path for name in downloads.MIRRORS for path in downloads.files(name)}
    assert set(downloads.ACCEPTED) == published | set(downloads.ARCHIVES.values())
    sums = [checksum for accepted in downloads.ACCEPTED.values() for checksum in accepted]
    assert len(set(sums)) == len(sums) and all(len(bytes.fromhex(checksum)) == 16 for checksum in sums)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and notes every path that was asked for in `server.asked`."""

    def log_message(self, *_):
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves tmp_path/served; yields (directory, base URL, list of paths asked for)."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    directory = tmp_path / "served"
    directory.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=directory)) as httpd:
        httpd.asked = []
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield directory, f"http://127.0.0.1:{httpd.server_port}/", httpd.asked
        httpd.shutdown()
        thread.join()


def test_download_tries_the_next_mirror_and_then_keeps_the_file(server, tmp_path):
    directory, base, asked = server
    (directory / "bad").write_bytes(b"not this")
    (directory / "good").write_bytes(b"this")
    urls = [base + path for path in ("absent", "bad", "good")]
    target = tmp_path / "cache" / "file"
    assert downloads.download(urls, md5(b"this"), target).read_bytes() == b"this"
    assert sum("good" in path for path in asked) == 1
    asked.clear()
    downloads.download(urls, md5(b"this"), target)
    assert not asked and [p.name for p in target.parent.iterdir()] == ["file"]


def test_download_with_a_wrong_checksum_leaves_nothing_and_tells_each_failure(server, tmp_path):
    directory, base, _ = server
    (directory / "bad").write_bytes(b"not this")
    urls = [base + "absent", base + "bad", "http://127.0.0.1:1/refused"]
    target = tmp_path / "cache" / "file"
    with pytest.raises(OSError, match=r"(?s)absent: 404.*bad: .*hash.*refused: ") as caught:
        downloads.download(urls, md5(b"this"), target)
    assert md5(b"this") in str(caught.value)
    assert not list(target.parent.iterdir())


def test_fetch_fills_an_idx_set(server, tmp_path):
    directory, base, asked = server
    contents, *_ = mnist_files()
    accepted = write(directory, contents)
    fetch = partial(
        downloads.fetch, "mnist", tmp_path / "cache", mirrors={"mnist": [base + "mnist/"]}, accepted=accepted
    )
    fetch()
    loaded = data.load("mnist", data_dir=tmp_path / "cache", validation=2, accepted=accepted)
    assert len(loaded.train.labels) == TRAIN - 2
    asked.clear()
    fetch()
    assert not asked


def test_fetch_unpacks_only_the_named_members_of_the_cifar_archive(server, tmp_path):
    directory, base, asked = server
    contents, *_ = cifar_files()
    accepted = write(tmp_path / "made", {**contents, "cifar-10-batches-bin/readme.html": b"hello"})
    with tarfile.open(directory / downloads.ARCHIVES["cifar-10"], "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-bin", "cifar-10-batches-bin")
    accepted[downloads.ARCHIVES["cifar-10"]] = (md5((directory / downloads.ARCHIVES["cifar-10"]).read_bytes()),)
    cache = tmp_path / "cache"
    fetch = partial(downloads.fetch, "cifar-10", cache, mirrors={"cifar-10": [base]}, accepted=accepted)
    fetch()
    assert {str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file()} == set(contents)
    assert len(data.load("cifar-10", data_dir=cache, validation=1, accepted=accepted).test.labels) == 2
    asked.clear()
    fetch()
    assert not asked
