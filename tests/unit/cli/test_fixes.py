"""Every fix line: its flags and commands exist, its command lines can be parsed, none names what has just failed."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from edgekit.cli import COMMANDS, command_of, fix_for

ROOT = Path(__file__).parents[3] / "edgekit"
OTHER_PROGRAMS = re.compile(r"\b(pip|ray|npm|python -m pip|ensurepip) [^,;]*")
VALUE = "4"  # in place of what is only known at run time: a number and a file name alike
OURS = ("what", "why", "fix")


def _text(node: ast.expr, names: dict[str, str]) -> str:
    """The text of an expression as far as the source tells it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, names) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, names) + _text(right, names)
        case ast.Name(id=name) if name in names:
            return names[name]
        case _:
            return VALUE


def _alternatives(node: ast.expr) -> list[ast.expr]:
    return [*_alternatives(node.body), *_alternatives(node.orelse)] if isinstance(node, ast.IfExp) else [node]


def _messages() -> Iterator[tuple[str, str, str]]:
    """(place, part, text) of every message that an error of edgekit can carry."""
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            if isinstance(node.value.value, str)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        fixes = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id.lower().endswith("fix") for target in node.targets)
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                said = [(key.arg, key.value) for key in node.keywords if key.arg in OURS]
                if node.args and isinstance(node.func, ast.Name) and node.func.id.endswith(("Error", "Missing")):
                    said.append(("what", node.args[0]))
            elif isinstance(node, ast.Assign) and node.value in fixes:
                said = [("fix", node.value)]
            else:
                continue
            for part, value in said:
                for each in _alternatives(value):
                    yield f"{path.relative_to(ROOT)}:{each.lineno}", str(part), _text(each, names)


MESSAGES = sorted(set(_messages()))
FIXES = [(place, text) for place, part, text in MESSAGES if part == "fix"]
FLAGS = {flag for name in COMMANDS for parameter in command_of(name).params for flag in parameter.opts}


def test_the_fix_lines_are_found():
    assert len(FIXES) > 150
    assert sum("edgekit " in text for _, text in FIXES) > 40


def test_every_flag_of_a_message_exists():
    unknown = {
        (place, flag)
        for place, _, text in MESSAGES
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", OTHER_PROGRAMS.sub("", text))
        if flag not in FLAGS | {"--help"}
    }
    assert unknown == set()


def test_every_command_of_a_fix_exists():
    named = {(place, word) for place, text in FIXES for word in re.findall(r"\bedgekit ([a-z-]+)", text)}
    assert {(place, word) for place, word in named if word not in COMMANDS} == set()


@pytest.mark.parametrize(("place", "text"), [(p, t) for p, t in FIXES if t.startswith("edgekit ")])
def test_a_fix_that_is_a_command_line_can_be_typed(place, text):
    words = shlex.split(text.split("   ")[0])  # three spaces: what the command does
    if words[1] == VALUE:  # `edgekit {command} --help`, see the next test for the commands
        return
    assert words[1] in COMMANDS, place
    command_of(words[1]).make_context(words[1], words[2:], resilient_parsing="--help" in words)


def test_settings_are_refused_with_the_help_of_a_command_that_exists():
    calls = [
        (path, node)
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "validated"
    ]
    named = [
        key.value.value
        for _, call in calls
        for key in call.keywords
        if key.arg == "command" and isinstance(key.value, ast.Constant)
    ]
    assert len(named) == len(calls) > 0
    assert set(named) <= set(COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_no_fix_names_the_command_that_failed(name):
    for place, text in FIXES:
        shown = fix_for([name, "X"], text)
        assert not re.search(rf"\bedgekit {name}(?![\w-])", shown), (place, shown)


@pytest.mark.parametrize(
    ("words", "fix", "shown"),
    [
        ("build --model demmo --out x", "edgekit build --model demo", "--model demo"),
        ("build --out x", "edgekit build --out x", ""),
        ("report x", "edgekit report x", ""),
        ("bundle x", "edgekit build --format onnx --out x", "edgekit build --format onnx --out x"),
        ("-q export --out x", "edgekit export --format onnx --out x", "--format onnx --out x"),
        ("build --out x", "delete it, edgekit build makes it again", "delete it, the same command makes it again"),
        ("fit-head x", "edgekit fit-head-more", "edgekit fit-head-more"),
    ],
)
def test_a_fix_is_said_from_where_the_user_stands(words, fix, shown):
    assert fix_for(words.split(), fix) == shown


def test_modules_of_commands_can_be_imported():
    assert all(import_module(place.partition(":")[0]) for place in (command.home for command in COMMANDS.values()))
