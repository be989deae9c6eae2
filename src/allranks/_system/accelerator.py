"""The accelerators that this process sees, and torch's current one in other threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def accelerator_type() -> str | None:
    """The type of the accelerator that is visible here (``cuda``, ``xpu``, ``mps``), or None."""
    import torch

    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    return found.type if found is not None else None


def visible_devices(kind: str) -> int:
    """How many devices of a type this process sees, without initialising any of them."""
    import torch

    return torch.cuda.device_count() if kind == "cuda" else torch.accelerator.device_count()


def pci_address(index: int) -> str | None:
    """Where a CUDA device is on the PCI bus, as Linux writes it; None where torch does not tell.

    Args:
        index: the device's, among those that this process sees.
    """
    import torch

    about: Any = torch.cuda.get_device_properties(index)
    try:
        domain, bus, device = about.pci_domain_id, about.pci_bus_id, about.pci_device_id
    except AttributeError:  # Older versions of torch.
        return None
    return f"{domain:04x}:{bus:02x}:{device:02x}.0"


def on_same_device(call: Callable[[], T]) -> Callable[[], T]:
    """The call, for another thread: torch's current device is each thread's own."""
    import torch

    kind = accelerator_type()
    module: Any = torch.get_device_module(kind) if kind not in (None, "mps") else None
    if module is None or not module.is_initialized():
        return call
    index = module.current_device()

    def there() -> T:
        module.set_device(index)
        return call()

    return there
