"""The Python example of README.md runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def test_the_example_runs_on_a_tiny_checkpoint(recipe, pictures, tmp_path, monkeypatch, capsys):
    demo = '{"model": "demo", "precisions": ["fp32", "w8a8"]}'
    code = example()
    assert demo in code
    monkeypatch.chdir(tmp_path)
    shutil.copy(pictures / "00.png", "cat.jpg")
    exec(compile(code.replace(demo, repr(recipe.model_dump())), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"^onnx/w8a8: [\d.]+ MB, [\d.]+ ms, [\d.]+ dB$", printed, re.MULTILINE)
    assert "(1, 128)" in printed.splitlines()[-1]


@pytest.mark.full
def test_the_example_runs_as_it_stands(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(pictures / "00.png", "cat.jpg")
    exec(compile(example(), "README.md", "exec"), {})
    assert "(1, 384)" in capsys.readouterr().out.splitlines()[-1]
