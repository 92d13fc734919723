"""Runs the command line: python -m edgekit."""

from __future__ import annotations

from edgekit.cli import main

raise SystemExit(main())
