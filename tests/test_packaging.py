"""pyproject.toml says what is needed: the requirements files and the imports agree with it."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = {"": PROJECT["dependencies"], **EXTRAS}
FILES = {
    "requirements.txt": ("", "data", "plots"),
    "requirements-test.txt": ("dev",),
    "requirements-plan.txt": ("plan",),
}
DISTRIBUTIONS = {
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "parselmouth": "praat-parselmouth",
    "sklearn": "scikit-learn",
}  # where the import differs
OPTIONAL = {"torch", "transformers", "lm_eval"}  # used if installed, or to make goldens
BROUGHT = {"ml-dtypes"}  # of an extra, but jax cannot be without it
# What cannot be imported without an extra. No module needs `dev`.
NEEDS = {
    "data": (
        "moe.data.builder",
    ),
    "plots": (),
    "hf": (),
    "dev": (),
}  # fmt: skip


def distribution(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("file", FILES)
def test_requirements_repeat_pyproject(file):
    want = [line for extra in FILES[file] for line in DECLARED[extra]]
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    got = [line for line in lines if line]
    missing = sorted(set(want) - set(got))
    unknown = sorted(set(got) - set(want))
    assert sorted(got) == sorted(want), (
        f"{file} does not repeat {[extra or 'dependencies' for extra in FILES[file]]} of "
        f"pyproject.toml, the one place to edit: add {missing} to it and take {unknown} out"
    )


def test_a_package_has_the_same_bounds_everywhere():
    bounds: dict[str, set[str]] = {}
    for extra, lines in DECLARED.items():
        for line in lines if extra != "plan" else ():  # whose pairs differ by interpreter
            bounds.setdefault(distribution(line), set()).add(line)
    assert not {name: lines for name, lines in bounds.items() if len(lines) > 1}


def imported(folder: str) -> dict[str, set[str]]:
    """Packages that a folder's files import, anywhere in them, and the files."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(str(path.relative_to(ROOT)))
    ours = {"moe", "experiments", "configs", "tests", "__future__"}
    return {name: at for name, at in found.items() if name not in sys.stdlib_module_names | ours}


@pytest.mark.parametrize("folder", ["moe", "experiments", "configs", "tests"])
def test_imports_are_declared(folder):
    without = {"dev", "plan"} if folder != "tests" else {"plan"}
    lists = [lines for extra, lines in DECLARED.items() if extra not in without]
    declared = {distribution(line) for lines in lists for line in lines}
    missing = {
        name: sorted(at)
        for name, at in imported(folder).items()
        if name not in OPTIONAL
        and DISTRIBUTIONS.get(name, name.lower().replace("_", "-")) not in declared
    }
    assert not missing, f"imported, but not declared in pyproject.toml: {missing}"


IMPORT_ALL = """
import importlib, pkgutil, sys

class Absent:
    names = set()

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def hide(number):
    Absent.names = set().union(*EXTRAS[number:]).difference(*EXTRAS[:number])

sys.meta_path.insert(0, Absent())
hide(0)
import moe

for number in range(len(EXTRAS)):
    hide(number)
    print("--")
    for module in pkgutil.walk_packages(moe.__path__, "moe."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in Absent.names:
                raise
            print(module.name)
"""


def test_what_imports_without_extras():
    """The library proper needs no extra, and the rest needs no more than its own."""
    extras = [{distribution(line) for line in DECLARED[extra]} - BROUGHT for extra in NEEDS]
    hidden = [{name.replace("-", "_") for name in names} for names in extras]
    command = [sys.executable, "-c", f"EXTRAS = {hidden}\n{IMPORT_ALL}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    failed = [set(part.split()) for part in done.stdout.split("--")[1:]]
    assert failed[0], "nothing was hidden"
    for number, modules in enumerate(failed):
        known = [name for extra in list(NEEDS)[number:] for name in NEEDS[extra]]
        more = beyond(modules, known)
        assert not more, f"they need more than dependencies and extras {list(NEEDS)[:number]}"


def beyond(modules: set[str], known: list[str]) -> set[str]:
    """Modules that neither are in `known` nor lie in a package that is."""
    inside = tuple(f"{name}." for name in known)
    return {module for module in modules if not f"{module}.".startswith(inside)}
