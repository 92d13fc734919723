"""`edgekit bundle`: a build folder becomes a folder that can be uploaded and used in an app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import options


def bundle(
    build: Annotated[Path, typer.Argument(metavar="OUT", help="A build folder.")],
    *,
    to: Annotated[Path, typer.Option("--to", help="The folder to make; an earlier bundle there is replaced.")],
    platform: Annotated[
        str | None,
        typer.Option("--platform", help="Of web,python,cpp,android,ios: all that OUT has files for.", metavar="A,B"),
    ] = None,
    sizes: Annotated[
        str | None, typer.Option("--image-size", help="Sizes of OUT: the main one. The first gets the plain names.")
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option("--sign", help="Sign with this private key (elliptic curve, PEM): OpenSSF model signing."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """One folder with models, model card, golden files and a sample per platform that checks itself."""
    import json

    from edgekit.bundle import write_bundle
    from edgekit.bundle.platforms import platforms_of
    from edgekit.cli.options import sizes_of, words_of

    made = write_bundle(
        build,
        to,
        platforms=None if platform is None else platforms_of(words_of(platform)),
        sizes=None if sizes is None else sizes_of(sizes),
        key=sign,
    )
    rows = made.manifest.artifacts
    if as_json:
        print(
            json.dumps(
                {
                    "bundle": str(made.path),
                    "platforms": made.platforms,
                    "files": made.files,
                    "size_mb": made.size_mb,
                    "artifacts": [row.path for row in rows],
                }
            )
        )
        return
    print(f"{made.path}: {made.files} files, {made.size_mb:.0f} MB")
    for row in rows:
        print(f"  {row.name:<22} {row.path}")
    for name in made.platforms:
        print(f"  {name + '/':<22} a sample that checks itself: {made.path / name / 'README.md'}")
