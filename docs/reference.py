"""The pages that are generated from the package: keys, strategies, losses, targets, codecs, partitions, nets, attacks.

Every page is a function that gives its Markdown. Words come from where the code has them: descriptions of keys, docstrings,
comments beside fields, signatures.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkd import losses, targets
from fedkd.cli.prose import blocks
from fedkd.data.flower_partition import FILLED_IN, partitioners
from fedkd.data.partition import OWN, partition_names
from fedkd.data.views import PRESETS
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.keys import TOP, Key, experiment_keys, strategy_keys
from fedkd.experiment.registry import strategies
from fedkd.knowledge.attacks import ATTACKS
from fedkd.knowledge.codecs import CODECS, Codec
from fedkd.knowledge.codecs import FAMILIES as CODEC_FAMILIES
from fedkd.losses.distillers import DISTILLERS
from fedkd.nets import ZOO

ROOT = Path(__file__).parents[1]

#: Family -> one line, the guide that explains it, its strategies. Every strategy is in one of them.
FAMILIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "Answers about public samples": (
        "Clients say what they predict for samples that all of them hold; weights stay at home, so nets may differ.",
        "logits",
        ("fedmd", "dsfl", "cfd", "cronus", "fedmd_nfdp", "d_distillation", "feddf"),
    ),
    "Answers by class": (
        "A mean output or feature for each class, a few hundred bytes; no public samples.",
        "logits",
        ("fd", "fedproto", "feddistill"),
    ),
    "Weights, with distillation at the client": (
        "Weights are averaged, and the client learns from the global net or a small shared one as well.",
        "choose",
        ("fedntd", "moon", "fml", "fedkd"),
    ),
    "A student and its teachers": (
        "A net at the server learns from frozen nets: those of clients, or of finished runs.",
        "teachers",
        ("multi_teacher", "you2017", "dgkd"),
    ),
    "Peers": (
        "Nets that learn side by side tell each other what they think of every mini-batch.",
        "peers",
        ("dml", "kdcl", "okddip", "mcl", "dcm", "codistillation"),
    ),
    "A net that teaches itself": (
        "Branches, exits, a moving average or the last generation of one net are its teachers.",
        "peers",
        ("one", "cl_ilr", "pcl", "byot", "mean_teacher", "born_again"),
    ),
    "Encoders without labels": (
        "Clients train encoders by contrast between views, and exchange weights or representations.",
        "encoders",
        ("fedsimclr", "fedmoco", "fedbyol", "fedprotocl", "fedu", "fedema", "fedx", "fedx_rep", "encoder_distillation"),
    ),
    "Baselines": (
        "What a result must be held against.",
        "choose",
        ("fedavg", "fedprox", "local", "local_encoders", "centralised", "ensemble"),
    ),
}


def pages() -> dict[str, str]:
    """Every generated page: its path below ``generated``, without ``.md``, and its text."""
    found = {
        "keys": keys_page(),
        "strategies": strategies_page(),
        "losses": losses_page(),
        "targets": targets_page(),
        "codecs": codecs_page(),
        "partitions": partitions_page(),
        "nets": nets_page(),
        "attacks": attacks_page(),
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
        "The same list in the terminal: `fedkd keys`, `fedkd keys train`. In a file a key stands in its section, `[train]`; with "
        "`--set` and in Flower's run-config it is written with a dot, `train.epochs=5`. What is left out has its default. A key that "
        "an experiment does not use is told, with the reason.",
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
    example = example if example.exists() else ROOT / "simulations" / f"demo_{name}.toml"
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
        "What `loss` of `multi_teacher` takes, and, where it needs logits only, that of `feddf`, `fedmd`, `fml` and `dml`. The weight "
        "is what the official code, or RepDistiller, multiplies the loss by beside a cross-entropy of weight 1; `strategy.weight` "
        "scales it. Options go into `loss_options`. In the terminal: `fedkd losses`.",
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
        "What `strategy.target` of `multi_teacher` takes. A target that excludes classes may give one the probability 0, so it does "
        "not go with losses on raw logits. In the terminal: `fedkd targets`.",
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
        "How `data.partition` deals out the training images. Arguments stand beside it in `[data]`. Three are fedkd's own; the others "
        "are the partitioners of flwr-datasets, by name in snake case, whose words for their arguments are quoted here. The number of "
        "clients, the column and the seed are filled in.",
    ]
    for name in partition_names():
        if name in OWN:
            parts += [f"## `{name}`", OWN_PARTITIONS[name]]
            continue
        kind = partitioners()[name]
        described = numpy_parameters(inspect.getdoc(kind) or "")
        rows = [
            (
                f"`{key}`",
                "needed" if parameter.default is parameter.empty else f"`{parameter.default!r}`",
                described.get(key, ""),
            )
            for key, parameter in inspect.signature(kind).parameters.items()
            if key not in FILLED_IN
        ]
        parts += [f"## `{name}`", first_line(kind)]
        parts += [table(("argument", "default", "meaning"), rows)] if rows else []
    return page(*parts)


#: What fedkd's own partitions do.
OWN_PARTITIONS = {
    "iid": "All images are shuffled by the seed and dealt out in parts of equal size.",
    "natural_id": "Each owner is a client: `data.natural_column` says whose an image is, or folders by client do.",
    "shared": "Every client holds all images: for peers that learn the same data.",
}


def nets_page() -> str:
    """The nets that fedkd brings."""
    return page(
        "# Nets",
        "A name for `nets`, `server_net` and `shared_net`. Keyword arguments stand in the file as `[net_options.NAME]`. To add one, "
        "see [a net of your own](../add/net.md).",
        *(f"## `{name}`\n\n" + auto("class", f"{kind.__module__}.{kind.__name__}") for name, kind in sorted(ZOO.items())),
        "## What a net is",
        auto("class", "fedkd.nets.Encoder", ":members:"),
        "## Views",
        "Augmentations that `data.views` names.",
        table(("name", "what it does"), [(f"`{name}`", first_line(function)) for name, function in PRESETS.items()]),
    )


def attacks_page() -> str:
    """The simulated attacks."""
    rows = []
    for name, attack in ATTACKS.items():
        changes = {"labels": first_line(attack.relabel)} if attack.relabels else {}
        changes |= {space: first_line(distortion) for space, distortion in attack.distortions.items()}
        rows += [(f"`{name}`", space, words, "yes" if space in attack.scaled else "") for space, words in changes.items()]
    return page(
        "# Attacks",
        "What `attack.name` makes of the labels or of the upload of hostile clients, by what it finds there. `attack.scale` is `scale` "
        "here. What an attack does not name is sent honestly.",
        table(("name", "of", "what it does", "scaled"), rows),
    )


def page(*parts: str) -> str:
    """A page of these parts."""
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(escaped(cell) for cell in line) + " |" for line in lines)


def escaped(cell: str) -> str:
    """A cell's text: bars would end it. What stands in code marks stays code."""
    return cell.replace("``", "`").replace("|", "\\|").replace("\n", " ")


