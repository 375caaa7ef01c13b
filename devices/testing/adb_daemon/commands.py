"""The programs of Android's shell that tell and change the state of a phone: getprop, settings, dumpsys and their like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.devices.testing.phone import Phone


@dataclass(frozen=True)
class Reply:
    """What a program prints, to its standard error where it fails, and its exit code."""

    text: str = ""
    code: int = 0


NOTHING = ("am", "pm", "wm", "input", "logcat", "content", "device_config")  # accepted, without effect
_STAY_ON = {"true": "7", "false": "0", "ac": "1", "usb": "2", "wireless": "4"}


class AndroidCommands:
    """Answers for `phone`. `reboot` restarts it."""

    def __init__(self, phone: Phone, reboot: Callable[[], None]) -> None:
        self.phone = phone
        self.reboot = reboot
        self._table: dict[str, Callable[[Sequence[str]], Reply]] = {
            "getprop": self._getprop,
            "setprop": self._setprop,
            "settings": self._settings,
            "dumpsys": self._dumpsys,
            "cmd": self._cmd,
            "svc": self._svc,
            "reboot": self._reboot,
            "su": lambda _: Reply("/system/bin/sh: su: inaccessible or not found\n", 127),
            **{name: lambda _: Reply() for name in NOTHING},
        }

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._table)

    def run(self, argv: Sequence[str]) -> Reply:
        """The reply to a program's name and its arguments."""
        name, *arguments = argv
        with self.phone.lock:
            self.phone.tick()
            try:
                return self._table[name](arguments)
            except (IndexError, ValueError):
                return Reply(f"{name}: wrong arguments: {' '.join(arguments)}\n", 255)

    def _reboot(self, _: Sequence[str]) -> Reply:
        self.reboot()
        return Reply()

    def _getprop(self, arguments: Sequence[str]) -> Reply:
        props = self.phone.props
        if not arguments:
            return Reply("".join(f"[{name}]: [{value}]\n" for name, value in sorted(props.items())))
        default = arguments[1] if len(arguments) > 1 else ""
        return Reply(props.get(arguments[0], default) + "\n")

    def _setprop(self, arguments: Sequence[str]) -> Reply:
        name, value = arguments
        if name.startswith("ro.") and name in self.phone.props:
            return Reply(f"Failed to set property '{name}' to '{value}'.\nSee dmesg for error reason.\n", 1)
        self.phone.props[name] = value
        return Reply()

    def _settings(self, arguments: Sequence[str]) -> Reply:
        verb, space, *rest = arguments
        if space not in self.phone.settings:
            return Reply(f"Invalid namespace '{space}'\n", 255)
        values = self.phone.settings[space]
        if verb == "list":
            return Reply("".join(f"{key}={value}\n" for key, value in sorted(values.items())))
        if verb == "get":
            return Reply(values.get(rest[0], "null") + "\n")
        if verb == "put":
            values[rest[0]] = rest[1]
            return Reply()
        if verb == "delete":
            return Reply(f"Deleted {len([values.pop(key) for key in rest[:1] if key in values])} rows\n")
        return Reply(f"Unknown command: {verb}\n", 255)

    def _cmd(self, arguments: Sequence[str]) -> Reply:
        phone = self.phone
        match list(arguments):
            case ["power", "set-fixed-performance-mode-enabled", ("true" | "false") as state]:
                phone.fixed_performance = state == "true"
            case ["thermalservice", "override-status", status]:
                phone.thermal_override = min(max(int(status), 0), 6)
            case ["thermalservice", "reset"]:
                phone.thermal_override = None
            case ["battery", *rest]:
                return self._battery(rest)
            case ["settings", *rest]:
                return self._settings(rest)
            case [("package" | "activity" | "window"), *_]:
                pass
            case [service, *_]:
                return Reply(f"cmd: Can't find service: {service}\n", 20)
            case _:
                return Reply("cmd: No service specified; use -l to list all services\n", 20)
        return Reply()

    def _svc(self, arguments: Sequence[str]) -> Reply:
        settings = self.phone.settings["global"]
        match list(arguments):
            case ["power", "stayon", mode] if mode in _STAY_ON:
                settings["stay_on_while_plugged_in"] = _STAY_ON[mode]
            case ["wifi", ("enable" | "disable") as verb]:
                settings["wifi_on"] = str(int(verb == "enable"))
            case [("data" | "bluetooth" | "nfc"), ("enable" | "disable")]:
                pass
            case _:
                return Reply("Available commands:\n    power\n    wifi\n    data\n", 1)
        return Reply()

    def _dumpsys(self, arguments: Sequence[str]) -> Reply:
        services = {
            "battery": self._battery,
            "SurfaceFlinger": self._surface_flinger,
            "thermalservice": self._thermal,
            "power": self._power,
        }
        if not arguments:
            return Reply("".join(f"DUMP OF SERVICE {name}:\n{dump([]).text}" for name, dump in sorted(services.items())))
        if arguments[0] == "-l":
            return Reply("Currently running services:\n" + "".join(f"  {name}\n" for name in sorted(services)))
        if arguments[0] not in services:
            return Reply(f"Can't find service: {arguments[0]}\n", 0)
        return services[arguments[0]](arguments[1:])

    def _thermal(self, _: Sequence[str]) -> Reply:
        phone, status = self.phone, self.phone.thermal_status
        temperatures = "".join(
            f"\tTemperature{{mValue={value:.1f}, mType={kind}, mName={name}, mStatus={status}}}\n"
            for name, kind, value in (
                ("BIG", 0, phone.celsius),
                ("battery", 2, phone.battery_celsius),
                ("skin", 3, phone.celsius),
            )
        )
        return Reply(
            f"IsStatusOverride: {'false' if phone.thermal_override is None else 'true'}\n"
            "ThermalEventListeners:\n\tcallbacks: 1\n\tkilled: false\n\tbroadcasts count: -1\n"
            f"Thermal Status: {status}\nCached temperatures:\n{temperatures}"
            "HAL Ready: true\nHAL connection:\n\tThermalHAL 2.0 connected: yes\n"
            f"Current temperatures from HAL:\n{temperatures}Current cooling devices from HAL:\n"
        )

    def _battery(self, arguments: Sequence[str]) -> Reply:
        phone = self.phone
        match list(arguments):
            case ["unplug" | "reset"]:
                phone.powered.clear()
            case ["set", "level", level]:
                phone.battery = float(int(level))
            case ["set", ("ac" | "usb" | "wireless") as source, state]:
                name = {"ac": "AC", "usb": "USB", "wireless": "Wireless"}[source]
                (phone.powered.add if int(state) else phone.powered.discard)(name)
            case []:
                return Reply(self._battery_report())
            case _:
                return Reply(f"Unknown battery command: {' '.join(arguments)}\n", 255)
        return Reply()

    def _battery_report(self) -> str:
        phone = self.phone
        powered = "".join(f"  {name} powered: {str(name in phone.powered).lower()}\n" for name in ("AC", "USB", "Wireless"))
        return (
            f"Current Battery Service state:\n{powered}  Max charging current: 0\n  Max charging voltage: 0\n"
            f"  status: {2 if phone.powered else 3}\n  health: 2\n  present: true\n"
            f"  level: {phone.battery:.0f}\n  scale: 100\n  voltage: {3600 + 6 * phone.battery:.0f}\n"
            f"  temperature: {phone.battery_celsius * 10:.0f}\n  technology: Li-ion\n"
        )

    def _surface_flinger(self, _: Sequence[str]) -> Reply:
        return Reply(f"Build configuration: [sf]\nRE Threaded: false\nGLES: {self.phone.gles}\n")

    def _power(self, _: Sequence[str]) -> Reply:
        mode = str(self.phone.fixed_performance).lower()
        stay_on = self.phone.settings["global"]["stay_on_while_plugged_in"]
        return Reply(f"POWER MANAGER (dumpsys power)\n  mStayOnWhilePluggedInSetting={stay_on}\n  fixedPerformanceMode={mode}\n")
