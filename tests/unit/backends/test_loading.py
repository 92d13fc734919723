"""`edgekit.load`: which artifact of a build folder it takes and says so, what pictures it takes, what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edgekit
from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.loading import artifact_of
from edgekit.backends.onnx.backend import OnnxBackend
from edgekit.backends.onnx.metadata import metadata_of
from edgekit.errors import BackendMissing, DataError
from edgekit.host import describe_host
from edgekit.images import preprocess
from edgekit.manifest import ArtifactRow, Choice, Manifest, TimingRun
from edgekit.models.vit import VisionTransformer
from tests.support.plans import export_source

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def artifact(tiny_model: VisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    source = export_source(tiny_model.bake(70, 70), Preprocess.for_size(70, 70), None)
    path = tmp_path_factory.mktemp("build") / "onnx" / "model.onnx"
    return OnnxBackend().export(source, "fp32", "standard", path)


@pytest.fixture
def folder(artifact: Artifact, tmp_path: Path) -> Path:
    """A build folder with that one artifact, whose manifest the tests rewrite."""
    shutil.copytree(artifact.path.parent, tmp_path / "onnx")
    write_rows(tmp_path, ArtifactRow.of(artifact, artifact.path.parents[1]))
    return tmp_path


def write_rows(folder: Path, *rows: ArtifactRow, **values: object) -> None:
    kept = {"model": {"sha256": "0" * 64}, "recipe": {}, "recipe_digest": "digest", "host": {}}
    Manifest(**kept, artifacts=rows, **values).write(folder)


def rows_of(folder: Path) -> tuple[ArtifactRow, ...]:
    return Manifest.read(folder).artifacts


def test_pictures_of_every_kind_give_the_same_features(artifact: Artifact, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    image = Image.fromarray(array)
    image.save(tmp_path / "picture.png")
    model = edgekit.load(artifact.path)
    pixel_values = preprocess(image, artifact.preprocess)[None]
    expected = model(pixel_values)["pooler_output"]
    kinds = (array, image, tmp_path / "picture.png", str(tmp_path / "picture.png"), [array], array[None], (image,))
    for pictures in kinds:
        np.testing.assert_allclose(model(pictures)["pooler_output"], expected, atol=1e-5)
    both = model([array, np.rot90(array).copy()])["last_hidden_state"]
    assert both.shape == (2, 26, 128)
    assert not np.allclose(both[0], both[1], atol=1e-2)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 70, 70), np.float32),
        np.zeros((1, 3, 56, 56), np.float32),
        np.zeros((70, 70), np.uint8),
        np.zeros((70, 70, 4), np.uint8),
        np.zeros((70, 70, 3), np.float64),
        "no such picture.png",
    ],
    ids=lambda wrong: f"{wrong.dtype}{wrong.shape}" if isinstance(wrong, np.ndarray) else "absent",
)
def test_what_is_no_picture_is_refused(artifact: Artifact, wrong: np.ndarray | str) -> None:
    with pytest.raises(DataError):
        edgekit.load(artifact.path)(wrong)


NOTHING = [
    None,
    5,
    0.5,
    True,
    b"picture.png",
    [],
    (),
    [None],
    [[]],
    {},
    object(),
    iter(()),
    torch.zeros(1, 3, 70, 70),
    [torch.zeros(3, 70, 70)],
    torch.zeros(70, 70, 3, dtype=torch.uint8),
    np.zeros((0, 3, 70, 70), np.float32),
    np.zeros((0, 70, 70, 3), np.uint8),
    np.zeros((0, 0, 3), np.uint8),
    np.zeros((0, 70, 3), np.uint8),
    Image.new("RGB", (0, 0)),
    Image.new("RGB", (0, 5)),
    np.float32(1),
    np.zeros(0),
    np.array(["a"], object),
    np.zeros((1, 3, 70, 70)),
    np.zeros((1, 3, 70, 70), np.float16),
    "",
    "nul\0.png",
    "x" * 5000,
    Path("."),
    "~",
]


@pytest.mark.parametrize(
    "wrong", NOTHING, ids=[f"{type(wrong).__name__}-{place}" for place, wrong in enumerate(NOTHING)]
)
def test_what_a_model_does_not_take_is_answered_with_what_it_takes(artifact: Artifact, wrong: object) -> None:
    with pytest.raises(DataError) as caught:
        edgekit.load(artifact.path)(wrong)
    assert caught.value.why
    if "torch" in type(wrong).__module__:
        assert ".numpy()" in caught.value.fix


def test_a_picture_that_breaks_while_it_is_decoded_is_said_to_be_broken(artifact: Artifact, tmp_path: Path) -> None:
    Image.effect_noise((300, 300), 50).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "cut.png") as picture, pytest.raises(DataError, match="cannot be decoded"):
        edgekit.load(artifact.path)(picture)


@pytest.mark.parametrize("threads", [-5, 0, 10**9, 1025, 1.5, "2", True, float("nan")])
def test_an_impossible_number_of_threads_is_refused(artifact: Artifact, threads: object) -> None:
    with pytest.raises(DataError, match="threads"):
        edgekit.load(artifact.path, threads)


@pytest.mark.parametrize(
    "path",
    [None, 5, b"out", "", "nul\0.onnx", ["out"], object()],
    ids=["None", "int", "bytes", "empty", "nul", "list", "object"],
)
def test_load_says_what_it_takes(path: object) -> None:
    with pytest.raises(DataError, match=r"edgekit\.load was given"):
        edgekit.load(path)


def test_the_fastest_kind_that_runs_here_is_taken(folder: Path) -> None:
    (fp32,) = rows_of(folder)
    half = fp32.model_copy(update={"name": "onnx/fp16", "precision": "fp16"})
    failed = fp32.model_copy(update={"name": "onnx/w8a8", "precision": "w8a8", "status": "failed", "reason": "bad"})
    write_rows(folder, half, failed, fp32)
    model = edgekit.load(folder)
    assert model.artifact.name == "onnx/fp32"
    assert "onnx/fp32" in model.reason
    assert model.passed_over == ()


def without_fused_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    real = OnnxBackend.runner

    def runner(self: OnnxBackend, artifact: Artifact, threads: int | None = None) -> object:
        if artifact.variant == "fused":
            raise BackendMissing("no op library here", fix="edgekit doctor")
        return real(self, artifact, threads)

    monkeypatch.setattr(OnnxBackend, "runner", runner)


def test_what_cannot_run_here_is_passed_over_and_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fp32,) = rows_of(folder)
    fused = fp32.model_copy(update={"name": "onnx/fp32_fused", "variant": "fused"})
    write_rows(folder, fp32, fused)
    without_fused_ops(monkeypatch)
    model = edgekit.load(folder)
    assert model.artifact.name == "onnx/fp32"
    ((name, why),) = model.passed_over
    assert name == "onnx/fp32_fused"
    assert "no op library here" in why
    write_rows(folder, fused)
    with pytest.raises(BackendMissing, match=r"fp32_fused: no op library here.*edgekit doctor"):
        edgekit.load(folder)


def test_a_file_in_its_folder_takes_the_manifest_a_file_alone_its_own_metadata(folder: Path, tmp_path: Path) -> None:
    (row,) = rows_of(folder)
    write_rows(folder, row.model_copy(update={"name": "onnx/renamed"}))
    assert edgekit.load(folder / "onnx" / "model.onnx").artifact.name == "onnx/renamed"
    alone = tmp_path / "elsewhere.onnx"
    shutil.copy(folder / "onnx" / "model.onnx", alone)
    (folder / "manifest.json").unlink()
    assert edgekit.load(alone).artifact.name == "onnx/fp32"


def test_a_file_that_is_not_the_manifests_does_not_run(folder: Path) -> None:
    path = folder / "onnx" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for target in (path, folder):
        with pytest.raises(DataError, match="is not the file that"):
            edgekit.load(target)
    (row,) = rows_of(folder)
    write_rows(folder, row.model_copy(update={"sha256": None}))
    with pytest.raises(DataError, match="no sha256"):
        edgekit.load(folder)


def test_a_file_that_no_manifest_lists_is_said_to_be_unverified(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "onnx" / "model.onnx", tmp_path / "alone.onnx")
    assert "unverified" in edgekit.load(tmp_path / "alone.onnx").reason
    for listed in (folder / "onnx" / "model.onnx", folder):
        assert "unverified" not in edgekit.load(listed).reason


@pytest.mark.parametrize("place", ["../model.onnx", "absolute", "link", "pipe"])
def test_a_manifest_that_names_a_file_outside_its_folder_is_refused(folder: Path, tmp_path: Path, place: str) -> None:
    (row,) = rows_of(folder)
    outside = tmp_path.parent / f"{tmp_path.name}.onnx"
    shutil.move(folder / "onnx" / "model.onnx", outside)
    path = {"../model.onnx": f"../{outside.name}", "absolute": str(outside)}.get(place, "onnx/model.onnx")
    if place == "link":
        (folder / path).symlink_to(outside)
    if place == "pipe":
        os.mkfifo(folder / path)
    write_rows(folder, row.model_copy(update={"path": path}))
    for target in (folder, folder / "onnx" / "model.onnx"):
        with pytest.raises(DataError, match=r"manifest\.json names|does not exist|neither a file"):
            edgekit.load(target)


def test_what_is_no_artifact_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no model", encoding="utf-8")
    for path, words in (
        (tmp_path / "absent.onnx", "does not exist"),
        (tmp_path / "picture.png", "is no artifact"),
        (tmp_path / "text.onnx", "ONNX file"),
        (tmp_path / "onnx", "no build folder|not a build folder"),
    ):
        with pytest.raises(DataError, match=words):
            edgekit.load(path)
    (row,) = rows_of(folder)
    absent = row.model_copy(update={"status": "not here", "reason": "no compiler"})
    with pytest.raises(DataError, match="no compiler"):
        artifact_of(absent, Manifest.read(folder), folder)


def test_onnx_metadata_is_what_onnx_reads(artifact: Artifact) -> None:
    onnx = pytest.importorskip("onnx")
    properties = {entry.key: entry.value for entry in onnx.load(artifact.path).metadata_props}
    assert metadata_of(artifact.path) == properties
    assert properties["licence"] == "MIT"


def test_a_foreign_onnx_file_is_told_from_a_broken_one(artifact: Artifact, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(artifact.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(DataError, match="not written by edgekit"):
        OnnxBackend().read(tmp_path / "foreign.onnx")
    whole = artifact.path.read_bytes()
    for length in range(0, len(whole), len(whole) // 7):
        (tmp_path / "cut.onnx").write_bytes(whole[:length])
        with pytest.raises(DataError):
            OnnxBackend().read(tmp_path / "cut.onnx")


def test_a_runtime_leaves_no_reports_behind(artifact: Artifact, tmp_path: Path) -> None:
    code = f"import edgekit; edgekit.load({str(artifact.path)!r})"
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.rglob("*"))


def measured(folder: Path, choice: str, *, here: bool, goal: str = "latency", drift: object = None) -> None:
    """A folder of fp32 and fp32_fused, with a choice that was measured on this machine or on another one."""
    (fp32,) = rows_of(folder)
    fused = fp32.model_copy(update={"name": "onnx/fp32_fused", "latency": {"p50_ms": 2.0}, "drift": drift})
    host = describe_host().model_dump(mode="json") | ({} if here else {"cpu": "a CPU elsewhere"})
    run = TimingRun(id="r1", date="2026-11-29T14:03:00Z", threads=1, batch=1, image_size=(70, 70), busy=0, host=host)
    chosen = Choice(artifact=choice, goal=goal, max_drop=0.01, sentence="", run="r1")
    rows = (fp32.model_copy(update={"latency": {"p50_ms": 1.0}}), fused.model_copy(update={"variant": "fused"}))
    write_rows(folder, *rows, runs=(run,), choice=chosen)


def standard_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused rows of these tests hold a file of standard ops."""
    real = OnnxBackend.runner

    def runner(self: OnnxBackend, artifact: Artifact, threads: int | None = None) -> object:
        return real(self, artifact.model_copy(update={"variant": "standard"}), threads)

    monkeypatch.setattr(OnnxBackend, "runner", runner)


