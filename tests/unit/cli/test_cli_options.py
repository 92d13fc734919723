"""How the words of the command line become a recipe."""

from __future__ import annotations

import inspect

import pytest

from edgekit.cli.build import build
from edgekit.cli.options import RECIPE_FLAGS, recipe_from
from edgekit.errors import RecipeError
from edgekit.pipeline.preflight import located
from edgekit.recipe import Recipe


def test_no_flag_is_the_demo():
    assert recipe_from({}).model == "demo"


def test_flags_override_the_file(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('formats = ["openvino"]\nseed = 7\n[calibration]\nsamples = 5\n')
    made = recipe_from({"recipe": str(file), "format_": "onnx, tflite", "samples": 9, "seed": None, "recover": False})
    assert made.formats == ("onnx", "tflite")
    assert (made.seed, made.calibration.samples) == (7, 9)


def test_sizes_are_height_by_width():
    assert recipe_from({"image_size": "224,518x784"}).image_size == ((224, 224), (518, 784))


@pytest.mark.parametrize(("word", "fix"), [("225", "224"), ("224x300", "224x294"), ("1", "14")])
def test_an_impossible_size_comes_with_the_nearest(word, fix):
    with pytest.raises(RecipeError) as error:
        located(recipe_from({"image_size": word}))
    assert error.value.fix == f"--image-size {fix}"


def test_a_size_of_nothing_comes_with_sizes_that_exist():
    with pytest.raises(RecipeError) as error:
        recipe_from({"image_size": "0"})
    assert error.value.fix == "--image-size 224 or 224x308"


@pytest.mark.parametrize("word", ["", "0", "a", "224x", "-14", "2x2x2"])
def test_what_is_no_size_is_refused(word):
    with pytest.raises(RecipeError):
        recipe_from({"image_size": word})


def test_own_calibration_images_judge_too_unless_others_are_named():
    assert recipe_from({"calib": "photos"}).evaluation == "photos"
    assert recipe_from({"calib": "photos", "eval_": "demo"}).evaluation == "demo"


def test_unknown_words_are_named():
    with pytest.raises(RecipeError, match="onyx"):
        recipe_from({"format_": "onyx"})


def test_every_flag_of_the_table_is_a_parameter_of_the_build():
    """A parameter that is renamed in the command alone would be ignored without a word."""
    known = inspect.signature(build).parameters
    assert [flag for flag in (*RECIPE_FLAGS, "recipe") if flag not in known] == []
    assert {field.rpartition(".")[0] or field for field, _ in RECIPE_FLAGS.values()} <= Recipe.model_fields.keys()


@pytest.mark.parametrize(
    ("words", "sizes", "sides"),
    [
        ("dynamic", (), (112, 1022)),
        ("dynamic:224-518", (), (224, 518)),
        ("224,Dynamic:98-980,518x784", ((224, 224), (518, 784)), (98, 980)),
        ("224", ((224, 224),), None),
    ],
)
def test_a_range_of_sizes_is_a_word(words, sizes, sides):
    made = recipe_from({"image_size": words})
    assert (made.image_size, made.any_size) == (sizes, sides)


def test_a_flag_takes_the_place_of_a_files_range(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('image_size = ["dynamic:98-518", [308, 308]]\n')
    assert recipe_from({"recipe": file}).any_size == (98, 518)
    assert recipe_from({"recipe": file}).main_size == (308, 308)
    assert recipe_from({"recipe": file, "image_size": "224"}).any_size is None


@pytest.mark.parametrize(
    "word", ["dynamic:", "dynamic:224", "dynamic:518-224", "dynamic:0-9", "dynamics", "dynamic,dynamic"]
)
def test_what_is_no_range_is_refused(word):
    with pytest.raises(RecipeError):
        recipe_from({"image_size": word})


def test_a_range_whose_size_is_no_multiple_comes_with_the_nearest():
    with pytest.raises(RecipeError) as error:
        located(recipe_from({"image_size": "dynamic:300-500"}))
    assert error.value.fix == "--image-size dynamic:308-490"
