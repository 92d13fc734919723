"""Plans and golden files that are damaged, or hold what no plan can: they are made anew or refused, never used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgekit.files import sealed
from edgekit.measure.golden import golden_files, read_golden, write_golden
from edgekit.models.vit import random_model
from edgekit.plan.heads import HeadPlan, LayerPlan
from edgekit.plan.quant import GemmPlan, QuantPlan, StaticInput, TokenScaledInput
from edgekit.surgery import state_of
from tests.support.hostile import refused
from tests.support.models import TINY

_NAN, _INF = float("nan"), float("inf")


@pytest.fixture
def plan() -> QuantPlan:
    """One GEMM of a tiny model in integers."""
    ones = np.ones((4, 1), np.float32)
    gemm = GemmPlan("g", np.ones((4, 8), np.int8), ones, 8, ones[:, 0], ones[:, 0], StaticInput(0.1, 3))
    return QuantPlan(TINY, (56, 56), state_of(random_model(TINY)), {"g": gemm})


def test_a_whole_plan_is_read(plan: QuantPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "p.safetensors")
    assert QuantPlan.load(tmp_path / "p.safetensors").gemms["g"].input == StaticInput(0.1, 3)


def _flip(path: Path, places: list[int]) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place % len(data)] ^= 1
    path.write_bytes(bytes(data))


_DAMAGE: dict[str, Callable[[Path], object]] = {
    "one bit at the end": lambda path: _flip(path, [-1]),
    "one bit in the middle": lambda path: _flip(path, [path.stat().st_size // 2]),
    "one bit in the header": lambda path: _flip(path, [100]),
    "40 bits": lambda path: _flip(path, list(range(5000, 45000, 1000))),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "no digest": lambda path: path.with_name(f"{path.name}.sha256").unlink(),
    "a digest of nothing": lambda path: path.with_name(f"{path.name}.sha256").write_text(""),
    "another's digest": lambda path: path.with_name(f"{path.name}.sha256").write_text("0" * 64 + "  x\n"),
    "a folder": lambda path: [path.unlink(), path.mkdir()],
}


@pytest.mark.parametrize("case", _DAMAGE)
def test_a_damaged_plan_is_refused(plan: QuantPlan, tmp_path: Path, case: str) -> None:
    path = tmp_path / "p.safetensors"
    plan.save(path)
    assert not sealed(path)
    _DAMAGE[case](path)
    assert sealed(path)
    refused(lambda: QuantPlan.load(path))


@pytest.mark.parametrize("case", _DAMAGE)
def test_a_damaged_plan_of_heads_is_refused(tmp_path: Path, case: str) -> None:
    path, ones = tmp_path / "heads.safetensors", np.ones(4, np.float32)
    HeadPlan({"heads.cls.0": LayerPlan(np.ones((4, 3000), np.int8), ones, ones, StaticInput(0.1, 0))}).save(path)
    _DAMAGE[case](path)
    refused(lambda: HeadPlan.load(path))


@pytest.mark.parametrize("case", [case for case in _DAMAGE if case != "no digest"])
def test_damaged_golden_files_are_refused(tmp_path: Path, case: str) -> None:
    hidden, pooled = np.zeros((1, 5, 8), np.float32), np.zeros((1, 8), np.float32)
    write_golden(tmp_path, np.zeros((1, 3, 56, 56), np.float32), {"last_hidden_state": hidden, "pooler_output": pooled})
    read_golden(tmp_path)
    for path in golden_files(tmp_path):
        _DAMAGE[case](path)
    refused(lambda: read_golden(tmp_path))


_NUMBERS: dict[str, Callable[[QuantPlan], QuantPlan]] = {
    "NaN in a float tensor": lambda plan: replace(plan, float_tensors={"a": np.full(3, _NAN, np.float32)}),
    "infinity in a float tensor": lambda plan: replace(plan, float_tensors={"a": np.full(3, _INF, np.float32)}),
    "no floats": lambda plan: replace(plan, float_tensors={"a": np.ones(3, np.int32)}),
    "NaN in a bias": lambda plan: _gemm(plan, bias=np.full(4, _NAN, np.float32)),
    "NaN in the other bias": lambda plan: _gemm(plan, bias_dynamic=np.full(4, _NAN, np.float32)),
    "infinite scales": lambda plan: _gemm(plan, weight_scale=np.full((4, 1), _INF, np.float32)),
    "scales of another rank": lambda plan: _gemm(plan, weight_scale=np.ones(4, np.float32)),
    "groups that do not divide": lambda plan: _gemm(plan, weight_scale=np.ones((4, 3), np.float32)),
    "weights of int32": lambda plan: _gemm(plan, weight=np.ones((4, 8), np.int32)),
    "weights of another rank": lambda plan: _gemm(plan, weight=np.ones(32, np.int8)),
    "an input scale of 0": lambda plan: _gemm(plan, input=StaticInput(0.0, 0)),
    "an input scale of NaN": lambda plan: _gemm(plan, input=StaticInput(_NAN, 0)),
    "a negative input scale": lambda plan: _gemm(plan, input=TokenScaledInput(StaticInput(-1.0, 0))),
    "a zero point of 256": lambda plan: _gemm(plan, input=StaticInput(1.0, 256)),
    "a zero point of -1": lambda plan: _gemm(plan, input=StaticInput(1.0, -1)),
    "heads that do not divide": lambda plan: replace(plan, config=replace(TINY, heads=3)),
    "depth 1e9": lambda plan: replace(plan, config=replace(TINY, depth=10**9)),
}


def _gemm(plan: QuantPlan, **changes: object) -> QuantPlan:
    return replace(plan, gemms={"g": replace(plan.gemms["g"], **changes)})  # type: ignore[arg-type]


@pytest.mark.parametrize("case", _NUMBERS)
def test_a_plan_of_numbers_that_none_has_is_refused(plan: QuantPlan, tmp_path: Path, case: str) -> None:
    _NUMBERS[case](plan).save(tmp_path / "p.safetensors")
    refused(lambda: QuantPlan.load(tmp_path / "p.safetensors"))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", "[" * 50_000, '{"schema": "edgekit.plan/1"}', '{"schema": 5}']
)
def test_a_header_that_is_no_plan_is_refused(plan: QuantPlan, tmp_path: Path, text: str) -> None:
    from edgekit.files import sealed_path

    path = tmp_path / "p.safetensors"
    with sealed_path(path) as temporary:
        save_file({"a": np.ones(3, np.float32)}, temporary, metadata={"edgekit.plan": text, "edgekit.heads": text})
    refused(lambda: QuantPlan.load(path))
    refused(lambda: HeadPlan.load(path))
    assert load_file(path)
    assert json.dumps(text)
