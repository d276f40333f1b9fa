"""The pages that are generated from the package: keys, strategies, losses, targets, codecs, partitions, nets, attacks.

Every page is a function that gives its Markdown. Words come from where the code has them: descriptions of keys, docstrings,
comments beside fields, signatures.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from families import FAMILIES
from pieces import auto, documented, first_line, keys_table, listed, page, parameters, prose, table

from fedkd import losses, targets
from fedkd.data.flower_partition import FILLED_IN, partitioners
from fedkd.data.partition import EACH_ITS_OWN, OWN, partition_names
from fedkd.data.views import PRESETS
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.keys import TOP, Key, experiment_keys, strategy_keys
from fedkd.experiment.registry import strategies
from fedkd.knowledge.attacks import ATTACKS
from fedkd.knowledge.codecs import CODECS, Codec
from fedkd.knowledge.codecs import FAMILIES as CODEC_FAMILIES
from fedkd.knowledge.collusion import SPACES as COLLUDED
from fedkd.losses.distillers import DISTILLERS
from fedkd.nets import ZOO
from fedkd.results.row_keys import FORMS, MORE_OF_ROUNDS, OF_CLIENTS, OF_ROUNDS, OF_STRATEGIES

ROOT = Path(__file__).parents[1]


def pages() -> dict[str, str]:
    """Every generated page: its path below ``generated``, without ``.md``, and its text."""
    found = {
        "keys": keys_page(),
        "metrics": metrics_page(),
        "strategies": strategies_page(),
        "losses": losses_page(),
        "targets": targets_page(),
        "codecs": codecs_page(),
        "partitions": partitions_page(),
        "nets": nets_page(),
        "attacks": attacks_page(),
        "deployment": mirrored("deployment/README.md"),
        "changelog": mirrored("CHANGELOG.md"),
    }
    return found | {f"strategies/{name}": strategy_page(name) for name in strategies()}


def write(folder: Path) -> None:
    """Write the pages, leaving alone those that have not changed; what is no page any more goes."""
    texts = {folder / f"{name}.md": text for name, text in pages().items()}
    for old in set(folder.rglob("*.md")) - texts.keys():
        old.unlink()
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def keys_page() -> str:
    """Every key of the experiment file, section by section."""
    parts = [
        "# Every key of the experiment file",
        "The same list in the terminal: `fedkd keys`, `fedkd keys train`. In a file a key stands in its section, `[train]`; "
        "with `--set` and in Flower's run-config it is written with a dot, `train.epochs=5`. What is left out has its default. "
        "A key that an experiment does not use is told, with the reason.",
    ]
    by_section: dict[str, list[Key]] = {}
    for key in experiment_keys():
        by_section.setdefault(key.section, []).append(key)
    for section, keys in by_section.items():
        if section == TOP:
            parts += ["## At the top of the file", "Above the first `[section]`."]
        else:
            model = Experiment.model_fields[section].annotation
            parts += [f"## `[{section}]`", prose(inspect.getdoc(model) or "")]
        parts += [keys_table(keys, example=True), *BEHIND.get(section, ())]
    parts += [
        "## `[strategy]`",
        "`name`, and the strategy's own keys: see [its page](strategies.md), or `fedkd strategies NAME`.",
    ]
    return page(*parts)


def metrics_page() -> str:
    """Every key of a round's row and of a client's line."""
    groups = {
        "A round: `metrics.jsonl`": (*OF_ROUNDS, *MORE_OF_ROUNDS),
        "A client in a round: `clients.jsonl`": OF_CLIENTS,
        "Of strategies: both files": OF_STRATEGIES,
        "With a word of the strategy's": FORMS,
    }
    parts = [
        "# Metrics",
        "What a run writes, and `History` holds: one row a round, and one line a client and round. A key is left out where "
        "there is no such number. `fedkd plot RUNS --metric KEY` draws one.",
    ]
    for title, keys in groups.items():
        rows = [(f"`{each.key}`", re.sub(r"<(\w+)>", r"*\1*", each.label), each.unit, each.meaning) for each in keys]
        parts += [f"## {title}", table(("key", "label", "unit", "meaning"), rows)]
    parts.append("A client's line has the round, its bytes up and down, and the metrics of its strategy too.")
    return page(*parts)


BEHIND = {
    TOP: ("Codecs stand on [a page of their own](codecs.md), nets and their options [likewise](nets.md).",),
    "data": (
        "A partition's own arguments (`alpha` of `dirichlet`) stand in this section too: see [partitions](partitions.md).",
    ),
    "attack": ("What each attack does: see [attacks](attacks.md).",),
}


def strategies_page() -> str:
    """All strategies by family, with links."""
    parts = ["# Strategies", "`fedkd strategies` lists them in the terminal, `fedkd strategies NAME` shows one whole."]
    known = strategies()
    for family, (meaning, guide, names) in FAMILIES.items():
        rows = [
            (f"[`{name}`](strategies/{name}.md)", known[name].paper, known[name].sends, str(known[name].needs))
            for name in names
        ]
        parts += [
            f"## {family}",
            f"{meaning} See [the guide](../{guide}.md).",
            table(("name", "paper", "what travels", "needs"), rows),
        ]
    listed = "\n".join(f"strategies/{name}" for name in known)
    return page(*parts, f"```{{toctree}}\n:hidden:\n\n{listed}\n```")


def strategy_page(name: str) -> str:
    """One strategy: what it is, its paper, what travels, deviations, needs, keys, an experiment, and its source."""
    cls = strategies()[name]
    module = sys.modules[cls.__module__]
    keys = strategy_keys(cls)
    facts = [("paper", cls.paper), ("what travels", cls.sends), ("needs", str(cls.needs)), ("class", f"`{cls.__name__}`")]
    parts = [
        f"# {name}",
        prose(module.__doc__ or ""),
        table(("", ""), facts),
        prose(cls.__doc__ or "", headings=True),
        "## Keys",
    ]
    parts.append(keys_table(keys, example=False) if keys else "None of its own: `name` alone.")
    example = ROOT / "simulations" / f"digits_{name}.toml"
    depth = "../../.."
    parts += [
        "## An experiment",
        f"`fedkd run {example.relative_to(ROOT)}`",
        f"```{{literalinclude}} {depth}/{example.relative_to(ROOT)}\n:language: toml\n```",
        "## The whole of it",
        f"`strategies/{name}.py`",
        f"```{{literalinclude}} {depth}/strategies/{name}.py\n:language: python\n```",
    ]
    return page(*parts)


def losses_page() -> str:
    """Every loss: those that a file names, and the functions."""
    rows = [
        (
            f"`{name}`",
            f"`{recipe.loss.__name__}`",
            ", ".join(sorted(recipe.needs)),
            f"{recipe.weight:g}",
            listed(recipe.option_names),
        )
        for name, recipe in DISTILLERS.items()
    ]
    return page(
        "# Losses",
        prose(losses.__doc__ or ""),
        "## By name",
        "What `loss` of `multi_teacher` takes, and, where it needs logits only, that of `feddf`, `fedmd`, `fml` and `dml`. The "
        "weight is what the official code, or RepDistiller, multiplies the loss by beside a cross-entropy of weight 1; "
        "`strategy.weight` scales it. Options go into `loss_options`. In the terminal: `fedkd losses`.",
        table(("name", "function", "needs", "usual weight", "options"), rows),
        "## Functions and modules",
        documented("fedkd.losses", losses.__all__),
    )


def targets_page() -> str:
    """Every target that several teachers make together."""
    rows = [
        (f"`{name}`", ", ".join(sorted(rule.needs)), "yes" if rule.excludes else "") for name, rule in targets.RULES.items()
    ]
    return page(
        "# Targets",
        prose(targets.__doc__ or ""),
        "## By name",
        "What `strategy.target` of `multi_teacher` takes. A target that excludes classes may give one the probability 0, so it "
        "does not go with losses on raw logits. In the terminal: `fedkd targets`.",
        table(("name", "needs beside logits", "excludes classes"), rows),
        "## Functions",
        documented("fedkd.targets", targets.__all__),
    )


def codecs_page() -> str:
    """Every codec by name, with what its docstring says."""
    import fedkd.knowledge.codecs as codecs

    known = {**CODECS, "bits1": CODEC_FAMILIES["bits"](1)}
    known |= {f"{family}N": make(8) for family, make in CODEC_FAMILIES.items()}
    kinds: dict[type[Codec], list[str]] = {}
    for name, codec in sorted(known.items()):
        kinds.setdefault(type(codec), []).append(name)
    rows = [
        (listed(names), "yes" if kind.lossless else "no", "yes" if kind.needs_base else "no", first_line(kind))
        for kind, names in kinds.items()
    ]
    details = [f"### {listed(names)}\n\n{prose(kind.__doc__ or '')}" for kind, names in kinds.items()]
    return page(
        "# Codecs",
        prose(codecs.__doc__ or ""),
        table(("name", "lossless", "codes against a base", "what it does"), rows),
        "N is a number: `bits4`, `top8`, `svd95`.",
        "## In full",
        *details,
    )


def partitions_page() -> str:
    """Every partition, with its arguments."""
    parts = [
        "# Partitions",
        "How `data.partition` deals out the training images. Arguments stand beside it in `[data]`; `dirichlet` alone means "
        "`alpha = 0.5`. Some are fedkd's own; the others are the partitioners of flwr-datasets, by name in snake case, whose "
        "words for their arguments are quoted here. The number of clients, the column and the seed are filled in.",
    ]
    parts += [f"## `{EACH_ITS_OWN}`", "Nothing is dealt out: see [each client its own data](../own_data.md)."]
    for name in sorted({*partition_names()} - {EACH_ITS_OWN}):
        kind: Any = OWN[name] if name in OWN else partitioners()[name]
        described = parameters(inspect.getdoc(kind) or "")
        rows = [
            (f"`{key}`", "needed" if argument.default is argument.empty else f"`{argument.default!r}`", described.get(key, ""))
            for key, argument in inspect.signature(kind).parameters.items()
            if key not in FILLED_IN and (name not in OWN or argument.kind is argument.KEYWORD_ONLY)
        ]
        parts += [f"## `{name}`", prose(first_line(kind)), table(("argument", "default", "meaning"), rows) if rows else ""]
    return page(*parts)


def nets_page() -> str:
    """The nets that fedkd brings."""
    return page(
        "# Nets",
        "A name for `nets`, `server_net` and `shared_net`. Keyword arguments stand in the file as `[net_options.NAME]`. To add "
        "one, see [a net of your own](../add/net.md).",
        *(f"## `{name}`\n\n" + auto("class", f"{kind.__module__}.{kind.__name__}") for name, kind in sorted(ZOO.items())),
        "## What a net is",
        auto("class", "fedkd.nets.Encoder", ":members:"),
        "## Views",
        "Augmentations that `data.views` names; a function of your own works too: see [samples of any kind](../kinds.md).",
        table(
            ("name", "of", "what it does"),
            [(f"`{name}`", kind, first_line(function)) for name, (kind, function) in PRESETS.items()],
        ),
    )


def attacks_page() -> str:
    """The simulated attacks."""
    rows = []
    for name, attack in ATTACKS.items():
        changes = {"labels": first_line(attack.relabel)} if attack.relabels else {}
        changes |= {space: first_line(distortion) for space, distortion in attack.distortions.items()}
        changes |= dict.fromkeys(COLLUDED, first_line(attack.collusion.choose)) if attack.collusion else {}
        rows += [(f"`{name}`", space, words, "yes" if space in attack.scaled else "") for space, words in changes.items()]
    return page(
        "# Attacks",
        "What `attack.name` makes of the labels or of the upload of hostile clients, by what it finds there. `attack.scale` is "
        "`scale` here. What an attack does not name is sent honestly. The attackers of `lma`, `cpa` and `hips` see what the "
        "honest clients send in the exchange, and all answer the same; of logits the softmax is judged, and in the place of "
        "all mass on a class stands the honest mean row, whose largest value changes places with that class's.",
        table(("name", "of", "what it does", "scaled"), rows),
    )


def mirrored(file: str) -> str:
    """A file of the repository as a page; its links lead to where its neighbours stand."""
    path = ROOT / file
    folder = Path(*[".."] * 2, file).parent
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", rf"]({folder.as_posix()}/\1)", path.read_text(encoding="utf-8"))
