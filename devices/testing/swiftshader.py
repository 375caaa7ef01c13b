"""A GPU without a GPU: SwiftShader, Chromium's Vulkan driver in software. What it runs is right; how long it takes means nothing.

LiteRT's WebGPU accelerator takes it (and refuses Mesa's lavapipe). Debian has it in chromium-common:
`tests/devices/get_swiftshader.sh FOLDER` unpacks it, then PACELINE_SWIFTSHADER=FOLDER.
"""

from __future__ import annotations

import os
from pathlib import Path

from paceline.errors import DeviceError

_DRIVER = "vk_swiftshader_icd.json"
_LOADER = "libvulkan.so.1"


def swiftshader() -> dict[str, str]:
    """The environment in which a worker on this machine finds SwiftShader as its only GPU. Raises DeviceError without."""
    named = os.environ.get("PACELINE_SWIFTSHADER")
    if not named:
        raise DeviceError("no SwiftShader: run tests/devices/get_swiftshader.sh FOLDER, then set PACELINE_SWIFTSHADER=FOLDER")
    folder = Path(named).resolve()
    if not (folder / _DRIVER).is_file():
        remedy = f"tests/devices/get_swiftshader.sh {named} puts it there"
        raise DeviceError(f"PACELINE_SWIFTSHADER={named} has no {_DRIVER}; {remedy}")
    loader = {"LD_LIBRARY_PATH": str(folder)} if (folder / _LOADER).is_file() else {}
    return {"VK_ICD_FILENAMES": str(folder / _DRIVER), **loader}
