"""What comes from outside is data: nothing here runs it, or unpacks it beside its place."""

import ast
import pathlib
import tarfile
import zipfile

import pytest

from moe.data import packages
from moe.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
ROOTS = ("moe", "experiments", "configs")
SOURCES = sorted(path for name in ROOTS for path in (ROOT / name).rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
CALLS = {"eval", "exec", "compile", "extract", "extractall", "unpack_archive", "system", "popen"}
CALLS |= {"__import__", "run_path", "run_module"}
COMPILES = {"compile"}  # as a method it is a regular expression's, or XLA's


def forbidden(source):
    """What a source imports or calls that could run what it reads, or write where it should not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from sorted({name.split(".")[0] for name in names} & MODULES)
        if isinstance(node, ast.Call):
            method = isinstance(node.func, ast.Attribute)
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in CALLS and not (method and name in COMPILES):
                yield name
            for given in node.keywords:
                if given.arg in ("shell", "allow_pickle") and ast.unparse(given.value) != "False":
                    yield f"{given.arg}={ast.unparse(given.value)}"


def test_nothing_runs_or_unpacks_what_it_reads():
    found = {str(p): list(forbidden(p.read_text())) for p in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "archive.extractall(folder)",
        "subprocess.run(text, shell=True)",
        "np.load(path, allow_pickle=True)",
        "os.system(text)",
    ],
)
def test_the_search_finds(source):
    assert list(forbidden(source))


def zipped(path, name, size):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(size))


def tarred(path, name, size):
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = size
        with (path.parent / "zeros").open("w+b") as zeros:
            zeros.truncate(size)
            archive.addfile(member, zeros)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_archives_are_read_in_memory_and_up_to_a_size(pack, tmp_path, monkeypatch):
    """A name that leaves the folder is only a name: no member is ever written to disk."""
    monkeypatch.setattr(packages, "LARGEST", 1000)
    path = tmp_path / "archive"
    pack(path, "../outside.txt", 1000)
    before = sorted(tmp_path.parent.iterdir())
    assert dict(packages.members(path, "*.txt")) == {"../outside.txt": bytes(1000)}
    assert sorted(tmp_path.parent.iterdir()) == before
    pack(path, "../outside.txt", 1001)
    with pytest.raises(UserError, match=r"outside.txt unpacks to more than 1,000 bytes"):
        dict(packages.members(path, "*.txt"))
