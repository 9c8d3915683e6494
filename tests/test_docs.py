"""README.md and docs/ hold what they say: links, commands, overrides, code, and every name."""

import ast
import dataclasses
import functools
import json
import pathlib
import re
import shlex
import sys
import tempfile
from unittest import mock

import jax
import pytest
from absl import flags
from ml_collections import config_flags

import moe
from moe import dispatch, routing, schema, sharding
from moe.data import prepare
from moe.training import config as configs
from moe.training import loop, metrics
from tests import tiny
from tests.training import toys

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


# Reading a page.


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


# What may be wrong with it.


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
        with mock.patch.object(sys, "argv", words):  # where the parser looks for overrides
            holder = config_flags.DEFINE_config_file("config", flag_values=values)
            values(words)
        run = holder.value if "train" in holder.value else holder.value.get("base")
        if run is not None:
            schema.from_config_dict(configs.RunConfig, run)
    except Exception as error:
        return [f"{path} {overrides}: {type(error).__name__}: {error}"]
    return []


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


# The pages.


@each_page
def test_links_images_and_files_exist(page):
    assert wrong_links(page, page.read_text()) == []


@each_page
def test_commands_can_be_given(page):
    assert wrong_commands(page.read_text()) == []


@each_page
def test_every_block_says_what_it_is(page):
    text = page.read_text()
    assert text.count("\n```") == 2 * len(FENCE.findall(text)), "a fence is not closed"
    assert {language for language, _ in FENCE.findall(text)} <= LANGUAGES


def test_the_commands_are_found():
    """So that the checks above look at something."""
    words = [words for page in PAGES for words in shell_lines(page.read_text())]
    found = {word for line in words for word in line if word.startswith("experiments.")}
    assert len(found) > 8
    assert sum(len([w for w in line if w.startswith("--config.")]) for line in words) > 15


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](nowhere.md)", "nowhere.md"),
        ("![a](experiments/results/nothing.png)", "experiments/results/nothing.png"),
        ("# One\n[a](#two)", "#two"),
        ("[a](docs/words.md#no-such-heading)", "docs/words.md#no-such-heading"),
        ("`moe/nothing.py`", "moe/nothing.py"),
    ],
)
def test_a_wrong_link_is_found(text, wrong):
    assert wrong_links(README, text) == [wrong]


def test_a_right_link_is_not():
    text = (
        "# One: two `x_y`!\n# Same\n# Same\n[a](#one-two-x_y) [b](#same-1) [c](docs/words.md#cost)"
    )
    assert wrong_links(README, text) == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("python -m experiments.nothing", "^experiments.nothing$"),
        ("python -m experiments.train --config=configs/nothing.py", "No such file .*nothing.py"),
        ("python -m experiments.train --config=configs/train.py:nobody", "'nobody' is not one of"),
        ("python -m experiments.scaling --config=configs/scaling.py:huge", ":huge is unknown"),
        ("python -m experiments.train --wordkir=runs/mine", "^--wordkir=runs/mine$"),
        ("python -m experiments.train --config.train.stepps=3", "AttributeError.* instead of"),
        (
            "python -m experiments.train \\\n    --config.train.steps=many",
            "invalid literal for int",
        ),
        ("python -m experiments.train --config.train.steps=0", "ValueError: train.steps=0 must be"),
        ("python -m experiments.scaling --config.train.steps=3", "KeyError: .*'train'"),
        ("python -m experiments.plan --config=configs/train.py", "^--config=configs/train.py$"),
        ("ssh pod --command='cd moe && python -m experiments.train --nothing'", "^--nothing$"),
        ("make nothing", "^nothing$"),
    ],
)
def test_a_wrong_command_is_found(line, wrong):
    (found,) = wrong_commands(f"```sh\n{line}\n```")
    assert re.search(wrong, found)


@pytest.mark.parametrize(
    "span", ["make nothing", "experiments.nothing", "--nothing=3", "--config.mesh.nothing"]
)
def test_a_wrong_command_in_a_sentence_is_found(span):
    assert len(wrong_commands(f"Say `{span}`.")) == 1


# Their code.


