"""`edgekit models` and `inspect`: what there is to build from, and what was built."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli import options

if TYPE_CHECKING:
    from edgekit.artifact import Artifact
    from edgekit.models.zoo import LoadedModel
    from edgekit.report.tables import Table


def models(*, as_json: options.Json = False) -> None:
    """The models edgekit knows: family, name, size of the FP32 weights, licence, what is measured, and the source.

    Drift and latency are measured of these very weights, see docs/benchmarks. Parity is that of the architecture with
    its own library, on random weights.
    """
    from edgekit.models.zoo import entries

    if as_json:
        print(
            json.dumps(
                [
                    {
                        "name": e.name,
                        "family": e.family,
                        "aliases": e.aliases,
                        "parameters": e.parameters,
                        "size_mb": e.size_mb,
                        "measured": e.measured,
                        "sources": [source.describe() for source in e.sources],
                        "licence": e.licence,
                        "origin": e.origin,
                        "sha256": e.sha256,
                        "heads": e.heads,
                    }
                    for e in entries()
                ],
                indent=2,
            )
        )
        return
    from rich.table import Table

    from edgekit.cli.show import terminal

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("family", no_wrap=True)
    table.add_column("model", no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column("measured", no_wrap=True)
    table.add_column("source", overflow="fold")  # the only one that gives way on a narrow terminal
    for entry in entries():
        names = entry.name + "".join(f" ({alias})" for alias in entry.aliases)
        table.add_row(
            entry.family,
            names,
            f"{entry.size_mb:.1f}",
            f"{entry.parameters / 1e6:.1f} M",
            entry.licence,
            entry.measured,
            entry.sources[0].describe(),
        )
    console = terminal()
    console.print(table)
    console.print(
        "\n`edgekit inspect NAME` says more. "
        "A path works as well: .pth, .ckpt, .safetensors, .onnx, or a Hugging Face folder."
    )


def inspect(
    target: Annotated[str, typer.Argument(help="A model name, a checkpoint, an artifact or a build folder.")],
    *,
    as_json: options.Json = False,
) -> None:
    """Show what a model, an artifact or a build folder holds, and what of an artifact runs where on this machine.

    With --json an artifact's whole audit: GEMMs and attentions by kind, what fell back, the ops of the graph that runs.
    """
    from edgekit.models import zoo

    path = zoo.path_of(target)
    build = path if path is not None and (path / "manifest.json").is_file() else None
    facts = _build_folder(build) if build else _file_or_model(target, path)
    if path is None and Path(target).exists():
        print(f"{target} is a model of the zoo; the folder is ./{target}", file=sys.stderr)
    if as_json:
        print(json.dumps(facts, indent=2, default=str))
        return
    from edgekit.cli.show import terminal

    console = terminal()
    if build:
        from edgekit.backends.placement import placement
        from edgekit.manifest import Manifest
        from edgekit.report.tables import build_tables

        manifest = Manifest.read(build)
        model, cpu = manifest.model.get("name"), manifest.host.get("cpu")
        console.print(f"build of [bold]{model}[/], recipe {manifest.recipe_digest}, {cpu}")
        for table in build_tables(manifest).parts:
            console.print(table)
        for row in manifest.artifacts:
            if row.audit:
                console.print(f"[bold]{row.name}[/]: {placement(row.audit)}", soft_wrap=True)
        return
    facts.pop("audit", None)  # `placement` says it in words
    for table in _tables(facts):
        console.print(table)


def _tables(facts: dict[str, Any]) -> list[Table]:
    """Facts as a table of names and values, then one for each list of records: the tensors of an artifact."""
    from edgekit.report.tables import Table

    records = {key: value for key, value in facts.items() if isinstance(value, list) and _are_records(value)}
    plain = [row for key, value in facts.items() if key not in records for row in _flat(key, value)]
    found = [Table(("", " "), tuple(plain), words=("", " "), unbroken=("",))]
    for key, rows in records.items():
        columns = tuple(dict.fromkeys(name for row in rows for name in row))
        cells = tuple(tuple(_words(row.get(name, "")) for name in columns) for row in rows)
        found.append(Table(columns, cells, title=key, words=columns, unbroken=columns))
    return found


def _are_records(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _flat(key: str, value: Any) -> list[tuple[str, str]]:
    """Rows (name, value) of a fact; one of several parts has a row per part."""
    if isinstance(value, dict):
        return [row for part, inner in value.items() for row in _flat(f"{key} {part}", inner)]
    return [(key, _words(value))]


def _words(value: Any) -> str:
    """A value in a cell: lists with commas, nothing for what is not there."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return "" if value is None else str(value)


def _build_folder(path: Path) -> dict[str, Any]:
    from edgekit.files import read_text
    from edgekit.manifest import Manifest

    Manifest.read(path)  # refuse what is no manifest
    return json.loads(read_text(path / "manifest.json"))


def _file_or_model(target: str, path: Path | None) -> dict[str, Any]:
    """An artifact by its own account, a checkpoint by loading it, a name by its zoo entry."""
    from dataclasses import asdict

    from edgekit.errors import DataError
    from edgekit.models import zoo

    if path is None:
        entry = zoo.find(target)
        return {
            "name": entry.name,
            "family": entry.family,
            "size_mb": entry.size_mb,
            "parameters": entry.parameters,
            "measured": entry.measured,
            "licence": entry.licence,
            "origin": entry.origin,
            "sha256": entry.sha256,
            "tasks": ", ".join(entry.heads),
            **{f"source {i + 1}": source.describe() for i, source in enumerate(entry.sources)},
            **asdict(entry.config),
        }
    try:
        from edgekit.workflows.compare import artifacts_in

        artifact = artifacts_in(path)[0]
    except DataError:
        loaded = zoo.load(target)
        return _checkpoint(loaded)
    return artifact.model_dump(mode="json") | _placed(artifact)


def _checkpoint(loaded: LoadedModel) -> dict[str, Any]:
    """Family, heads and licence of a checkpoint, what of it edgekit does not know, and its architecture."""
    from dataclasses import asdict

    from edgekit.heads.own import described_by, family_of, own_heads, unknown

    heads = own_heads(loaded)
    rest = ", ".join(f"{group}.* ({size})" for group, size in unknown(loaded).items())
    return {
        "name": loaded.name,
        "family": family_of(loaded),
        "parameters": loaded.model.config.parameters,
        "keys": loaded.layout,
        "licence": loaded.licence,
        "origin": loaded.origin,
        "sha256": loaded.sha256,
        "tasks": ", ".join(heads),
        **{f"head {name}": described_by(loaded, name) for name in heads},
        **({"not known": rest} if rest else {}),
        **asdict(loaded.model.config),
    }


def _placed(artifact: Artifact) -> dict[str, Any]:
    """Audit of an artifact in its runtime here, in words and in numbers, or why that cannot be said."""
    from edgekit.backends import get_backend
    from edgekit.backends.placement import placement
    from edgekit.errors import EdgekitError

    try:
        audit = get_backend(artifact.format).audit(artifact)
    except EdgekitError as error:
        return {"placement": f"unknown: {error}"}
    return {"placement": f"{audit.get('runtime', artifact.format)}: {placement(audit)}", "audit": audit}
