"""The ``speed`` command: our samplers and training against the plain loops, RecBole's own DiffRec, and the bare products.

``sizes`` generates the data, ``peers`` holds what we are compared with, ``floor`` counts what must be done at least,
``measure`` takes times and memory, ``diffrec`` and ``dreamrec`` say what is timed, ``report`` prints it.
"""

from recbole_diffusion.benchmark.speed.command import add_speed

__all__ = ["add_speed"]
