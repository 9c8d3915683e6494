"""Tokens as a page shows them: what cannot be seen as a symbol or by its number."""

import unicodedata

SYMBOLS = {" ": "·", "\n": "↵", "\t": "⇥"}
# Controls, formats, unassigned, private; separators of all kinds, but the space of `SYMBOLS`.
UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs")


def visible(spelled: bytes) -> str:
    """Text in which every character can be seen.

    Spaces, line ends and tabs become symbols; other characters that cannot be seen, or that change
    the direction of writing, become escapes as in Python, and so do parts of characters.
    """
    text = spelled.decode(errors="backslashreplace")
    shown = "".join(map(_visible, text))
    alone = bool(text) and unicodedata.combining(text[0])  # an accent without its letter
    return f"◌{shown}" if alone else shown


def _visible(letter):
    if letter in SYMBOLS:
        return SYMBOLS[letter]
    if letter in SYMBOLS.values() or unicodedata.category(letter) in UNSEEN:
        return letter.encode("unicode_escape").decode()
    return letter
