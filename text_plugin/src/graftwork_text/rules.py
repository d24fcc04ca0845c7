"""fastai's rules for words, one text at a time: what the fast kernels must agree with, and what gives places in texts.

Rules rewrite the text (`xxrep 4 !`, `xxmaj`); then it is cut as spaCy cuts English. A rewritten text remembers where
each of its characters came from, if somebody asks.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from graftwork_text.english import INFIX, PREFIX, SUFFIX, URL, exceptions, joined
from graftwork_text.vocab import BOS, FAKE, MAJ, REP, SPECIALS, UNK, UP, WREP

__all__ = ["cut", "rewrite", "spans_of", "untokenize", "words_of"]

Piece: TypeAlias = str | tuple[str, int]
"""New text, or text that stands for one of the match's groups."""
Rule: TypeAlias = tuple[re.Pattern[str], Callable[[re.Match[str]], list[Piece]]]

SPACE: Final = "▁"
CACHED: Final = 50_000
MOST_PARTS: Final = 6
"""Of how many pieces a face is put together again."""


def _fixed(old: str, new: str) -> Rule:
    return re.compile(re.escape(old)), lambda _: [(new, 0)]


def _repeated(m: re.Match[str]) -> list[Piece]:
    return [f" {REP} {len(m.group())} ", (m.group(1), 0), " "]


def _said_again(m: re.Match[str]) -> list[Piece]:
    # The separator before is swallowed and made anew, as fastai does.
    count = len(m.group(2).split()) + 2
    return [f" {WREP} {count} ", (m.group(1), 0), " ", (m.group(3), 3)]


def _marked(mark: str) -> Callable[[re.Match[str]], list[Piece]]:
    def lowered(m: re.Match[str]) -> list[Piece]:
        word = m.group(2)
        return [(m.group(1), 1), f"{mark} " if len(word) > 1 else "", (word.lower(), 2)]

    return lowered


_HTML: Final = (
    ("#39;", "'"), ("amp;", "&"), ("#146;", "'"), ("nbsp;", " "), ("#36;", "$"), ("\\n", "\n"), ("quot;", "'"),
    ("<br />", "\n"), ('\\"', '"'), ("<unk>", UNK), (" @.@ ", "."), (" @-@ ", "-"), ("...", " …"),
)  # fmt: skip
_ENTITY: Final = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")

RULES: Final[tuple[Rule, ...]] = (
    *(_fixed(old, new) for old, new in _HTML),
    (_ENTITY, lambda m: [(html.unescape(m.group()), 0)]),
    (re.compile(r"(\S)(\1{2,})"), _repeated),
    (re.compile(r"(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)"), _said_again),
    (re.compile(r"[/#\\]"), lambda m: [" ", (m.group(), 0), " "]),
    (re.compile(r" {2,}"), lambda _: [(" ", 0)]),
    (re.compile(r"(\s|^)([A-Z]+[^a-z\s]*)(?=\s|$)"), _marked(UP)),
    (re.compile(r"(\s|^)([A-Z][^A-Z\s]*)(?=\s|$)"), _marked(MAJ)),
)
"""In the order in which they apply."""


def _plain(piece: Piece) -> str:
    return piece if isinstance(piece, str) else piece[0]


def rewrite(text: str) -> str:
    """Return the text as it is cut: marked, in lower case, without space around it."""
    for pattern, make in RULES:
        text = pattern.sub(lambda m, make=make: "".join(map(_plain, make(m))), text)  # type: ignore[misc]
    return f"{BOS} {text.lower().strip()}"


def words_of(text: str) -> list[str]:
    """Return a text's words and marks."""
    return [token.replace(" ", SPACE) for token, _, _ in _tokens(rewrite(text))]


_CHUNKS: Final = re.compile(r"\s+|\S+")


