"""One small tree of errors. A message names the thing, the reason and the remedy; `exit_code` is what the CLI returns.

A failed measurement or export of one candidate is a value (`paceline.measurement.Failure`), never one of these.
"""

from __future__ import annotations


class PacelineError(Exception):
    """Anything a user can mend. The CLI prints the message, without a traceback."""

    exit_code = 1


class ConfigError(PacelineError):
    """An option that does not exist or has an impossible value."""

    exit_code = 2


class DataError(PacelineError):
    """A data set that can't be read."""

    exit_code = 3


class SpaceError(PacelineError):
    """An architecture and a search space that do not fit together."""

    exit_code = 4


class LimitError(PacelineError):
    """No network of the space keeps the latency limit."""

    exit_code = 5


class ExportError(PacelineError):
    """A network that can't be written, or whose file does not compute the same."""

    exit_code = 6


class DeviceError(PacelineError):
    """A device, runtime or delegate that can't be used as asked."""

    exit_code = 7


class LatencyModelError(PacelineError):
    """A latency model that was asked for what it never learned."""

    exit_code = 8


class StoreError(PacelineError):
    """A store that can't be opened, read or written, a full disk among the reasons."""

    exit_code = 9


class TransientDeviceError(DeviceError):
    """A device that can't be used just now: offline, unauthorised, disturbed in mid-run. Trying again may help."""

    exit_code = 10
