"""`edgekit verify`: whether a bundle is the one that was published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import options


def verify(
    bundle: Annotated[Path, typer.Argument(help="A folder that `edgekit bundle` made.")],
    *,
    key: Annotated[
        Path | None, typer.Option("--key", help="Public key (PEM) of whoever you trust: the signature is checked.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare every file with the bundle's list of digests and, with --key, the signature; exit 1 when one differs.

    Without a key only damage is found: whoever changes a file can change the list, too.
    """
    import json

    from edgekit.bundle.sign import verify_bundle

    found = verify_bundle(bundle, key)
    if as_json:
        print(
            json.dumps({"bundle": str(bundle), "files": found.files, "signed": found.signed, "key": key and str(key)})
        )
        return
    print(f"{bundle}: {found.files} files, all as listed")
    if found.by is not None:
        print(f"  signed by the owner of {found.by}")
    else:
        print("  signed, not checked: --key publisher.pub checks it" if found.signed else "  not signed")
