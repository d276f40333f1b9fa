"""The sections of the experiment file: local training, evaluation, faults, engine ... Frozen and validated."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from fedkd.base.errors import InputError, unknown
from fedkd.experiment.algorithm.asynchrony_section import Asynchrony
from fedkd.experiment.algorithm.clock_section import Clock
from fedkd.experiment.algorithm.data_section import Data
from fedkd.experiment.algorithm.record_section import Record
from fedkd.experiment.algorithm.schedule import rate_at
from fedkd.experiment.algorithm.section import Epochs, OptimizerName, Section, Shares
from fedkd.experiment.algorithm.stop_section import Stopping


class Training(Section):
    """Local training, the same words for every strategy."""

    epochs: Epochs = 1
    """Passes over a client's own training samples in each round; 0.5 is half of one. ``epochs = 5``"""
    steps: int = Field(0, ge=0)
    """Batches that a client trains on in each round, whatever it holds, in place of epochs; 0 is off. ``steps = 20``"""
    batch_size: int = Field(64, ge=1)
    """Samples a batch. The last batch of an epoch may be smaller. ``batch_size = 32``"""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are averaged before a step is taken. ``accumulate = 4``"""
    optimizer: OptimizerName = "sgd"
    """What takes the steps: sgd, adam, adamw, or "my_module:optimizer", a function of your own that makes a torch optimizer of
    (parameters, lr, weight_decay). ``optimizer = "adam"``
    """
    lr: float = Field(0.01, gt=0)
    """Learning rate before the schedule. ``lr = 0.05``"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd. Adam has none. ``momentum = 0.0``"""
    nesterov: bool = False
    """Whether the momentum of sgd is Nesterov's. ``nesterov = true``"""
    weight_decay: float = Field(1e-5, ge=0)
    """L2 penalty on the weights, as the optimiser adds it to the gradient; adamw shrinks the weights by it instead.
    ``weight_decay = 5e-4``
    """
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """How the learning rate goes over the rounds: it stays, falls to zero along a cosine, or drops at milestones.
    ``schedule = "cosine"``
    """
    milestones: tuple[int, ...] = ()
    """Rounds after which the rate is multiplied by gamma, in schedule "step". ``milestones = [30, 45]``"""
    gamma: float = 0.1
    """What the rate is multiplied by at each milestone, in schedule "step". ``gamma = 0.2``"""
    warm_up: int = Field(0, ge=0)
    """First rounds in which the rate grows evenly to its full height. ``warm_up = 5``"""
    clip: float = Field(0.0, ge=0)
    """Largest norm of a step's gradient, all parameters taken together; 0 is off. ``clip = 1.0``"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers of the forward pass: float32, or by torch's autocast bfloat16, or on a GPU float16, whose losses are scaled.
    Weights stay in float32. ``precision = "bf16"``
    """
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of a label that is spread evenly over all classes, in the cross-entropy of local training.
    ``label_smoothing = 0.1``
    """
    class_weights: Literal["none", "balanced"] = "none"
    """What a sample counts in the cross-entropy of local training: all alike, or so that each class of a client counts as much
    as its others. ``class_weights = "balanced"``
    """
    final_temperature: float = Field(0.0, ge=0)
    """Where the strategy's temperature ends: it goes evenly from strategy.temperature in round 1 to this one in the last; 0
    leaves it as it is. ``final_temperature = 1.0``
    """

    def lr_at(self, round: int, rounds: int) -> float:
        """The learning rate of a round, counted from 1, of ``rounds``."""
        return self.lr * rate_at(self.schedule, round, rounds, self.warm_up, self.milestones, self.gamma)


class Evaluation(Section):
    """How representations are evaluated, beside the linear probe on all labels and the nearest neighbours."""

    label_shares: Shares = (0.01, 0.1)
    """Shares of the labels on which a second linear probe of an encoder is fitted, one result each.
    ``label_shares = [0.05]``
    """
    probe_epochs: int = Field(100, ge=1)
    """Epochs of each linear probe of an encoder; more on a part of the samples, where an epoch has fewer than 10 steps.
    ``probe_epochs = 20``
    """
    fine_tune_epochs: int = Field(0, ge=0)
    """Epochs for which a copy of the whole encoder is trained on these shares after the last round; 0 is off.
    ``fine_tune_epochs = 20``
    """
    pictured: int = Field(0, ge=0)
    """Test samples whose features are drawn, round by round, in representation.png; 0 is off. ``pictured = 300``"""
    compared: int = Field(256, ge=0)
    """Test samples on which alignment, uniformity and the likeness of clients' encoders are measured; 0 is off.
    ``compared = 512``
    """

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        if len(set(self.label_shares)) < len(self.label_shares):
            raise InputError(f"evaluation.label_shares: {list(self.label_shares)} names a share twice: name each once")
        if self.compared == 1:
            raise InputError("evaluation.compared: one sample is compared to none: set it to 0, or to 2 or more")
        return self


class Faults(Section):
    """Simulated failures, drawn by the seed for each client and round; each is a probability."""

    dropout: float = Field(0.0, ge=0, le=1)
    """Probability that a client does not answer at all in a round. ``dropout = 0.1``"""
    straggle: float = Field(0.0, ge=0, le=1)
    """Probability that a client's upload comes too late for its round. ``straggle = 0.1``"""
    crash: float = Field(0.0, ge=0, le=1)
    """Probability that a client fails while it works. ``crash = 0.01``"""
    nan: float = Field(0.0, ge=0, le=1)
    """Probability that a client uploads numbers that are not finite. ``nan = 0.02``"""

    @model_validator(mode="after")
    def _check_sum(self) -> Self:
        if sum(vars(self).values()) > 1:
            raise InputError("faults: the probabilities sum to more than 1: lower them")
        return self


