"""Bundles of a tiny build: complete, honest about preprocessing, refused when they could not work."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

import edgekit
from edgekit.artifact import Preprocess
from edgekit.bundle import write_bundle
from edgekit.bundle.check import check_bundle
from edgekit.bundle.hub import model_config, preprocessor_config
from edgekit.bundle.pictures import check_pictures
from edgekit.cli import main
from edgekit.errors import DataError, RecipeError
from edgekit.files import sha256_of
from edgekit.images import read_image
from edgekit.manifest import Manifest
from edgekit.metrics import cosine
from edgekit.pipeline import BuildResult, build
from edgekit.recipe import Recipe


@pytest.fixture(scope="module")
def built(recipe, tmp_path_factory) -> BuildResult:
    """Without latency and report: those of test_build.py have them."""
    return build(recipe, tmp_path_factory.mktemp("quick") / "out", measure="none")


@pytest.fixture(scope="module")
def bundle(built, tmp_path_factory) -> Path:
    return write_bundle(built.out, tmp_path_factory.mktemp("bundle") / "demo").path


@pytest.fixture(scope="module")
def graph_bundle(recipe, tmp_path_factory) -> Path:
    """Of a model that takes RGB 0..255 itself."""
    folder = tmp_path_factory.mktemp("graph")
    build(Recipe.make(recipe.model_dump() | {"normalize": "graph"}), folder / "out", measure="none")
    return write_bundle(folder / "out", folder / "bundle", platforms=["python"]).path


@pytest.fixture
def out(built, tmp_path) -> Path:
    shutil.copytree(built.out, tmp_path / "out")
    return tmp_path / "out"


def test_everything_is_there_under_the_names_that_others_look_for(bundle, built):
    for path in (
        "README.md",
        "LICENSE",
        "LICENSE.weights",
        "config.json",
        "preprocessor_config.json",
        "manifest.json",
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
        "golden/inputs.safetensors",
        "golden/README.md",
        "golden/pictures/exif.jpg",
        "golden/pictures.safetensors",
        "recipe.toml",
        "sbom.cdx.json",
        "SHA256SUMS",
        "python/check.py",
        "web/package.json",
    ):
        assert (bundle / path).is_file(), path
    assert not (bundle / "onnx" / "model_w8a8.onnx").exists()
    assert not (bundle / "ios").exists()
    rows = Manifest.read(bundle).artifacts
    assert [(row.name, row.path) for row in rows] == [
        ("onnx/fp32", "onnx/model.onnx"),
        ("onnx/w8a8", "onnx/model_quantized.onnx"),
    ]
    for row in rows:
        assert sha256_of(bundle / row.path) == row.sha256
    kept, told = Recipe.from_toml(bundle / "recipe.toml").model_dump(), Recipe.make(built.manifest.recipe).model_dump()
    places = ("model", "calibration", "evaluation")  # of which a bundle keeps the last names
    assert {key: kept[key] for key in kept if key not in places} == {
        key: told[key] for key in told if key not in places
    }
    assert kept["model"] == Path(told["model"]).name


def test_the_sums_cover_every_file(bundle):
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    sums = dict(line.split("  ")[::-1] for line in lines)
    files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    assert sums.keys() == files.keys() - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest


def test_the_same_build_gives_the_same_bytes(bundle, built, tmp_path):
    write_bundle(built.out, tmp_path / "again")
    assert (tmp_path / "again" / "SHA256SUMS").read_bytes() == (bundle / "SHA256SUMS").read_bytes()


def test_the_bill_of_materials_is_valid_cyclonedx(bundle):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (bundle / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    names = {component["name"] for component in json.loads(text)["components"]}
    assert "onnx/model_quantized.onnx" in names


def test_the_card_has_front_matter_that_the_hub_takes(bundle):
    from huggingface_hub import ModelCard

    card = ModelCard.load(bundle / "README.md")
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.library_name == "transformers.js"
    assert card.data.license == "other"
    assert "`onnx/model_quantized.onnx` | w8a8" in card.text
    for link in ("web/README.md", "python/README.md"):
        assert f"]({link})" in card.text


def test_the_report_travels_and_a_damaged_one_is_refused(out, tmp_path):
    (out / "report.html").write_text("<p>a report</p>")
    path = write_bundle(out, tmp_path / "bundle", platforms=["python"]).path
    assert (path / "report.html").read_text() == "<p>a report</p>"
    (out / "report.json").write_text("{}")
    with pytest.raises(DataError, match=r"cannot be read as edgekit\.report"):
        write_bundle(out, tmp_path / "again", platforms=["python"])
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("kind", ["bundle", "graph_bundle"])
def test_the_processor_of_transformers_feeds_the_model_rightly(kind, request):
    """Normalised once: on the host or in the graph, as preprocessor_config.json tells transformers."""
    from transformers import AutoImageProcessor

    folder = request.getfixturevalue(kind)
    config = json.loads((folder / "preprocessor_config.json").read_text())
    assert config["do_normalize"] is config["do_rescale"] is (kind == "bundle")
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    picture = folder / "golden" / "pictures" / "odd.png"
    pixel_values = np.asarray(processor(read_image(picture), return_tensors="np")["pixel_values"], np.float32)
    model = edgekit.load(folder / "onnx" / "model.onnx")
    assert cosine(model(pixel_values)["pooler_output"], model(picture)["pooler_output"])[0] > 0.99999
    assert {check.outcome for check in check_bundle(folder)} == {"passed"}


def test_config_json_is_one_that_transformers_knows(bundle):
    from transformers import AutoConfig, Dinov2Config

    config = AutoConfig.from_pretrained(bundle)
    assert isinstance(config, Dinov2Config)
    assert (config.hidden_size, config.image_size, config.num_hidden_layers) == (128, 70, 2)


def test_a_model_with_registers_and_swiglu_says_so():
    config = {"registers": 4, "hidden": 0, "width": 384, "ffn": "swiglu", "depth": 2, "heads": 6, "patch": 14}
    config = model_config({"config": config}, Preprocess.for_size(70, 84))
    assert config["model_type"] == "dinov2_with_registers"
    assert config["num_register_tokens"] == 4
    assert config["use_swiglu_ffn"]
    assert config["image_size"] == [70, 84]
    assert preprocessor_config(Preprocess.for_size(70, 84))["crop_size"] == {"height": 70, "width": 84}


def test_load_takes_the_best_artifact_and_says_why(bundle):
    model = edgekit.load(bundle)
    assert model.artifact.path == bundle / "onnx" / "model_quantized.onnx"
    assert "onnx/w8a8 is the first of 2 artifacts" in model.reason


def test_the_sample_passes_and_sees_a_wrong_crop(bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    command = [sys.executable, str(copy / "python" / "check.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed") == 2
    Image.open(copy / "golden" / "pictures" / "exif.jpg").save(copy / "golden" / "pictures" / "exif.jpg", exif=b"")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "exif.jpg" in done.stdout


def test_the_python_of_its_page_runs(bundle, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    shutil.copyfile(copy / "golden" / "pictures" / "odd.png", copy / "python" / "cat.jpg")
    (snippet,) = re.findall("```python\n(.*?)```", (copy / "python" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(copy / "python")
    names = {"edgekit": edgekit}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["outputs"]["pooler_output"].shape == (1, 128)
    assert names["outputs"]["last_hidden_state"].shape == (1, 1 + 5 * 5, 128)


def test_alike_is_more_similar_than_unlike(bundle, tmp_path):
    pictures = bundle / "golden" / "pictures"
    Image.open(pictures / "odd.ppm").save(tmp_path / "same.png")
    command = [sys.executable, str(bundle / "python" / "similarity.py"), str(pictures / "odd.png")]
    same = [
        subprocess.run([*command, str(picture)], capture_output=True, text=True, check=True).stdout
        for picture in (tmp_path / "same.png", pictures / "large.jpg")
    ]
    alike, unlike = (float(text.split()[-1]) for text in same)
    assert alike > 0.9999 > unlike


def test_a_damaged_artifact_is_refused_and_nothing_is_left(out, tmp_path):
    (out / "onnx" / "model_w8a8.onnx").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"damaged.*onnx/w8a8.*edgekit build"):
        write_bundle(out, tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_build_without_int8_is_refused(out, tmp_path):
    manifest = Manifest.read(out)
    fp32, w8a8 = manifest.artifacts
    failed = w8a8.model_copy(update={"status": "failed", "reason": "no memory", "path": None})
    manifest.model_copy(update={"artifacts": (fp32, failed)}).write(out)
    with pytest.raises(RecipeError, match=r"no w8a8 artifact.*no memory.*--precision fp32,w8a8"):
        write_bundle(out, tmp_path / "bundle")
    with pytest.raises(RecipeError, match=r"nothing for web.*failed: no memory"):
        write_bundle(out, tmp_path / "bundle", platforms=["web"])


def test_without_fp32_there_is_nothing_to_compare_with(out, tmp_path):
    manifest = Manifest.read(out)
    manifest.model_copy(update={"artifacts": manifest.artifacts[1:]}).write(out)
    with pytest.raises(RecipeError, match=r"no FP32 artifact.*none was built"):
        write_bundle(out, tmp_path / "bundle")


def test_a_size_that_was_not_built_is_refused(built, tmp_path):
    with pytest.raises(RecipeError, match=r"not built for 518x518.*it has 70x70"):
        write_bundle(built.out, tmp_path / "bundle", sizes=[(518, 518)])


def test_only_a_bundle_is_replaced(built, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(DataError, match="is no bundle"):
        write_bundle(built.out, tmp_path / "photos")
    for platforms in (["web", "python"], ["python"]):
        write_bundle(built.out, tmp_path / "bundle", platforms=platforms)
    assert not (tmp_path / "bundle" / "web").exists()


def test_a_further_size_can_be_the_main_one(recipe, tmp_path):
    both = Recipe.make(recipe.model_dump() | {"image_size": [(70, 70), (56, 84)]})
    build(both, tmp_path / "out", measure="none")
    alone = write_bundle(tmp_path / "out", tmp_path / "alone", sizes=[(56, 84)], platforms=["python"])
    assert [row.path for row in alone.manifest.artifacts] == ["onnx/model.onnx", "onnx/model_quantized.onnx"]
    assert alone.manifest.artifacts[0].preprocess.input_size == (56, 84)
    turned = write_bundle(tmp_path / "out", tmp_path / "turned", sizes=[(56, 84), (70, 70)], platforms=["python"])
    assert [row.path for row in turned.manifest.artifacts] == [
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
        "onnx/model_70x70.onnx",
        "onnx/model_quantized_70x70.onnx",
    ]
    for made in (alone, turned):
        assert {check.outcome for check in check_bundle(made.path)} == {"passed"}


def test_an_ios_bundle_holds_packages_and_the_swift_package(recipe, tmp_path):
    pytest.importorskip("coremltools")
    build(Recipe.make(recipe.model_dump() | {"formats": ["coreml"]}), tmp_path / "out", measure="none")
    bundle = write_bundle(tmp_path / "out", tmp_path / "bundle")
    assert bundle.platforms == ("ios",)
    assert (bundle.path / "ios" / "Package.swift").is_file()
    assert [row.path for row in bundle.manifest.artifacts] == ["coreml/model.mlpackage", "coreml/model_w8a8.mlpackage"]
    assert {check.outcome for check in check_bundle(bundle.path)} == {"passed"}


def test_the_golden_pictures_of_another_size_are_refused(bundle, recipe, tmp_path):
    shutil.copytree(bundle, tmp_path / "bundle")
    build(
        Recipe.make(recipe.model_dump() | {"image_size": [(56, 56)], "precisions": ["fp32"]}),
        tmp_path / "out",
        measure="none",
    )
    with pytest.raises(DataError, match="cropped to"):
        check_pictures(tmp_path / "bundle" / "golden", edgekit.load(tmp_path / "out"))


def test_the_command_prints_what_it_wrote(built, tmp_path, capsys):
    assert main(["bundle", str(built.out), "--to", str(tmp_path / "b"), "--platform", "python", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["platforms"] == ["python"]
    assert printed["artifacts"] == ["onnx/model.onnx", "onnx/model_quantized.onnx"]
    assert main(["bundle", str(built.out), "--to", str(tmp_path / "c"), "--platform", "watch"]) == 2
    assert "unknown platform 'watch'" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["../../.bashrc", "onnx/../../../.bashrc", "/tmp/.bashrc"])
def test_a_build_of_a_stranger_writes_nothing_outside_the_bundle(out, tmp_path, path):
    """The digest is right and the file is where the manifest says, so that nothing but the path is wrong."""
    manifest = json.loads((out / "manifest.json").read_text())
    row = next(row for row in manifest["artifacts"] if row["name"] == "onnx/w8a8")
    deep = tmp_path / "evil" / "deep" / "build"
    shutil.copytree(out, deep)
    if not path.startswith("/"):
        shutil.copy(out / row["path"], (deep / path).resolve())
    row["path"] = path
    (deep / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "home").mkdir()
    with pytest.raises(DataError, match="names"):
        write_bundle(deep, tmp_path / "home" / "bundle")
    assert not any((tmp_path / "home").iterdir())


def test_a_bundle_holds_no_file_that_only_a_link_or_the_licence_names(out, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("c0ffee15a5ec2e7")
    (out / "golden" / "zz").symlink_to(secret)
    (out / "golden" / "notes.txt").write_text("c0ffee15a5ec2e7")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["model"]["licence"] = str(secret.with_suffix(""))
    (out / "manifest.json").write_text(json.dumps(manifest))
    bundle = write_bundle(out, tmp_path / "bundle").path
    texts = [file.read_bytes() for file in bundle.rglob("*") if file.is_file()]
    assert not any(b"c0ffee15a5ec2e7" in text for text in texts)
    for name in ("golden/inputs.safetensors", "report.html"):
        shutil.copytree(out, tmp_path / name.replace("/", "_"), symlinks=True)
        (tmp_path / name.replace("/", "_") / name).unlink(missing_ok=True)
        (tmp_path / name.replace("/", "_") / name).symlink_to(secret)
        with pytest.raises(DataError, match="names"):
            write_bundle(tmp_path / name.replace("/", "_"), tmp_path / "other")


def test_a_bundle_is_signed_and_verified(built, tmp_path, capsys):
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    pem, openssl = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    (tmp_path / "key.pem").write_bytes(private.private_bytes(pem, openssl, serialization.NoEncryption()))
    (tmp_path / "key.pub").write_bytes(public.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    words = [str(built.out), "--to", str(tmp_path / "signed"), "--platform", "python"]
    assert main(["bundle", *words, "--sign", str(tmp_path / "no.pem")]) == 1
    assert not (tmp_path / "signed").exists()
    assert main(["bundle", *words, "--sign", str(tmp_path / "key.pem")]) == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "signed"), "--key", str(tmp_path / "key.pub")]) == 0
    assert "signed by the owner of" in capsys.readouterr().out
    assert main(["bundle", *words]) == 0  # replaced by one that is not signed
    assert main(["verify", str(tmp_path / "signed"), "--key", str(tmp_path / "key.pub")]) == 1


@pytest.fixture(scope="module")
def private(recipe, checkpoint, tmp_path_factory) -> tuple[Path, Path]:
    """A build of private photographs in a user's home, with its report, and the bundle of it."""
    home = tmp_path_factory.mktemp("homes") / "zaphodbeeblebrox"
    photos = home / "secret-holiday"
    photos.mkdir(parents=True)
    shutil.copyfile(checkpoint, home / "mine.safetensors")
    generator = np.random.default_rng(3)
    for number in range(14):
        picture = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((120, 100))
        exif = Image.Exif()
        exif[0x9286] = exif[0x010E] = exif[0x013B] = "taken at 48.8584 N 2.2945 E"  # comment, description, artist
        picture.save(photos / f"grandmother-{number}.jpg", exif=exif)
    values = {"model": str(home / "mine.safetensors"), "evaluation": str(photos)}
    values["calibration"] = {"source": str(photos), "samples": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("USER", home.name)
        patch.setenv("LOGNAME", home.name)
        built = build(Recipe.make(recipe.model_dump() | values), home / "out")
        assert built.report
        return home, write_bundle(built.out, home / "upload").path


def test_a_bundle_tells_neither_places_nor_names_nor_metadata_of_photographs(private):
    home, bundle = private
    for word in (home.name, "secret-holiday/", "grandmother", "48.8584", str(home), str(home.parent)):
        for file in (path for path in bundle.rglob("*") if path.is_file()):
            assert word.encode() not in file.read_bytes(), f"{file.relative_to(bundle)} names {word}"


def test_a_bundle_holds_no_photograph_of_the_build(private):
    from edgekit.measure.golden import read_golden

    home, bundle = private
    theirs, _ = read_golden(home / "out")
    mine, expected = read_golden(bundle)
    assert mine.shape[0] == expected["pooler_output"].shape[0] == 4
    assert not any(np.allclose(a, b) for a in theirs for b in mine)
    page = (bundle / "report.html").read_text()
    assert "<img" not in page
    assert "image 1" in page  # in place of a name
    assert "<img" in (home / "out" / "report.html").read_text()
    assert [check.outcome for check in check_bundle(bundle)] == ["passed", "passed"]


def test_pictures_in_a_bundle_are_edgekits_own_and_tell_only_how_to_turn_them(private):
    from edgekit.bundle.pictures import PICTURES

    _, bundle = private
    found = [path for path in bundle.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png", ".webp", ".heic")]
    assert found
    for path in found:
        with Image.open(path) as picture:
            assert set(picture.getexif()) <= {0x0112}, path  # the orientation, of the picture that tests it
        own = PICTURES / path.name
        assert not own.exists() or own.read_bytes() == path.read_bytes()
        assert own.exists() or bundle / "golden" not in path.parents


def test_every_file_of_a_bundle_is_edgekits_own_golden_or_of_the_manifest(private):
    _, bundle = private
    listed = {row.path for row in Manifest.read(bundle).artifacts}
    own = ("golden/", "python/", "web/", "cpp/", "android/", "ios/")
    known = {"README.md", "LICENSE", "LICENSE.weights", "config.json", "preprocessor_config.json", "manifest.json"}
    known |= {"recipe.toml", "report.html", "sbom.cdx.json", "SHA256SUMS"}
    for path in (path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()):
        assert path in listed | known or path.startswith(own), path