@pytest.fixture
def sandbox(monkeypatch, tmp_path):
    """Toy data for whatever is asked for, a folder of its own, and every table as it was after."""
    monkeypatch.setattr(prepare, "prepare", lambda config: toys.data())
    one = sharding.make_mesh(1, 1, devices=jax.devices()[:1])  # compiles in half the time
    monkeypatch.setattr(loop, "mesh_of", lambda run: one)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = [dict(table) for table in TABLES]
    yield tmp_path
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


def execute(page: pathlib.Path, text: str) -> dict:
    """The names after all Python blocks of a page; errors show the page's own lines."""
    names = {"__name__": "docs"}
    for line, code in blocks(text, "python"):
        exec(compile("\n" * line + code, str(page), "exec"), names)
    return names


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page.read_text(), "python") and page != EXTENDING],
    ids=lambda page: page.stem,
)
def test_python_runs(page, sandbox):
    execute(page, page.read_text())


def test_what_extending_adds_works_alone_and_together(sandbox):
    """Its blocks run; then the loop trains all of it at once."""
    before = [set(table) for table in TABLES]
    names = execute(EXTENDING, EXTENDING.read_text())
    added = [set(table) - old for table, old in zip(TABLES, before, strict=True)]
    assert all(len(new) == 1 for new in added), "a router, a dispatcher, a model, and so on"
    (router,), (dispatcher,), (model,), (objective,), (evaluator,), _ = added
    experts = tiny.moe_config(router=router, k=2, dispatcher=dispatcher)
    sizes = dataclasses.asdict(tiny.model(vocab_size=toys.V)) | {"experts": experts}
    run = dataclasses.replace(
        toys.run_config(train={"evaluators": ("loss", f"{evaluator}:3")}),
        architecture=model,
        model=names["BigramConfig"](**sizes),
        objective=names["ObjectiveConfig"](name=objective),
    )
    result = loop.train(run, sandbox / "run")
    assert result["test_bits_per_byte"] > 0
    records = metrics.read(sandbox / "run" / "metrics.jsonl")
    assert {r["step"] for r in records if "expert_norm_LE" in r} == {3, 6}
    assert all(0 <= r["accuracy"] <= 1 for r in records if r["split"] == "train")
    assert json.loads((sandbox / "run" / "config.json").read_text())["architecture"] == model


def test_code_that_fails_fails_where_it_stands(sandbox):
    with pytest.raises(AssertionError) as caught:
        execute(README, "Text.\n\n```python\none = 1\n```\n\n```python\nassert one == 2\n```\n")
    assert caught.traceback[-1].lineno + 1 == 8


# What they name.


def test_the_readme_takes_two_minutes():
    assert len(README.read_text().split()) <= 700


@pytest.mark.parametrize("table", ["ROUTERS", "DISPATCHERS", "MODELS", "OBJECTIVES", "EVALUATORS"])
def test_every_entry_of_a_table_is_named(table):
    named = {span for page in PAGES for span in spans(page.read_text())}
    assert set(getattr(moe, table)) <= named


def test_the_table_of_routers_is_that_of_the_code():
    told = {}
    for name, _, kind, causal, options, _ in rows(
        (DOCS / "routers.md").read_text().split("\n## ")[0]
    ):
        told[name.strip("`")] = (kind.strip("`"), causal, set(re.findall(r"`(\w+)`", options)))
    assert told == {
        name: (
            router.kind.__name__,
            router.causal,
            {f.name for f in dataclasses.fields(router.options)},
        )
        for name, router in routing.ROUTERS.items()
    }


def test_every_public_name_is_shown():
    text = "\n".join(page.read_text() for page in PAGES)
    missing = [
        name for name in moe.PUBLIC if not re.search(rf"\bmoe\.{name}\b(?!\.)|`{name}`", text)
    ]
    assert missing == []


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\(docs/(\w+\.md)\)", README.read_text()))
    assert linked == {page.name for page in PAGES if page != README}


def test_the_letters_are_the_same_everywhere():
    cells = rows(section((DOCS / "words.md").read_text(), "Letters"))
    words = {letter for row in cells for letter in row[::2]}
    readme = section(README.read_text(), "Letters")
    legend = moe.__doc__.split("The letters")[1]
    assert set(re.findall(r"\b[A-Z]\b", readme)) == words
    assert set(re.findall(r"(?:^|  )([A-Z])  \w", legend, re.MULTILINE)) <= words
