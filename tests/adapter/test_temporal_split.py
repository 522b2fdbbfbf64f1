"""The protocol temporal-80-10-10 for sequential models, against the interactions themselves."""

import numpy as np
import pytest
from recbole.data import create_dataset, data_preparation

from recbole_diffusion.adapter.config import build_config
from toy import COLUMNS, QUIET, write_inter

USERS, ITEMS = 30, 25


def interactions(days):
    """``{user: [(time, item), ...]}`` in time order, ties in file order; times are whole days, so many users share one."""
    draw = np.random.default_rng(1)
    content = {}
    for user in range(USERS):
        times = np.sort(draw.integers(0, days, draw.integers(3, 15)))
        content[user] = [(int(time), int(item)) for time, item in zip(times, draw.integers(1, ITEMS, len(times)), strict=True)]
    return content


def split(folder, days, model="SASRec"):
    """The interactions, and the rows ``(user, history, target, time)`` of the three parts, in the source's ids."""
    content = interactions(days)
    write_inter(folder, "t", [(user, item, time) for user, rows in content.items() for time, item in rows])
    base = QUIET | COLUMNS | {"data_path": str(folder), "MAX_ITEM_LIST_LENGTH": 20}
    config = build_config(model, "t", None, base | {"protocol": "temporal-80-10-10"})
    parts = []
    for loader in data_preparation(config, create_dataset(config)):
        data = loader._dataset
        feat, names = data.inter_feat, lambda field, ids, data=data: data.id2token(field, ids)
        parts.append(
            [
                (
                    int(names("user_id", feat["user_id"][row])),
                    [int(i) for i in names("item_id", feat["item_id_list"][row][: feat["item_length"][row]].numpy())],
                    int(names("item_id", feat["item_id"][row])),
                    int(feat["timestamp"][row]),
                )
                for row in range(len(data))
            ]
        )
    return content, parts


@pytest.mark.parametrize("days", [7, 40, 10_000])
def test_parts_follow_each_other_in_time(days, tmp_path):
    content, (train, valid, test) = split(tmp_path, days)
    times = [[time for *_, time in part] for part in (train, valid, test)]
    assert all(times)
    assert max(times[0]) < min(times[1]) and max(times[1]) < min(times[2])  # also where many share a day
    # Every interaction but each user's first is a target once, with what the user had before it as history.
    rows = sorted((user, tuple(history), item, time) for part in (train, valid, test) for user, history, item, time in part)
    expected = [
        (user, tuple(item for _, item in rows_of[:place]), rows_of[place][1], rows_of[place][0])
        for user, rows_of in content.items()
        for place in range(1, len(rows_of))
    ]
    assert rows == sorted(expected)
    # Training holds nothing of later than its last moment, histories included.
    cut = max(times[0])
    for user, history, _, _ in train:
        assert len(history) < sum(time <= cut for time, _ in content[user])
    # Parts are of the asked sizes, but that a day at a cut goes whole into the later part.
    for later, share in ((len(valid) + len(test), 0.2), (len(test), 0.1)):
        first_day = sum(time == sorted(sum(times, []))[-later] for time in sum(times, []))
        assert later - first_day < share * len(rows) + 2 and later > share * len(rows) - 2


def test_a_part_without_a_moment_of_its_own_is_refused(tmp_path):
    write_inter(tmp_path, "t", [(user, item, 1) for user in range(9) for item in range(1, 6)])
    config = build_config("SASRec", "t", None, QUIET | COLUMNS | {"data_path": str(tmp_path), "protocol": "temporal-80-10-10"})
    with pytest.raises(ValueError, match="so many interactions share one 'timestamp' that a part would be empty"):
        data_preparation(config, create_dataset(config))


def test_moments_are_told_apart_by_exact_times(tmp_path):
    """One second apart: as float32, in steps of 128 s, all would be one moment. RecBole drops the column as it splits."""
    write_inter(tmp_path, "t", [(i % 7, i % 20 + 1, 1_700_000_000 + i) for i in range(100)])
    base = QUIET | COLUMNS | {"data_path": str(tmp_path), "protocol": "temporal-80-10-10"}
    config = build_config("BPR", "t", None, base | {"unused_col": {"inter": ["timestamp"]}})
    assert [len(data._dataset) for data in data_preparation(config, create_dataset(config))] == [80, 10, 10]


def test_general_models_are_cut_between_moments_too(tmp_path):
    write_inter(tmp_path, "t", [(u, i, t) for u, rows in interactions(40).items() for t, i in rows])
    config = build_config("BPR", "t", None, QUIET | COLUMNS | {"data_path": str(tmp_path), "protocol": "temporal-80-10-10"})
    train, valid, test = (data._dataset.inter_feat["timestamp"] for data in data_preparation(config, create_dataset(config)))
    assert train.max() < valid.min() and valid.max() < test.min()
