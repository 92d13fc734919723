"""Whole builds, from a checkpoint and photographs to a build folder."""
