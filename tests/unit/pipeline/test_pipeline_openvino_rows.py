"""Rows that OpenVINO alone has: NNCF as the other engine, and files that take images; both only when asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgekit.backends import loading
from edgekit.backends.openvino.nncf import NncfOptions
from edgekit.backends.source import ExportSource
from edgekit.errors import RecipeError
from edgekit.manifest import ArtifactRow
from edgekit.pipeline import nncf
from edgekit.pipeline.jobs import jobs_of, on_this_machine
from edgekit.pipeline.nncf import options_of
from edgekit.recipe import Recipe

pytest.importorskip("nncf")


def names(**fields: object) -> list[str]:
    recipe = Recipe.make(
        {
            "formats": ["onnx", "openvino"],
            "precisions": ["fp32", "w8a8"],
            "fused": False,
            "dynamic_ranges": False,
            **fields,
        }
    )
    return [job.name for job in jobs_of(recipe)]


def test_the_row_comes_when_asked_for_and_only_with_int8() -> None:
    ours = ["onnx/fp32", "onnx/w8a8", "openvino/fp32", "openvino/w8a8"]
    assert names() == ours
    assert names(engines=["edgekit", "nncf"]) == [*ours, "openvino/w8a8_nncf"]
    assert names(engines=["nncf"]) == ["onnx/fp32", "openvino/fp32", "openvino/w8a8_nncf"]
    assert names(engines=["edgekit", "nncf"], precisions=["fp32"]) == ["onnx/fp32", "openvino/fp32"]
    both = names(engines=["nncf"], formats=["openvino"], precisions=["w8a8"], image_size=[[224, 224], [70, 56]])
    assert both == ["openvino/w8a8_nncf", "openvino/w8a8_nncf_70x56"]


def test_its_files_do_not_replace_ours_and_need_no_plan() -> None:
    jobs = jobs_of(Recipe(formats=("openvino",), precisions=("w8a8",), engines=("edgekit", "nncf"), fused=False))
    assert [job.path for job in jobs] == ["openvino/model_w8a8.xml", "openvino/model_w8a8_nncf.xml"]
    assert [job.integer for job in jobs] == [True, False]


def test_without_nncf_the_row_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "nncf not installed: pip install 'edgekit[openvino]'"
    monkeypatch.setattr("edgekit.backends.openvino.nncf.nncf_missing", lambda: why)
    (job,) = on_this_machine(jobs_of(Recipe(formats=("openvino",), precisions=("w8a8",), engines=("nncf",))))
    assert job.blocked == why


@pytest.mark.parametrize(
    ("overflow", "saturates", "wanted"),
    [
        ("auto", True, "half-range"),
        ("auto", False, "none"),
        ("reduce-range", False, "half-range"),
        ("none", True, "none"),
    ],
)
def test_overflow_is_cured_as_for_our_own_engine(
    overflow: str, saturates: bool, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nncf, "cpu_saturates", lambda: saturates)
    options = nncf.options_of(Recipe.make({"quantize": {"overflow": overflow, "max_drop": 0.01}}))
    assert (options.overflow, options.max_drop) == (wanted, 0.01)


def test_its_own_settings_come_from_the_recipe() -> None:
    options = options_of(Recipe.make({"nncf": {"preset": "performance", "smooth_quant_alpha": 0.5}}))
    assert (options.preset, options.smooth_quant_alpha) == ("performance", 0.5)
    with pytest.raises(RecipeError, match=r"nncf\.preset"):
        Recipe.make({"nncf": {"preset": "best"}})


def test_load_takes_it_last() -> None:
    def row(name: str, tools: dict[str, str]) -> ArtifactRow:
        return ArtifactRow(name=name, format="openvino", precision="w8a8", status="ok", tools=tools)

    theirs, ours = row("openvino/w8a8_nncf", {"nncf": "3.4"}), row("openvino/w8a8", {"openvino": "2026.4"})
    fp32 = ours.model_copy(update={"precision": "fp32"})
    assert sorted([theirs, fp32, ours], key=loading._rank) == [ours, fp32, theirs]


def test_files_that_take_images_are_rows_behind_their_siblings() -> None:
    recipe = Recipe.make(
        {
            "formats": ["onnx", "openvino"],
            "precisions": ["fp32", "w8a8"],
            "engines": ["nncf"],
            "fused": False,
            "dynamic_ranges": False,
            "inputs": ["pixel_values", "image"],
            "image_size": [[224, 224], [70, 56]],
        }
    )
    jobs = {job.name: job.path for job in jobs_of(recipe) if job.input == "image"}
    assert jobs == {
        "openvino/fp32_image": "openvino/model_image.xml",
        "openvino/w8a8_nncf_image": "openvino/model_w8a8_nncf_image.xml",
        "openvino/fp32_image_70x56": "openvino/model_image_70x56.xml",
        "openvino/w8a8_nncf_image_70x56": "openvino/model_w8a8_nncf_image_70x56.xml",
    }
    assert not any(job.input == "image" for job in jobs_of(Recipe(formats=("openvino",))))
    (plain, taking) = jobs_of(Recipe(formats=("coreml",), precisions=("fp16",), inputs=("pixel_values", "image")))
    assert (plain.path, taking.path) == ("coreml/model_fp16.mlpackage", "coreml/model_fp16_image.mlpackage")


def test_the_drop_is_judged_on_images_that_calibrated_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the calibration images is held out under accuracy control; without it all of them calibrate."""
    seen: list[tuple[np.ndarray, np.ndarray | None, float | None]] = []

    class Context:
        out = tmp_path
        inputs = SimpleNamespace(calibration=lambda _: SimpleNamespace(pixel_values=np.arange(10)))
        source = staticmethod(lambda _: ExportSource(*[None] * 7))  # type: ignore[arg-type]

        def __init__(self, drop: float | None) -> None:
            self.recipe = Recipe.make({"quantize": {"max_drop": drop}})

    def watched(_: object, images: np.ndarray, __: Path, options: NncfOptions, held_out: np.ndarray | None) -> None:
        seen.append((images, held_out, options.max_drop))

    monkeypatch.setattr(nncf, "nncf_quantize", watched)
    monkeypatch.setattr(nncf, "get_backend", lambda _: SimpleNamespace(export=lambda *_: None, suffix=".xml"))
    (job,) = jobs_of(Recipe(formats=("openvino",), precisions=("w8a8",), engines=("nncf",)))
    for drop in (0.01, None):
        nncf.make_nncf(job, Context(drop))  # type: ignore[arg-type]
    (images, held_out, limit), (every, none, no_limit) = seen
    assert held_out is not None
    assert sorted([*images, *held_out]) == [*range(10)]
    assert (len(held_out), limit) == (3, 0.01)
    assert ([*every], none, no_limit) == ([*range(10)], None, None)


@pytest.mark.full
def test_the_demo_is_built_and_measured(tmp_path: Path) -> None:
    from edgekit.pipeline import build

    recipe = Recipe.make(
        {
            "formats": ["openvino"],
            "precisions": ["fp32", "w8a8"],
            "engines": ["nncf"],
            "fused": False,
            "dynamic_ranges": False,
            "evaluation_samples": 8,
            "calibration": {"samples": 16},
        }
    )
    fp32, theirs = build(recipe, tmp_path, measure="drift").manifest.artifacts
    assert (fp32.status, theirs.status, theirs.name) == ("ok", "ok", "openvino/w8a8_nncf")
    assert theirs.audit is not None
    assert theirs.audit["gemms_int8"] == theirs.audit["gemms"] == 49
    assert theirs.drift is not None
    assert np.isfinite(theirs.drift["sqnr_db"])
