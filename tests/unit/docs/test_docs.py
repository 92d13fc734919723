"""What documents and docstrings name exists: commands, flags, modules, files, links; each fact stands in one place."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from edgekit.cli import COMMANDS, app
from edgekit.recipe import Recipe
from tests.support.documents import ROOT, Text, anchors, documents, files, layers, links, sources, texts

README_BYTES = 8 * 1024
PAGES = [text for text in texts() if text.is_page]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
page = pytest.mark.parametrize("text", PAGES, ids=lambda text: text.where)


@cache
def options_of(command: str) -> frozenset[str]:
    """The flags of a command of the CLI."""
    group = typer.main.get_command(app)
    context = group.make_context("edgekit", [], resilient_parsing=True)
    _, found, _ = group.resolve_command(context, [command])  # type: ignore[attr-defined]
    flags = {flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    return frozenset(flags | {"--help", "-h"})


@cache
def flags_in(path: Path) -> frozenset[str]:
    """The flags that a module with a command line of its own knows: its strings that begin with two dashes."""
    constants = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return frozenset(str(c.value) for c in constants if re.fullmatch(r"--?[a-z][\w-]*", str(c.value)))


@cache
def known_flags() -> frozenset[str]:
    """Those of all commands, of the benchmarks, and of edgekit itself."""
    own = {flag for parameter in typer.main.get_command(app).params for flag in parameter.opts}
    found = own.union(*map(options_of, COMMANDS))
    return frozenset(found.union(*(flags_in(path) for path in (ROOT / "benchmarks").glob("*.py"))))


def flags(words: list[str]) -> list[str]:
    return [found[0] for word in words if (found := re.match(r"--?[a-z][\w-]*", word))]


def problems_of_commands(text: Text) -> list[str]:
    """Commands of the CLI that do not exist, and flags that they do not have."""
    found = []
    for command, *words in text.commands():
        if command in COMMANDS:
            found += [f"edgekit {command} {flag}" for flag in flags(words) if flag not in options_of(command)]
        elif command not in known_flags() and (command.startswith("-") or (text.is_page and command.isidentifier())):
            found.append(f"edgekit {command}")
    return found


def source_of(module: str) -> Path | None:
    """The file of a module of this repository."""
    path = ROOT / Path(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def problems_of_modules(text: Text) -> list[str]:
    """What `python -m` would not find, and flags that the module does not know."""
    found = []
    for module, words in text.modules():
        if module.split(".")[0] not in ("edgekit", "benchmarks", "tests"):
            found += [] if find_spec(module) else [module]
        elif module != "edgekit":  # whose commands are looked at on their own
            source = source_of(module)
            if source is None or "__main__" not in source.read_text():
                found.append(module)
            else:
                found += [f"{module} {flag}" for flag in flags(words) if flag not in flags_in(source)]
    return found


def problems_of_names(text: Text) -> list[str]:
    """Dotted names for which there is no module, or nothing of that name in it."""
    found = []
    for name in text.names():
        parts = name.split(".")
        end = next(n for n in range(len(parts), 0, -1) if source_of(".".join(parts[:n])))
        rest, source = parts[end:], source_of(".".join(parts[:end]))
        assert source is not None
        if rest and not re.search(rf"\b{rest[0]}\b", source.read_text()):
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("wrong", "look"),
    [
        ("Run `edgekit biuld --out OUT`.", problems_of_commands),
        ("```\nedgekit build --model demo \\\n   --fast --out OUT   # quickly\n```\n", problems_of_commands),
        ("```yaml\n- run: edgekit check out --max-drift 1\n```\n", problems_of_commands),
        ("`.venv/bin/edgekit --verzion`", problems_of_commands),
        ("```\npython -m benchmarks.tables\n```\n", problems_of_modules),
        ("`python -m benchmarks.run --suit full`", problems_of_modules),
        ("see `edgekit.ops.openvino_library`", problems_of_names),
    ],
)
def test_what_does_not_exist_is_found(wrong, look):
    assert len(look(Text("page", wrong, True))) == 1


def test_commands_and_their_flags_exist():
    assert [(text.where, found) for text in texts() if (found := problems_of_commands(text))] == []


def test_modules_that_are_run_exist():
    assert [(text.where, found) for text in texts() if (found := problems_of_modules(text))] == []


def test_dotted_names_exist():
    assert [(text.where, found) for text in texts() if (found := problems_of_names(text))] == []


def test_paths_exist():
    absent = [(text.where, name) for text in texts() for name in text.paths() if not list(ROOT.glob(name.rstrip("/")))]
    assert absent == []


@page
def test_flags_in_inline_code_exist(text):
    for span in text.spans():
        if span.startswith("--"):
            assert set(flags(span.split())) <= known_flags(), span


@pytest.mark.parametrize(
    "text", [text for text in PAGES if "/templates/" not in text.where], ids=lambda text: text.where
)
def test_source_files_in_inline_code_exist(text):
    """Pages of a bundle's samples name files of other projects too; `tests/unit/bundle` looks at them."""
    named = {span for span in text.spans() if re.fullmatch(r"[\w-]+\.(py|cpp|h|inl|md|yml)", span)}
    assert named <= {path.name for path in files()}


