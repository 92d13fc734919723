"""Runs edgekit from a checkout: python cli.py build --model demo --out OUT."""

from edgekit.cli import main

raise SystemExit(main())
