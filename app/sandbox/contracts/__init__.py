"""The contracts that a submission can follow: one file each, and one line here."""

from __future__ import annotations

from app.sandbox.contracts import legacy_agent, native
from app.sandbox.contracts.base import Contract

CONTRACTS: dict[str, Contract] = {
    "native": native.CONTRACT,
    "agent": legacy_agent.CONTRACT,
}
