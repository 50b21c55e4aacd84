"""The study of language: exact answers of its oracles, and the committed table against a rerun."""

import os
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import onnxinfo
from onnxinfo.archive.means import unproven

pytest.importorskip("torch")
import language
from language_networks import KINDS, MOST, PADDING, UNKNOWN, Classifier, Sentences, export, mask_of, prepared, words_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "language.csv"
#: Source distribution of vaderSentiment 3.3.2.
DISTRIBUTION = os.environ.get("ONNXINFO_SENTENCES")
VOCABULARY = ["", "?", *sorted({*language.STOP, *language.SENTIMENT, "film", "story", "plot", "actor"})]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sentences(*texts):
    tokens = np.full((len(texts), MOST), PADDING, np.int64)
    for row, text in enumerate(texts):
        words = words_of(text)
        tokens[row, : len(words)] = [VOCABULARY.index(word) if word in VOCABULARY else UNKNOWN for word in words]
    return Sentences(tokens, np.ones(len(texts), np.int64), VOCABULARY)


def test_groups_do_not_overlap_and_leave_out_padding_and_unknown_words():
    groups = language.groups_of(sentences("the film is a good story of zebras"))
    assert not set(language.STOP) & set(language.SENTIMENT)
    assert np.flatnonzero(groups["stop"]).tolist() == [0, 2, 3, 6]
    assert np.flatnonzero(groups["sentiment"]).tolist() == [4]
    assert np.flatnonzero(groups["other"]).tolist() == [1, 5]


def test_sentences_are_cut_to_those_of_clear_rating_and_usable_length(monkeypatch):
    import language_networks

    monkeypatch.setattr(language_networks, "HELD_OUT", 1)
    monkeypatch.setattr(language_networks, "SEEN", 2)
    usable = ["one good film this year", "a good film it is"]
    texts = [*usable, "too short", "a film that nobody has an opinion of"]
    training, held_out = prepared([words_of(text) for text in texts], [1.0, -1.0, 2.0, 0.1])
    assert len(training.tokens) == len(held_out.tokens) == 1
    assert training.vocabulary == ["", "?"]
    assert {*training.labels, *held_out.labels} == {0, 1}


def test_a_bag_of_words_uses_all_words_alike_under_every_normalizer(tmp_path):
    """The mean of the embeddings depends equally on each word: no group of words is discarded more than another."""
    chosen = sentences("the film is a good story", "a plot of the worst actor and the story", "it is a fine film")
    network = Classifier("LSTM", len(VOCABULARY), layers=0).requires_grad_(False)
    feeds = {"tokens": chosen.tokens, "attention_mask": mask_of(torch.from_numpy(chosen.tokens)).numpy()}
    for normalizer in language.NORMALIZERS:
        onnxinfo.analyze(
            export(network), feeds, tmp_path / "bag.h5", layers=["mean", "logits"], share_sigma="pixel", sigma_max=1e9,
            normalize_by=normalizer, run=normalizer, threads=1,
        )  # fmt: skip
    with onnxinfo.open(tmp_path / "bag.h5") as archive:
        maps = {name: [archive[name].maps("sid", layer) for layer in (0, 1)] for name in language.NORMALIZERS}
        assert not any(unproven(archive[name].values("sid")).any() for name in language.NORMALIZERS)
    floor = 0.5 * np.log(1.5e-4) + 0.5 * np.log(2 * np.pi * np.e)
    for by_layer in zip(*maps.values(), strict=True):
        words = [each.mean(-1) for each in by_layer]
        there = chosen.tokens != PADDING
        assert all(np.array_equal(np.isfinite(each), there) for each in words)
        np.testing.assert_allclose(words[0][there], floor, atol=1e-3)
        for row in range(len(there)):
            for each in words:
                assert np.ptp(each[row][there[row]]) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_a_sentence(kind):
    network = Classifier(kind, len(VOCABULARY)).eval()
    short = torch.tensor([[2, 3, 4, *[PADDING] * (MOST - 3)]])
    other = torch.cat([short, torch.randint(2, 9, (1, MOST))])
    alone, beside = network(short, mask_of(short)), network(other, mask_of(other))
    for one, two in zip(alone, beside, strict=True):
        torch.testing.assert_close(one[0], two[0])
    assert not alone[1][0, 3:].any()


def test_the_page_shows_the_committed_results():
    assert language.tables(RESULTS) in (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")


def test_summaries_are_paired_over_sentences():
    rows = [
        {"network": "LSTM", "state": "trained", "normalizer": "sample", "layer": "mean", "seed": seed, "sentence": row,
         "stop": row + 1.0 + seed, "sentiment": row - 1.0, "other": float(row), "value": 0.0, "unproven": 0,
         "accuracy": 1.0}
        for seed in (0, 1) for row in range(3)
    ]  # fmt: skip
    found = language.summary(pandas.DataFrame(rows)).set_index("seed")
    assert found.stop_other.tolist() == [1, 2, 1.5]
    assert found.sentiment_other.tolist() == [-1, -1, -1]
    # Sentences do not differ; seeds do.
    assert found.stop_other_stderr.tolist() == pytest.approx([0, 0, 0.5])


@pytest.mark.slow
@pytest.mark.skipif(DISTRIBUTION is None, reason="ONNXINFO_SENTENCES names no source distribution of vaderSentiment")
def test_a_rerun_gives_the_committed_results(tmp_path, monkeypatch):
    """One network of the table, trained and analyzed anew under one normalizer."""
    monkeypatch.setattr(language, "NORMALIZERS", ("sample",))
    data = prepared(*language.read_sentences(Path(DISTRIBUTION)))
    rows = language.piece("LSTM", 0, "trained", data, tmp_path)
    again = language.summary(pandas.DataFrame(rows))
    again = again[again.seed == 0].set_index("layer")
    expected = pandas.read_csv(RESULTS)
    chosen = (expected.network == "LSTM") & (expected.state == "trained") & (expected.normalizer == "sample")
    expected = expected[chosen & (expected.seed == "0")].set_index("layer")
    np.testing.assert_allclose(again.accuracy, expected.accuracy, atol=0.03)
    for name in ("value", "stop_other", "sentiment_other"):
        np.testing.assert_allclose(again[name], expected[name], atol=0.15)
