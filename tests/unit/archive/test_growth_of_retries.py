"""What a growing run keeps of a retry, and from where it says that the search starts."""

from dataclasses import replace

import archive_fakes as fakes
import pytest

import onnxinfo
from onnxinfo.archive.format import RETRY, mark_code
from onnxinfo.archive.growth import grown
from onnxinfo.archive.writer import RunWriter

RECIPE = fakes.schema().recipe | {"normalizer": "dataset", "solver": "auto"}
FEW = fakes.table_schema(layers=fakes.schema().layers[:3], metrics=(fakes.PROVEN_SID,), recipe=RECIPE)
ASKED = replace(FEW, provenance={RETRY: True})


def wider(described):
    """Return a description with one more sample, whose first ones are the same."""
    recipe = described.recipe | {"samples_sha256": "more"}
    names, labels = [*described.sample_names, "new"], [*described.labels, "g"]
    digest = described.recipe.get("samples_sha256")
    return replace(described, recipe=recipe, sample_names=names, labels=labels, digest_of=lambda samples: digest)


def growth(path, wanted):
    with onnxinfo.open(path) as archive:
        found = grown(archive["first"], wanted, "rounded")
    assert not isinstance(found, str), found
    return found


def test_a_complete_run_has_done_its_retry(tmp_path):
    path = fakes.make(tmp_path / "a.h5", described=ASKED)
    more = replace(FEW, layers=fakes.schema().layers)
    assert RETRY not in growth(path, more).schema.provenance
    assert RETRY in growth(path, replace(more, provenance={RETRY: True})).schema.provenance


def test_an_unfinished_run_remembers_a_retry_although_nothing_is_unproven_yet(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(KeyboardInterrupt), RunWriter.open(path, "first", FEW) as writer:
        fakes.fill(writer, FEW, stop=1)
    assert growth(path, FEW).changes_nothing
    assert not growth(path, ASKED).changes_nothing


def test_cells_of_another_budget_get_the_usual_passes(tmp_path):
    path = fakes.make(tmp_path / "a.h5", described=FEW)
    fakes.make(path, described=ASKED)
    assert growth(path, FEW).retried["sid"].sum() == 1
    found = growth(path, wider(FEW))
    assert not found.kept["sid"].any()
    assert not found.retried["sid"].any()


@pytest.mark.parametrize(("solver", "metric", "starts"), [
    ("auto", fakes.SID, True), ("forward", fakes.SID, False), ("reference", fakes.SID, False),
    ("auto", replace(fakes.SID, name="ru"), False),
])  # fmt: skip
def test_the_search_starts_from_maps_of_sid_where_there_are_gradients(tmp_path, solver, metric, starts):
    described = replace(FEW, recipe=RECIPE | {"solver": solver}, metrics=(metric,))
    path = fakes.make(tmp_path / "a.h5", described=described)
    assert growth(path, wider(described)).starts_from_maps == starts


def test_cells_that_no_number_of_passes_proves_are_not_tried_again(tmp_path, monkeypatch):
    cell = fakes.cell

    def marked(metric, layer, sample, shape):
        found, values = cell(metric, layer, sample, shape)
        return found, values | ({} if values["converged"] else {"mark": mark_code("dead")})

    monkeypatch.setattr(fakes, "cell", marked)
    path = fakes.make(tmp_path / "a.h5", described=FEW)
    assert growth(path, ASKED).changes_nothing
