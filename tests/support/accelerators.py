"""An accelerator that is not here, in place of torch's."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch


@dataclass
class FakeAccelerator:
    """An accelerator that is not here."""

    kind: str | None
    count: int = 0
    initialised: bool = False
    current: int = 0
    made_current: list[int] = field(default_factory=list)

    def make_current(self, index: int) -> None:
        self.made_current.append(index)
        self.current, self.initialised = index, True

    def current_device(self) -> int:
        assert self.initialised, "asking must not initialise CUDA"
        return self.current

    def properties(self, index: int) -> SimpleNamespace:
        """What CUDA tells of a device; the first is on bus 1b of domain 0."""
        place = {"pci_domain_id": 0, "pci_bus_id": 0x1B + index, "pci_device_id": 0}
        return SimpleNamespace(uuid=f"GPU-{index}", **place)

    def put_in(self, put=setattr) -> FakeAccelerator:
        """Replace torch.accelerator and torch.cuda.

        Args:
            put: sets an attribute, such as ``monkeypatch.setattr``, which puts it back.
        """
        device = torch.device(self.kind) if self.kind else None
        for name, function in {
            "is_available": lambda: self.kind is not None,
            "current_accelerator": lambda: device,
            "device_count": lambda: self.count,
            "set_device_index": self.make_current,
            "current_device_index": self.current_device,
        }.items():
            put(torch.accelerator, name, function)
        for name, function in {
            "is_available": lambda: self.kind == "cuda",
            "device_count": lambda: self.count if self.kind == "cuda" else 0,
            "set_device": self.make_current,
            "is_initialized": lambda: self.initialised,
            "current_device": self.current_device,
            "get_device_properties": self.properties,
        }.items():
            put(torch.cuda, name, function)
        return self