def keys_table(keys: Iterable[Key], *, example: bool) -> str:
    """Keys with default, range, meaning and, where the models give one, an example."""
    head = ("key", "default", "range", "meaning", *(("example",) if example else ()))
    rows = []
    for key in keys:
        shown = f"`{key.name} = {key.example}`" if key.example else ""
        rows.append((f"`{key.name}`", f"`{key.default}`", key.range, key.meaning, *((shown,) if example else ())))
    return table(head, rows)


def listed(names: Iterable[str]) -> str:
    """Names in code marks, with commas."""
    return ", ".join(f"`{name}`" for name in names)


def prose(text: str, *, headings: bool = False) -> str:
    """A docstring as Markdown: formulas become code, and with ``headings`` its parts get one each."""
    parts = []
    for block in blocks(text):
        if block.verbatim:
            parts.append(f"```text\n{inspect.cleandoc(block.text)}\n```")
            continue
        heading = re.match(r"(Papers?|What travels|Deviations?)\b", block.text) if headings else None
        parts += [f"## {heading[1]}"] if heading else []
        body = re.sub(r"^(Papers?|What travels|Deviations?):\s*", "", block.text) if heading else block.text
        body = body[0].upper() + body[1:] if heading else body
        parts.append(re.sub(r"::$", ":", body.replace("``", "`")))
    return "\n\n".join(parts)


def first_line(thing: Any) -> str:
    """The first paragraph of a docstring."""
    return next((block.text for block in blocks(inspect.getdoc(thing) or "")), "")


def numpy_parameters(text: str) -> dict[str, str]:
    """Parameter -> meaning, of a docstring in NumPy's form.

    >>> numpy_parameters("A\\n\\nParameters\\n----------\\nsize : int\\n    How\\n    large.\\nname : str\\n    Whose.")
    {'size': 'How large.', 'name': 'Whose.'}
    """
    found: dict[str, str] = {}
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    for match in re.finditer(r"^(\w+)\s*:[^\n]*\n((?:[ \t]+[^\n]*\n?|\n)+)", section[1] if section else "", re.MULTILINE):
        found[match[1]] = " ".join(match[2].split())
    return found


def documented(module: str, names: Iterable[str]) -> str:
    """Functions, classes and values of a module by their docstrings."""
    made: Mapping[str, Any] = vars(sys.modules[module])
    kinds: Callable[[Any], str] = lambda thing: "class" if inspect.isclass(thing) else "function"  # noqa: E731
    return "\n\n".join(auto(kinds(made[name]), f"{module}.{name}") for name in names if callable(made[name]))


def auto(kind: str, path: str, *options: str) -> str:
    """What Sphinx makes of a docstring."""
    return "\n".join(["```{eval-rst}", f".. auto{kind}:: {path}", *(f"   {option}" for option in options), "```"])
