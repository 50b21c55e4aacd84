"""Texts: token ids by a tokenizer's JSON file, padding and its mask, and text for models that take it as it is."""

import numpy as np
import pytest

from onnxinfo import InputError, UsageError, open_samples
from onnxinfo.inputs.sample_sets import open_inputs

IDS = {"input_ids": ((None,), np.int64), "attention_mask": ((None,), np.int64), "token_type_ids": ((None,), np.int32)}


@pytest.fixture
def files(tmp_path, monkeypatch):
    tokenizers = pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    words = {"[PAD]": 9, "[UNK]": 1, "a": 2, "good": 3, "film": 4}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    # What a tokenizer does by itself would cut texts without a word.
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=30, pad_id=9)
    tokenizer.save("tokenizer.json")
    (tmp_path / "t.txt").write_text("a good film\nfilm\r\na bad a film\n")
    (tmp_path / "t.csv").write_text('id,text,y\n1,"a film, a good film",0\n2,film,1\n')
    return {"tokenizer": "tokenizer.json"}


def test_every_input_is_filled_by_its_name(files):
    feeds = open_inputs("t.txt", IDS, **files).feeds([0, 1, 2])
    assert feeds["input_ids"].tolist() == [[2, 3, 4, 9], [4, 9, 9, 9], [2, 1, 2, 4]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert feeds["token_type_ids"].tolist() == [[0] * 4] * 3
    assert feeds["token_type_ids"].dtype == np.int32


def test_texts_of_a_column_with_labels_of_another(files):
    opened = open_inputs("t.csv:text", IDS, labels="t.csv:y", **files)
    assert opened.feeds([0, 1])["input_ids"].tolist() == [[2, 4, 1, 2, 3, 4], [4, 9, 9, 9, 9, 9]]
    assert opened.first.labels.tolist() == [0, 1]
    with pytest.raises(InputError, match=r"has 3 columns, id, text, y; name the one of texts, t\.csv:NAME"):
        open_inputs("t.csv", IDS, **files)


def test_lengths_that_a_model_does_not_take(files):
    alone = {"ids": ((None,), np.int64)}
    with pytest.raises(InputError, match=r"texts have 1 to 4 tokens .* without an attention mask"):
        open_inputs("t.txt", alone, **files)
    assert open_inputs("t.txt", alone, fit_length="pad", **files).first.shape == (4,)
    fixed = {name: ((3,), dtype) for name, (_, dtype) in IDS.items()}
    with pytest.raises(InputError, match=r"t\[2\] has 4 tokens, the model takes 3"):
        open_inputs("t.txt", fixed, **files)
    cut = open_inputs("t.txt", fixed, fit_length="cut", **files).feeds([2])
    assert cut["input_ids"].tolist() == [[2, 1, 2]]
    # The length that the tokenizer itself cuts to, where the model leaves it open.
    assert open_inputs("t.txt", IDS, fit_length="cut", **files).first.shape == (2,)


def test_what_is_refused_says_what_was_expected(files, tmp_path):
    def refusal(spec, declared=IDS, **options):
        with pytest.raises((InputError, UsageError)) as caught:
            open_inputs(spec, declared, **{**files, **options})
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "give tokenizer=..." in refusal("t.txt", tokenizer=None)
    assert "no such file" in refusal("t.txt", tokenizer="gone.json")
    assert "expected the tokenizer.json" in refusal("t.txt", tokenizer="t.txt")
    assert "takes no key" in refusal("t.txt:key")
    assert "input 'x' is not of token ids" in refusal("t.txt", {**IDS, "x": ((3,), np.float32)})
    for text, said in (("", "is empty"), ("a\n\nb\n", "line 2, is empty"), ("\udcff\n", "is not UTF-8")):
        (tmp_path / "bad.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
        assert said in refusal("bad.txt")
    (tmp_path / "bad.txt").write_text(" . " + "x" * 300_000_000)
    assert "is larger than 256 MiB" in refusal("bad.txt")


def test_models_that_take_text_get_it_as_it_is(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("a good film\nfilm\n")
    assert open_samples(path, shape=(1,), dtype=object).batch([0, 1]).tolist() == [["a good film"], ["film"]]
    assert open_samples(path, shape=(), dtype=object).batch([1]).tolist() == ["film"]
