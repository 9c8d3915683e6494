"""What README.md and docs/ say, taken apart: blocks, links, commands."""

import ast
import functools
import pathlib
import re
import shlex
import sys
from unittest import mock

import pytest
from absl import flags
from ml_collections import config_flags

import moe
from configs import train
from moe import dispatch, schema
from moe.training import config as configs
from moe.training import runs

ROOT = pathlib.Path(__file__).parents[1]

README = ROOT / "README.md"

DOCS = ROOT / "docs"

PAGES = [README, *sorted(DOCS.glob("*.md"))]

EXTENDING = DOCS / "extending.md"

LANGUAGES = {"python", "sh", "text"}  # of which python is run, and sh checked

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

FOLDERS = ("moe", "experiments", "configs", "docs", "notebooks", "tests")

TABLES = (
    moe.ROUTERS, moe.DISPATCHERS, moe.MODELS, moe.OBJECTIVES, moe.EVALUATORS, dispatch.SLOTTED,
)  # fmt: skip

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """(line of the fence, code) of the blocks in a language."""
    found = FENCE.finditer(text)
    return [(text[: m.start()].count("\n") + 1, m[2]) for m in found if m[1] == language]


def prose(text: str) -> str:
    return FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(table: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", one) is not None for one in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


def wrong_links(page: pathlib.Path, text: str) -> list[str]:
    """Links and images whose file or anchor is not there, and files that are named but absent."""
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(link)
        elif anchor:
            there = text if target == page else target.read_text()
            wrong += [] if anchor in anchors(there) else [link]
    named = [span for span in spans(text) if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./]+", span)]
    return wrong + [name for name in named if not (ROOT / name).exists()]


def shell_lines(text: str) -> list[list[str]]:
    """The words of every line of the sh blocks and of every code span; a quoted command is one."""
    lines = [line for _, code in blocks(text, "sh") for line in joined(code)]
    words = [shlex.split(line, comments=True) for line in lines]
    quoted = [word for line in words for word in line if " -m experiments." in word]
    return words + [shlex.split(one) for one in quoted + commands_in_spans(text)]


def joined(code: str) -> list[str]:
    return code.replace("\\\n", " ").splitlines()


def commands_in_spans(text: str) -> list[str]:
    starts = ("make ", "python ", "experiments.", "--")
    return [span for span in spans(text) if span.startswith(starts) or "PYTHON=" in span]


def wrong_commands(text: str) -> list[str]:
    """Programs, targets, flags, configs and overrides that are not there."""
    wrong = []
    for words in shell_lines(text):
        program = [word for word in words if word.startswith("experiments.")]
        if program:
            given = words[words.index(program[0]) + 1 :]
            wrong += wrong_program(program[0].removeprefix("experiments."), given)
        elif words and words[0].startswith("--"):
            wrong += [word for word in words if not known_somewhere(word)]
        elif "make" in words:
            wrong += [
                target for target in words[words.index("make") + 1 :] if target not in targets()
            ]
    return wrong


@functools.cache
def targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@functools.cache
def flags_of(program: str) -> set[str]:
    """The flags that a program defines, read from its source: `flags.DEFINE_...`, or an alias."""
    tree = ast.parse((ROOT / "experiments" / f"{program}.py").read_text())
    aliases = {
        node.targets[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and getattr(node.value, "attr", "").startswith("DEFINE_")
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", "") or getattr(node.func, "id", "")
            if name.startswith("DEFINE_") or name in aliases:
                found.add(node.args[0].value)
    return found


@functools.cache
def default_config(program: str) -> str | None:
    """The config that a program takes if none is given; None if it takes none."""
    source = (ROOT / "experiments" / f"{program}.py").read_text()
    found = re.search(r'command\.config\("([^"]+)"', source)
    return found and found[1]


def programs() -> list[str]:
    return [path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem != "__init__"]


def wrong_program(program: str, given: list[str]) -> list[str]:
    if program not in programs():
        return [f"experiments.{program}"]
    of_config = [word for word in given if re.match(r"--config[.=]", word)]
    others = [word for word in given if word not in of_config]
    names = [re.fullmatch(r"--(\w+)(=.*)?", word, re.DOTALL) for word in others]
    pairs = zip(others, names, strict=True)
    wrong = [word for word, name in pairs if not name or name[1] not in flags_of(program)]
    if default_config(program) is None:
        return wrong + of_config
    return wrong + wrong_config(default_config(program), of_config)


def wrong_config(default: str, given: list[str]) -> list[str]:
    """What the flags make of the config, by the parser that the programs use."""
    path, *overrides = given if given and given[0].startswith("--config=") else ["", *given]
    path = path.removeprefix("--config=") or default
    words = ["docs", f"--config={ROOT / path}", *overrides]
    values = flags.FlagValues()
    try:
        with (
            mock.patch.object(sys, "argv", words),  # where the parser looks for overrides
            mock.patch.object(runs, "read_config", some_run),
        ):
            holder = config_flags.DEFINE_config_file("config", flag_values=values)
            values(words)
        run = holder.value if "train" in holder.value else holder.value.get("base")
        if run is not None:
            schema.from_config_dict(configs.RunConfig, run)
    except Exception as error:
        return [f"{path} {overrides}: {type(error).__name__}: {error}"]
    return []


def some_run(workdir: pathlib.Path) -> configs.RunConfig:
    """What stands in a folder that the documents name."""
    del workdir
    return schema.from_config_dict(configs.RunConfig, train.get_config())


def known_somewhere(word: str) -> bool:
    """Is a flag that stands alone, without its program, one of some program?"""
    name = word.removeprefix("--").partition("=")[0]
    if not name.startswith("config."):
        return any(name in flags_of(program) for program in programs())
    default = "configs/scaling.py:demo" if name.startswith("config.base.") else "configs/train.py"
    holder = config_flags.DEFINE_config_file(
        "config", str(ROOT / default), flag_values=flags.FlagValues()
    )
    found = holder.default
    for part in name.split(".")[1:]:
        if part not in found:
            return False
        found = found[part]
    return True
