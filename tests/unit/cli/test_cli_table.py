"""The table of commands: panels, examples that parse, shell completion, recipes, and tables of `edgekit inspect`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.cli import COMMANDS, command_of, main
from edgekit.recipe import Recipe, shipped_recipes

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_parses(name: str) -> None:
    program, command, *words = shlex.split(COMMANDS[name].example)
    assert (program, command) == ("edgekit", name)
    command_of(name).make_context(name, words)  # a flag that is missing or unknown raises here


@pytest.mark.parametrize("name", ["bench", "bundle", "verify"])
def test_the_help_of_a_command_ends_with_its_example(name: str, capsys) -> None:
    with pytest.raises(SystemExit):
        command_of(name).main([name, "--help"][1:], prog_name=f"edgekit {name}")
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Example: {COMMANDS[name].example}" in shown


def test_help_shows_every_command_in_its_panel(capsys) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(f" {command.panel} " in shown for command in COMMANDS.values())
    assert all(f" {name} " in shown for name in COMMANDS)


def test_a_shell_completes_commands_and_their_flags() -> None:
    def completed(words: str) -> str:
        environment = {
            **os.environ,
            "_EDGEKIT_COMPLETE": "complete_bash",
            "COMP_WORDS": f"edgekit {words}",
            "COMP_CWORD": str(len(words.split())),
        }
        program = "import sys; from edgekit.cli import main; sys.exit(main([]))"
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout

    assert completed("dri").split() == ["drift"]
    assert "--max-cosine-drop" in completed("check --max-c")


def test_recipes_are_listed_and_named(capsys) -> None:
    assert set(shipped_recipes()) == {path.stem for path in (ROOT / "recipes").glob("*.toml")}
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in shipped_recipes())
    assert main(["recipes", "phone"]) == 0
    assert capsys.readouterr().out == (ROOT / "recipes" / "phone.toml").read_text(encoding="utf-8")
    assert main(["recipes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quick"]["image_size"] == [[70, 70]]
    assert main(["recipes", "nothing"]) == 2
    assert "no recipe is called 'nothing'" in capsys.readouterr().err


def test_a_recipe_is_read_by_its_name_and_a_file_of_that_name_wins(tmp_path, monkeypatch) -> None:
    assert Recipe.from_toml(Path("phone")).normalize == "graph"
    monkeypatch.chdir(tmp_path)
    Path("phone").mkdir()
    from edgekit.errors import RecipeError

    with pytest.raises(RecipeError, match="phone is no file"):
        Recipe.from_toml(Path("phone"))


def test_the_recipe_reference_is_fresh() -> None:
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        import recipe_reference
    finally:
        sys.path.pop(0)
    assert recipe_reference.PAGE.read_text(encoding="utf-8") == recipe_reference.page()


def test_inspect_shows_tables(capsys) -> None:
    assert main(["inspect", "dinov2_vits14"]) == 0
    shown = capsys.readouterr().out
    assert "{" not in shown
    assert any(line.split()[:2] == ["width", "384"] for line in shown.splitlines())
