"""Byte-pair encoding of bytes (Sennrich et al., "Neural machine translation of rare words", 2016).

A text is cut into words first, and pairs are merged within a word. The words are those of a letter
or digit class, with one space before them, as in GPT-2 (Radford et al., 2019).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

Pair = tuple[int, int]

#: A word: letters, digits or other characters, with one space before them; or white space. Bytes above
#: 127, the parts of characters outside of ASCII, count as letters.
_WORD = re.compile(rb" ?[A-Za-z_\x80-\xff]+| ?[0-9]{1,3}| ?[^\sA-Za-z_0-9\x80-\xff]+|\n+|[^\S\n]+(?!\S)|\s")


def split_words(document: bytes) -> list[bytes]:
    """Return the words of a document; joined, they are the document."""
    return _WORD.findall(document)


def count_words(documents: Iterable[bytes]) -> Counter[bytes]:
    """Return the number of each word in the documents."""
    frequencies: Counter[bytes] = Counter()
    for document in documents:
        frequencies.update(split_words(document))
    return frequencies


def train_byte_pairs(frequencies: Mapping[bytes, int], count: int) -> tuple[Pair, ...]:
    """Return up to `count` merges: each joins the pair of tokens that is most frequent then.

    `frequencies` are those of `count_words`.

    Of equally frequent pairs the one with the smallest numbers is merged. The counts of pairs are
    updated in the words that have the pair, so a merge costs little.
    """
    words = [list(word) for word in frequencies]
    weights = list(frequencies.values())
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, (word, weight) in enumerate(zip(words, weights, strict=True)):
        for pair in pairwise(word):
            counts[pair] += weight
            places[pair].add(number)
    queue = [(-count, pair) for pair, count in counts.items()]
    heapify(queue)
    merges: list[Pair] = []
    while len(merges) < count and queue:
        negative, best = heappop(queue)
        current = counts.get(best, 0)
        if current != -negative:  # the count has changed since
            if current:
                heappush(queue, (-current, best))
            continue
        if current < 2:
            break
        merges.append(best)
        for pair in _merge_everywhere(best, 255 + len(merges), words, weights, counts, places):
            heappush(queue, (-counts[pair], pair))
    return tuple(merges)


def _merge_everywhere(
    pair: Pair,
    token: int,
    words: list[list[int]],
    weights: Sequence[int],
    counts: Counter[Pair],
    places: defaultdict[Pair, set[int]],
) -> list[Pair]:
    """Replace `pair` by `token` in all words that have it, and return the pairs that are more frequent now."""
    grown: set[Pair] = set()
    for number in places.pop(pair):
        word, weight = words[number], weights[number]
        for old in pairwise(word):
            counts[old] -= weight
            if counts[old] <= 0:
                del counts[old]
        words[number] = word = merge_pair(word, pair, token)
        for new in pairwise(word):
            counts[new] += weight
            places[new].add(number)
            grown.add(new)
    return [new for new in sorted(grown) if new in counts]


def merge_pair(word: Sequence[int], pair: Pair, token: int) -> list[int]:
    """Return `word` with each `pair`, from left to right, replaced by `token`."""
    merged: list[int] = []
    place = 0
    while place < len(word):
        if place + 1 < len(word) and word[place] == pair[0] and word[place + 1] == pair[1]:
            merged.append(token)
            place += 2
        else:
            merged.append(word[place])
            place += 1
    return merged


def encode_byte_pairs(document: bytes, ranks: Mapping[Pair, int], known_words: dict[bytes, list[int]]) -> list[int]:
    """Return the tokens of a document; the tokens of each word are kept in `known_words`.

    In each word, the pair that was merged first is merged, until none is left.
    """
    tokens: list[int] = []
    for word in split_words(document):
        if word not in known_words:
            known_words[word] = encode_word(word, ranks)
        tokens += known_words[word]
    return tokens


def encode_word(word: bytes, ranks: Mapping[Pair, int]) -> list[int]:
    """Return the tokens of a word."""
    tokens = list(word)
    while len(tokens) > 1:
        pairs = pairwise(tokens)
        rank, pair = min((ranks.get(pair, len(ranks)), pair) for pair in pairs)
        if rank == len(ranks):
            break
        tokens = merge_pair(tokens, pair, 256 + rank)
    return tokens