def _tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield tokens with their places. White space but a single blank after a word is a token, as it is for spaCy."""
    for chunk in _CHUNKS.finditer(text):
        found, start = chunk.group(), chunk.start()
        if found.isspace():
            found = found[1:] if found[0] == " " and start else found
            if found:
                yield found, chunk.end() - len(found), chunk.end()
            continue
        for word in cut(found):
            yield word, start, start + len(word)
            start += len(word)


@lru_cache(CACHED)
def cut(chunk: str) -> tuple[str, ...]:
    """Cut what stands between two spaces into words; put together they are what was cut."""
    known = exceptions()
    if chunk in known:
        return known[chunk]
    before, rest, after = _peeled(chunk)
    words = [*before, *_inner(rest), *reversed(after)]
    return tuple(_rejoined(words)) if len(words) > 1 else tuple(words)


def _peeled(rest: str) -> tuple[list[str], str, list[str]]:
    """Take off what stands before and after, until an exception or nothing more is found."""
    known, before, after = exceptions(), list[str](), list[str]()
    while rest and rest not in known:
        first, last = PREFIX.match(rest), None
        ahead = first.end() if first else 0
        if first and rest[ahead:] in known and ahead < len(rest):
            return [*before, rest[:ahead]], rest[ahead:], after
        last = SUFFIX.search(rest[ahead:])
        behind = len(last.group()) if last else 0
        if last and rest[:-behind] in known and behind < len(rest):
            return before, rest[:-behind], [*after, rest[-behind:]]
        if not ahead and not behind:
            break
        if ahead:
            before.append(rest[:ahead])
        if behind:
            after.append(rest[-behind:])
        rest = rest[ahead : len(rest) - behind]
    return before, rest, after


def _inner(rest: str) -> Iterator[str]:
    """Cut inside of what is left, unless it is an exception or an address."""
    known = exceptions()
    if rest in known:
        yield from known[rest]
        return
    start = 0
    if not URL.fullmatch(rest):
        for at in INFIX.finditer(rest):
            if at.start() > start:
                yield rest[start : at.start()]
                yield at.group()
                start = at.end()
    if start < len(rest):
        yield rest[start:]


def _rejoined(words: list[str]) -> list[str]:
    """Put faces together again that were cut apart; cut times as they should be."""
    known, done, start = joined(), list[str](), 0
    while start < len(words):
        ends = range(min(len(words), start + MOST_PARTS), start + 1, -1)
        end = next((end for end in ends if "".join(words[start:end]) in known), start + 1)
        done += exceptions()["".join(words[start:end])] if end > start + 1 else words[start:end]
        start = end
    return done


# -- places ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Traced:
    """Hold a rewritten text, and of each character from where to where it came."""

    text: str
    start: list[int]
    end: list[int]

    def sub(self, pattern: re.Pattern[str], make: Callable[[re.Match[str]], list[Piece]]) -> _Traced:
        """Rewrite as `pattern.sub` would."""
        new, last = _Traced("", [], []), 0
        parts: list[str] = []
        for m in pattern.finditer(self.text):
            parts.append(self._kept(new, last, m.start()))
            parts += [self._made(new, m, piece) for piece in make(m)]
            last = m.end()
        parts.append(self._kept(new, last, len(self.text)))
        new.text = "".join(parts)
        return new

    def _kept(self, new: _Traced, first: int, last: int) -> str:
        new.start += self.start[first:last]
        new.end += self.end[first:last]
        return self.text[first:last]

    def _made(self, new: _Traced, m: re.Match[str], piece: Piece) -> str:
        if isinstance(piece, str):
            here = self.start[m.start()] if m.start() < len(self.start) else 0
            new.start += [here] * len(piece)
            new.end += [here] * len(piece)
            return piece
        made, group = piece
        first, last = m.span(group)
        if len(made) == last - first:
            self._kept(new, first, last)
        elif made:
            new.start += [self.start[first]] * len(made)
            new.end += [self.end[last - 1]] * len(made)
        return made


def _lowered(traced: _Traced) -> _Traced:
    """Lower the text; a letter may become two."""
    lowered = [c.lower() for c in traced.text]
    counts = [len(c) for c in lowered]
    start = [at for at, n in zip(traced.start, counts, strict=True) for _ in range(n)]
    end = [at for at, n in zip(traced.end, counts, strict=True) for _ in range(n)]
    whole = traced.text.lower()
    return _Traced(whole if len(whole) == len(start) else "".join(lowered), start, end)


def spans_of(text: str) -> list[tuple[int, int]]:
    """Return where each of `words_of` stands in the text; a mark has an empty place."""
    traced = _Traced(text, list(range(len(text))), list(range(1, len(text) + 1)))
    for pattern, make in RULES:
        traced = traced.sub(pattern, make)
    traced = _lowered(traced)
    left = len(traced.text) - len(traced.text.lstrip())
    moved, spans = len(BOS) + 1 - left, [(0, 0)]
    for _, first, last in list(_tokens(f"{BOS} {traced.text.strip()}"))[1:]:
        spans.append(_span(traced, first - moved, last - moved))
    return spans


def _span(traced: _Traced, first: int, last: int) -> tuple[int, int]:
    real = [i for i in range(first, last) if traced.end[i] > traced.start[i]]
    if not real:
        return traced.start[first], traced.start[first]
    return min(traced.start[i] for i in real), max(traced.end[i] for i in real)


# -- back ------------------------------------------------------------------------------------------------------------

_TIGHT: Final = re.compile(r" (?=[.,;:!?)\]}%…]|n't\b|nt\b(?<=\bdo nt)|'(?:s|m|d|ll|ve|re)\b)|(?<=[(\[{$]) ")


def untokenize(tokens: Sequence[str]) -> str:
    """Undo the marks and join words as people write; what the rules lost stays lost."""
    words: list[str] = []
    marks: list[str] = []
    for token in tokens:
        if token in (REP, WREP, UP, MAJ) or (marks and marks[-1] in (REP, WREP) and token.isdigit()):
            marks.append(token)
        elif token not in SPECIALS and not token.startswith(FAKE):
            words.append(_unmarked(token.replace(SPACE, " "), marks))
            marks = []
    return _TIGHT.sub("", re.sub(r" ?\n ?", "\n", " ".join(words)))


def _unmarked(word: str, marks: Sequence[str]) -> str:
    for mark, count in zip(marks, [*marks, ""][1:], strict=True):
        times = min(int(count), 1000) if count.isdigit() else 1
        if mark == REP:
            word = word * times
        elif mark == WREP:
            word = " ".join([word] * times)
        elif mark == UP:
            word = word.upper()
        elif mark == MAJ:
            word = word[:1].upper() + word[1:]
    return word
