"""What English writes as one word or as two, and where it is cut: the tables behind the word rules.

All in lower case, since words are lowered before they are cut. The classes of characters and the exceptions describe
how spaCy 3 cuts English, which is what fastai's tokenizer does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

__all__ = ["INFIX", "PREFIX", "SUFFIX", "URL", "exceptions", "joined"]

_LIST = "…,:;!?¿؟¡()\\[\\]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_CURRENCY = "$£€¥฿₽﷼₴₠-₿"
# Signs that stand alone: the Unicode class So, in its main ranges.
_ICONS = "¦©®°\u0482\u058d\u058e\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116\u2117\u211e-\u2123\u2195-\u2199"
_ICONS += "\u219c-\u219f\u21a1\u21a2\u21d5-\u21f3\u2300-\u2307\u230c-\u231f\u2322-\u2328\u232b-\u237b\u2440-\u244a"
_ICONS += "\u249c-\u24e9\u2500-\u25b6\u25b8-\u25c0\u25c2-\u25f7\u2600-\u266e\u2670-\u2767\u2794-\u27bf\u2800-\u28ff"
_ICONS += "\u2b00-\u2b2f\u3012\u3013\u3020\ufffc\ufffd\U0001f000-\U0001f3fa\U0001f400-\U0001fa6d"
_ALPHA = r"[^\W\d_]"
_LOWER = "a-zß-öø-ÿāăąćĉċčďđēĕėęěğġģĥħĩīĭįıĵķłńņňŋōŏőœŕŗřśŝşšţťũūŭůűųŵŷźżžа-яёα-ωά-ώ"

PREFIX: Final = re.compile(rf"§|%|=|—|–|\+(?![0-9])|[{_LIST}]|\.\.+|[{_QUOTES}]|[{_CURRENCY}]|[{_ICONS}]")
"""What is cut off at the beginning."""

_UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph mb kb "
    "gb tb % км м дм см мм кг г мг"
)
SUFFIX: Final = re.compile(
    rf"(?:[{_LIST}]|\.\.+|[{_QUOTES}]|[{_ICONS}]|'s|’s|—|–|(?<=[0-9])\+|(?<=°[fck])\.|(?<=[0-9])[{_CURRENCY}]"
    rf"|(?<=[0-9])(?:{'|'.join(map(re.escape, _UNITS.split()))})"
    rf"|(?<=[0-9{_LOWER}%²\-+|{_LIST}{_QUOTES}])\.)\Z"
)
"""What is cut off at the end; the earliest match counts."""

INFIX: Final = re.compile(
    rf"\.\.+|…|[{_ICONS}]|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[{_LOWER}{_QUOTES},])\.(?=[{_QUOTES},])"
    rf"|(?<={_ALPHA}),(?={_ALPHA})|(?<=[^\W_])(?:---|--|——|[-–—~])(?={_ALPHA})|(?<=[^\W_])[:<>=/](?={_ALPHA})"
)
"""Where the rest is cut."""

URL: Final = re.compile(
    r"(?:[\w+\-.]{2,}://)?(?:\S+(?::\S*)?@)?"
    r"(?:(?!(?:10|127)(?:\.\d{1,3}){3})(?!(?:169\.254|192\.168)(?:\.\d{1,3}){2})(?!172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2})"
    r"(?:[1-9]\d?|1\d\d|2[01]\d|22[0-3])(?:\.(?:1?\d{1,2}|2[0-4]\d|25[0-5])){2}\.(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-4])"
    r"|(?:(?:[A-Za-z0-9\u00a1-\uffff][A-Za-z0-9\u00a1-\uffff_-]{0,62})?[A-Za-z0-9\u00a1-\uffff]\.)+"
    r"(?:[^\W\d_A-Z]{2,63}))(?::\d{2,5})?(?:[/?#]\S*)?"
)
"""An address of the web, left whole."""

_PEOPLE = "i you he she it we they"
_ASKED = "who what when where why how there"
_SHOWN = "these those"
_THAT = "that this"
# What would be another word without its apostrophe.
_WORDS = frozenset(["ill", "its", "hell", "were", "well", "whore", "shell", "shed"])

_FACES = r"""
:) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( =[ :(( :-((
:((( :-((( ): )-: =( >:( :') :'-) :'( :'-( =/ :| :-| =| :1 :p :-p :o :-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :x :-x
<3 <33 <333
0.0 o.o o_o 0_0 o.0 o_0 0.o 0_o v.v v_v >.< >.> <.< ^_^ ^__^ ^___^ -_- -__- ;_; @_@ (*_*) (-_-) (._.) (>_<) (^_^)
._. ]= ><(((*>
"""
_WHOLE = (
    "'' 'bout 'cause 'cos 'coz 'cuz 'd 'em 'll 'nuff 're 's em ll nuff a.m. p.m. co. e.g. i.e. vs. v.s. ma'am o'clock "
    "ol ol' doin doin' goin goin' havin havin' lovin lovin' nothin nothin' nuthin nuthin' somethin somethin'"
)


def _people() -> Iterator[tuple[str, ...]]:
    yield from (("i", "'m"), ("i", "'m", "a"))
    for word in _PEOPLE.split():
        yield from ((word, "'ll"), (word, "'ll", "'ve"), (word, "'d"), (word, "'d", "'ve"))
        if word in ("i", "you", "we", "they"):
            yield (word, "'ve")
        if word in ("you", "we", "they"):
            yield (word, "'re")
        if word in ("he", "she", "it"):
            yield (word, "'s")


def _others() -> Iterator[tuple[str, ...]]:
    for word in f"{_ASKED} {_SHOWN} {_THAT}".split():
        yield from ((word, "'ll"), (word, "'ll", "'ve"), (word, "'d"), (word, "'d", "'ve"))
        if word not in _THAT.split():
            yield from ((word, "'re"), (word, "'ve"))
        if word not in _SHOWN.split():
            yield (word, "'s")
    yield ("how", "'d", "'y")


def _verbs() -> Iterator[tuple[str, ...]]:
    for verb in [
        "ca",
        "could",
        "do",
        "does",
        "did",
        "had",
        "may",
        "might",
        "must",
        "need",
        "ought",
        "sha",
        "should",
        "wo",
        "would",
    ]:
        yield from ((verb, "n't"), (verb, "n't", "'ve"))
    for verb in ["ai", "are", "is", "was", "were", "have", "has", "dare"]:
        yield (verb, "n't")
    for verb in ["could", "might", "must", "should", "would", "not"]:
        yield (verb, "'ve")


_NOT_BARE = frozenset({("how", "'d", "'y"), ("he", "'ll"), ("she", "'ll")})


@cache
def exceptions() -> Mapping[str, tuple[str, ...]]:
    """Return what is cut as nobody would guess, and what is left whole although it might be cut."""
    found: dict[str, tuple[str, ...]] = {}
    for parts in (*_people(), *_others(), *_verbs()):
        bare = tuple(part.replace("'", "") for part in parts)
        found["".join(parts)] = parts
        found["".join(parts).replace("'", "’")] = tuple(part.replace("'", "’") for part in parts)
        if "".join(bare) not in _WORDS and parts not in _NOT_BARE:
            found["".join(bare)] = bare
    for hour in range(1, 13):
        found |= {f"{hour}{half}": (str(hour), half) for half in ("am", "pm", "a.m.", "p.m.")}
    found |= {"cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "let's": ("let", "'s")}
    found |= {"let’s": ("let", "’s"), "c'mon": ("c'm", "on"), "c’mon": ("c’m", "on"), "y'all": ("y'", "all")}
    found |= {"y’all": ("y’", "all"), "yall": ("y", "all"), "didnt": ("did", "nt")}
    whole = [*_FACES.split(), *_WHOLE.split(), *(f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyz")]
    found |= {word: (word,) for word in (*whole, *(w.replace("'", "’") for w in whole))}
    return MappingProxyType(found)


@cache
def joined() -> frozenset[str]:
    """Return the exceptions that are found again where cutting has parted them: faces, abbreviations, times."""
    whole = (word for word, parts in exceptions().items() if len(parts) == 1 and not word.isalpha())
    return frozenset({*whole, *(word for word in exceptions() if word.endswith(".m."))})
