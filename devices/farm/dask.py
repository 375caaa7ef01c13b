"""What dask.distributed is told for a farm: how to be secured, to notice silence soon, and not to disturb what is measured."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from paceline.devices.farm.tls import Tls
from paceline.errors import DeviceError

if TYPE_CHECKING:
    from distributed.security import Security

SILENCE_S = 8.0
"""An agent that was not heard of for so long is gone. They speak every half second, every two in a farm of hundreds."""
PLUGIN = "paceline"


def resource(device: str) -> str:
    """The worker resource that stands for a device. It says who holds what; calls don't wait for it.

    dask hands out the resources of a worker in the order of its calls: one that waits for its device would hold up the calls for
    all other devices of the agent. So the agent queues them itself, by device.
    """
    return f"device:{device}"


def configure(connect_s: float = 5.0) -> None:
    """A host that takes no connection is tried for `connect_s`. Raises DeviceError where dask.distributed isn't installed."""
    try:
        import dask
        import distributed  # noqa: F401
    except ImportError as e:
        raise DeviceError("a farm of several hosts needs dask.distributed: pip install 'paceline[farm]'") from e
    dask.config.set(
        {
            "distributed.scheduler.worker-ttl": "20s",
            "distributed.scheduler.work-stealing": False,  # a call goes to one device
            "distributed.scheduler.active-memory-manager.start": False,
            "distributed.worker.profile.enabled": False,  # it looks at every thread a hundred times a second
            "distributed.admin.tick.interval": "500ms",
            "distributed.admin.system-monitor.interval": "5s",
            "distributed.admin.large-graph-warning-threshold": "10GB",  # models travel in calls
            "distributed.comm.timeouts.connect": f"{connect_s}s",
            "distributed.comm.timeouts.tcp": "12s",  # the least it takes
        }
    )
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said by this package


def security(tls: Tls | None) -> Security:
    """Both sides of every connection show a certificate of the farm's authority."""
    from distributed.security import Security

    if tls is None:
        return Security(require_encryption=False)
    own = {
        f"tls_{role}_{part}": str(path)
        for role in ("client", "scheduler", "worker")
        for part, path in (("cert", tls.certificate), ("key", tls.key))
    }
    return Security(require_encryption=True, tls_ca_file=str(tls.authority), **own)
