"""RecBole's own diffusion models, kept reachable under names of their own so that anyone can compare."""

from recbole.model.general_recommender.diffrec import DiffRec
from recbole.model.general_recommender.ldiffrec import LDiffRec


class StockDiffRec(DiffRec):
    """RecBole 1.2.1's DiffRec, unchanged."""


class StockLDiffRec(LDiffRec):
    """RecBole 1.2.1's LDiffRec, unchanged."""
