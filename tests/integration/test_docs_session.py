"""The terminal session of docs/session.md is what its commands print."""

import logging
import re

import pytest
from places import DOCS

#: Numbers may differ in their last digits, and by the noise of other processors.
TOLERANCE = 0.02
#: What depends on the moment and the machine.
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00|\d+\.\d s\b")
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?!\w)")


@pytest.fixture
def session(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import session

    # Other tests may have asked for a log.
    logger = logging.getLogger("onnxinfo")
    before = logger.level
    logger.setLevel(logging.NOTSET)
    yield session
    logger.setLevel(before)


def normalized(text):
    """Return the text with numbers and moments replaced and spaces and rules squeezed, and the numbers."""
    text = MOMENT.sub("(moment)", text)
    numbers = [float(number) for number in NUMBER.findall(text)]
    return re.sub(r"-{3,}| +", " ", NUMBER.sub("(number)", text)).strip(), numbers


def assert_alike(found, shown):
    (words, numbers), (expected_words, expected) = normalized(found), normalized(shown)
    assert words == expected_words
    assert numbers == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.slow
def test_the_session_is_what_its_commands_print(session, tmp_path):
    text = session.TARGET.read_text(encoding="utf-8")
    lines, shown = session.commands(text), session.outputs(text)
    assert len(lines) == len(shown) > 12
    with session.in_folder(tmp_path):
        for found, expected in zip(session.recorded(lines), shown, strict=True):
            assert_alike(found, expected)
    assert {path.name for path in tmp_path.iterdir()} == {*session.FILES, "digits.h5", "curve.png", "digits.csv"}


def test_every_command_of_the_session_has_its_output(session):
    text = session.TARGET.read_text(encoding="utf-8")
    assert len(session.commands(text)) == len(session.outputs(text)) > 12
    assert {line.split()[0] for line in session.commands(text)} == {"onnxinfo", "echo"}


@pytest.mark.parametrize(
    ("found", "shown"),
    [("a 1.00", "a 1.05"), ("a 1.00", "b 1.00"), ("a 1", "a 2"), ("a", "a\nb"), ("a 1.0 2.0", "a 1.0")],
)
def test_differences_are_found(found, shown):
    with pytest.raises(AssertionError):
        assert_alike(found, shown)


def test_moments_may_differ():
    assert_alike("at 2026-11-27T17:37:54+00:00, 2.1 s  0.01", "at 2027-01-01T00:00:00+00:00, 12.3 s 0.02")
