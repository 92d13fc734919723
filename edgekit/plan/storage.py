"""Files of plans: safetensors with a JSON header, written whole, sealed by a digest and checked when they are read."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from edgekit.errors import DataError
from edgekit.files import require_regular, sealed, sealed_path

Tensors = dict[str, np.ndarray]


class StoredPlan(ABC):
    """Base of the plans, each of which says what its file holds; this class alone writes and reads the files."""

    SCHEMA: ClassVar[str]  # "edgekit.plan/1": name and version; the name is the key of the header, too
    TITLE: ClassVar[str]  # for messages
    COMMAND: ClassVar[str]  # of edgekit, that makes such a plan anew

    @property
    @abstractmethod
    def key(self) -> str:
        """Digest of what decided the plan, where a build has made it; else ""."""

    @abstractmethod
    def parts(self) -> tuple[dict[str, Any], Tensors]:
        """The JSON part and the tensors of the plan's file."""

    @classmethod
    @abstractmethod
    def of_parts(cls, meta: dict[str, Any], tensors: Tensors) -> Self:
        """The plan of what `parts` gave; any KeyError, ValueError, TypeError or AttributeError means a damaged file."""

    @abstractmethod
    def require_sound(self) -> None:
        """Raises ValueError for numbers that no plan has: not finite, scales of 0, zero points beyond 8 bits."""

    def save(self, path: Path) -> None:
        """Write `path` atomically, its digest beside it. The same plan gives the same bytes."""
        from safetensors.numpy import save_file

        meta, tensors = self.parts()
        with sealed_path(path) as temporary:
            save_file(
                {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
                temporary,
                metadata={_header(self.SCHEMA): json.dumps({"schema": self.SCHEMA, **meta}, sort_keys=True)},
            )

    @classmethod
    @abstractmethod
    def key_of(cls, meta: dict[str, Any]) -> str:
        """`key` of the plan whose JSON part is given."""

    @classmethod
    def key_in(cls, path: Path) -> str:
        """`key` of the plan in a file, of which only the header is read; "" where it is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            require_regular(path)
            with safe_open(path, framework="numpy") as file:
                return cls.key_of(json.loads((file.metadata() or {})[_header(cls.SCHEMA)]))
        except (OSError, KeyError, ValueError, TypeError, RecursionError, SafetensorError):
            return ""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a plan that `save` wrote.

        Raises:
            DataError: missing, another file than its digest describes, no plan, or numbers that none has (NaN).
        """
        from safetensors import SafetensorError, safe_open

        try:
            if damage := sealed(path):
                raise ValueError(damage)
            with safe_open(path, framework="numpy") as file:
                meta = json.loads((file.metadata() or {})[_header(cls.SCHEMA)])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            if meta["schema"] != cls.SCHEMA:
                raise ValueError(f"its schema is {meta['schema']!r}, this edgekit reads {cls.SCHEMA!r}")
            plan = cls.of_parts(meta, tensors)
            plan.require_sound()
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise DataError(
                f"{path} is no readable {cls.TITLE}",
                why=str(error)[:300],
                fix=f"edgekit {cls.COMMAND} --model MODEL --out {path.parent.parent}",
            ) from None
        return plan


def _header(schema: str) -> str:
    return schema.partition("/")[0]
