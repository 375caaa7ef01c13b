"""Android devices without a phone: an adb daemon of our own, with faults on command, and AOSP's."""

from paceline.devices.testing.adb_daemon.faults import Faults
from paceline.devices.testing.adb_daemon.host import AdbServer, adbutils_adb
from paceline.devices.testing.adb_daemon.link import MODERN, OLD, AdbProtocol
from paceline.devices.testing.adb_daemon.real import RealAdbd
from paceline.devices.testing.adb_daemon.server import AdbDaemon
from paceline.devices.testing.phone import Cluster, Phone

__all__ = ["MODERN", "OLD", "AdbDaemon", "AdbProtocol", "AdbServer", "Cluster", "Faults", "Phone", "RealAdbd", "adbutils_adb"]
