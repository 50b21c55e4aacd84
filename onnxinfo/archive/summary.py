"""What the numbers of a run show, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .. import markup
from ..text import printable


@dataclass(frozen=True)
class Summary:
    """What the numbers of a run show, in sentences; printed one per line, and a list in notebooks.

    Attributes
    ----------
    run
        Name of the run.
    sentences
        The sentences, as printable text; each states the numbers that it follows from.

    Examples
    --------
    >>> summary = onnxinfo.summary("result.h5")
    >>> summary.run, summary.sentences[0]
    ('digits-cnn', 'Run digits-cnn: sid of 2 layers on 2 samples.')
    """

    run: str
    sentences: list[str]

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sentences)

    def __repr__(self) -> str:
        return f"<summary of run '{printable(self.run)}': {len(self.sentences)} sentences>"

    def _repr_html_(self) -> str:
        return markup.card("Summary", self.run, markup.bullets(self.sentences))