class Attacking(Section):
    """Which share of the clients, drawn by the seed, attacks, and how."""

    name: str = ""
    """What hostile clients do to their labels or uploads: label_flip, sign_flip, noise, least_likely_class, similar_class,
    free_rider; or, agreed on once they see the honest uploads, lma, cpa or hips. Empty: nobody is hostile.
    ``name = "label_flip"``
    """
    share: float = Field(0.0, ge=0, le=1)
    """Share of the clients that are hostile, drawn once for the run. ``share = 0.25``"""
    scale: float = Field(1.0, gt=0)
    """How strong the attack is, for attacks that have a strength. ``scale = 3.0``"""

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.name:
            from fedkd.knowledge.attacks import ATTACKS

            if self.name not in ATTACKS:
                raise unknown("attack.name", self.name, ATTACKS)
        return self


class Privacy(Section):
    """Clipping and Gaussian noise on every table of probabilities that a client uploads, and nothing exact beside them.

    A noise of 0 is off. What may not be noised so is refused: see ``fedkd.experiment.protection``.
    """

    noise_multiplier: float = Field(0.0, ge=0)
    """Standard deviation of the noise on an uploaded table, as a multiple of clip; 0 is off. ``noise_multiplier = 5.0``"""
    clip: float = Field(1.0, gt=0)
    """Largest norm of an uploaded table before it is noised; larger ones are scaled down. ``clip = 5.0``"""
    delta: float = Field(1e-5, gt=0, lt=1)
    """The probability with which the promise of epsilon may fail. ``delta = 1e-6``"""

    @property
    def noise(self) -> str:
        """How much noise on which norm, in words; empty where it is off."""
        return f"{self.noise_multiplier:g} x {self.clip:g}" if self.noise_multiplier else ""


class Guarding(Section):
    """How far one upload may stand out from the others of its round before it is refused; 0 is off.

    ``weight_ratio``: a claimed weight over the round's median; where the clients' sizes are known, as in a simulation, a
    claim is held against them instead. ``step_ratio``: how far a client moved the weights that it was sent, over the median.
    """

    weight_ratio: float = Field(10.0, ge=0)
    """How many times the round's median weight a client may claim before its upload is refused; 0 is off. Where the clients'
    sizes are known, as in a simulation, a claim is held against them instead. ``weight_ratio = 5.0``
    """
    step_ratio: float = Field(0.0, ge=0)
    """How many times the round's median distance a client may move the weights it was sent before its upload is refused; 0 is
    off. ``step_ratio = 10.0``
    """

    @model_validator(mode="after")
    def _check_ratios(self) -> Self:
        for name, ratio in vars(self).items():
            if 0 < ratio < 1:
                raise InputError(
                    f"guard.{name}: {ratio:g} times the median refuses the median itself: set it to 1 or more, or 0"
                )
        return self


class Engine(Section):
    """Where the clients run."""

    name: Literal["in-process", "together", "ray"] = "in-process"
    """Where the clients run: one after the other in this process, there too but with trainings that agree carried out as one,
    or in actors of Ray. ``name = "ray"``"""
    actors: int = Field(2, ge=1)
    """Processes that work side by side on Ray. ``actors = 4``"""
    num_cpus: int = Field(1, ge=1)
    """CPU cores of each client's work: its torch threads, on every engine. ``num_cpus = 2``"""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs of each client's work; 0.25 lets four actors of Ray share one. ``num_gpus = 0.25``"""
    address: str = ""
    """A running Ray cluster: "auto" for this machine's, or host:port. Empty: a Ray of this machine alone. ``address = "auto"``
    """


#: Section of the file -> its model.
SECTIONS: dict[str, type[BaseModel]] = {
    "train": Training,
    "data": Data,
    "evaluation": Evaluation,
    "clock": Clock,
    "asynchrony": Asynchrony,
    "stop": Stopping,
    "faults": Faults,
    "attack": Attacking,
    "privacy": Privacy,
    "guard": Guarding,
    "record": Record,
    "engine": Engine,
}
