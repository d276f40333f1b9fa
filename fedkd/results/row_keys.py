"""Every key of a round's row and of a client's line: its label, unit and meaning.

Terminal, report, figures and docs take their words from here, and ``fedkd.engine.client_metrics`` the names that are taken.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from fedkd.results.row_key import BYTES as BYTES
from fedkd.results.row_key import CLIENTS, NATS, RowKey, of_strategy
from fedkd.results.row_key import JOULES as JOULES
from fedkd.results.row_key import SECONDS as SECONDS
from fedkd.results.row_key import SHARE as SHARE
from fedkd.results.row_keys_of_strategies import OF_STRATEGIES as OF_STRATEGIES

#: How ``accuracy_of`` ends where there is no global test set.
OWN_TEST = "each on its own test samples"


def with_test_set(accuracy_of: str) -> str:
    """Whose accuracy the headline is, and on which samples.

    >>> with_test_set("global classifier, at the server")
    'global classifier, at the server, on the global test set'
    """
    return accuracy_of if accuracy_of.endswith(OWN_TEST) else f"{accuracy_of}, on the global test set"


#: In the order in which the report has its columns.
OF_ROUNDS = (
    RowKey("round", "round", "number of the round; row 0 is the state before training"),
    RowKey(
        *("accuracy", "test accuracy"),
        *("the headline, on the global test set if there is one; `accuracy_of` says whose", SHARE, "accuracy"),
    ),
    RowKey("client_accuracy", "mean client accuracy", "mean over clients on their own test splits", SHARE, "client accuracy"),
    RowKey(
        *("worst_tenth_accuracy", "mean accuracy of the worst tenth of clients"),
        *("the same mean over the tenth of clients with the lowest accuracy", SHARE, "worst tenth"),
    ),
    RowKey(
        *("probe_accuracy", "linear-probe accuracy"),
        *("a linear classifier fitted to the frozen net's features of the clients' train samples", SHARE, "linear probe"),
    ),
    RowKey(
        *("knn_accuracy", "kNN accuracy"),
        *("weighted vote of the 200 nearest train samples in the net's features, on the global test set", SHARE, "kNN"),
    ),
    RowKey("probe_<share>_percent_accuracy", "probe, <share> % of labels", "the probe, fitted with so many labels", SHARE),
    RowKey(
        *("fine_tuned_<share>_percent_accuracy", "fine-tuned, <share> % of labels"),
        *("the whole net, trained on with so many labels, after the last round", SHARE),
    ),
    RowKey(
        *("client_probe_accuracy", "accuracy of clients' own linear probes"),
        *("mean over clients of a linear probe on their own labels, on their own test splits", SHARE, "own probe"),
    ),
    RowKey(
        *("alignment", "alignment (lower is better)"),
        *("mean squared distance of unit features of two random views of a test sample", "", "alignment"),
    ),
    RowKey(
        *("uniformity", "uniformity (lower is better)"),
        *("log of the mean of exp(-2 squared distance) over pairs of test samples' unit features", "", "uniformity"),
    ),
    RowKey(
        *("client_cka", "linear CKA between clients' encoders"),
        *("biased linear CKA between clients' encoders after local training, mean over pairs", "", "client CKA"),
    ),
    RowKey("server_accuracy", "server accuracy", "the server's net, on the global test set", SHARE, "server"),
    RowKey(
        *("mean_peer_accuracy", "mean accuracy of the peers"),
        *("mean of the peers' accuracies, on the global test set", SHARE, "mean of peers"),
    ),
    RowKey(
        *("best_peer_accuracy", "accuracy of the best peer"),
        *("highest of the peers' accuracies; chosen on the global test set, so it flatters", SHARE, "best peer"),
    ),
    RowKey(
        *("ensemble_accuracy", "ensemble accuracy"),
        *("the class of the largest mean of the peers' probabilities, on the global test set", SHARE, "ensemble"),
    ),
    RowKey(
        *("agreement", "agreement between peers"),
        *("share of test samples on which two peers name the same class, mean over all pairs", SHARE, "agreement"),
    ),
    RowKey(
        *("peer_divergence", "KL divergence between peers"),
        *("KL between two peers' probabilities in nats, mean over test samples, pairs and both directions", NATS, "divergence"),
    ),
    RowKey(
        *("teacher_accuracy", "accuracy of the teacher"),
        *("what clients are taught on public samples, where their labels are known; never used in training", SHARE, "teacher"),
    ),
    RowKey(
        *("student_accuracy", "accuracy of the student or students"),
        *("mean over clients of the answers that the teacher is made of; of one student, on the test set", SHARE, "answers"),
    ),
    of_strategy(
        "distillation_weight", "weight of distillation", "what the distillation is multiplied by in the loss", "", "weight"
    ),
    of_strategy("epsilon", "epsilon", "privacy spent so far, at `delta`, by the client that sent most; of what: `epsilon_of`"),
    of_strategy("loss", "loss", "what clients minimised: mean over their batches, weighted over clients by their samples"),
    RowKey("bytes_up", "uploaded, raw", "uploads of all clients, as the tensors are", BYTES, "up, raw"),
    RowKey("coded_bytes_up", "uploaded, coded", "uploads of all clients, as codecs made them smaller", BYTES, "up, coded"),
    RowKey("bytes_down", "downloaded, raw", "broadcasts to all clients, as the tensors are", BYTES, "down, raw"),
    RowKey("coded_bytes_down", "downloaded, coded", "broadcasts to all clients, as codecs made them", BYTES, "down, coded"),
    RowKey("seconds", "time", "wall-clock time of the round; in a client's line, of its training", SECONDS),
    RowKey(
        *("cpu_seconds", "CPU time"),
        *("user and system time of the round, of all threads of the run's process and of its actors", SECONDS),
    ),
    RowKey(
        *("joules", "energy", "of the machine's processor packages in the round, whatever else was at work on them", JOULES),
    ),
    RowKey(
        *("simulated_seconds", "simulated time", "seconds of the round by the virtual clock; in a client's line, of its part"),
        *(SECONDS, "simulated"),
    ),
    RowKey("clients_ok", "clients whose upload counted", "clients whose uploads were used", CLIENTS, "ok"),
    RowKey("clients_late", "late clients", "clients whose uploads came too late, or never", CLIENTS, "late"),
    RowKey(
        "clients_failed", "failed clients", "clients that failed, dropped out, or sent what was rejected", CLIENTS, "failed"
    ),
)
#: What the report's table of rounds leaves out.
MORE_OF_ROUNDS = (
    RowKey("trained_together", "trainings as one", "the share of trainings that engine together carried out as one", SHARE),
    RowKey("accuracy_of", "whose accuracy", "whose the headline accuracy is, in words"),
    RowKey("class_accuracy", "accuracy by class", "the headline accuracy of each class, a list", SHARE),
    RowKey("peer_accuracies", "accuracies of the peers", "each peer's accuracy on the global test set, a list", SHARE),
    RowKey("peer_clients", "peers that answered", "ids of the clients that `peer_accuracies` speaks of, a list"),
    RowKey(
        *("teacher_agreement", "agreement between clients' answers"),
        *("share of public samples on which two clients name the same class, mean over all pairs", SHARE),
    ),
    RowKey("teacher_entropy", "entropy of the teacher", "mean over public samples; of logits, of their softmax", NATS),
    RowKey(
        *("teacher_calibration_error", "calibration error of the teacher"),
        *("how far its confidence and its accuracy lie apart, mean over 15 bins weighted by their samples", SHARE),
    ),
    RowKey("wire_bytes_up", "uploaded, on the wire", "uploads as Flower sends them, with names and headers", BYTES),
    RowKey("wire_bytes_down", "downloaded, on the wire", "broadcasts as Flower sends them, with names and headers", BYTES),
    RowKey("evaluation_bytes", "bytes of evaluation", "messages of the evaluation, both ways, on the wire", BYTES),
    RowKey("failures", "failures", "client -> the first line of why its upload did not count"),
    RowKey("evaluation_failures", "failed evaluations", "client, or server -> why its evaluation failed"),
    RowKey("late_used", "late uploads used", "uploads of earlier rounds that counted in this one", CLIENTS),
    RowKey("stopped", "why it stopped", "what ended the run before its last round, in words; in its last row"),
    RowKey("upload_staleness", "mean staleness", "rounds since the uploads' clients began, mean over the uploads used"),
    RowKey("oldest_upload", "largest staleness", "rounds since the first of these clients began"),
    RowKey("rolled_back", "rolled back", "true where the round went back to the last good broadcast"),
    RowKey("rolled_back_reason", "why it was rolled back", "what nobody could work with"),
    of_strategy("delta", "delta", "the probability that `epsilon` does not cover"),
    RowKey("epsilon_of", "of what epsilon is", "which uploads `epsilon` covers, and what its neighbours are"),
)
OF_CLIENTS = (
    RowKey("client", "client", "id of the client, from 0"),
    RowKey("status", "status", "ok, late or failed"),
    RowKey("reason", "reason", "why the upload did not count, with its traceback"),
    RowKey("device", "device", "what the client computes with, by the virtual clock"),
    RowKey("flops", "operations", "floating point operations of the client's half, counted for the virtual clock"),
    RowKey("compute_seconds", "computing", "simulated seconds of the client's half", SECONDS),
    RowKey("up_seconds", "uploading", "simulated seconds until its uploads have come, of their coded bytes", SECONDS),
    RowKey("down_seconds", "downloading", "simulated seconds until the broadcasts have come, of their coded bytes", SECONDS),
    RowKey("weight", "weight", "what the upload counts for: as a rule, the client's training samples"),
)
#: Keys with a word of the strategy's in them: a net, a branch, a part of the loss. The first that fits is meant.
FORMS = (
    RowKey("server_<name>_accuracy", "accuracy of <name> at the server", "as the strategy measures it there", SHARE),
    RowKey("server_<name>", "<name> at the server", "a number that the server's half of the strategy reports"),
    RowKey("client_<name>_accuracy", "mean client accuracy of <name>", "mean over clients on their own test splits", SHARE),
    RowKey("client_<name>", "<name> of the clients", "a number on the clients that the server's half of the strategy reports"),
    RowKey("<name>_accuracy", "accuracy of <name>", "this predictor's accuracy on the global test set", SHARE),
    of_strategy("<name>_cross_entropy", "cross-entropy of <name>", "cross-entropy of this net or branch to the labels", NATS),
    of_strategy("<name>_distillation", "distillation of <name>", "distillation of this net or branch"),
    of_strategy("<name>_hidden", "hidden loss of <name>", "FedKD: distance of hidden states, as it enters this net's loss"),
    of_strategy("<name>_contrastive", "<name> contrastive loss", "contrast of two views of a sample with other samples"),
    of_strategy("<name>_relational", "<name> relational loss", "distance between the relations of samples in two views"),
)
ROW_KEYS = (*OF_ROUNDS, *MORE_OF_ROUNDS, *OF_CLIENTS, *OF_STRATEGIES, *FORMS)
#: What begins so is kept for fedkd, though no key may be called so yet.
RESERVED = ("server_", "client_", "clients_", "bytes_", "coded_bytes_", "wire_bytes_")
_EXACT = {each.key: each for each in ROW_KEYS if "<" not in each.key}
_FORMS = [each for each in ROW_KEYS if "<" in each.key]


@lru_cache(maxsize=4096)
def find_entry(key: str) -> RowKey | None:
    """The entry of the list that a key belongs to; None for one that only a user's own strategy knows.

    >>> find_entry("probe_1_percent_accuracy").key, find_entry("my_norm")
    ('probe_<share>_percent_accuracy', None)
    """
    return _EXACT.get(key) or next((form for form in _FORMS if _word(form, key)), None)


@lru_cache(maxsize=4096)
def describe_key(key: str) -> RowKey:
    """What a key means, the word of its form put in; of a key that is not in the list, its own words.

    >>> describe_key("probe_0_5_percent_accuracy").label, describe_key("server_distillation").label
    ('probe, 0.5 % of labels', 'distillation at the server')
    >>> describe_key("client_accuracy").short, describe_key("my_norm").label
    ('client accuracy', 'my norm')
    """
    entry = find_entry(key)
    if entry is None:
        return RowKey(key, key.replace("_", " "), "reported by the strategy", owned=False)
    return replace(entry, key=key, label=re.sub("<.*>", lambda _: _word(entry, key), entry.label))


def is_owned(key: str) -> bool:
    """Whether only fedkd may write this key: a strategy's metrics must have other names.

    >>> is_owned("seconds"), is_owned("server_norm"), is_owned("loss")
    (True, True, False)
    """
    entry = find_entry(key)
    return key.startswith(RESERVED) or (entry is not None and entry.owned)


def _word(form: RowKey, key: str) -> str:
    """What stands in this key where its form has ``<name>`` or ``<share>``, in words; empty where it is of another form."""
    before, name, after = re.split("[<>]", form.key)
    found = re.fullmatch(f"{before}({r'[0-9]+(?:_[0-9]+)?' if name == 'share' else '.+'}){after}", key)
    return found[1].replace("_", "." if name == "share" else " ") if found else ""
