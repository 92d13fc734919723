"""Shards: a long list of images cut into parts, each a pure function of a model and its images, run here or by Ray."""

from __future__ import annotations

from edgekit.shards.plan import Shard, cut
from edgekit.shards.run import Ran, run_shards
from edgekit.shards.workers import WorkerPool

__all__ = ["Ran", "Shard", "WorkerPool", "cut", "run_shards"]
