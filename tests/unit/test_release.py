"""What a release needs: one version, workflows that follow GitHub's schema, actions pinned by their commits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_version_stands_in_one_place() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = \{ attr = "edgekit.__version__" \}$', project, re.MULTILINE)
    assert edgekit.__version__ not in project.partition("[project]")[2].partition("dependencies")[0]


def faults(workflow: Path) -> str:
    """Violations of GitHub's schema of workflows; "" where there are none."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(workflow)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode else ""


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_follow_the_schema(workflow: Path) -> None:
    assert faults(workflow) == ""


def test_a_fault_in_a_workflow_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text("on: push\njobs:\n  a:\n    runs_on: ubuntu-24.04\n    steps: [{run: echo}]\n")
    assert "runs_on" in faults(tmp_path / "x.yml")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_their_commits(workflow: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", workflow.read_text(encoding="utf-8"))
    strangers = [(action, note) for action, note in used if not action.startswith("./")]
    odd = [
        action for action, note in strangers if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) or " # v" not in note
    ]
    assert odd == []


def test_only_the_job_that_publishes_may_ask_for_an_identity() -> None:
    for workflow in WORKFLOWS:
        text = workflow.read_text(encoding="utf-8")
        assert re.search(r"^permissions:\n  contents: read\n", text, re.MULTILINE), workflow.name
        assert "secrets." not in text
        assert text.count("id-token: write") == (1 if workflow.name in ("docs.yml", "release.yml") else 0)


@pytest.mark.full
def test_wheels_of_all_platforms_are_built_checked_and_used(tmp_path: Path) -> None:
    """Several minutes: every library is compiled, twice."""
    out = tmp_path / "dist"
    arguments = f"WHEELS_ARGS=--twice --out {out}"
    done = subprocess.run(
        ["make", "wheels", f"PYTHON={sys.executable}", arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same bytes" in done.stdout
    names = {path.name for path in out.iterdir()}
    assert len([name for name in names if name.endswith(".whl")]) == 7
    assert f"edgekit-{edgekit.__version__}.tar.gz" in names
    if sys.platform != "linux":
        return
    from platform import machine

    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "clean")], check=True)
    python = str(tmp_path / "clean" / "bin" / "python")
    (wheel,) = out.glob(f"*-manylinux_*_{machine()}.whl")
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    said = subprocess.run(
        [python, str(ROOT / ".ci" / "use_wheel.py")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
