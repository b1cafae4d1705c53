"""Byte-pair encoding: words, merges by hand, and every text back from its tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnntrain.errors import DataError
from dnntrain.input.byte_pairs import count_words, encode_word, split_words, train_byte_pairs
from dnntrain.input.token_source import TokenSource, TokenText
from dnntrain.input.tokenizer import decode_tokens, encode_documents, encode_text, make_vocabulary
from dnntrain.protocols import Vocabulary


@given(st.binary(max_size=60))
def test_words_are_the_document(document: bytes) -> None:
    assert b"".join(split_words(document)) == document


def test_the_most_frequent_pair_is_merged_first_and_ties_go_to_the_smallest() -> None:
    # abab three times: ab 6, ba 3. Then (ab)(ab) 3.
    merges = train_byte_pairs(count_words([b"abab", b"abab", b"abab"]), 5)
    assert merges == ((97, 98), (256, 256))
    assert encode_word(b"ababa", {pair: rank for rank, pair in enumerate(merges)}) == [257, 97]


def test_a_pair_that_occurs_once_is_not_merged() -> None:
    assert train_byte_pairs(count_words([b"abcd"]), 10) == ()


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_every_text_comes_back_from_its_tokens(kind: str) -> None:
    documents = ["Zoë reads. Zoë reads again — 12345.\n".encode(), b"\tdef f(x):\n    return x  \n"]
    vocabulary = make_vocabulary(kind, documents, documents, 300, separates=True)
    tokens, starts = encode_documents(documents, vocabulary, "here")
    assert tokens.max() < vocabulary.size
    assert [int(tokens[start]) for start in starts] == [vocabulary.separator] * 2
    assert decode_tokens(vocabulary.list_pieces(), tokens) == b"".join(documents)
    assert sum(map(len, vocabulary.list_pieces())) > 0
    if kind == "bpe":
        assert len(tokens) < sum(map(len, documents))


def test_unknown_characters_are_named() -> None:
    vocabulary = Vocabulary("char", "abc")
    assert encode_text("cab", vocabulary, "here") == [2, 0, 1]
    with pytest.raises(DataError, match=r"here: the vocabulary does not have the characters '\?', 'é'"):
        encode_text("a?é", vocabulary, "here")


def test_a_long_document_gets_no_separator_inside_when_it_is_recoded() -> None:
    """A long document is stored in parts; only its first one begins with the separator."""
    source_words, other = Vocabulary("bpe", merges=((97, 98),), separates=True), Vocabulary("byte", separates=True)
    parts, begins = [b"abab", b"ba", b"ab"], [True, False, True]
    tokens, starts = encode_documents(parts, source_words, "here", begins)
    text = TokenText(tokens, starts, ["one", "one", "two"])
    recoded = TokenSource([text], 2, source_words, "here").recode(other).texts[0]
    expected, expected_starts = encode_documents(parts, other, "here", begins)
    assert recoded.tokens.tolist() == expected.tolist()
    assert list(recoded.starts) == expected_starts == [0, 5, 7]
