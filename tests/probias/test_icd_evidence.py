"""Passages from weights of tokens: by hand, and properties."""

import re

import numpy as np
import pytest

from camopd_jax.probias import evidence
from camopd_jax.probias.evidence import Span, passages, quote

NOTE = "History of type 2 diabetes mellitus, on metformin. Denies pain.\n\nPlan: insulin,\nif needed."


def at(text, words):
    start = text.index(words)
    return start, start + len(words)


def weighed(text, weights, rest=0.0):
    """(offsets_T, weight_T) of all words of a text, some of them with a weight."""
    offsets = [m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]
    return offsets, np.array([weights.get(text[a:b], rest) for a, b in offsets])


def found(weights, n=9, rest=0.0, text=NOTE):
    return [(text[s.start : s.end], round(s.weight, 6)) for s in passages(text, *weighed(text, weights, rest), n)]


def test_words_join_over_light_ones_and_the_heaviest_passage_stands_first():
    assert found({"type": 0.1, "diabetes": 0.3, "insulin": 0.5}) == [("insulin", 0.5), ("type 2 diabetes", 0.4)]
    assert found({"diabetes": 0.3, "metformin": 0.2}) == [("diabetes mellitus, on metformin", 0.5)]
    assert found({"type": 0.1, "metformin": 0.2}) == [("metformin", 0.2), ("type", 0.1)]  # four words between
    assert found({"type": 0.1, "metformin": 0.2}, n=1) == [("metformin", 0.2)]


def test_neither_a_sentence_nor_a_paragraph_is_left_and_a_line_is():
    assert found({"metformin": 0.2, "Denies": 0.1}) == [("metformin", 0.2), ("Denies", 0.1)]
    assert found({"pain": 0.2, "Plan": 0.1}) == [("pain", 0.2), ("Plan", 0.1)]
    assert found({"insulin": 0.2, "if": 0.1}) == [("insulin,\nif", 0.3)]
    assert found({"one": 0.2, "two": 0.1}, text="one\n \ntwo") == [("one", 0.2), ("two", 0.1)]


def test_what_is_faint_beside_the_heaviest_word_is_no_passage():
    assert found({"pain": 1.0}, rest=0.04) == [("pain", 1.04)]  # the full stop is of the same word
    assert found({"pain": 1.0, "insulin": 0.101}) == [("pain", 1.0), ("insulin", 0.101)]
    assert found({"pain": 1.0, "insulin": 0.099}) == [("pain", 1.0)]


def test_pieces_of_a_word_and_twice_the_same_token_add_up():
    a, b = at(NOTE, "metformin")
    spans = passages(NOTE, [(0, 0), (a, a + 3), (a + 3, b), (a, a + 3)], np.array([9.0, 0.2, 0.1, 0.3]), 3)
    assert [(s.start, s.end) for s in spans] == [(a, b)] and spans[0].weight == pytest.approx(0.6)


def test_a_token_over_two_words_is_shared_by_their_characters():
    a, b = at(NOTE, "type 2")
    spans = passages(NOTE, [(a, b)], np.array([0.5]), 3)
    assert [(s.start, s.end) for s in spans] == [(a, b)] and spans[0].weight == pytest.approx(0.5)


def test_an_even_attention_gives_passages_of_bounded_length():
    text = "word " * 100
    spans = passages(text, *weighed(text, {}, rest=0.01), 9)
    assert [len(text[s.start : s.end].split()) for s in spans] == [evidence.LONGEST] * 5
    assert sum(s.weight for s in spans) == pytest.approx(1)


@pytest.mark.parametrize("text", ["", "  \n", "..."])
def test_nothing_to_point_at(text):
    assert passages(text, [(0, 0)], np.array([1.0]), 3) == []
    assert passages(text, [], np.zeros(0), 3) == []
    assert len(passages("...", [(0, 3)], np.array([1.0]), 3)) == 1


@pytest.mark.parametrize("weights", [[0.1], [0.1, -0.2], [0.1, np.nan]])
def test_what_is_no_attention_is_refused(weights):
    with pytest.raises(ValueError, match="allowed is one weight a token, finite and at least 0"):
        passages(NOTE, [(0, 7), (8, 10)], np.array(weights), 3)


def test_a_quote_stands_among_its_own_paragraph():
    span = Span(*at(NOTE, "diabetes mellitus"), 1.0)
    assert quote(NOTE, span, 49) == ("… of type 2 ", "diabetes mellitus", ", on metformin. …")
    assert quote(NOTE, Span(*at(NOTE, "insulin"), 1.0), 60) == ("Plan: ", "insulin", ", if needed.")
    assert quote(NOTE, Span(*at(NOTE, "pain"), 1.0), 500)[1:] == ("pain", ".")
    long = Span(0, len(NOTE), 1.0)
    before, words, after = quote(NOTE, long, 25)
    assert (before, words, after) == ("", "History of … if needed.", "")


def test_of_a_note_of_two_megabytes_what_was_read_is_looked_at():
    text = "chest pain and cough. " * 100_000
    spans = passages(text, [(0, 5), (6, 10), (44, 49)], np.array([0.4, 0.3, 0.2]), 3)
    assert [text[s.start : s.end] for s in spans] == ["chest pain", "chest"]
