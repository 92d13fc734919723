"""What a backend leaves on the disk: the same bytes every time, nothing half-written, a file that explains itself."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import edgekit
from edgekit.errors import DataError, DriftExceeded, EdgekitError, ExportError
from edgekit.files import files_of, sha256_of, size_mb_of
from edgekit.manifest import ArtifactRow, Manifest
from edgekit.measure.golden import check_golden, write_golden
from tests.conformance.conftest import SIZE, Exported, random_pixels
from tests.support.cpu import int8_gemms

WITHOUT_TORCH = """
import sys
for name in ("torch", "onnx", "onnx_ir", "onnxscript"):
    sys.modules[name] = None  # what imports it fails
import numpy as np, edgekit
model = edgekit.load(sys.argv[1], threads=1)
outputs = model(np.load(sys.argv[2]))
np.savez(sys.argv[3], **outputs)
print(model.reason)
"""


def build_folder(tiny: Exported) -> Path:
    """The exported files with a manifest, as `edgekit build` leaves them."""
    rows = tuple(ArtifactRow.of(tiny.export(*kind), tiny.folder) for kind in tiny.kinds())
    Manifest(
        model={"name": "tiny", "sha256": "0" * 64}, recipe={}, recipe_digest="digest", host={}, artifacts=rows
    ).write(tiny.folder)
    return tiny.folder


def test_file_names_tell_variants_apart(tiny: Exported) -> None:
    names = [tiny.backend.filename(*kind) for kind in tiny.backend.variants()]
    assert len(set(names)) == len(names)
    stems = [name.partition(".")[0] for name in names]
    wanted = [
        "model"
        + (f"_{precision}" if (precision, variant) != ("fp32", "standard") else "")
        + ("" if variant == "standard" else f"_{variant}")
        for precision, variant in tiny.backend.variants()
    ]
    assert stems == wanted


def test_same_inputs_give_the_same_bytes(tiny: Exported, tmp_path: Path) -> None:
    for precision, variant in tiny.kinds():
        first = tiny.export(precision, variant)
        again = tiny.export(precision, variant, tmp_path / first.path.name)
        assert again.sha256 == first.sha256 == sha256_of(first.path), first.name
        assert again.size_mb == size_mb_of(first.path)
        pairs = zip(files_of(first.path), files_of(again.path), strict=True)
        assert all(one.read_bytes() == other.read_bytes() for one, other in pairs), first.name


def test_an_export_that_fails_leaves_what_was_there(
    tiny: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tiny.backend.filename("fp32", "standard")
    tiny.export("fp32", "standard", tmp_path / name)
    before = sha256_of(tmp_path / name)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        for path in (tmp_path / "new" / name, tmp_path / name):
            with pytest.raises((OSError, EdgekitError)):
                tiny.export("fp32", "standard", path)
    assert list((tmp_path / "new").iterdir()) == []
    assert sha256_of(tmp_path / name) == before
    stems = {path.name.partition(".")[0] for path in tmp_path.iterdir()}
    assert stems == {"model", "new"}


def test_requests_that_cannot_be_met_are_refused(tiny: Exported, tmp_path: Path) -> None:
    integer = [kind for kind in tiny.kinds() if kind[0] not in ("fp32", "fp16")]
    for precision, variant in integer:
        with pytest.raises(ExportError, match="plan"):
            tiny.backend.export(tiny.source(planned=False), precision, variant, tmp_path / "model.x")
    absent = next((p, "fused") for p in ("fp16", "w8") if (p, "fused") not in tiny.backend.variants())
    with pytest.raises(ExportError, match="does not write"):
        tiny.backend.export(tiny.source(), *absent, tmp_path / "model.x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_says_what_it_is(tiny: Exported) -> None:
    for kind in tiny.kinds():
        artifact = tiny.export(*kind)
        assert tiny.backend.read(artifact.path) == artifact
        assert (artifact.recipe_digest, artifact.parent_sha256) == ("digest", "0" * 64)
        assert artifact.preprocess.input_size == SIZE
        assert artifact.name.startswith(f"{tiny.backend.format}/{artifact.precision}")
        assert artifact.tools


def test_damaged_and_missing_files_are_data_errors(tiny: Exported, tmp_path: Path) -> None:
    artifact = tiny.export("fp32", "standard", tmp_path / tiny.backend.filename("fp32", "standard"))
    largest = max(files_of(artifact.path), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    if not tiny.backend.runner_missing():
        with pytest.raises(DataError, match="model"):
            tiny.backend.runner(artifact)(random_pixels(1).numpy())
    gone = artifact.model_copy(update={"path": tmp_path / "gone" / artifact.path.name})
    with pytest.raises(DataError, match="gone"):
        tiny.backend.read(gone.path)
    if not tiny.backend.runner_missing():
        with pytest.raises(DataError, match="gone"):
            tiny.backend.runner(gone)


def test_the_audit_names_the_runtime_and_the_gemms(tiny: Exported) -> None:
    if reason := tiny.backend.runner_missing():
        pytest.skip(reason)
    for precision, variant in tiny.kinds():
        audit = tiny.backend.audit(tiny.export(precision, variant))
        assert isinstance(audit["runtime"], str)
        if precision == "fp32":
            assert audit.get("gemms_int8", 0) == 0
        if (precision, variant) == ("w8a8", "standard"):
            assert audit["gemms_int8"] == int8_gemms(tiny.backend.format, len(tiny.plan.gemms))


def test_golden_check_tells_right_from_wrong(tiny: Exported, tmp_path: Path) -> None:
    if reason := tiny.backend.runner_missing():
        pytest.skip(reason)
    pixels = random_pixels(2)
    with torch.no_grad():
        hidden, pooled = (value.numpy() for value in tiny.model(pixels))
    write_golden(tmp_path, pixels.numpy(), {"last_hidden_state": hidden, "pooler_output": pooled})
    for kind in tiny.kinds():
        check = check_golden(tmp_path, tiny.backend.runner(tiny.export(*kind)))
        assert check.images == 2
        assert check.pooler_cosine > 0.95
    write_golden(tmp_path, pixels.numpy(), {"last_hidden_state": hidden, "pooler_output": pooled[:, ::-1]})
    with pytest.raises(DriftExceeded, match="cosine"):
        check_golden(tmp_path, tiny.backend.runner(tiny.export("fp32", "standard")))


def test_runs_where_no_torch_is(tiny: Exported, tmp_path: Path) -> None:
    """In a process of its own that cannot import it: one file outside its folder, and the best of the folder."""
    if reason := tiny.backend.runner_missing():
        pytest.skip(reason)
    folder = build_folder(tiny)
    alone = tiny.export("fp32", "standard", tmp_path / tiny.backend.filename("fp32", "standard")).path
    pixels = random_pixels(1).numpy()
    np.save(tmp_path / "pixels.npy", pixels)
    for path, words in ((alone, "was asked for"), (folder, "that runs here")):
        result = tmp_path / "result.npz"
        code = [sys.executable, "-c", WITHOUT_TORCH, str(path), str(tmp_path / "pixels.npy"), str(result)]
        done = subprocess.run(code, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
        expected = edgekit.load(path, threads=1)(pixels)
        with np.load(result) as outputs:
            for name, value in expected.items():
                np.testing.assert_allclose(outputs[name], value, atol=1e-4)


def test_load_takes_a_file_of_a_build_and_the_build_itself(tiny: Exported) -> None:
    if reason := tiny.backend.runner_missing():
        pytest.skip(reason)
    folder = build_folder(tiny)
    for kind in tiny.kinds():
        artifact = tiny.export(*kind)
        assert edgekit.load(artifact.path).artifact == artifact
    best = edgekit.load(folder)
    fastest = next(
        kind for kind in (("w8a8", "fused"), ("w8a8", "per_token"), ("w8a8", "standard")) if kind in tiny.kinds()
    )
    assert (best.artifact.precision, best.artifact.variant) == fastest
    picture = np.random.default_rng(0).integers(0, 256, (90, 100, 3), np.uint8)
    outputs = best([picture, picture])
    assert outputs["pooler_output"].shape == (2, tiny.model.config.width)


def test_normalisation_in_the_graph_is_said_by_the_file(tiny: Exported, tmp_path: Path) -> None:
    """The same file contents, another contract: `preprocess.normalize` travels with it."""
    source = tiny.source()
    preprocess = source.preprocess.model_copy(update={"normalize": "graph"})
    path = tmp_path / tiny.backend.filename("fp32", "standard")
    artifact = tiny.backend.export(replace(source, preprocess=preprocess), "fp32", "standard", path)
    assert tiny.backend.read(path).preprocess == artifact.preprocess == preprocess
