"""Several networks that vote."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    """Networks whose logits are added, each times its vote.

        y = sum of v_e f_e(x)

    Args:
        members: networks with the same inputs and outputs.
        votes: v, one number per member; equal ones that add up to 1 if None.

    Raises:
        HypersignError: there is no member, or not one vote per member.

    Source: Zhu, Dong & Su 2019 (BENN, arXiv 1806.07550).

    >>> ensemble = Ensemble([nn.Identity(), nn.Identity()], votes=[1.0, 2.0])
    >>> ensemble(torch.ones(1))
    tensor([3.])
    """

    votes: Tensor

    def __init__(self, members: Sequence[nn.Module], votes: Sequence[float] | None = None) -> None:
        super().__init__()
        votes = [1 / len(members)] * len(members) if votes is None and members else votes
        if not members or votes is None or len(votes) != len(members):
            raise HypersignError(f"an ensemble needs members, and one vote for each; got {len(members)} and {votes}")
        self.members = nn.ModuleList(members)
        self.register_buffer("votes", torch.tensor([float(vote) for vote in votes]))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the members' logits times their votes, shape `(N, classes)`."""
        parts = [vote * member(x) for vote, member in zip(self.votes, self.members, strict=True)]
        return torch.stack(parts).sum(0)
