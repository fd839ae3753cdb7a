"""All attacks, in the order in which they are made."""

from __future__ import annotations

from tests.sandbox.battery import (
    attacks_behaviour,
    attacks_children,
    attacks_devices,
    attacks_files,
    attacks_kernel,
    attacks_network,
    attacks_privileges,
    attacks_processes,
    attacks_protocol,
    attacks_resources,
    attacks_subtle,
)
from tests.sandbox.battery.base import Attack

ATTACKS: tuple[Attack, ...] = (
    *attacks_files.ATTACKS,
    *attacks_processes.ATTACKS,
    *attacks_children.ATTACKS,
    *attacks_network.ATTACKS,
    *attacks_devices.ATTACKS,
    *attacks_kernel.ATTACKS,
    *attacks_privileges.ATTACKS,
    *attacks_resources.ATTACKS,
    *attacks_protocol.ATTACKS,
    *attacks_behaviour.ATTACKS,
    *attacks_subtle.ATTACKS,
)
