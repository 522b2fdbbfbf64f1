"""What RecBole's trainers cannot do: a training curve, timings, and going on after a kill."""

from recbole_diffusion.adapter.trainer.tracked import Tracked, tracked

__all__ = ["Tracked", "tracked"]
