"""Parts of the solver are replaced wherever they are used."""

import pytest
from solver_parts import replaced

from onnxinfo.metrics import ascent, gauss_newton, sid


def test_a_part_is_replaced_in_every_module_that_uses_it():
    before = sid.feasible
    with replaced(feasible=None, ROUNDS=()):
        assert sid.feasible is ascent.feasible is gauss_newton.feasible is None
        assert sid.ROUNDS == ()
    assert sid.feasible is ascent.feasible is gauss_newton.feasible is before


def test_a_part_that_is_none_is_refused():
    """Otherwise a sabotage of a part that was renamed would break nothing, and be found out by no test."""
    with pytest.raises(AttributeError, match="no part of the solver is called no_such_part"), replaced(no_such_part=1):
        pass
