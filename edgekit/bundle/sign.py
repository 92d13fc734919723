"""Signatures of bundles in the OpenSSF model-signing format, and the check that a bundle is whole.

The format is a Sigstore bundle over an in-toto statement with the digest of every file; `model_signing`, its reference
implementation, writes and reads it. Keys are elliptic-curve keys in PEM files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.errors import BackendMissing, DataError
from edgekit.files import inside, read_text

SIGNATURE = "model.sig"
SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_MAKE_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


@dataclass(frozen=True)
class Verified:
    """A bundle whose files are those that it lists; `signed`: it holds a signature; `by`: the key that was proved."""

    path: Path
    files: int
    signed: bool
    by: Path | None  # public key; None where none was given


def require_key(key: Path) -> None:
    """Raises BackendMissing or DataError unless a bundle can be signed with this private key."""
    _library()
    if not key.is_file():
        raise DataError(f"there is no key {key}", why="a private elliptic-curve key in PEM is needed", fix=_MAKE_KEY)


def sign_bundle(bundle: Path, key: Path) -> None:
    """Write the signature of all files of a bundle into it.

    Args:
        bundle: complete, and not changed afterwards.
        key: a private elliptic-curve key, a PEM file without a password.

    Raises:
        BackendMissing: model-signing is not installed.
        DataError: no such key, or one of another kind.
    """
    require_key(key)
    hashing, signing, _ = _library()
    (bundle / SIGNATURE).unlink(missing_ok=True)
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=key)
        signer.set_hashing_config(_hashing(hashing, bundle)).sign(bundle, bundle / SIGNATURE)
    except Exception as error:  # the library and the one below it raise many kinds for what is no such key
        raise DataError(f"{key} cannot sign", why=_first_line(error), fix=_MAKE_KEY) from None


def verify_bundle(bundle: Path, key: Path | None = None) -> Verified:
    """Compare every file of a bundle with its list of digests and, with a key, its signature.

    Args:
        bundle: the folder.
        key: the public key of whoever is trusted, a PEM file; None leaves the signature unread.

    Raises:
        DataError: no bundle; a file that is damaged, missing or not listed; no signature, or another one's.
        BackendMissing: a key was given and model-signing is not installed.
    """
    listed = _listed(bundle)
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    if extra := sorted(there - listed.keys() - {SUMS, SIGNATURE}):
        raise DataError(f"{bundle} holds {', '.join(extra[:3])}", why=f"{SUMS} does not list it", fix="get it again")
    for name, digest in listed.items():
        path = inside(bundle, name, said_by=str(bundle / SUMS))
        if name not in there:
            raise DataError(f"{path} is missing", why=f"{SUMS} lists it", fix="get the bundle again")
        if sha256_of_file(path) != digest:
            raise DataError(f"{path} is not the file that {SUMS} lists", fix="get the bundle again")
    signed = SIGNATURE in there
    if key is not None:
        if not signed:
            raise DataError(f"{bundle} is not signed", fix="edgekit bundle OUT --to BUNDLE --sign key.pem")
        _prove(bundle, key)
    return Verified(bundle, len(listed), signed, key)


def _prove(bundle: Path, key: Path) -> None:
    """Raises DataError unless the signature is of this key and of these files."""
    hashing, _, verifying = _library()
    if not key.is_file():
        raise DataError(f"there is no key {key}", why="the public key in PEM is needed", fix="--key publisher.pub")
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
        verifier.set_hashing_config(_hashing(hashing, bundle)).verify(bundle, bundle / SIGNATURE)
    except Exception as error:  # as above: every reason is a refusal
        raise DataError(
            f"{bundle} is not signed by {key}", why=_first_line(error), fix="do not use it: ask whoever published it"
        ) from None


def _listed(bundle: Path) -> dict[str, str]:
    """Digests by path, of the list in a bundle."""
    path = bundle / SUMS
    if not path.is_file():
        raise DataError(f"{bundle} is no bundle: it has no {SUMS}", fix="edgekit bundle OUT --to BUNDLE")
    found = [_LINE.fullmatch(line) for line in read_text(path).splitlines()]
    if not found or not all(found):
        raise DataError(f"{path} is damaged", why="a line is no digest and path", fix="get the bundle again")
    return {match[2]: match[1] for match in found if match}


def sha256_of_file(path: Path) -> str:
    """SHA-256 of one file, whatever belongs to it."""
    from hashlib import file_digest

    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _hashing(hashing: Any, bundle: Path) -> Any:
    """Every file but the signature; links are refused."""
    config = hashing.Config().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
    return config.set_ignored_paths(paths=[bundle / SIGNATURE], ignore_git_paths=False)


def _library() -> tuple[Any, Any, Any]:
    fix = "pip install 'edgekit[sign]'"
    if find_spec("model_signing") is None:
        raise BackendMissing("signatures need model-signing", fix=fix)
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise BackendMissing("model-signing cannot be imported", why=str(error), fix=fix) from None
    return hashing, signing, verifying


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
