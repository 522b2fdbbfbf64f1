"""What items are called, where the data set says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd


def item_names(config: Any, dataset: Any) -> list[str]:
    """A name for every item of a data set, in the order of its internal ids; the padding item is left out.

    It is the first column of ``<dataset>.item`` that has "title" or "name" in its own name, such as ml-100k's
    ``movie_title``, whether or not ``load_col`` loads it; an item without one, or a data set without such a column, has its id.
    """
    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
    file = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not file.is_file():
        return tokens
    table = pd.read_csv(file, sep=config["field_separator"], dtype=str, encoding=config["encoding"], keep_default_na=False)
    table.columns = [column.partition(":")[0] for column in table.columns]
    column = next((c for c in table.columns if "title" in c.lower() or "name" in c.lower()), None)
    if column is None or dataset.iid_field not in table.columns:
        return tokens
    named = dict(zip(table[dataset.iid_field], table[column], strict=True))
    return [named.get(token) or token for token in tokens]
