"""The wheel, built and installed as a stranger would: what is in it, and that it works alone."""

import email
import json
import pathlib
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLE = pathlib.Path(__file__).with_name("wheel_example.py")
# Nothing of them may load with `import moe`: they belong to extras, or take seconds.
HEAVY = ("tensorflow_datasets", "tokenizers", "grain", "matplotlib", "orbax", "safetensors")

LOOK = f"""
import importlib.metadata, importlib.resources, json, sys
import moe
bridge = sys.modules.get("jax._src.xla_bridge")
print(json.dumps({{
    "file": moe.__file__,
    "version": moe.__version__,
    "installed": importlib.metadata.version(sys.argv[1]),
    "typed": importlib.resources.files("moe").joinpath("py.typed").is_file(),
    "heavy": [name for name in {HEAVY} if name in sys.modules],
    "backend": bridge is not None and bridge.backends_are_initialized(),
}}))
"""


def call(*command, cwd) -> str:
    """Runs a command and returns what it printed; a failure shows all of it."""
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    call(*build, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of a new environment: the wheel, and the packages that the tests have.

    A line in a .pth file lends those packages. The .pth files beside them are not read, so a
    checkout that is installed there as editable stays out of sight.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    call(sys.executable, "-m", "pip", "--python", python, *install, wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    lent = {sysconfig.get_path(which) for which in ("purelib", "platlib")}
    (site / "lent.pth").write_text("\n".join(sorted(lent)) + "\n")
    return python


def test_it_has_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(archive.read(metadata))
    assert {name.split("/")[0] for name in names} == {"moe", metadata.split("/")[0]}
    kinds = ("*.py", "*.html", "*.css", "*.js")
    files = {str(path.relative_to(ROOT)) for kind in kinds for path in (ROOT / "moe").rglob(kind)}
    assert {name for name in names if name.startswith("moe/")} == files | {"moe/py.typed"}
    assert f"{metadata.split('/')[0]}/licenses/LICENSE" in names
    assert told["Name"] == project()["name"] != "moe"
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Requires-Python"] == ">=3.11"
    assert set(told.get_all("Provides-Extra")) == set(project()["optional-dependencies"])
    assert told["Description-Content-Type"] == "text/markdown"


def test_import_is_light(wheel, python, tmp_path):
    name = project()["name"]
    seen = json.loads(call(python, "-I", "-W", "error", "-c", LOOK, name, cwd=tmp_path))
    assert pathlib.Path(seen["file"]).is_relative_to(python.parents[1]), "not the wheel's"
    assert seen["version"] == seen["installed"] == wheel.name.split("-")[1]
    assert seen["typed"], "without moe/py.typed no type checker reads the package's types"
    assert not seen["heavy"], f"`import moe` loads {seen['heavy']}"
    assert not seen["backend"], "`import moe` starts a backend of jax"


def test_the_example_runs_from_an_empty_folder(python, tmp_path):
    assert "agree on cpu" in call(python, "-I", "-W", "error", EXAMPLE, cwd=tmp_path)
