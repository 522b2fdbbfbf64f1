"""Which t to train on: uniformly drawn, or in proportion to how large the loss at t has been.

Both samplers return, with each t, the weight T p_t to divide its loss by: the mean over a batch of loss / weight is
then an unbiased estimate of the mean of the loss over all T steps, however t was drawn.
"""

import torch
from torch import Tensor

from recbole_diffusion.diffusion._tables import DoubleTables


class UniformTimesteps(DoubleTables):
    """t ~ U{0..T-1} (Ho et al. 2020, Algorithm 1).

    Args:
        n_steps: T, at least 1.

    Raises:
        ValueError: ``n_steps`` below 1.
    """

    _anchor: Tensor

    def __init__(self, n_steps: int) -> None:
        super().__init__()
        self.n_steps = _at_least_one("n_steps", n_steps)
        # Holds nothing; says on which device the module is.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n timesteps and their weights.

        Returns:
            t, LongTensor [n], and weight = T p_t, here ones [n].
        """
        device = self._anchor.device
        drawn_on = device if generator is None else generator.device
        t = torch.randint(self.n_steps, (n,), generator=generator, device=drawn_on).to(device)
        return t, torch.ones(n, device=device)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Nothing to learn from the losses; here so that both samplers are used alike."""


class ImportanceTimesteps(DoubleTables):
    """p_t proportional to sqrt(mean of L_t^2) over recent losses (Nichol & Dhariwal 2021, Eq. 18; DiffRec, section
    3.3).

    Uniform until every t has ``history`` losses. All state is tensors and every operation vectorised, so that neither
    drawing nor updating waits for the device.

    Args:
        n_steps: T, at least 1.
        history: how many of the last losses of each t count, at least 1.
        uniform_prob: the share of draws that stays uniform, in [0, 1], so that no t is ever forgotten.

    State (saved with the model):
        losses: float64 [T, history], a ring buffer for each t.
        seen: LongTensor [T], how many losses each t has had in all.

    Raises:
        ValueError: an argument outside its range.
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, n_steps: int, history: int = 10, uniform_prob: float = 1e-3) -> None:
        super().__init__()
        self.n_steps = _at_least_one("n_steps", n_steps)
        self.history = _at_least_one("history", history)
        if not 0 <= uniform_prob <= 1:
            raise ValueError(f"uniform_prob={uniform_prob!r} must be in [0, 1]")
        self.uniform_prob = float(uniform_prob)
        self.register_buffer("losses", torch.zeros(n_steps, history, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(n_steps, dtype=torch.long))

    def probabilities(self) -> Tensor:
        """p_t, float64 [T], summing to 1."""
        norm = torch.linalg.vector_norm(self.losses, dim=1)  # sqrt(history) times the root of the mean square
        total = norm.sum()
        ready = (self.seen.min() >= self.history) & (total > 0)
        p = norm * ((1.0 - self.uniform_prob) / total) + self.uniform_prob / self.n_steps
        return torch.where(ready, p, 1.0 / self.n_steps)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n timesteps and their weights.

        Returns:
            t, LongTensor [n], and weight = T p_t [n] in torch's default type: divide the losses by it.
        """
        p = self.probabilities()
        drawn_on = p.device if generator is None else generator.device
        u = torch.rand(n, generator=generator, device=drawn_on, dtype=torch.float64).to(p.device)
        # By inverting the cumulative sum: torch.multinomial may wait for the device to check its input.
        cdf = p.cumsum(0)
        t = torch.searchsorted(cdf, u * cdf[-1], right=True).clamp(max=self.n_steps - 1)
        return t, (p[t] * self.n_steps).to(torch.get_default_dtype())

    @torch.no_grad()
    def update(self, t: Tensor, losses: Tensor) -> None:
        """Add a batch of losses; of several with the same t the later ones are the newer.

        Args:
            t: LongTensor [n].
            losses: [n], before the division by the weight. One that is not finite counts as 0: a step that mixed
                precision skips must not spoil the probabilities for good.
        """
        # RecBole's port walks through the batch in Python and reads every loss back from the device. Here each slot of the ring
        # buffers finds its newest loss by itself: those of t are numbered from 0, number m is in slot m mod history, and the
        # batch, sorted by t, brings the numbers from `seen` on.
        losses = torch.nan_to_num(losses.detach().to(self.losses.dtype), nan=0.0, posinf=0.0, neginf=0.0)
        order = torch.argsort(t, stable=True)
        counts = torch.zeros_like(self.seen).scatter_add_(0, t, torch.ones_like(t))
        begin, seen = counts.cumsum(0).sub_(counts)[:, None], self.seen[:, None]
        newest = (self.seen + counts)[:, None] - 1
        number = newest - (newest - torch.arange(self.history, device=t.device)) % self.history
        index = order[(begin + number - seen).clamp_(0, len(t) - 1)]
        self.losses.copy_(torch.where(number >= seen, losses[index], self.losses))
        self.seen.add_(counts)


def _at_least_one(key: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key}={value!r} must be an integer of at least 1")
    return value
