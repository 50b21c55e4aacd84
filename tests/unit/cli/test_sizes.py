"""Sizes in tables have a unit in which they are not zero."""

import pytest
from click.testing import CliRunner
from places import ROOT

from cli.tables import data_size
from onnxinfo.cli import cli


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0.0 kB"),
        (30, "0.1 kB"),
        (38_240, "38.2 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (12_340_000, "12.3 MB"),
        (2_500_000_000, "2.5 GB"),
        (3_000_000_000_000, "3000.0 GB"),
    ],
)
def test_a_size_has_a_unit_of_its_magnitude(count, shown):
    assert data_size(count) == shown


def test_small_runs_have_a_size():
    archive = sorted((ROOT / "tests" / "data" / "archives").rglob("*.h5"))[-1]
    result = CliRunner().invoke(cli, ["runs", str(archive)])
    assert result.exit_code == 0, result.output
    assert " kB" in result.stdout
    assert "0.0 MB" not in result.stdout
