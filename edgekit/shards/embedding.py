"""Embeds shards: class tokens as Parquet, patch tokens, which are large, as safetensors beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from edgekit.artifact import OUTPUT_NAMES, Frozen
from edgekit.errors import DataError
from edgekit.shards import files
from edgekit.shards.model import Model, Run, fingerprint, open_model
from edgekit.shards.plan import Shard
from edgekit.shards.reading import batches, read_ahead
from edgekit.shards.task import Advance, Done, Failure, Maker

Tokens = Literal["cls", "patches", "all"]
FEATURES, TOKENS = "features", "tokens"
SIZES: dict[Tokens, int] = {"cls": 4096, "patches": 256, "all": 256}  # images per shard: tokens of one are in memory


@dataclass(frozen=True)
class Embeddings:
    """Readable images of a shard: `places` in it, `digests` of their bytes, `cls` (n, D), `tokens` (n, ..., D)."""

    places: tuple[int, ...]
    digests: tuple[str, ...]
    cls: np.ndarray
    tokens: np.ndarray | None
    failures: tuple[Failure, ...]


class EmbedTask(Frozen):
    """Class tokens of images below `root` by `model`, `batch` per call; with "patches" or "all" those tokens, too."""

    root: Path
    model: Model
    tokens: Tokens = "cls"
    batch: Annotated[int, Field(ge=1)] = 1

    def digest(self) -> str:
        """The digest of all that decides the numbers."""
        work = {"embed": 1, "model": fingerprint(self.model), "tokens": self.tokens, "batch": self.batch}
        return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()

    def folders(self) -> tuple[str, ...]:
        """Folders of the output that hold files of shards."""
        return (FEATURES,) if self.tokens == "cls" else (TOKENS, FEATURES)

    def results(self) -> tuple[str, ...]:
        """No results but the index."""
        return ()

    def files(self, shard: Shard) -> tuple[str, ...]:
        """The Parquet file is written last: with it the shard is whole."""
        features = f"{FEATURES}/{shard.name}.parquet"
        return (features,) if self.tokens == "cls" else (f"{TOKENS}/{shard.name}.safetensors", features)

    def kept(self, shard: Shard, out: Path) -> Done | None:
        """The shard on disk when it is of this model and these images."""
        *tokens, features = self.files(shard)
        note = files.note_of_table(out / features)
        if note is None or note.key != shard.key:
            return None
        if any((beside := files.note_of_tensors(out / name)) is None or beside.key != shard.key for name in tokens):
            return None
        return Done(index=shard.index, images=note.images, failures=note.failures)

    def open(self, threads: int | None) -> Maker:
        """Load the model. Raises BackendMissing or DataError."""
        files.require_pyarrow()
        run = open_model(self.model, threads)

        def make(shard: Shard, out: Path, progress: Advance) -> Done:
            found = self.embed(run, shard.paths, threads, progress)
            note = files.Note(key=shard.key, images=len(found.places), failures=found.failures)
            names = self.files(shard)
            if found.tokens is not None:
                files.write_tensors(out / names[0], {TOKENS: found.tokens}, note)
            columns: dict[str, Sequence[str]] = {"path": [shard.paths[i] for i in found.places]}
            if shard.labels is not None:
                columns["label"] = [shard.labels[i] for i in found.places]
            columns["digest"] = found.digests
            files.write_table(out / names[-1], columns, {OUTPUT_NAMES[1]: found.cls}, note)
            return Done(index=shard.index, images=note.images, failures=note.failures)

        return make

    def embed(self, run: Run, paths: Sequence[str], threads: int | None, progress: Advance) -> Embeddings:
        """Features of images, in memory: only the tokens that are kept."""
        failures: list[Failure] = []
        places, digests, cls, tokens = [], [], [], []

        def keep(pixel_values: np.ndarray, count: int) -> None:
            outputs = run(pixel_values)
            cls.append(np.asarray(outputs[OUTPUT_NAMES[1]], np.float32)[:count])
            if self.tokens != "cls":
                tokens.append(self._kept(np.asarray(outputs[OUTPUT_NAMES[0]], np.float32))[:count])

        read = read_ahead(self.root, paths, [self.model.preprocess], batch=self.batch, threads=threads or 1)
        for group in batches(read, self.batch, failures):
            keep(np.stack([ready.pixels[0] for ready in group]), len(group))
            places += [ready.place for ready in group]
            digests += [ready.digest for ready in group]
            progress(len(places) + len(failures))
        if not places:  # no row, but the columns' width
            keep(np.zeros((self.batch, 3, *self.model.preprocess.input_size), np.float32), 0)
        return Embeddings(
            tuple(places),
            tuple(digests),
            np.concatenate(cls),
            np.concatenate(tokens) if tokens else None,
            tuple(failures),
        )

    def _kept(self, hidden: np.ndarray) -> np.ndarray:
        """The kept tokens: (B, rows, columns, D) patches, or all (B, 1 + R + P, D)."""
        if self.tokens == "all":
            return hidden
        rows, columns = self.model.preprocess.grid
        if hidden.shape[1] < 1 + rows * columns:
            raise DataError(
                f"{self.model.name} put out {hidden.shape[1]} tokens", why=f"1 + {rows} * {columns} or more are needed"
            )
        return hidden[:, hidden.shape[1] - rows * columns :].reshape(len(hidden), rows, columns, -1)
