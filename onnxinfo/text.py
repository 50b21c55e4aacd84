"""Make text from outside safe for messages, terminals and archives."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

#: Characters, including full-width ones, that spreadsheet programs interpret as the start of a formula.
_FORMULAS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
#: Hyphens that stand for a minus: before a number, and not within a word or a path.
_NEGATIVE = re.compile(r"(?<![\w/.-])-(?=\d)")


def printable(text: object) -> str:
    r"""Return the text with everything unprintable (control characters, line ends, surrogates) escaped.

    Examples
    --------
    >>> printable("a\x1b[31m.png")
    'a\\x1b[31m.png'
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def alpha_name(alpha: float) -> str:
    """Return how the name of a run says its alpha, so that views of several runs need no caution about it.

    Examples
    --------
    >>> alpha_name(0.001)
    'alpha=0.001'
    """
    return f"alpha={alpha:g}"


def quoted(text: object, most: int = 160) -> str:
    """Return a name for messages: printable, in quotes, with its middle elided if it is very long."""
    shown = printable(text)
    return f"'{shown}'" if len(shown) <= most else f"'{shown[: most // 2]}…{shown[-most // 2 :]}'"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first of some names, and the number of others.

    Examples
    --------
    >>> listed(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    shown = ", ".join(quoted(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def numbered(count: int, noun: str) -> str:
    """Return a number of things that are all there are, such as ``"the only sample"`` or ``"all 3 samples"``.

    Examples
    --------
    >>> numbered(1, "sample"), numbered(3, "sample")
    ('the only sample', 'all 3 samples')
    """
    return f"the only {noun}" if count == 1 else f"all {count} {noun}s"


def none_has(count: int, noun: str, what: str) -> str:
    """Return that none of all things has something.

    Examples
    --------
    >>> none_has(1, "sample", "box"), none_has(3, "sample", "box")
    ('the only sample has no box', 'none of the 3 samples has a box')
    """
    return f"the only {noun} has no {what}" if count == 1 else f"none of the {count} {noun}s has a {what}"


def no_such(kind: str, name: str, known: Sequence[str], where: str) -> str:
    """Return the message for an unknown name: with similar names, else with some existing ones."""
    near = difflib.get_close_matches(name, known[:10_000], n=3, cutoff=0.5)
    shown = ", ".join(f"'{each}'" for each in (near or [*known[:8]]))
    more = ", ..." if not near and len(known) > 8 else ""
    hint = f"did you mean {shown}?" if near else f"there is {shown or 'none'}{more}"
    return printable(f"no {kind} '{name}' in {where}; {hint}")


def is_number(text: str) -> bool:
    """Return whether a text is a floating-point number, as Python reads it."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def spreadsheet_text(value: object) -> object:
    r"""Return a table value that is safe in spreadsheet programs: text is printable and never a formula.

    Examples
    --------
    >>> spreadsheet_text("=HYPERLINK(1)"), spreadsheet_text("a\x1b[31m"), spreadsheet_text(-1.5)
    ("'=HYPERLINK(1)", 'a\\x1b[31m', -1.5)
    """
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULAS) else shown


def minus_signs(text: str) -> str:
    """Return a text with minus signs instead of hyphens before numbers; hyphens within words and names stay.

    Examples
    --------
    >>> minus_signs("SID -2.54 in block-2 (at -1)")
    'SID −2.54 in block-2 (at −1)'
    """
    return _NEGATIVE.sub("\N{MINUS SIGN}", text)


def shorten(text: str, size: int) -> str:
    """Shorten text to at most `size` characters by eliding its middle; layer names differ at their ends.

    Examples
    --------
    >>> shorten("/layer1/conv/Relu_output_0", 12)
    '/laye…tput_0'
    """
    if len(text) <= size:
        return text
    head = (size - 1) // 2
    return f"{text[:head]}…{text[len(text) - (size - 1 - head) :]}"
