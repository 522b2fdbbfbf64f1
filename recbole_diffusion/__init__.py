"""Diffusion models for recommendation, as a plugin of RecBole.

Importing the package repairs RecBole on today's libraries and makes our models known to it, so that stock entry points
such as ``recbole.quick_start.run_recbole(model="DreamRec")`` find them.
"""

from recbole_diffusion import compat

# RecBole itself does not import on today's numpy, ray and setuptools: the repairs come before anything that needs it.
compat.apply()

from recbole_diffusion.data import item_lists  # noqa: E402

item_lists.repair()

from recbole_diffusion.checkpoint import load_data_and_model  # noqa: E402
from recbole_diffusion.quick_start import run_recbole_diffusion  # noqa: E402
from recbole_diffusion.registry import register  # noqa: E402
from recbole_diffusion.version import __version__  # noqa: E402

register()

__all__ = ["__version__", "load_data_and_model", "register", "run_recbole_diffusion"]
