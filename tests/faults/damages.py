"""Ways to damage a file."""

import random


def flip(path):
    """One bit, somewhere."""
    content = bytearray(path.read_bytes())
    place = random.Random(path.name).randrange(len(content))
    content[place] ^= 1
    path.write_bytes(content)


def flip_digit(path):
    """Still JSON, with another number."""
    text = path.read_text()
    place = text.index("0.") + 3
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()
