"""Tests of edgekit; the package marker lets test files import `tests.support.models`."""
