"""The model card of an exported net: Markdown under a header that Hugging Face reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.base.config_text import to_toml, unflatten
from fedkd.results.data import RecordedData
from fedkd.results.environment import read_environment
from fedkd.results.recorded import RecordedRun
from fedkd.results.row_keys import with_test_set

LOAD = '''import json

import torch
from safetensors.torch import load_file

from fedkd.data.kinds import Moments, find_kind
from fedkd.nets import build_net

config = json.load(open("config.json", encoding="utf-8"))
shape = config["shape"]
net = build_net(
    config["net"],
    shape={name: tuple(sides) for name, sides in shape.items()} if isinstance(shape, dict) else tuple(shape),
    classes=len(config["class_names"]),
    heads=tuple(config["heads"]),
    options=config["options"],
    vocabulary=config["vocabulary"],
)
net.load_state_dict(load_file("model.safetensors"))
net.eval()


def answer(samples):
    """Logits (B, C) of raw samples (B, ...), such as pixels of 0 to 255, in the order of config["class_names"]."""
    moments = Moments(torch.tensor(config["mean"]), torch.tensor(config["std"]))
    with torch.no_grad():
        return net(find_kind(config["kind"]).normalise(samples, moments))
'''
LOAD_WEIGHTS = """from safetensors.torch import load_file

weights = load_file("model.safetensors")  # name -> tensor, for load_state_dict of the net in code/
"""


@dataclass(frozen=True)
class Card:
    """What a card tells of."""

    run: RecordedRun
    data: RecordedData
    config: Mapping[str, Any]
    client: int | None
    round: int
    name: str


def write_card(file: Path, card: Card) -> None:
    """Write it."""
    file.write_text(f"---\n{_header(card)}\n---\n\n" + "\n".join(_body(card)) + "\n", encoding="utf-8")


def _header(card: Card) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = "image-classification" if card.data.kind == "image" else "other"
    source = _public_name(card.data.source)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=source,
            dataset_name=source,
            metric_type="accuracy",
            metric_value=value,
            metric_name=name,
        )
        for name, value in _scores(card)
    ]
    header = ModelCardData(
        library_name="fedkd",
        tags=["federated-learning", "knowledge-distillation", card.run.strategy],
        datasets=[source],
        metrics=["accuracy"],
        pipeline_tag=task if task != "other" else None,
        model_name=card.name,
        eval_results=results or None,
    )
    return str(header.to_yaml()).strip()


def _scores(card: Card) -> list[tuple[str, float]]:
    """The accuracies of this net, each with what it was measured on."""
    found: list[tuple[str, float]] = []
    if card.client is not None:
        mine = [row for row in card.run.clients if (row["client"], row["round"]) == (card.client, card.round)]
        own = [row for row in mine if row.get("accuracy") is not None]
        found += [("accuracy on the client's own test samples", own[-1]["accuracy"])] if own else []
    else:
        last = next((row for row in reversed(card.run.rows) if row.get("accuracy") is not None), None)
        found += [(f"accuracy: {with_test_set(last['accuracy_of'])}", last["accuracy"])] if last else []
    return found


def _body(card: Card) -> Iterator[str]:
    run, data = card.run, card.data
    yield f"# {card.name}\n"
    owner = "the server" if card.client is None else f"client {card.client}"
    yield f"The net that {owner} had after {card.round} of {run.rounds_done} rounds of `{run.strategy}`, trained with fedkd.\n"
    yield "## Data\n"
    trained = sum(data.client_train) if card.client is None else data.client_train[card.client]
    whose = f"all {len(data.client_train)} clients" if card.client is None else f"this client of {len(data.client_train)}"
    yield f"`{_public_name(data.source)}`: {trained} training samples of {whose}, partition "
    yield f"`{run.experiment.get('data.partition')}`, {data.public} public samples. Content hash `{data.content_hash}`."
    yield f"Classes, in the order of the logits: {', '.join(f'`{name}`' for name in data.classes)}.\n"
    yield "## Results\n"
    scores = [f"- {name}: {value:.4f}" for name, value in _scores(card)]
    yield "\n".join(scores or ["Nothing was measured of this net."]) + "\n"
    yield "## Load it\n\n```python"
    yield (LOAD if card.config["net"] else LOAD_WEIGHTS) + "```\n"
    if card.config["net"] == "" or ":" in str(card.config["net"]):
        yield "The net is one of a user's own: its code, as it ran, is in `code/`, and must be importable.\n"
    yield "## How it came about\n"
    yield "`fedkd run experiment.toml`, with this `experiment.toml`:\n\n```toml"
    yield to_toml(_said(run.experiment)).strip() + "\n```\n"
    yield f"Versions: {_versions(run.path)}.\n"
    yield "Weights and answers of a net tell of what it was trained on: `fedkd audit` measures how much."


def _said(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment without places on the machine that it ran on."""
    hidden = ("data.path", "engine.address")
    flat = {key: value for key, value in experiment.items() if key not in hidden}
    flat["data.source"] = _public_name(str(flat.get("data.source", "")))
    return unflatten(flat)


def _public_name(source: str) -> str:
    """The name of a data set; of one at a place on a disk only the last part."""
    return Path(source).name if source.startswith(("/", ".", "~")) or "\\" in source else source


def _versions(path: Path) -> str:
    found = read_environment(path).get("versions") or {}
    return ", ".join(f"{name} {number}" for name, number in found.items() if number) or "not known"
