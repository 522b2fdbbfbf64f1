"""What RecBole's trainers cannot do: a training curve, timings, and going on after a kill."""

from recbole_diffusion.trainer.tracked import Tracked, tracked

__all__ = ["Tracked", "tracked"]