def test_what_was_measured_best_on_this_machine_is_opened_and_said(folder: Path, monkeypatch) -> None:
    standard_runner(monkeypatch)
    measured(folder, "onnx/fp32", here=True)
    reason = edgekit.load(folder).reason
    assert reason.startswith("onnx/fp32 was chosen for its latency by measurement on this machine")
    assert "2026-11-29" in reason


def test_on_another_machine_the_order_of_kinds_decides_and_the_reason_says_so(folder: Path, monkeypatch) -> None:
    standard_runner(monkeypatch)
    measured(folder, "onnx/fp32", here=False)
    reason = edgekit.load(folder).reason
    assert reason.startswith("onnx/fp32_fused is the first of 2 artifacts")
    assert "onnx/fp32 was the choice of a CPU elsewhere" in reason
    assert "edgekit bench OUT --save" in reason


def test_the_smallest_is_the_smallest_on_every_machine(folder: Path, monkeypatch) -> None:
    standard_runner(monkeypatch)
    measured(folder, "onnx/fp32", here=False, goal="size")
    assert "onnx/fp32 was chosen for its size by measurement on another machine" in edgekit.load(folder).reason


def test_what_drifts_too_far_comes_last_on_every_machine(folder: Path, monkeypatch) -> None:
    standard_runner(monkeypatch)
    measured(folder, "onnx/fp32", here=False, drift={"cls_cosine_mean": 0.9})
    assert edgekit.load(folder).reason.startswith("onnx/fp32 is the first")


