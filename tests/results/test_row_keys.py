"""The list of a row's keys: each once, in words; forms; what a user's own key is called."""

from __future__ import annotations

import pytest

from fedkd.results.report.cells import cell
from fedkd.results.row_keys import OF_ROUNDS, ROW_KEYS, SHARE, describe_key, find_entry, is_owned


def test_every_key_stands_once_and_says_what_it_means() -> None:
    assert len({each.key for each in ROW_KEYS}) == len(ROW_KEYS)
    assert all(each.label and each.meaning and not each.meaning.endswith(".") for each in ROW_KEYS)
    assert len({each.short for each in OF_ROUNDS}) == len(OF_ROUNDS), "two columns would have one heading"


@pytest.mark.parametrize(
    ("key", "entry", "label"),
    [
        ("fine_tuned_10_percent_accuracy", "fine_tuned_<share>_percent_accuracy", "fine-tuned, 10 % of labels"),
        ("probe_0_5_percent_accuracy", "probe_<share>_percent_accuracy", "probe, 0.5 % of labels"),
        ("client_probe_accuracy", "client_probe_accuracy", "accuracy of clients' own linear probes"),
        ("client_own_classes_accuracy", "client_<name>_accuracy", "mean client accuracy of own classes"),
        ("server_cnn_validation_accuracy", "server_<name>_accuracy", "accuracy of cnn validation at the server"),
        ("mentor_cross_entropy", "<name>_cross_entropy", "cross-entropy of mentor"),
        (r"odd\\g<0>_accuracy", "<name>_accuracy", r"accuracy of odd\\g<0>"),
    ],
)
def test_a_key_of_a_form_has_its_word_in_the_label(key: str, entry: str, label: str) -> None:
    found = find_entry(key)
    assert found is not None and found.key == entry
    assert describe_key(key).label == label


@pytest.mark.parametrize("key", ["_accuracy", "probe_one_percent_accuracies", "my_norm", ""])
def test_a_key_that_nobody_described_has_its_own_words(key: str) -> None:
    assert find_entry(key) is None
    assert describe_key(key).short == key.replace("_", " ")


def test_a_reader_sees_shares_in_percent_and_bytes_in_units() -> None:
    assert describe_key("net_b_accuracy").unit == SHARE
    assert [cell(key, 0.25) for key in ("net_b_accuracy", "agreement", "uniformity")] == ["25.0 %", "25.0 %", "0.25"]
    assert cell("edge_bytes", 2500) == "2.5 kB" and cell("seconds", 75.0) == "1 min 15 s"


def test_what_fedkd_writes_is_its_own_and_losses_are_the_strategies() -> None:
    assert all(map(is_owned, ("round", "status", "client_anything", "bytes_sideways", "probe_1_percent_accuracy", "alignment")))
    assert not any(map(is_owned, ("loss", "epsilon", "train_accuracy", "mentor_hidden", "my_norm")))
