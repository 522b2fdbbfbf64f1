"""One module per command of ``recbole-diffusion``: its options and examples in ``add``, its work in ``_run``.

The modules import torch and RecBole inside ``_run`` only, so that ``--help`` answers at once.
"""