def test_a_choice_that_does_not_run_here_is_named_and_the_next_measured_is_taken(folder: Path, monkeypatch) -> None:
    measured(folder, "onnx/fp32_fused", here=True)
    without_fused_ops(monkeypatch)
    model = edgekit.load(folder)
    assert model.artifact.name == "onnx/fp32"
    assert "onnx/fp32_fused, which was chosen for its latency" in model.reason
    assert "does not run here" in model.reason


def test_a_folder_of_several_sizes_runs_each_in_its_own_file(
    folder: Path, artifact: Artifact, tiny_model: VisionTransformer
) -> None:
    transform = Preprocess.for_size(56, 84)
    other = OnnxBackend().export(
        export_source(tiny_model.bake(56, 84), transform, None), "fp32", "standard", folder / "onnx/model_56x84.onnx"
    )
    row = ArtifactRow.of(other.model_copy(update={"name": "onnx/fp32_56x84"}), folder)
    write_rows(folder, rows_of(folder)[0], row)
    model = edgekit.load(folder)
    assert model.artifact.preprocess.input_size == (70, 70)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 84, 3), np.uint8))
    exact = model(picture, resize="exact")
    assert exact.grid == (4, 6)
    assert exact["last_hidden_state"].shape == (1, 25, 128)
    pixels = np.random.default_rng(0).standard_normal((2, 3, 56, 84)).astype(np.float32)
    with torch.no_grad():
        expected = tiny_model(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(model(pixels)["last_hidden_state"], expected, atol=1e-4)
    assert model(picture).grid == (5, 5)  # cropped to the main size by its own transform
    with pytest.raises(DataError, match="70x70"):
        model(picture.resize((42, 42)), resize="exact")
