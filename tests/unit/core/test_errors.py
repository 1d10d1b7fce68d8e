"""Messages are one line, whatever they quote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.core.errors import MOST_CHARACTERS, DataError, OnwardError, UnknownName, nearest, one_line
from onward.train.grammar import UnknownOption


@given(st.text(max_size=3000))
def test_any_text_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= MOST_CHARACTERS
    assert one_line(line) == line
    assert line == text or not text.isprintable() or len(text) > MOST_CHARACTERS


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\udcff", "\\udcff"),
        ("\u202e", "\\u202e"),
        ("müsli", "müsli"),
    ],
)
def test_control_characters_are_shown_not_sent(text: str, line: str) -> None:
    assert str(DataError(text)) == line


def test_the_ends_of_a_long_message_are_kept() -> None:
    shown = str(OnwardError(f"mine.npz: {'a' * 9000}; use numpy.savez"))
    assert shown.startswith("mine.npz: aaa")
    assert shown.endswith("aaa; use numpy.savez")
    assert " [...] " in shown


def test_words_far_longer_than_names_are_compared_with_none() -> None:
    assert nearest("opzoo", ["opzo", "bptt"], cutoff=0.5) == ["opzo"]
    assert nearest("opzo" * 1000, ["opzo" * 999], cutoff=0.5) == []
    assert UnknownName("rule", "o" * 10**6, ["opzo"]).nearest == []
    assert UnknownOption("--x", ("a" * 10**6,), [("train", "epochs")]).nearest == []
