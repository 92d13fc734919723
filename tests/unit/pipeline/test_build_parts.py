"""The parts of the pipeline: what a recipe asks for, how one folder serves two ends, what a killed build leaves."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from safetensors import SafetensorError

from edgekit.errors import DataError, RecipeError
from edgekit.files import atomic_path
from edgekit.manifest import ArtifactRow
from edgekit.pipeline.folder import folder_lock
from edgekit.pipeline.inputs import samples_that_fit
from edgekit.pipeline.jobs import exporter_of, jobs_of
from edgekit.pipeline.plans import inputs_of, kind_of, main_plan, quantize_recipe
from edgekit.pipeline.records import Record, digest_of, read_record
from edgekit.pipeline.timing import reference_name
from edgekit.precision import FACTS
from edgekit.recipe import QuantizeRecipe, Recipe

RECIPES = Path(__file__).parents[3] / "recipes"


def recipe(**values: object) -> Recipe:
    return Recipe.make({"fused": False, "dynamic_ranges": False, **values})


def row(name: str, status: str = "ok") -> ArtifactRow:
    format_, _, rest = name.partition("/")
    return ArtifactRow(name=name, format=format_, precision=rest.split("_")[0], status=status)


def test_float_artifacts_come_first_whatever_the_order_of_the_request():
    jobs = jobs_of(recipe(precisions=["w8a8", "fp16", "fp32"]))
    assert [job.name for job in jobs] == ["onnx/fp32", "onnx/fp16", "onnx/w8a8"]
    assert [job.path for job in jobs] == ["onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_w8a8.onnx"]
    assert [job.integer for job in jobs] == [False, False, True]


def test_only_further_sizes_carry_their_size():
    jobs = jobs_of(recipe(precisions=["w8a8"], formats=["onnx", "openvino"], image_size=[(224, 224), (518, 784)]))
    assert [job.path for job in jobs] == [
        "onnx/model_w8a8.onnx",
        "openvino/model_w8a8.xml",
        "onnx/model_w8a8_518x784.onnx",
        "openvino/model_w8a8_518x784.xml",
    ]
    assert len({job.name for job in jobs}) == 4


def test_a_precision_that_a_format_does_not_write_is_a_row_with_the_reason():
    (job,) = jobs_of(recipe(formats=["openvino"], precisions=["w4a8"]))
    assert "openvino does not write w4a8; it writes fp32" in job.blocked


def test_integers_throughout_are_a_row_of_tflite_when_asked_for():
    pytest.importorskip("ai_edge_litert")
    asked = jobs_of(recipe(formats=["tflite", "coreml"], precisions=["w8a16", "w8a8"]))
    names = ["tflite/w8a8", "tflite/w8a16", "coreml/w8a8", "coreml/w8a16"]
    assert [job.name for job in asked] == names
    assert asked[1].path == "tflite/model_w8a16.tflite"
    assert asked[1].integer
    assert "coreml does not write w8a16" in (asked[3].blocked or "")
    assert not any(job.precision == "w8a16" for job in jobs_of(recipe(formats=["tflite"])))


def test_fused_artifacts_are_asked_for_only_when_wanted():
    names = {job.name for job in jobs_of(recipe(precisions=["w8a8"], fused=True, dynamic_ranges=True))}
    assert names == {"onnx/w8a8", "onnx/w8a8_dynamic", "onnx/w8a8_fused", "onnx/w8a16_fused"}


@pytest.mark.parametrize(
    ("switch", "wanted"),
    [
        ("fused", {"onnx/w8a8_fused", "onnx/w8a16_fused"}),
        ("dynamic_ranges", {"onnx/w8a8_dynamic", "tflite/w8a8_per_token"}),
        ("fused_attention", {"tflite/w8a8_composite"}),
    ],
)
def test_a_switch_adds_the_forms_of_its_name_alone(switch: str, wanted: set[str]):
    asked = {"formats": ["onnx", "tflite"], "precisions": ["w8a8"]}
    plain, more = ({job.name for job in jobs_of(recipe(**asked, **on))} for on in ({}, {switch: True}))
    assert more - plain == wanted
    assert plain == {"onnx/w8a8", "tflite/w8a8"}
    assert [job.name for job in jobs_of(recipe(precisions=["w8a8"]))] == ["onnx/w8a8"]


def test_attention_as_composite_is_asked_for_and_changes_no_other_recipe():
    pytest.importorskip("ai_edge_litert")
    plain = recipe(formats=["tflite", "onnx"], precisions=["fp32", "w8a8"])
    asked = plain.model_copy(update={"fused_attention": True})
    added = {job.name: job.path for job in jobs_of(asked)}.items() - {
        job.name: job.path for job in jobs_of(plain)
    }.items()
    assert dict(added) == {
        "tflite/fp32_composite": "tflite/model_fp32_composite.tflite",
        "tflite/w8a8_composite": "tflite/model_w8a8_composite.tflite",
    }
    assert asked.digest != plain.digest
    values = plain.model_dump(
        mode="json",
        exclude={
            "runtime_defaults",
            "any_size",
            "heads",
            "own_heads",
            "head_precision",
            "fused_attention",
            "coreml",
            "interpolation",
            "rope_periods",
        },
    )  # as before there was such a field
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert plain.digest == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_core_ml_packages_are_written_as_the_recipe_says():
    from edgekit.backends.coreml.backend import CoreMlBackend

    asked = recipe(
        formats=["coreml"],
        precisions=["fp16"],
        inputs=["pixel_values", "image"],
        coreml={"target": "iOS17", "batch": 8},
    )
    plain, picture = jobs_of(asked)
    assert exporter_of(plain, asked) == CoreMlBackend("iOS17", 8)
    assert exporter_of(picture, asked) == CoreMlBackend("iOS17", 1)
    assert asked.digest != recipe(formats=["coreml"], precisions=["fp16"], inputs=["pixel_values", "image"]).digest
    with pytest.raises(RecipeError, match=r"coreml\.batch"):
        recipe(coreml={"batch": 0})


@pytest.mark.parametrize("empty", ["formats", "precisions"])
def test_an_empty_request_is_refused(empty):
    with pytest.raises(RecipeError, match="nothing to build"):
        jobs_of(recipe(**{empty: []}))


@pytest.mark.parametrize(
    ("images", "asked", "shares"),
    [
        (100, (64, 32), (64, 32)),
        (48, (64, 32), (32, 16)),
        (3, (64, 32), (2, 1)),
        (70, (64, 32), (47, 23)),
        (24, (8, 32), (8, 16)),
    ],
)
def test_one_folder_is_shared_between_calibration_and_evaluation(tmp_path, images, asked, shares):
    for i in range(images):
        (tmp_path / f"{i}.png").touch()
    split = recipe(
        calibration={"source": str(tmp_path), "samples": asked[0]},
        evaluation=str(tmp_path),
        evaluation_samples=asked[1],
    )
    assert samples_that_fit(split) == shares


def test_two_folders_are_taken_as_asked(tmp_path):
    assert samples_that_fit(recipe(calibration={"source": str(tmp_path), "samples": 5})) == (5, 32)


def test_two_images_cannot_serve_both_ends(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.png").touch()
    with pytest.raises(DataError, match="too few"):
        samples_that_fit(recipe(calibration={"source": str(tmp_path)}, evaluation=str(tmp_path)))


def test_four_bits_come_in_groups_and_eight_per_channel():
    four, eight = (quantize_recipe(QuantizeRecipe(group_size=64), kind) for kind in ("int4", "int8"))
    assert (four.weight_bits, four.group_size) == (4, 64)
    assert (eight.weight_bits, eight.group_size) == (8, None)
    assert quantize_recipe(QuantizeRecipe(weight_bits=7), "int8").weight_bits == 7


def test_four_bits_have_zero_points_where_the_format_holds_them():
    zeros = {kind: quantize_recipe(QuantizeRecipe(), kind).zero_points for kind in ("int4", "int4_symmetric")}
    assert zeros == {"int4": True, "int4_symmetric": False}
    asked = recipe(formats=["tflite"], precisions=["w4a8"], quantize={"zero_points": False})
    (job,) = (job for job in jobs_of(asked) if job.precision == "w4a8")
    assert kind_of(job, asked.quantize) == "int4"  # one plan serves all then


def test_three_gemms_of_four_bits_are_promoted_unless_the_recipe_says_otherwise():
    assert quantize_recipe(QuantizeRecipe(), "int4").promote == 3
    assert quantize_recipe(QuantizeRecipe(promote=0), "int4").promote == 0
    assert quantize_recipe(QuantizeRecipe(), "int8").promote is None


def test_what_explain_found_goes_with_the_plan_it_was_about(tmp_path):
    assert main_plan(tmp_path) is None
    (tmp_path / "plan").mkdir()
    for kind in ("int4", "int8"):
        (tmp_path / "plan" / f"{kind}.safetensors").touch()
        assert main_plan(tmp_path) == tmp_path / "plan" / f"{kind}.safetensors"
    (tmp_path / "plan" / "int8_weights.safetensors").touch()
    assert main_plan(tmp_path) == tmp_path / "plan" / "int8.safetensors"


def test_seven_bits_are_for_products_that_saturate():
    recipe = QuantizeRecipe(overflow="reduce-range")
    assert quantize_recipe(recipe, "int8").bits == 7
    assert quantize_recipe(recipe, "int8_weights").bits == 8


def test_bits_that_no_kernel_knows_are_refused():
    with pytest.raises(ValidationError, match="weight_bits 5 is none of 4, 7, "):
        QuantizeRecipe(weight_bits=5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("onnx/w8a8", "int8"),
        ("onnx/w8a8_dynamic", "int8"),
        ("onnx/w8a8_fused", "int8"),
        ("onnx/w8a16_fused", "int8_weights"),
        ("onnx/w4a8", "int4"),
        ("openvino/w8a8", "int8"),
        ("openvino/w8", "int8_weights"),
        ("coreml/w8", "int8_weights"),
        ("coreml/w4a8", "int4"),
        ("coreml/w4", "int4_weights"),
        ("tflite/w8", "int8_weights"),
        ("tflite/w4a8", "int4_symmetric"),
        ("tflite/w8a8_per_token", "int8"),
        ("tflite/w8a8_composite", "int8"),
        ("tflite/w8a16", "int8_weights"),
    ],
)
def test_weights_beside_float_activations_have_a_plan_of_their_own(name, kind):
    formats = ["onnx", "openvino", "coreml", "tflite"]
    asked = recipe(
        formats=formats,
        precisions=["w8", "w8a8", "w8a16", "w4", "w4a8"],
        fused=True,
        dynamic_ranges=True,
        fused_attention=True,
    )
    job = next(job for job in jobs_of(asked) if job.name == name)
    assert kind_of(job, asked.quantize) == kind
    assert inputs_of(kind) == ("float" if kind.endswith("weights") else "integer")


def test_fused_blocks_of_16_bit_activations_are_made_beside_those_of_8():
    def names(**values: object) -> list[str]:
        return [
            job.name for job in jobs_of(recipe(formats=["onnx", "openvino"], fused=True, dynamic_ranges=True, **values))
        ]

    assert names(precisions=["w8a8"]) == [
        "onnx/w8a8",
        "onnx/w8a8_fused",
        "onnx/w8a8_dynamic",
        "onnx/w8a16_fused",
        "openvino/w8a8",
        "openvino/w8a8_fused",
        "openvino/w8a16_fused",
    ]
    assert names(precisions=["w8a16"]) == ["onnx/w8a16_fused", "openvino/w8a16_fused"]
    assert names(precisions=["fp32"]) == ["onnx/fp32", "onnx/fp32_fused", "openvino/fp32", "openvino/fp32_fused"]


def test_a_form_that_the_recipe_switches_off_is_a_row_with_the_reason():
    (job,) = jobs_of(recipe(precisions=["w8a16"]))
    assert job.blocked == "onnx writes w8a16_fused only, which the recipe switches off"
    assert not job.path


def test_the_reference_is_onnx_if_there_is_one_and_of_the_same_size():
    rows = [row("openvino/fp32"), row("onnx/fp32_518x518"), row("onnx/fp32"), row("onnx/w8a8")]
    assert reference_name(rows) == "onnx/fp32"
    assert reference_name(rows, "_518x518") == "onnx/fp32_518x518"
    assert reference_name(rows[:1]) == "openvino/fp32"
    assert reference_name([row("onnx/fp32", "failed"), row("onnx/w8a8")]) is None


def test_a_record_survives_the_disk_and_a_damaged_one_counts_as_none(tmp_path):
    record = Record(key="abc", row=row("onnx/w8a8_56x84"))
    record.write(tmp_path)
    assert read_record(tmp_path, "onnx/w8a8_56x84") == record
    (path,) = (tmp_path / "records").glob("*.json")
    path.write_text(path.read_text()[:-9])
    assert read_record(tmp_path, "onnx/w8a8_56x84") is None


def test_digests_depend_on_values_not_on_order():
    assert digest_of(a=1, b=(2, 3)) == digest_of(b=[2, 3], a=1)
    assert digest_of(a=1) != digest_of(a=2)


def test_a_held_folder_is_swept_and_released(tmp_path):
    mine = tmp_path / "onnx" / ".gitkeep", tmp_path / ".config.settings" / "x", tmp_path / "a" / ".b.abcdefgh" / "1.jpg"
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with atomic_path(tmp_path / "onnx" / "model_w8a8.onnx") as left:
        left.write_bytes(b"half")
        with folder_lock(tmp_path):  # as the next build, after this one was killed
            assert not left.parent.exists()
            assert (tmp_path / ".lock").exists()
        left.parent.mkdir()
        left.write_bytes(b"whole")
    assert all(path.exists() for path in mine)
    assert not (tmp_path / ".lock").exists()


def test_a_lock_left_by_a_killed_build_does_not_hold(tmp_path):
    (tmp_path / ".lock").write_text("999999999")
    with folder_lock(tmp_path):
        pass


def test_a_full_disk_is_said_to_be_one_by_safetensors_too(tmp_path):
    told = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with (
        pytest.raises(DataError, match=r"cannot write to .*\(No space left on device\)"),
        folder_lock(tmp_path / "out"),
    ):
        raise told
    with pytest.raises(SafetensorError, match="HeaderTooLarge"), folder_lock(tmp_path / "out"):
        raise SafetensorError("HeaderTooLarge")


def test_a_file_in_the_way_is_said_to_be_one(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="cannot write to"), folder_lock(tmp_path / "out"):
        pass


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_valid(path):
    assert jobs_of(Recipe.from_toml(path))


def test_listing_jobs_does_nothing_else(monkeypatch):
    """No package is looked for, no process is started and no file is opened for writing."""
    from edgekit.artifact import FORMATS
    from edgekit.backends import get_backend

    asked = recipe(
        formats=list(FORMATS), precisions=list(FACTS), fused=True, dynamic_ranges=True, engines=["edgekit", "nncf"]
    )
    jobs_of(asked)  # what is imported by it is compiled to bytecode now
    done: list[str] = []
    watched = {"subprocess.Popen", "os.system", "os.mkdir", "os.rename", "ctypes.dlopen"}

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        writing = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if watching and (event in watched or writing):
            done.append(f"{event} {arguments[0]}")

    watching = False
    sys.addaudithook(watch)
    for format_ in FORMATS:
        for name in ("missing", "runner_missing", "fused_missing", "engine_missing"):
            monkeypatch.setattr(type(get_backend(format_)), name, lambda *_, name=name: done.append(name))
    watching = True
    jobs = jobs_of(asked)
    watching = False
    assert done == []
    assert len(jobs) > 20
    assert any(job.engine == "nncf" for job in jobs)
