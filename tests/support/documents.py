"""What documents and docstrings name: commands, flags, modules, paths, links and the layers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgekit.precision import FACTS

ROOT = Path(__file__).parents[2]
FOLDERS = ("edgekit", "benchmarks", "tests")
_UNREAD = {"node_modules", "_lib", "__pycache__", "dist"}
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"(?:^|[\s/])edgekit (.*)")
_PATH = re.compile(r"(?<![\w/.@-])((?:edgekit|docs|tests|benchmarks|recipes)/[\w./*<>-]*)")


@dataclass(frozen=True)
class Text:
    """A document or a docstring, and where it stands."""

    where: str
    text: str
    is_page: bool

    def fences(self) -> list[tuple[str, str]]:
        """(language, content) of every fenced block."""
        return [(language, content) for _, language, content in _FENCE.findall(self.text)]

    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    def spans(self) -> list[str]:
        """Inline code."""
        return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", self.prose())]

    def lines(self) -> list[str]:
        """Lines of code: those of fenced blocks of no language but a shell's, of workflows, and inline code."""
        blocks = [content for language, content in self.fences() if language in ("", "sh", "yaml")]
        if not self.is_page:
            blocks.append(self.text)
        joined = "\n".join(blocks).replace("\\\n", " ")
        return [re.split(r"\s#\s", line)[0].strip() for line in joined.splitlines()] + self.spans()

    def commands(self) -> Iterator[list[str]]:
        """The words behind `edgekit` of every command of the CLI."""
        for line in self.lines():
            for part in re.split(r"&&|`", line):
                if (found := _COMMAND.search(part)) and (words := found[1].split()):
                    yield [word.strip(",;.()") for word in words]

    def modules(self) -> Iterator[tuple[str, list[str]]]:
        """(module, words behind it) of every `python -m`."""
        for line in self.lines():
            for part in re.split(r"&&|`", line):
                if found := re.search(r"python3? -m ([\w.]+)(?![\w.<])(.*)", part):
                    yield found[1].rstrip("."), found[2].split()

    def paths(self) -> Iterator[str]:
        """Paths of the repository; `@edgekit/web` is a package, and edgekit/w8a8 the name of an artifact."""
        for name in _PATH.findall(re.sub(r"\]\([^)]*\)", "]", self.text)):  # links are relative: see `links`
            if "<" not in name and name.removeprefix("edgekit/") not in FACTS:
                yield name.rstrip(".,:")

    def names(self) -> Iterator[str]:
        """Dotted names in edgekit, as inline code."""
        for span in self.spans():
            if found := re.fullmatch(r"(edgekit(?:\.\w+)+)(?:\(.*\))?", span):
                yield found[1]


@cache
def files() -> tuple[Path, ...]:
    """The files of the repository's root and of its folders, but for what running made."""
    found = list(ROOT.glob("*.*"))
    for folder in ("docs", "recipes", *FOLDERS):
        found += [path for path in (ROOT / folder).rglob("*.*") if not _UNREAD & set(path.parts)]
    return tuple(sorted(found))


def documents() -> list[Path]:
    """The pages that this project writes about itself."""
    return [path for path in files() if path.suffix == ".md"]


def sources() -> list[Path]:
    """The modules of the package, the benchmarks and the tests."""
    return [path for path in files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in FOLDERS]


@cache
def texts() -> tuple[Text, ...]:
    """Every page, and every docstring."""
    found = [Text(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"), True) for path in documents()]
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                line = 1 if isinstance(node, ast.Module) else node.lineno
                found.append(Text(f"{path.relative_to(ROOT)}:{line}", text, False))
    return tuple(found)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    """Targets of links and pictures inside the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page))
    return [target for target in found if not re.match(r"\w+:", target)]


def layers(page: str) -> list[list[str]]:
    """The layers of docs/architecture.md, the lowest first: modules and packages of edgekit."""
    (block,) = (content for content in (c for _, _, c in _FENCE.findall(page)) if content.startswith("layers:\n"))
    return [line.split() for line in block.splitlines()[1:]]
