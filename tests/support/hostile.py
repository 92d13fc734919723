"""How a case of the hostile campaign is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgekit.errors import BackendMissing, DataError, EdgekitError, ExportError, RecipeError

OURS = (DataError, RecipeError, BackendMissing, ExportError)


def refused(call: Callable[[], Any]) -> EdgekitError:
    """The error that a call ends in: one of edgekit's, which says what, and why or what to do."""
    with pytest.raises(EdgekitError) as caught:
        call()
    error = caught.value
    assert isinstance(error, OURS), f"{type(error).__name__} is none that a caller can catch by its kind"
    assert error.what.strip(), "it does not say what is wrong"
    assert error.why.strip() or error.fix.strip() or len(error.what) > 20, f"it says neither why nor a fix: {error}"
    assert "it is a bug" not in str(error), str(error)
    assert len(str(error)) < 20_000, "nobody reads so long an error"
    return error