@page
def test_make_targets_and_extras_exist(text):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    code = "\n".join(text.lines())
    assert set(re.findall(r"^make ([a-z][\w-]*)", code, re.MULTILINE)) <= targets
    for names in re.findall(r"install \"(?:\.|edgekit)\[([\w,-]+)\]", code):
        assert set(names.split(",")) <= extras.keys()


@page
def test_recipes_in_documents_are_valid(text):
    for language, content in text.fences():
        if language == "toml":
            Recipe.make(tomllib.loads(content))


@page
def test_links_lead_somewhere(text):
    here = ROOT / text.where
    for target in links(text.text):
        name, _, anchor = target.partition("#")
        there = (here.parent / name).resolve() if name else here
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= README_BYTES


def test_the_site_shows_every_page_once():
    shown = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2])
    assert sorted(shown) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


def test_every_command_is_in_the_quick_start():
    quickstart = next(text for text in PAGES if text.where == "docs/quickstart.md")
    table = "\n".join(line for line in quickstart.text.splitlines() if line.startswith("| `edgekit "))
    assert set(re.findall(r"`edgekit ([\w-]+)`", table)) == COMMANDS.keys()


def test_every_package_has_one_layer():
    named = [name for line in layers(ARCHITECTURE) for name in line]
    package = ROOT / "edgekit"
    parts = [path.stem for path in package.glob("*.py") if not path.stem.startswith("__")]
    parts += [path.parent.name for path in package.glob("*/__init__.py")]
    assert sorted(named) == sorted([*parts, "models.config"])


def lists_layers(text: str) -> bool:
    """Whether some lines hold package names and signs of order alone: three on a line, or four lines in a row."""
    names = {name for line in layers(ARCHITECTURE) for name in line}
    run = 0
    for line in text.splitlines():
        words = re.findall(r"[\w.]+", line)
        run = run + 1 if words and set(words) <= names else 0
        if run == 4 or (len(re.findall(r"<-?|←", line)) > 1 and len(names.intersection(words)) > 2):
            return True
    return False


def test_the_layers_are_published_in_one_place():
    assert lists_layers("`artifact, recipe` ← `models, images` ← `quantize, distill` ← `backends`")
    assert [text.where for text in texts() if lists_layers(text.text)] == ["docs/architecture.md"]


def test_every_page_begins_with_its_title():
    assert [path for path in documents() if not path.read_text(encoding="utf-8").startswith("# ")] == []


def test_all_sources_are_read():
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == {"edgekit", "benchmarks", "tests"}
    assert sys.modules[__name__].__doc__ in {text.text for text in texts()}
