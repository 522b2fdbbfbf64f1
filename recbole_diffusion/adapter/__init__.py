"""The one place where we meet RecBole: repairs, settings, model lookup, data loaders, trainers, checkpoints, metrics.

The uses (``run``, ``benchmark``, ``speed``, ``analysis``, ``cli``) import it; the models and the mathematics never do.
Importing it imports RecBole, hence installs the plugin, before any module of the package runs.
"""

import recbole  # noqa: F401


def register() -> None:
    """Makes RecBole find our models, settings, data loaders and checkpoints. Importing the package has done so already."""
    from recbole_diffusion.adapter.install import install

    install()
