"""Drift in shards: first the sums of the reference's mean token, then every candidate's terms against it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
from typing_extensions import override

from edgekit.artifact import OUTPUT_NAMES, Artifact, Frozen, Preprocess
from edgekit.errors import DataError
from edgekit.measure.terms import Centre, Terms, patch_sum, terms_of
from edgekit.shards import files
from edgekit.shards.model import Run, fingerprint, open_model
from edgekit.shards.plan import Shard
from edgekit.shards.reading import Ready, batches, read_ahead
from edgekit.shards.task import Advance, Done, Failure, Maker

CENTRE, TERMS = "centre", "terms"
REPORT, TABLE = "drift.json", "images.parquet"
SIZE = 1024  # images per shard
_COMMON = ("reference_cls", "norms")  # terms that all candidates share
_FIELDS = tuple(field.name for field in fields(Terms))


class _OneFile(Frozen):
    """Base of both tasks: one safetensors file per shard, of images below `root`, one per call."""

    root: Path
    reference: Artifact

    def _folder(self) -> str:
        raise NotImplementedError

    def folders(self) -> tuple[str, ...]:
        """Folders of the output that hold files of shards."""
        return (self._folder(),)

    def files(self, shard: Shard) -> tuple[str, ...]:
        """The one file of a shard."""
        return (f"{self._folder()}/{shard.name}.safetensors",)

    def kept(self, shard: Shard, out: Path) -> Done | None:
        """The shard on disk when it is of these models and images."""
        note = files.note_of_tensors(out / self.files(shard)[0])
        if note is None or note.key != shard.key:
            return None
        return Done(index=shard.index, images=note.images, failures=note.failures)

    @property
    def patches(self) -> int:
        """The number of patches of an image."""
        rows, columns = self.reference.preprocess.grid
        return rows * columns


class CentreTask(_OneFile):
    """`cls` (n, D) float32 and `patch_sums` (n, D) float64 of the reference."""

    @override
    def _folder(self) -> str:
        return "sums"

    def results(self) -> tuple[str, ...]:
        """No results but the index."""
        return ()

    def digest(self) -> str:
        """The digest of all that decides the numbers."""
        return _digest({"centre": 1, "model": fingerprint(self.reference)})

    def open(self, threads: int | None) -> Maker:
        """Load the reference. Raises BackendMissing or DataError."""
        run, transform = open_model(self.reference, threads), self.reference.preprocess

        def make(shard: Shard, out: Path, progress: Advance) -> Done:
            failures: list[Failure] = []
            cls, sums = [], []
            for (ready,) in batches(
                read_ahead(self.root, shard.paths, [transform], batch=4, threads=threads or 1), 1, failures
            ):
                tokens = _tokens(run, ready.pixels[0], self.reference, shard.paths[ready.place], self.patches)
                cls.append(tokens[0])
                sums.append(patch_sum(tokens, self.patches))
                progress(len(cls) + len(failures))
            width = _width(self.reference)
            note = files.Note(key=shard.key, images=len(cls), failures=tuple(failures))
            tensors = {
                "cls": np.array(cls, np.float32).reshape(-1, width),
                "patch_sums": np.array(sums).reshape(-1, width),
            }
            files.write_tensors(out / self.files(shard)[0], tensors, note)
            return Done(index=shard.index, images=note.images, failures=note.failures)

        return make

    def centre(self, out: Path, shards: tuple[Shard, ...]) -> Centre:
        """The mean tokens of all images, from the shards below `out`."""
        paths = [out / self.files(shard)[0] for shard in shards]
        cls, sums = (files.read_joined(paths, name) for name in ("cls", "patch_sums"))
        return Centre.of(cls, sums, self.patches)


class DriftTask(_OneFile):
    """Terms of each candidate against the reference; a worker holds all of these models."""

    candidates: tuple[Artifact, ...]
    centre_cls: tuple[float, ...]
    centre_patch: tuple[float, ...]

    @override
    def _folder(self) -> str:
        return TERMS

    def results(self) -> tuple[str, ...]:
        """The first pass, and what is summed up."""
        return (CENTRE, REPORT, TABLE)

    def digest(self) -> str:
        """The digest of all that decides the numbers."""
        return _digest(
            {
                "drift": 1,
                "model": fingerprint(self.reference),
                "centre": [self.centre_cls, self.centre_patch],
                "candidates": [fingerprint(candidate) for candidate in self.candidates],
            }
        )

    def open(self, threads: int | None) -> Maker:
        """Load all models. Raises BackendMissing or DataError."""
        models = (self.reference, *self.candidates)
        runs = [open_model(model, threads) for model in models]
        transforms = list(dict.fromkeys(model.preprocess for model in models))
        centre = Centre(np.array(self.centre_cls), np.array(self.centre_patch))

        def compared(ready: Ready, path: str) -> list[Terms]:
            tokens = [
                _tokens(run, ready.pixels[transforms.index(model.preprocess)], model, path, self.patches)[None]
                for run, model in zip(runs, models, strict=True)
            ]
            return [terms_of(tokens[0], other, self.patches, centre) for other in tokens[1:]]

        def make(shard: Shard, out: Path, progress: Advance) -> Done:
            failures: list[Failure] = []
            found: list[list[Terms]] = [[_no_terms(_width(self.reference), self.patches)] for _ in self.candidates]
            read = read_ahead(self.root, shard.paths, transforms, batch=4, threads=threads or 1)
            for (ready,) in batches(read, 1, failures):
                for terms, one in zip(found, compared(ready, shard.paths[ready.place]), strict=True):
                    terms.append(one)
                progress(len(found[0]) - 1 + len(failures))
            note = files.Note(key=shard.key, images=len(found[0]) - 1, failures=tuple(failures))
            tensors = {}
            for index, terms in enumerate(found):
                whole = Terms.concatenated(terms)
                for name in _FIELDS:
                    tensors[name if name in _COMMON else f"{index}.{name}"] = getattr(whole, name)
            files.write_tensors(out / self.files(shard)[0], tensors, note)
            return Done(index=shard.index, images=note.images, failures=note.failures)

        return make

    def terms(self, out: Path, shards: tuple[Shard, ...], index: int) -> Terms:
        """The terms of all images and candidate number `index`, from the shards below `out`."""
        paths = [out / self.files(shard)[0] for shard in shards]
        names = (name if name in _COMMON else f"{index}.{name}" for name in _FIELDS)
        return Terms(*(files.read_joined(paths, name) for name in names))


def _tokens(run: Run, pixels: np.ndarray, model: Artifact, path: str, patches: int) -> np.ndarray:
    """The tokens (N, D) of one image. Raises DataError where they are too few, or not finite."""
    tokens: np.ndarray = np.asarray(run(pixels[None])[OUTPUT_NAMES[0]], np.float32)[0]
    if len(tokens) < 1 + patches:
        raise DataError(f"{model.name} put out {len(tokens)} tokens", why=f"{1 + patches} or more are needed")
    if not np.isfinite(tokens).all():
        bad = int((~np.isfinite(tokens)).sum())
        raise DataError(f"{model.name} put out {bad} values that are not finite (NaN or infinite)", why=f"of {path}")
    return tokens


def _width(model: Artifact) -> int:
    """Channels of a token, by the artifact's own description."""
    return int(next(spec.shape[-1] for spec in model.outputs if spec.name == OUTPUT_NAMES[0]))


def _no_terms(width: int, patches: int) -> Terms:
    """Terms of no image, so that a shard without a readable one has the same tensors."""
    nothing = np.zeros((0, 1 + patches, width), np.float32)
    return terms_of(nothing, nothing, patches, Centre(np.zeros(width), np.zeros(width)))


def _digest(work: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def same_size(reference: Artifact, candidate: Artifact) -> Preprocess:
    """The candidate's preprocessing. Raises DataError where the two take images of different sizes."""
    if candidate.preprocess.input_size != reference.preprocess.input_size:
        raise DataError(
            f"{candidate.name} takes {candidate.preprocess.input_size} pixels, {reference.name} "
            f"{reference.preprocess.input_size}",
            fix="--reference ARTIFACT",
        )
    return candidate.preprocess
