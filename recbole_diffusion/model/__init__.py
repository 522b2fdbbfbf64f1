"""The models: RecBole's contract on one side, the diffusion library on the other.

Importing it imports RecBole, hence installs the plugin: a model's base class must be repaired before the model is defined.
"""

import recbole  # noqa: F401
