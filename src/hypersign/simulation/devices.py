"""Random numbers for the simulations on a device of torch, such as a GPU."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypersign._checks import HypersignError
from hypersign.ops import hadamard_transform
from hypersign.simulation.gaussian import RowSums
from hypersign.simulation.vectors import Source, gaussian_blocks

__all__ = ["DeviceSource"]


class DeviceSource(Source):
    """Random numbers of one stream, as tensors on one device, by its own generator."""

    def __init__(self, device: str, *streams: int) -> None:
        super().__init__(*streams)
        try:
            self._generator = torch.Generator(device).manual_seed(self._key >> 1)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
            raise HypersignError(
                f"device must be one that torch finds here, such as cpu or cuda; got {device!r}"
            ) from error
        self.device = device

    def array(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def normals(self, rows: int, d: int) -> Tensor:
        return torch.randn(rows, d, generator=self._generator, device=self.device)

    def sums(
        self,
        draws: int,
        d: int,
        *,
        scale: NDArray[np.float32] | None = None,
        thresholds: Sequence[float] = (),
        products: bool = False,
    ) -> Iterator[RowSums]:
        last = None
        factor = None if scale is None else self.array(scale)
        for x in gaussian_blocks(d, draws, self):
            x = x if factor is None else x * factor
            size = x.abs()
            over = [size > t for t in thresholds]
            before = torch.cat([x[:1].expand(2, -1) if last is None else last, x]) if products else x
            last = before[-2:].clone()
            values = (
                size.sum(1),
                torch.linalg.vecdot(x, x),
                torch.linalg.vecdot(x, before[1:-1] if products else x),
                torch.linalg.vecdot(x, before[:-2] if products else x),
                torch.stack([(size * level).sum(1) for level in over], 1) if over else x[:, :0],
                torch.stack([level.sum(1) for level in over], 1) if over else x[:, :0],
            )
            yield RowSums(*(value.double().cpu().numpy() for value in values))

    def frame(self, k: int, d: int) -> Tensor:
        vectors = self.normals(k, d).triu_()  # V'
        length = torch.linalg.vecdot(vectors, vectors).sqrt()
        first = vectors.diagonal()
        first += torch.copysign(torch.where(length > 0, length, 1), first)
        gram = vectors @ vectors.T
        gram.diagonal().mul_(0.5)
        mixed = torch.linalg.solve_triangular(gram, vectors[:, :k], upper=True)
        frame = mixed.T @ vectors
        frame.neg_().diagonal().add_(1)
        return frame

    def signs(self, rows: int, d: int) -> Tensor:
        bits = torch.randint(0, 2, (rows, d), generator=self._generator, device=self.device, dtype=torch.int8)
        return bits.float().mul_(-2).add_(1)

    def hadamard(self, x: Any) -> Tensor:
        return hadamard_transform(x)

    def sign_cosine(self, y: Any, x: Any) -> NDArray[np.float64]:
        cosine = y.abs().sum(1) / (y.shape[1] * torch.linalg.vecdot(x, x)).sqrt()
        return cosine.double().cpu().numpy()
