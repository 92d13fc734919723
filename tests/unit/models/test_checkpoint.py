"""Checkpoints of every layout and kind of file load to the same model; damaged and foreign ones say what they are."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from edgekit.errors import DataError, ExportError
from edgekit.models import zoo
from edgekit.models.checkpoint import load_checkpoint, save_checkpoint
from edgekit.models.vit import ARCHITECTURES, VisionTransformer, random_model
from tests.support.models import TINY, TINY_REG, TINY_SWIGLU

MODELS = pytest.mark.parametrize("config", [TINY, TINY_REG, TINY_SWIGLU], ids=lambda c: c.arch)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def huggingface_state(model: VisionTransformer) -> dict[str, Tensor]:
    """Published Hugging Face keys, written out by hand: an independent statement of the mapping."""
    theirs: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if key in ("cls_token", "mask_token", "register_tokens"):
            theirs[f"embeddings.{key}"] = value
        elif key == "pos_embed":
            theirs["embeddings.position_embeddings"] = value
        elif key.startswith("patch_embed.proj"):
            theirs[key.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = value
        elif key.startswith("norm."):
            theirs["layer" + key] = value
        else:
            _, index, rest = key.split(".", 2)
            block = f"encoder.layer.{index}."
            name, _, kind = rest.rpartition(".")
            if name == "attn.qkv":
                for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    theirs[f"{block}attention.attention.{part}.{kind}"] = chunk
                continue
            renamed = {
                "attn.proj": f"attention.output.dense.{kind}",
                "ls1": "layer_scale1.lambda1",
                "ls2": "layer_scale2.lambda1",
                "mlp.w12": f"mlp.weights_in.{kind}",
                "mlp.w3": f"mlp.weights_out.{kind}",
            }
            theirs[block + renamed.get(name, rest)] = value
    return {key: value.clone() for key, value in theirs.items()}


@MODELS
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_official_keys(config, suffix, tmp_path):
    model = random_model(config)
    path = tmp_path / f"model{suffix}"
    (torch.save if suffix == ".pth" else save_file)(model.state_dict(), path)
    loaded = load_checkpoint(path)
    assert loaded.layout == "official"
    assert loaded.config == replace(config, arch=loaded.config.arch)
    assert same(loaded.model().state_dict(), model.state_dict())
    assert loaded.rest == {}


@MODELS
def test_huggingface_keys_in_a_folder(config, tmp_path):
    model = random_model(config)
    save_file(huggingface_state(model), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    loaded = load_checkpoint(tmp_path)
    assert loaded.layout == "huggingface"
    assert loaded.config.heads == 4  # only config.json can know
    assert loaded.config.interpolation == ("antialias" if config.registers else "size")
    assert same(loaded.tensors, dict(model.state_dict()))


def test_huggingface_shards(tmp_path):
    model = random_model(TINY)
    state = huggingface_state(model)
    keys = sorted(state)
    files = {"model-00001-of-00002.safetensors": keys[::2], "model-00002-of-00002.safetensors": keys[1::2]}
    for name, part in files.items():
        save_file({key: state[key] for key in part}, tmp_path / name)
    index = {"weight_map": {key: name for name, part in files.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(load_checkpoint(tmp_path).tensors, dict(model.state_dict()))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DataError, match=r"model-00002-of-00002\.safetensors"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "named",
    [
        "../elsewhere/a.safetensors",
        "absolute",
        "link.safetensors",
        ".",
        "..",
        "",
        "a\0b",
        "folder",
        "gone.safetensors",
        5,
        None,
        ["a"],
    ],
)
def test_a_shard_outside_its_folder_is_not_opened(named: object, tmp_path: Path) -> None:
    inside, outside = tmp_path / "model", tmp_path / "elsewhere"
    (inside / "folder").mkdir(parents=True)
    outside.mkdir()
    save_file(random_model(TINY).state_dict(), outside / "a.safetensors")
    (inside / "link.safetensors").symlink_to(outside / "a.safetensors")
    (inside / "config.json").write_text("{}")
    name = str(outside / "a.safetensors") if named == "absolute" else named
    (inside / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(DataError, match=r"index\.json|is missing"):
        load_checkpoint(inside)


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "0123", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file(huggingface_state(random_model(TINY)), blobs / "abc")
    (snapshot / "a.safetensors").symlink_to("../../blobs/abc")
    (snapshot / "config.json").write_text(json.dumps({"num_attention_heads": TINY.heads}))
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    assert load_checkpoint(snapshot).config.width == TINY.width


@pytest.mark.parametrize("swiglu", [False, True])
def test_a_live_transformers_state_dict_has_other_keys_than_its_file(swiglu, tmp_path):
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14, use_swiglu_ffn=swiglu
    )
    theirs = Dinov2WithRegistersModel(config).eval()
    torch.save(theirs.state_dict(), tmp_path / "live.pth")
    theirs.save_pretrained(tmp_path / "folder")
    live, folder = load_checkpoint(tmp_path / "live.pth"), load_checkpoint(tmp_path / "folder")
    assert same(live.tensors, folder.tensors)
    x = torch.randn(1, 3, 70, 70)
    with torch.no_grad():
        assert (live.model()(x)[0] - theirs(x).last_hidden_state).abs().max() < 1e-5


def test_a_training_checkpoint_gives_its_teacher_without_the_head(tmp_path):
    teacher, student = random_model(TINY, seed=1), random_model(TINY, seed=2)
    chunked = {  # FSDP training groups blocks: blocks.<chunk>.<block>
        f"backbone.{key.replace('blocks.', 'blocks.0.')}": value for key, value in teacher.state_dict().items()
    }
    head = {"dino_head.last_layer.weight": torch.ones(3)}
    backbone = {f"backbone.{key}": value for key, value in student.state_dict().items()}
    torch.save({"student": backbone, "teacher": chunked | head, "iteration": 7}, tmp_path / "teacher.pth")
    loaded = load_checkpoint(tmp_path / "teacher.pth")
    assert same(loaded.tensors, dict(teacher.state_dict()))
    assert "teacher.dino_head.last_layer.weight" in loaded.rest


def test_half_precision_is_loaded_as_float32(tmp_path):
    model = random_model(TINY)
    save_file({key: value.half() for key, value in model.state_dict().items()}, tmp_path / "half.safetensors")
    loaded = load_checkpoint(tmp_path / "half.safetensors")
    assert {value.dtype for value in loaded.tensors.values()} == {torch.float32}
    assert torch.allclose(loaded.tensors["norm.bias"], model.norm.bias, atol=1e-3)


def test_folded_layerscale_and_absent_mask_token_load_as_ones_and_zeros(tmp_path):
    state = {k: v for k, v in random_model(TINY).state_dict().items() if "gamma" not in k and k != "mask_token"}
    save_file(state, tmp_path / "folded.safetensors")
    loaded = load_checkpoint(tmp_path / "folded.safetensors").tensors
    assert torch.equal(loaded["blocks.1.ls2.gamma"], torch.ones(128))
    assert torch.equal(loaded["mask_token"], torch.zeros(1, 128))


def test_a_saved_checkpoint_keeps_what_shapes_cannot_tell(tmp_path):
    config = replace(TINY, heads=4, interpolation="size")
    model = random_model(config).bake(56, 112)  # 4 x 8 patches: no square
    path = tmp_path / "baked.safetensors"
    save_checkpoint(model, path)
    loaded = load_checkpoint(path)
    assert loaded.config == replace(config, grid=(4, 8))
    assert same(loaded.tensors, dict(model.state_dict()))
    before = path.read_bytes()
    save_checkpoint(model, path)
    assert path.read_bytes() == before


def test_a_saved_checkpoint_says_its_licence_and_origin(tmp_path):
    save_checkpoint(random_model(TINY), tmp_path / "plain.safetensors")
    save_checkpoint(random_model(TINY), tmp_path / "told.safetensors", licence="MIT", origin="made here")
    plain, told = (load_checkpoint(tmp_path / name) for name in ("plain.safetensors", "told.safetensors"))
    assert (plain.licence, plain.origin) == ("", "")
    assert (told.licence, told.origin) == ("MIT", "made here")
    assert told.config == plain.config
    assert zoo.load(tmp_path / "told.safetensors").licence == "MIT"


def test_a_rewritten_model_is_not_saved_as_a_checkpoint(tmp_path):
    gained, scaled = random_model(TINY), random_model(TINY)
    gained.blocks[0].mlp.fc2_gain = torch.nn.Parameter(torch.ones(512))
    scaled.blocks[1].attn.scale = 1.0
    for model in (gained, scaled):
        with pytest.raises(ExportError, match="no checkpoint"):
            save_checkpoint(model, tmp_path / "rewritten.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_huggingface_config_that_changes_the_arithmetic_is_refused(tmp_path):
    save_file(huggingface_state(random_model(TINY)), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 2, "layer_norm_eps": 1e-5}))
    with pytest.raises(DataError, match="layer_norm_eps = 1e-05"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        load_checkpoint(tmp_path)


def test_the_official_architectures_are_recognised_by_shape(tmp_path):
    with torch.device("meta"):
        shapes = VisionTransformer(ARCHITECTURES["dinov2_vits14_reg"]).state_dict()
    save_file({key: torch.zeros(value.shape) for key, value in shapes.items()}, tmp_path / "s.safetensors")
    assert load_checkpoint(tmp_path / "s.safetensors").config == ARCHITECTURES["dinov2_vits14_reg"]


@pytest.mark.filterwarnings("ignore")  # of the exporters
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("config", [TINY, TINY_REG, TINY_SWIGLU], ids=lambda c: c.arch)
@torch.no_grad()
def test_an_onnx_export_of_torch_loads_back(exporter, config, tmp_path):
    model = random_model(config).bake(56, 84)
    path = tmp_path / "export.onnx"
    x = torch.randn(2, 3, 56, 84)
    torch.onnx.export(model, (x,), path, dynamo=exporter == "dynamo", external_data=False, verbose=False)
    loaded = load_checkpoint(path)
    assert loaded.layout == "official (onnx)"
    assert loaded.config.grid == (4, 6)
    assert (loaded.model()(x)[0] - model(x)[0]).abs().max() < 1e-5


@MODELS
@torch.no_grad()
def test_an_onnx_export_of_edgekit_loads_back(config, tmp_path):
    onnx_ir = pytest.importorskip("onnx_ir")
    from edgekit.backends.onnx.builder import GraphBuilder
    from edgekit.backends.onnx.emitter import OnnxEmitter, model_of
    from edgekit.backends.onnx.gemms import FloatGemms
    from edgekit.surgery import state_of

    model = random_model(config).bake(56, 84)
    builder, tensors = GraphBuilder(), state_of(model)
    gemms = FloatGemms(builder, model.config, tensors)
    onnx_ir.save(model_of(OnnxEmitter(model.config, tensors, gemms, builder)), tmp_path / "ours.onnx")
    x = torch.randn(2, 3, 56, 84)
    assert (load_checkpoint(tmp_path / "ours.onnx").model()(x)[0] - model(x)[0]).abs().max() < 1e-5


def truncate(path: Path, keep: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
def test_a_truncated_file_says_so(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    model = random_model(TINY)
    if suffix == ".onnx":
        torch.onnx.export(model, (torch.zeros(1, 3, 70, 70),), path, dynamo=False)
    else:
        (torch.save if suffix == ".pth" else save_file)(model.state_dict(), path)
    truncate(path)
    with pytest.raises(DataError) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.what
    assert caught.value.fix


def test_an_empty_file_is_damaged(tmp_path):
    for name in ("a.pth", "b.safetensors", "c.onnx"):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=name):
            load_checkpoint(tmp_path / name)


class Payload:
    """Would run on unpickling."""

    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_with_code_is_refused_and_not_run(save, tmp_path, capsys):
    save({"cls_token": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(DataError, match="more than tensors"):
        load_checkpoint(tmp_path / "evil.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.attn.qkv.weight": None}, r"1 tensors .* missing \(blocks\.1\.attn\.qkv\.weight"),
        ({"blocks.1.ls1.gamma": None}, r"missing \(blocks\.1\.ls1\.gamma"),
        ({"norm.weight": torch.ones(64)}, r"norm\.weight has shape \(64,\), .* needs \(128,\)"),
        ({"norm.bias": torch.full((128,), torch.nan)}, r"norm\.bias holds NaN"),
        ({"patch_embed.proj.weight": None}, "no DINOv2 or DINOv3 backbone among"),
        ({"patch_embed.proj.weight": torch.zeros(128, 3, 16, 16)}, "patches of 16 pixels"),
        ({"pos_embed": torch.zeros(1, 27, 128)}, "26 patches is no 5x5 grid"),
        ({"cls_token": None}, "lacks cls_token"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    state = {key: value for key, value in (random_model(TINY).state_dict() | change).items() if value is not None}
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        load_checkpoint(tmp_path / "odd.safetensors")
    assert "odd.safetensors" in caught.value.what


def test_another_architecture_than_asked_for_is_refused(tmp_path):
    save_checkpoint(random_model(TINY), tmp_path / "tiny.safetensors")
    with pytest.raises(DataError, match="tensors of dinov2_vits14 are missing"):
        load_checkpoint(tmp_path / "tiny.safetensors", config=ARCHITECTURES["dinov2_vits14"])


def test_a_width_that_does_not_split_into_heads_of_64_needs_its_config(tmp_path):
    save_file(random_model(replace(TINY, width=96)).state_dict(), tmp_path / "w96.safetensors")
    with pytest.raises(DataError, match="width 96") as caught:
        load_checkpoint(tmp_path / "w96.safetensors")
    assert "config.json" in caught.value.fix


def test_folders_and_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(DataError, match="no checkpoint"):
        load_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(DataError, match="0 checkpoint files"):
        load_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"suffix '\.txt'"):
        load_checkpoint(tmp_path / "notes.txt")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DataError, match="holds a list"):
        load_checkpoint(tmp_path / "list.pth")
    save_checkpoint(random_model(TINY), tmp_path / "one.safetensors")
    with pytest.raises(DataError, match="2 checkpoint files"):
        load_checkpoint(tmp_path)
    (tmp_path / "list.pth").unlink()
    assert load_checkpoint(tmp_path).config == TINY


def test_an_onnx_file_of_something_else(tmp_path):
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(DataError, match="no DINOv2 backbone"):
        load_checkpoint(tmp_path / "other.onnx")


def test_the_fixture_of_hand_written_huggingface_keys_is_what_transformers_writes(tmp_path):
    config = Dinov2WithRegistersConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14, use_swiglu_ffn=True
    )
    Dinov2WithRegistersModel(config).save_pretrained(tmp_path)
    theirs = {key: value.shape for key, value in load_file(tmp_path / "model.safetensors").items()}
    assert {key: value.shape for key, value in huggingface_state(random_model(TINY_SWIGLU)).items()} == theirs
