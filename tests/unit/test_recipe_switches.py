"""Switches of recipes are true or false; words that may mean one of them are refused."""

from __future__ import annotations

import pytest

from edgekit.distill.recipe import DistillRecipe
from edgekit.errors import RecipeError
from edgekit.recipe import Recipe


@pytest.mark.parametrize("word", ['"off"', '"on"', "0", '"false"'])
@pytest.mark.parametrize("key", ["fused_attention", "own_heads", "quantize.synthetic", "quantize.recover"])
def test_a_word_in_the_place_of_a_switch_is_refused_by_key(tmp_path, key, word):
    path = tmp_path / "recipe.toml"
    path.write_text(f"{key} = {word}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"{key} = .*: a switch is true or false"):
        Recipe.from_toml(path)


def test_a_switch_is_written_as_true_or_false(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("[quantize]\nsynthetic = false\nrecover = true\n", encoding="utf-8")
    found = Recipe.from_toml(path).quantize
    assert (found.synthetic, found.recover, found.token_scale) == (False, True, True)


def test_the_former_name_of_synthetic_images_is_no_key(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('[quantize]\nprobes = "off"\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"quantize\.probes"):
        Recipe.from_toml(path)


def test_settings_of_a_distillation_have_the_same_switches():
    with pytest.raises(RecipeError, match="standardise = 'on': a switch is true or false"):
        DistillRecipe.make({"standardise": "on"})
    assert DistillRecipe.make({"standardise": False}).standardise is False
