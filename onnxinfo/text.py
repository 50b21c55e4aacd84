"""Text that came from outside, made fit for one line of a message, a terminal and an archive."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""Return the text with everything that does not print (control characters, line ends, surrogates) escaped.

    Examples
    --------
    >>> printable("a\x1b[31m.png")
    'a\\x1b[31m.png'
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def quoted(text: object, most: int = 160) -> str:
    """Return a name as a message shows it: printable, in quotes, its middle left out where it is very long."""
    shown = printable(text)
    return f"'{shown}'" if len(shown) <= most else f"'{shown[: most // 2]}…{shown[-most // 2 :]}'"


def shorten(text: str, size: int) -> str:
    """Return text of at most `size` characters, its middle left out; layer names differ at their ends.

    Examples
    --------
    >>> shorten("/layer1/conv/Relu_output_0", 12)
    '/laye…tput_0'
    """
    if len(text) <= size:
        return text
    head = (size - 1) // 2
    return f"{text[:head]}…{text[len(text) - (size - 1 - head) :]}"
