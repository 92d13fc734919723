"""What a release needs: one version, workflows that follow GitHub's schema, actions pinned by their commits."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.native.reference import fused_qkv_attention

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


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every wheel by its platform, as `make wheels` makes and checks them. Several minutes: all is compiled twice."""
    out = tmp_path_factory.mktemp("wheels") / "dist"
    command = ["make", "wheels", f"PYTHON={sys.executable}", f"WHEELS_ARGS=--twice --out {out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same bytes" in done.stdout
    assert (out / f"edgekit-{edgekit.__version__}.tar.gz").is_file()
    return {path.stem.partition("py3-none-")[2]: path for path in out.glob("*.whl")}


@pytest.mark.full
def test_there_is_a_wheel_for_every_platform(wheels: dict[str, Path]) -> None:
    assert {tag.partition("_")[0] for tag in wheels} == {"manylinux", "musllinux", "macosx", "win"}
    assert len(wheels) == 7


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="the wheel of this machine is one of Linux")
def test_the_wheel_of_this_machine_is_installed_and_used(wheels: dict[str, Path], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "clean")], check=True)
    python = str(tmp_path / "clean" / "bin" / "python")
    wheel = wheels[f"manylinux_2_28_{platform.machine()}"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    command = [python, str(ROOT / ".ci" / "use_wheel.py")]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.full
@pytest.mark.parametrize(
    ("tag", "run"),
    [
        ("manylinux_2_28_aarch64", ("qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu")),
        ("manylinux_2_28_x86_64", ()),
    ],
)
def test_a_library_is_loaded_and_computes(
    wheels: dict[str, Path], tmp_path: Path, tag: str, run: tuple[str, ...]
) -> None:
    compiler = shutil.which("aarch64-linux-gnu-gcc" if "aarch64" in tag else "gcc")
    if compiler is None or (run and shutil.which(run[0]) is None) or (not run and platform.machine() not in tag):
        pytest.skip(f"nothing here runs {tag} (Debian: gcc-aarch64-linux-gnu qemu-user)")
    with zipfile.ZipFile(wheels[tag]) as archive:
        library = archive.extract("edgekit/native/_lib/libedgekit_ops.so", tmp_path)
    host = tmp_path / "host"
    subprocess.run([compiler, str(ROOT / "tests/support/load_ops.c"), "-ldl", "-o", str(host)], check=True)
    qkv = np.random.default_rng(0).standard_normal((1, 17, 3 * 64)).astype(np.float32)
    qkv.tofile(tmp_path / "qkv")
    command = [*run, str(host), library, str(tmp_path / "qkv"), str(tmp_path / "out")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert said == "neon_i8mm" or not run
    expected = fused_qkv_attention(qkv, heads=2, scale=np.float32(0.2), mode="f32")
    found = np.fromfile(tmp_path / "out", np.float32).reshape(expected.shape)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 3e-6
