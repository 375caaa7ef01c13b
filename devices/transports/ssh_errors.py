"""What ssh's complaints mean, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping

from paceline.errors import DeviceError, TransientDeviceError

_SSH_FAILED = 255
_MAY_PASS = re.compile(r"connection|timed out|unreachable|no route|broken pipe|temporary failure|reset|try again", re.IGNORECASE)


def connection_error(host: str, resolved: Mapping[str, str], log: str, code: int | None, timeout_s: float) -> DeviceError:
    """Why there is no connection to `host`. `log` is ssh's standard error; `code` None where it was ended after `timeout_s`."""
    where = "{user}@{hostname}, port {port}".format_map(resolved)
    by_hand = f"ssh -p {resolved['port']} {resolved['user']}@{resolved['hostname']}"
    known = resolved["hostname"] if resolved["port"] == "22" else f"[{resolved['hostname']}]:{resolved['port']}"
    reason = (log.strip().splitlines() or ["no reason given"])[-1].strip()
    if code is None:
        return TransientDeviceError(f"{where} doesn't answer within {timeout_s:g} s; is {host} on, and on the network?")
    if "IDENTIFICATION HAS CHANGED" in log:
        return DeviceError(
            f"the host key of {where} has changed: another machine answers there, or it was installed anew."
            f" If that is so: ssh-keygen -R '{known}', then {by_hand}"
        )
    if "Host key verification failed" in log:
        return DeviceError(f"the host key of {where} isn't known. Connect once and compare the fingerprint: {by_hand}")
    if "Permission denied" in log or "Too many authentication failures" in log:
        return DeviceError(
            f"{where} doesn't accept the key: {reason} Let it in: ssh-copy-id, or name another `identity` or `user`"
        )
    if "Could not resolve" in log and "Temporary failure" not in log:
        return DeviceError(f"there is no host {resolved['hostname']!r}: {reason}")
    if "Connection refused" in log:
        return TransientDeviceError(f"{where} refuses connections: is its ssh server running?")
    if code != _SSH_FAILED:
        return DeviceError(f"{where} lets nobody run `sh`: it ended with exit code {code} at once. Give the user a login shell")
    kind = TransientDeviceError if _MAY_PASS.search(log) else DeviceError
    return kind(f"no connection to {where}: {reason}")
