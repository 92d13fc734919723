"""Signatures of bundles: OpenSSF model signing with the reference implementation, and whole files without a key."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgekit.bundle.sign import SIGNATURE, SUMS, sign_bundle, verify_bundle
from edgekit.cli import main
from edgekit.errors import BackendMissing, DataError


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A private key, its public key, and the public key of somebody else."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / f"{name}.pem").write_bytes(private)
        (folder / f"{name}.pub").write_bytes(public)
    return folder / "own.pem", folder / "own.pub", folder / "other.pub"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder with the list of digests that `edgekit bundle` writes."""
    folder = tmp_path / "bundle"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"weights")
    (folder / "manifest.json").write_text("{}")
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("manifest.json", "onnx/model.onnx")
    ]
    (folder / SUMS).write_text("".join(lines))
    return folder


def test_a_signed_bundle_is_verified_wherever_it_lies(bundle: Path, keys: tuple[Path, Path, Path]) -> None:
    private, public, _ = keys
    sign_bundle(bundle, private)
    moved = bundle.rename(bundle.with_name("elsewhere"))
    found = verify_bundle(moved, public)
    assert (found.files, found.signed, found.by) == (2, True, public)
    assert verify_bundle(moved).by is None


def test_the_signature_is_a_sigstore_bundle_of_the_openssf_format(bundle: Path, keys: tuple[Path, Path, Path]) -> None:
    import base64

    sign_bundle(bundle, keys[0])
    signature = json.loads((bundle / SIGNATURE).read_text())
    statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
    assert statement["predicateType"].startswith("https://model_signing/signature/")
    named = {each["name"]: each["digest"] for each in statement["predicate"]["resources"]}
    assert set(named) == {SUMS, "manifest.json", "onnx/model.onnx"}
    assert named["onnx/model.onnx"] == hashlib.sha256(b"weights").hexdigest()


def test_what_was_changed_after_signing_is_refused(bundle: Path, keys: tuple[Path, Path, Path]) -> None:
    private, public, _ = keys
    sign_bundle(bundle, private)
    (bundle / "onnx" / "model.onnx").write_bytes(b"others!")
    with pytest.raises(DataError, match=r"model\.onnx is not the file that SHA256SUMS lists"):
        verify_bundle(bundle)
    sums = (bundle / SUMS).read_text()
    digest = hashlib.sha256(b"weights").hexdigest()
    (bundle / SUMS).write_text(sums.replace(digest, hashlib.sha256(b"others!").hexdigest()))
    assert verify_bundle(bundle).signed  # the list was changed, too: only the key tells
    with pytest.raises(DataError, match="is not signed by"):
        verify_bundle(bundle, public)


def test_other_keys_and_files_are_refused(bundle: Path, keys: tuple[Path, Path, Path]) -> None:
    private, public, other = keys
    with pytest.raises(DataError, match="is not signed"):
        verify_bundle(bundle, public)
    sign_bundle(bundle, private)
    with pytest.raises(DataError, match="is not signed by"):
        verify_bundle(bundle, other)
    (bundle / "extra.py").write_text("")
    with pytest.raises(DataError, match=r"holds extra\.py"):
        verify_bundle(bundle)
    (bundle / "extra.py").unlink()
    (bundle / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        verify_bundle(bundle)


def test_a_list_that_leads_out_of_the_bundle_is_refused(bundle: Path) -> None:
    (bundle / SUMS).write_text(f"{'0' * 64}  ../../etc/passwd\n")
    with pytest.raises(DataError):
        verify_bundle(bundle)


def test_keys_of_another_kind_are_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(DataError, match=r"no\.pem cannot sign.*openssl"):
        sign_bundle(bundle, tmp_path / "no.pem")
    assert not (bundle / SIGNATURE).exists()
    monkeypatch.setattr("edgekit.bundle.sign.find_spec", lambda _: None)
    with pytest.raises(BackendMissing, match=r"edgekit\[sign\]"):
        sign_bundle(bundle, tmp_path / "no.pem")


def test_the_command_says_what_it_found(bundle: Path, keys: tuple[Path, Path, Path], capsys) -> None:
    sign_bundle(bundle, keys[0])
    assert main(["verify", str(bundle), "--key", str(keys[1])]) == 0
    assert "2 files, all as listed\n  signed by the owner of" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--key", str(keys[2]), "--json"]) == 1
    assert "not signed by" in json.loads(capsys.readouterr().out)["error"]["what"]
