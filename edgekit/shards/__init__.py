"""Shards: a long list of images cut into parts, each a pure function of a model and its images, run here or by Ray."""

from __future__ import annotations

from edgekit.shards.crew import Crew
from edgekit.shards.plan import Shard, cut
from edgekit.shards.run import Ran, run_shards

__all__ = ["Crew", "Ran", "Shard", "cut", "run_shards"]
