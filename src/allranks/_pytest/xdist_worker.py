"""``config.workerinput``, which makes plugins treat the template as a worker of pytest-xdist.

It collects as the session has, and leaves the session's files and its once-only work to it: for
that, plugins and conftest files look for ``config.workerinput``. What they look up in it, they
have put there themselves, in ``pytest_configure_node``: so they are asked to.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

PLAIN = (bool, int, float, str, type(None))


def workerinput(config: pytest.Config) -> dict[str, Any]:
    """What the session's plugins tell a worker.

    Args:
        config: the session's configuration; a worker of pytest-xdist passes on its own.
    """
    own: dict[str, Any] | None = getattr(config, "workerinput", None)
    if own is not None:
        return own
    told: dict[str, Any] = {"workerid": "master", "workercount": 1}
    told |= {"testrunuid": "", "mainargv": sys.argv}
    if not hasattr(config.hook, "pytest_configure_node"):
        return {**_settled(config), **told}
    configure_node = config.pluginmanager.subset_hook_caller(
        "pytest_configure_node",
        [config.pluginmanager.getplugin("_cov")],  # The ranks are measured one by one.
    )
    configure_node(node=_node(config, told))
    return told


def _settled(config: pytest.Config) -> dict[str, Any]:
    """Without pytest-xdist nobody puts anything there: options go under their own names.

    Plugins settle a seed in an option, and name it so.
    """
    return {name: value for name, value in vars(config.option).items() if isinstance(value, PLAIN)}


def _node(config: pytest.Config, told: dict[str, Any]) -> SimpleNamespace:
    """What stands for a worker in the session, with the attributes that pytest-xdist gives it."""
    spec = SimpleNamespace(popen=True, id="master", chdir=None)
    return SimpleNamespace(
        config=config,
        workerinput=told,
        workerinfo={},
        gateway=SimpleNamespace(id="master", spec=spec),
        nodemanager=SimpleNamespace(roots=[], config=config, testrunuid="", specs=[spec]),
    )
