"""The state of every generator that ``seed_all`` seeds, for exact resumption."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._system.accelerator import accelerator_type
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._training.arguments import check_keys
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

KEYS = ("accelerator", "numpy", "python", "torch")

NUMPYS = "MT19937"
"""The kind of numpy's global generator."""

NUMPYS_WORDS = 624


@outside_graphs
def get_rng_state() -> dict[str, Any]:
    """The state of Python's ``random``, numpy's global generator and torch's. Not collective.

    The accelerators' generators are in it where this process has initialised them. Each rank has
    its own state, at world size 1 and N; a checkpoint that is to resume exactly keeps all of them
    (``gather_objects``).

    Returns:
        A dict of tensors on the CPU, numbers and texts, which ``torch.save`` and
        ``torch.load(weights_only=True)`` carry.

    Raises:
        ConfigError: the program has replaced numpy's global generator by one of another kind.
    """
    import torch

    return {
        "accelerator": _accelerators_state(),
        "numpy": _numpys_state(),
        "python": _pythons_state(),
        "torch": torch.get_rng_state(),
    }


@outside_graphs
def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what ``get_rng_state`` gave, on this rank. Not collective.

    Accelerators stay as they are if none was initialised when the state was taken.

    Args:
        state: from ``get_rng_state``; tensors may have been moved to a device meanwhile.

    Raises:
        ConfigError: the state is not of this kind, is incomplete, or holds the states of
            accelerators that are not here. Nothing was changed.
    """
    import torch

    check_keys("set_rng_state", state, KEYS)
    found_python = _checked("python", _pythons, state)
    found_numpy = _checked("numpy", _numpys, state)
    found_torch = _checked("torch", _torchs, state)
    accelerator = _checked("accelerator", _accelerators, state)
    if accelerator is not None:  # First: it alone may still fail.
        accelerator.put_back()
    random.setstate(found_python)
    _numpy_random().set_state(found_numpy)
    torch.set_rng_state(found_torch)


def _checked(key: str, read: Callable[[Any], Any], state: Mapping[str, Any]) -> Any:
    try:
        return read(state[key])
    except Exception as error:
        raise ConfigError(
            f"set_rng_state: state[{key!r}] is no state of such a generator: "
            f"{type(error).__name__}: {error}"
        ) from error


def _pythons_state() -> dict[str, Any]:
    import torch

    version, words, gauss = random.getstate()
    return {"version": version, "words": torch.tensor(words), "gauss": gauss}


def _pythons(state: Any) -> Any:
    told = (state["version"], tuple(state["words"].tolist()), state["gauss"])
    random.Random().setstate(told)
    return told


def _numpy_random() -> Any:
    """The module of numpy's global functions, which mypy knows too exactly."""
    import numpy as np

    return np.random


def _numpys_state() -> dict[str, Any]:
    import torch

    told = _numpy_random().get_state(legacy=False)
    if told["bit_generator"] != NUMPYS:
        raise ConfigError(
            f"get_rng_state: numpy's global generator is a {told['bit_generator']}, which "
            f"seed_all() does not seed; expected {NUMPYS}"
        )
    return {
        "words": torch.from_numpy(told["state"]["key"].astype("int64")),
        "position": int(told["state"]["pos"]),
        "has_gauss": int(told["has_gauss"]),
        "gauss": float(told["gauss"]),
    }


def _numpys(state: Any) -> tuple[Any, ...]:
    words = state["words"].cpu().numpy().astype("uint32")
    position, has_gauss = int(state["position"]), int(state["has_gauss"])
    if not 0 <= position <= NUMPYS_WORDS:  # numpy would read what lies behind its words.
        raise ValueError(f"position={position} is not in 0..{NUMPYS_WORDS}")
    told = (NUMPYS, words, position, has_gauss, float(state["gauss"]))
    _numpy_random().RandomState().set_state(told)
    return told


def _torchs(state: Any) -> torch.Tensor:
    import torch

    moved: torch.Tensor = state.cpu()
    torch.Generator().set_state(moved)
    return moved


def _accelerators_state() -> dict[str, Any] | None:
    """The states of all visible devices; None where no accelerator is initialised."""
    import torch

    kind = accelerator_type()
    if kind is None:
        return None
    module: Any = torch.get_device_module(kind)
    if not getattr(module, "is_initialized", lambda: True)():
        return None
    all_of_them = getattr(module, "get_rng_state_all", None)
    states = all_of_them() if all_of_them else [module.get_rng_state()]
    return {"type": kind, "states": list(states)}


class _AcceleratorStates(NamedTuple):
    """The states of this process's accelerators.

    Attributes:
        module: torch's for this type of device.
        states: one for each device.
    """

    module: Any
    states: list[torch.Tensor]

    def put_back(self) -> None:
        """Restore them, or let torch do so when it initialises the devices."""
        if hasattr(self.module, "set_rng_state_all"):
            self.module.set_rng_state_all(self.states)
        else:
            self.module.set_rng_state(self.states[0])


def _accelerators(state: Any) -> _AcceleratorStates | None:
    import torch

    if state is None:
        return None
    kind, states = state["type"], [one.cpu() for one in state["states"]]
    here = accelerator_type()
    if kind != here:
        raise ValueError(
            f"it is that of {brief_repr(kind)}, and here is {here or 'no accelerator'}"
        )
    module: Any = torch.get_device_module(kind)
    count = module.device_count() if hasattr(module, "set_rng_state_all") else 1
    if len(states) != count:
        raise ValueError(f"it holds {len(states)} devices, and this process sees {count}")
    if any(one.dtype != torch.uint8 or one.dim() != 1 for one in states):
        raise ValueError("its tensors are not flat bytes")
    return _AcceleratorStates(module, states)
