"""The [clock] section of the experiment file: the devices of a simulation, by whose speed and network its rounds take time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, final

from pydantic import Field, field_validator, model_validator

from fedkd.base.config_text import parse_value
from fedkd.base.errors import InputError, unknown
from fedkd.experiment.algorithm.section import Section


@final
class Device(Section):
    """What a client computes with, and how it is connected."""

    gflops: float = Field(gt=0)
    """Billions of floating point operations a second that training makes use of."""
    up: float = Field(gt=0)
    """Mbit/s from the client to the server."""
    down: float = Field(gt=0)
    """Mbit/s from the server to the client."""
    latency: float = Field(0.0, ge=0)
    """Seconds that a message takes beside its bytes, in either direction."""


#: Devices by name. Where the figures are from, and which of them are assumptions, says docs/clock.md.
PROFILES: Mapping[str, Device] = {
    "sensor": Device(gflops=0.1, up=0.375, down=0.3, latency=0.1),
    "raspberry_pi": Device(gflops=8, up=46, down=86, latency=0.01),
    "phone": Device(gflops=10, up=11, down=36, latency=0.02),
    "laptop": Device(gflops=100, up=46, down=86, latency=0.01),
    "silo": Device(gflops=10_000, up=1000, down=1000, latency=0.005),
}


class Clock(Section):
    """A virtual clock: each round takes as long as its clients' devices would. Off without devices and without a table.

    Time is computed from counted operations and counted bytes, so it is the same on every engine and every machine.
    """

    devices: dict[str, float] = Field(default_factory=dict)
    """Shares of the clients by device, drawn by the seed: sensor, raspberry_pi, phone, laptop, silo, or one of profiles.
    Empty: no clock. ``devices = {phone = 0.5, laptop = 0.5}``
    """
    profiles: dict[str, Device] = Field(default_factory=dict)
    """Devices of your own by name: gflops (billions of operations a second), up and down (Mbit/s), latency (seconds).
    ``profiles = {robot = {gflops = 20, up = 5, down = 20, latency = 0.05}}``
    """
    table: str = ""
    """A CSV file with a line a client, in place of devices: the columns client, gflops, up, down and latency.
    ``table = "devices.csv"``
    """
    deadline: float = Field(0.0, ge=0)
    """Simulated seconds after which an exchange ends; whose upload would come later is late. 0: none. ``deadline = 60.0``"""
    server_gflops: float = Field(0.0, ge=0)
    """Billions of operations a second of the server's half; 0: the server's work takes no time. ``server_gflops = 1000.0``"""

    @property
    def on(self) -> bool:
        """Whether there is a clock."""
        return bool(self.devices or self.table)

    def device(self, name: str) -> Device:
        """A device by its name: one of the file's own, or one of ours."""
        return self.profiles.get(name) or PROFILES[name]

    @field_validator("devices", mode="before")
    @classmethod
    def _read_devices(cls, given: object) -> object:
        """One name alone is all clients'; in a run-config shares are text: ``"phone:0.5,laptop:0.5"``."""
        if not isinstance(given, str):
            return given
        pairs = [pair.rpartition(":") for pair in given.split(",") if pair]
        return {(name or share): parse_value(share) if name else 1.0 for name, _, share in pairs}

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        if self.devices and self.table:
            raise InputError("clock.devices and clock.table both say what clients compute with: leave one of them out")
        for name, share in self.devices.items():
            if name not in {**PROFILES, **self.profiles}:
                raise unknown("clock.devices", name, {**PROFILES, **self.profiles})
            if not 0 < share <= 1:
                raise InputError(
                    f"clock.devices: the share of {name!r} is {share:g}: give each device a share above 0, in sum 1"
                )
        if self.devices and abs(sum(self.devices.values()) - 1) > 1e-6:
            raise InputError(f"clock.devices: the shares sum to {sum(self.devices.values()):g}: make them sum to 1")
        return self
