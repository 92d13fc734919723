"""The first sentence of a docstring names the thing: it can be read alone, in a hover box or a list of functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "edgekit"
LEAST_WORDS = 3
HEADLESS = re.compile(r"(What|That|Those|Of|Who|Which|How|Where|When|Whose|None but|Said|From|By|To) ")

Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _documented(tree: ast.Module) -> Iterator[tuple[Node, str]]:
    for node in ast.walk(tree):
        if isinstance(node, Node) and (text := ast.get_docstring(node)):
            yield node, text


def _is_override(node: Node) -> bool:
    return not isinstance(node, ast.Module) and any("override" in ast.unparse(each) for each in node.decorator_list)


def _returns_bool(node: Node) -> bool:
    return isinstance(node, ast.FunctionDef) and node.returns is not None and "bool" in ast.unparse(node.returns)


def _fault(node: Node, text: str) -> str:
    """Why the first sentence of a docstring cannot be read alone, empty where it can."""
    sentence = re.split(r"(?<=[.?!])\s", " ".join(text.split()), maxsplit=1)[0]
    if len(sentence.split()) < LEAST_WORDS and not _is_override(node):
        return "is too short"
    if HEADLESS.match(sentence):
        return "begins without a noun"
    if sentence.startswith("Whether ") and not _returns_bool(node):
        return "asks a question whose answer is no bool"
    if sentence.startswith("("):
        return "begins with a shape"
    return ""


def _faults(path: Path) -> Iterator[str]:
    where = path.relative_to(ROOT).as_posix()
    for node, text in _documented(ast.parse(path.read_text(encoding="utf-8"))):
        if fault := _fault(node, text):
            yield f"{where}:{getattr(node, 'lineno', 1)} {fault}: {text.splitlines()[0]}"


@pytest.mark.parametrize("unit", sorted(path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"))
def test_first_sentences_can_be_read_alone(unit: str) -> None:
    files = [PACKAGE / unit] if unit.endswith(".py") else sorted((PACKAGE / unit).rglob("*.py"))
    found = [fault for path in files for fault in _faults(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ('def f():\n    """Zero points."""', "is too short"),
        ('@override\ndef f(self):\n    """Zero points."""', ""),
        ('def f():\n    """What stands for 0 at every weight."""', "begins without a noun"),
        ('def f():\n    """Of one that the checkpoint brings."""', "begins without a noun"),
        ('def f() -> int:\n    """Whether it fits in memory."""', "asks a question whose answer is no bool"),
        ('def f() -> bool:\n    """Whether it fits in memory."""', ""),
        ('def f():\n    """(B, N, D) -> (B, D): the first token."""', "begins with a shape"),
        ('def f():\n    """The class token (B, D) of tokens (B, N, D)."""', ""),
    ],
)
def test_faults_are_told_from_good_sentences(code: str, fault: str) -> None:
    [(node, text)] = _documented(ast.parse(code))
    assert _fault(node, text) == fault
