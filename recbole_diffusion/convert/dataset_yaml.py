"""The YAML settings that go beside converted files, one template per format."""

from __future__ import annotations

from collections.abc import Sequence

DIFFREC = """\
# {name}, converted from DiffRec's train_list.npy, valid_list.npy and test_list.npy.
#
# General models use the source's own split. Sequential models cannot read these parts (RecBole would need the history
# in every row): with --benchmark_filename=None RecBole reads the same interactions from {name}.inter, in time order,
# and splits them by the protocol. That is another split than the source's.
#
# Ids are the source's own; dataset.id2token gives them back.

USER_ID_FIELD: user_id                    # (str) column of users
ITEM_ID_FIELD: item_id                    # (str) column of items
TIME_FIELD: timestamp                     # (str) the source's row order within a user, which T-DiffRec takes as time;
                                          #       it goes on from train to valid to test and does not compare users
load_col:                                 # (dict) columns to load
    inter: [user_id, item_id, timestamp]
benchmark_filename: [train, valid, test]  # (list) the parts, used as they are
protocol: diffrec-paper                   # (str) the evaluation that these parts are made for
"""

LIGHTGCN = """\
# {name}, converted from train.txt, valid.txt and test.txt in the format of LightGCN.
#
# General models use the source's own split. {validation}
# The source has no time, so sequential models cannot use this data set.
#
# Ids are the source's own; dataset.id2token gives them back.

USER_ID_FIELD: user_id                    # (str) column of users
ITEM_ID_FIELD: item_id                    # (str) column of items
load_col:                                 # (dict) columns to load
    inter: [user_id, item_id]
benchmark_filename: [train, valid, test]  # (list) the parts, used as they are
protocol: lightgcn-paper                  # (str) the evaluation that these parts are made for
"""

S3REC = """\
# {name}, converted from lines of `user item item ...` in the format of S3-Rec.
#
# RecBole splits it by the protocol: leave-one-out for sequential models (their default), any for general ones. Splits
# at a moment for all users (RecBole's TS, or order TO with group_by none) mean nothing here: the source orders the
# items of a user, and says nothing of when.
#
# Ids are the source's own; dataset.id2token gives them back.

USER_ID_FIELD: user_id       # (str) column of users
ITEM_ID_FIELD: item_id       # (str) column of items; a user may have one several times
TIME_FIELD: timestamp        # (str) position in the user's line, from 0
load_col:                    # (dict) columns to load
    inter: [user_id, item_id, timestamp]
benchmark_filename: ~        # (list) no parts: RecBole splits
"""

DREAMREC = """\
# {name}, converted from DreamRec's data_statis.df, train_data.df, val_data.df and test_data.df.
#
# A row is a history and the item that follows it. Sequential models use the source's own split; metrics are means over
# rows.
#
# user_id: a session in training ("train-session-3"), a row in validation and test ("valid-3" is row 3 of val_data.df,
# from 0). RecBole takes the rows of one user for one list of targets when it evaluates general models and when it
# samples negatives for evaluation, which is wrong for rows with different histories. Column session_id (not loaded)
# has the session everywhere: rows of a session follow each other, each history one item longer.
#
# An empty history is an empty cell. recbole_diffusion reads it as DreamRec's own code does, as padding with length 1;
# empty_histories=drop leaves such rows out of all parts. Without recbole_diffusion RecBole's models fail on it.
#
# General models run on the pairs of user_id and item_id, but no user of validation and test has a training
# interaction. Only models that ignore the user, such as Pop, give numbers that mean something.
#
# Ids are the source's own; dataset.id2token gives them back. {name}.item lists the whole catalogue, so that items that
# occur only in histories, only as test targets or nowhere are ranked too; the source's padding id is not an item.

USER_ID_FIELD: user_id                    # (str) column of users
ITEM_ID_FIELD: item_id                    # (str) column of targets, and of the catalogue
load_col:                                 # (dict) columns to load
    inter: [user_id, item_id_list, item_id]
    item: [item_id]
benchmark_filename: [train, valid, test]  # (list) the parts, used as they are
alias_of_item_id: [item_id_list]          # (list) items in histories get the ids that they have as targets
LIST_SUFFIX: _list                        # (str) item_id_list is the history of item_id
ITEM_LIST_LENGTH_FIELD: item_length       # (str) RecBole puts the history's length here
{length_line}  # (int) the longest history. RecBole does not cut the histories of
                                          #       given parts: a smaller value breaks models with position embeddings
protocol: dreamrec-paper                  # (str) the evaluation that these parts are made for
"""

_RATINGS = """\
# {name}, converted from lines of `{line}`{threshold}.
#
# {split}
# {time}
{rating}#
# Ids are the source's own; dataset.id2token gives them back.

USER_ID_FIELD: user_id                    # (str) column of users
ITEM_ID_FIELD: item_id                    # (str) column of items
{time_field}load_col:                                 # (dict) columns to load
    inter: [{columns}]
benchmark_filename: {parts}
"""


def ratings(name: str, columns: Sequence[str], min_rating: float | None, given_parts: bool) -> str:
    """The YAML settings of a data set of ratings.

    Args:
        name: of the data set.
        columns: of the source, the first two, three or four of user, item, rating and time.
        min_rating: the lowest rating that was kept, None if there was no limit.
        given_parts: whether the source has its own training, validation and test parts.
    """
    timed = "time" in columns
    return _RATINGS.format(
        name=name,
        line=" ".join(columns),
        threshold="" if min_rating is None else f", ratings of at least {min_rating:g}",
        split="General models use the source's own split." if given_parts else "RecBole splits it by the protocol.",
        time=(
            "Times are the source's own." if timed else "The source has no time, so sequential models cannot use this data set."
        ),
        rating=(
            "# Every row is an interaction, whatever its rating: ratings are in the files, but not loaded.\n"
            if "rating" in columns
            else ""
        ),
        time_field="TIME_FIELD: timestamp                     # (str) column of times\n" if timed else "",
        columns=", ".join(["user_id", "item_id", *(["timestamp"] if timed else [])]),
        parts=(
            "[train, valid, test]  # (list) the parts, used as they are"
            if given_parts
            else "~                     # (list) no parts: RecBole splits"
        ),
    )
