import dataclasses

import pytest

from recbole_diffusion.settings import Settings, SettingsError, setting


@dataclasses.dataclass(frozen=True)
class Example(Settings):
    steps: int = setting(ge=1)
    rate: float = setting(gt=0, lt=1)
    flag: bool = setting(key="a-flag")
    kind: str = setting(choices=("x", "y"))
    widths: tuple[int, ...] = setting(ge=1)
    more: tuple[int, ...] = setting(ge=1, empty=True)
    file: str | None = setting()


GOOD = {"steps": 3, "rate": 0.5, "a-flag": True, "kind": "x", "widths": [4, 5], "more": [], "file": None}


def test_reads_values_under_their_keys():
    assert Example.read(GOOD) == Example(steps=3, rate=0.5, flag=True, kind="x", widths=(4, 5), more=(), file=None)
    assert Example.keys() == ["steps", "rate", "a-flag", "kind", "widths", "more", "file"]
    assert Example.read(GOOD | {"more": [6], "file": "x.npy"}) == Example(3, 0.5, True, "x", (4, 5), (6,), "x.npy")


def test_a_whole_float_is_an_integer():
    assert Example.read(GOOD | {"steps": 3.0}).steps == 3


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("steps", 0, "an integer >= 1"),
        ("steps", 2.5, "an integer >= 1"),
        ("steps", True, "an integer >= 1"),
        ("steps", None, "an integer >= 1"),
        ("rate", 1, "a finite number > 0 and < 1"),
        ("rate", float("nan"), "a finite number > 0 and < 1"),
        ("rate", "high", "a finite number > 0 and < 1"),
        ("a-flag", 1, "True or False"),
        ("kind", "z", "one of x, y"),
        ("widths", [], "a non-empty list of an integer >= 1"),
        ("widths", 7, "a non-empty list of an integer >= 1"),
        ("widths", [4, 0], "a non-empty list of an integer >= 1"),
        ("more", None, "a list of an integer >= 1"),
        ("more", [0], "a list of an integer >= 1"),
        ("steps", 1e300, "an integer >= 1 and <= 2147483647"),
        ("widths", [4, 1e12], "a non-empty list of an integer >= 1 and <= 2147483647"),
        ("file", 3, "a string or None"),
    ],
)
def test_a_bad_value_is_named_with_its_range(key, value, allowed):
    with pytest.raises(SettingsError) as error:
        Example.read(GOOD | {key: value})
    assert str(error.value).startswith(key) and str(error.value).endswith(f"must be {allowed}")
    assert "\n" not in str(error.value)
