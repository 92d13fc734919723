"""Observer of a GEMM's input: extremes of every channel, and a bounded sample of rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgekit.quantization.fit import special_weight

SAMPLE_ROWS = 4096  # rows kept per GEMM: 4096 x 1536 float32 is 25 MB


@dataclass
class InputObserver:
    """Streaming statistics of one GEMM input of width K. Feed it batch by batch with `update`.

    `special` tokens (CLS and registers) are always kept, because there are few of them and they behave differently;
    patch tokens are kept at a stride chosen from the expected total.
    """

    special: int  # tokens [0, special) of every image are CLS and registers
    images: int  # expected number of images
    photographs: int  # the first so many of them, whose mean is kept; the others are synthetic
    low: Tensor | None = None  # (K,)
    high: Tensor | None = None  # (K,)
    rows: list[Tensor] = field(default_factory=list)
    kinds: list[Tensor] = field(default_factory=list)  # True where the row is a special token
    owners: list[Tensor] = field(default_factory=list)  # index of the image a row comes from
    seen: int = 0
    total: Tensor | float = 0.0  # (K,) float64, of the photographs' tokens as a fit weighs them
    weight: float = 0.0  # of these tokens

    def update(self, x: Tensor) -> None:
        """Add a batch x (B, N, K)."""
        batch, tokens, width = x.shape
        low, high = x.amin((0, 1)), x.amax((0, 1))
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        if self.seen < self.photographs:
            more = special_weight(tokens, self.special)
            self.total = self.total + x.sum((0, 1), dtype=torch.float64)
            self.total += more * x[:, : self.special].sum((0, 1), dtype=torch.float64)
            self.weight += batch * (tokens + more * self.special)
        stride = max(1, self.images * tokens // SAMPLE_ROWS)
        for image in range(batch):
            first = self.special + (self.seen + image) % stride  # a phase per image, so that all positions are seen
            chosen = torch.cat((torch.arange(self.special), torch.arange(first, tokens, stride)))
            self.rows.append(x[image, chosen].reshape(-1, width).clone())
            self.kinds.append(chosen < self.special)
            self.owners.append(torch.full((len(chosen),), self.seen + image))
        self.seen += batch

    @property
    def mean(self) -> Tensor:
        """Mean (K,) float64 of the photographs' tokens, weighed as `edgekit.quantization.fit.GemmFit` weighs them."""
        return torch.as_tensor(self.total / self.weight)

    def sample(self) -> tuple[Tensor, Tensor, Tensor]:
        """Kept rows (T, K), whether each is a special token (T,), and the image each comes from (T,)."""
        return torch.cat(self.rows), torch.cat(self.kinds), torch.cat(self.owners)
