"""The licence of a checkpoint: what its file or folder states, else what is known of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgekit.heads.own import remarks
from edgekit.models import zoo
from edgekit.models.vit import ViTConfig, random_model


def depth_state(config: ViTConfig) -> dict[str, Tensor]:
    """Half of a depth head is enough to know whose it is."""
    model = random_model(replace(config, depth=4, grid=(2, 2)))
    state = {f"pretrained.{key}": value for key, value in model.state_dict().items()}
    return state | {"depth_head.projects.0.weight": torch.ones(8, config.width, 1, 1)}


@pytest.mark.parametrize(
    ("width", "licence"), [(384, "Apache-2.0"), (768, "CC-BY-NC-4.0"), (1024, "CC-BY-NC-4.0"), (192, "unknown")]
)
def test_the_licence_of_depth_anything_goes_by_its_size(width: int, licence: str, tmp_path: Path):
    save_file(depth_state(ViTConfig("", width, 4, width // 64)), tmp_path / "model.safetensors")
    loaded = zoo.load(tmp_path / "model.safetensors")
    assert loaded.licence.startswith(licence)
    assert "Depth Anything V2" in loaded.origin
    assert any(licence in line for line in remarks({}, loaded))
    assert any("not for commercial use" in line for line in remarks({}, loaded)) == ("NC" in licence)


@pytest.mark.parametrize(
    ("file", "text", "licence"),
    [
        ("README.md", "---\nlicense: mit\ntags:\n- depth\n---\n# Mine\n", "MIT"),
        ("README.md", "---\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ("LICENSE", "                  Apache License\n          Version 2.0, January 2004\n", "Apache-2.0"),
        ("LICENSE.txt", "All rights are mine.\n", "see LICENSE.txt of its folder"),
        ("config.json", '{"num_attention_heads": 12, "license": "apache-2.0"}', "Apache-2.0"),
        ("config.json", '{"num_attention_heads": 12, "pretrained_cfg": {"license": "cc-by-4.0"}}', "CC-BY-4.0"),
    ],
)
def test_a_licence_that_the_folder_states_is_never_overruled(file: str, text: str, licence: str, tmp_path: Path):
    save_file(depth_state(ViTConfig("", 768, 4, 12)), tmp_path / "model.safetensors")
    (tmp_path / file).write_text(text)
    loaded = zoo.load(tmp_path)
    assert loaded.licence == licence
    assert not any("not for commercial use" in line for line in remarks({}, loaded))


def test_a_licence_in_the_header_of_the_file_is_never_overruled(tmp_path: Path):
    state = depth_state(ViTConfig("", 768, 4, 12))
    save_file(state, tmp_path / "model.safetensors", metadata={"license": "mit"})
    assert zoo.load(tmp_path / "model.safetensors").licence == "MIT"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert zoo.load(tmp_path).licence == "MIT"
