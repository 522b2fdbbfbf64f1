"""Tiny data sets in the papers' own formats, written as their projects write them."""

import pickle

import numpy as np
import pandas as pd

# User 9 and items 11, 0 and 4 occur only in the test part. Rows of a user are in time order.
DIFFREC = {
    "train": [[5, 2], [0, 7], [5, 3], [0, 3]],
    "valid": [[0, 2], [5, 7]],
    "test": [[5, 11], [9, 2], [5, 0], [9, 4]],
}

# A catalogue of 8 items, histories of at most 3, padding 8. Item 1 occurs only in a history, item 5 only as a test
# target, item 7 nowhere. Sessions: train rows 0-4 (whose last history lost its oldest item) and 5-6; valid 0-1 and 2;
# test 0 and 1.
ITEM_NUM, WIDTH = 8, 3
DREAMREC = {
    "train": [
        ([], 2),
        ([2], 0),
        ([2, 0], 4),
        ([2, 0, 4], 6),
        ([0, 4, 6], 2),
        ([], 3),
        ([3], 3),
    ],
    "valid": [([], 4), ([4], 0), ([], 4)],
    "test": [([1], 5), ([], 2)],
}


def write_diffrec(folder, **parts):
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in {**DIFFREC, **parts}.items():
        np.save(folder / f"{part}_list.npy", np.asarray(rows))
    return folder


def write_lines(file, *lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def write_lightgcn(folder, train=("3 1 4 10", "0 4", "7"), valid=("0 1",), test=("3 2", "0 6", "5 10 1")):
    for part, lines in (("train", train), ("valid", valid), ("test", test)):
        if lines is not None:
            write_lines(folder / f"{part}.txt", *lines)
    return folder


def dreamrec_frame(rows, names=("seq", "len_seq", "next")):
    seq, length, target = names
    padded = [[*history, *[ITEM_NUM] * (WIDTH - len(history))] for history, _ in rows]
    lengths = [max(len(history), 1) for history, _ in rows]
    return pd.DataFrame({seq: padded, length: lengths, target: [item for _, item in rows]})


def write_dreamrec(folder, statis=None, names=("seq", "len_seq", "next"), **frames):
    folder.mkdir(parents=True, exist_ok=True)
    sizes = pd.DataFrame({"seq_size": [WIDTH], "item_num": [ITEM_NUM]}) if statis is None else statis
    frames = {**{part: dreamrec_frame(rows, names) for part, rows in DREAMREC.items()}, **frames}
    for name, frame in {"data_statis": sizes, **{f"{part}_data": frame for part, frame in frames.items()}}.items():
        with (folder / f"{name.replace('valid', 'val')}.df").open("wb") as file:
            pickle.dump(frame, file)
    return folder
