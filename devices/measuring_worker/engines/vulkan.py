"""Which GPUs the Vulkan loader of this host knows: what LiteRT's WebGPU accelerator can use on Linux."""

from __future__ import annotations

import ctypes as c

_LOADER = "libvulkan.so.1"
_CREATE_INSTANCE = 1  # VkStructureType of VkInstanceCreateInfo
_PROPERTIES_SIZE = 2048  # VkPhysicalDeviceProperties has some 824 bytes
_DRIVER_VERSION, _NAME = slice(4, 8), slice(20, 276)


class _InstanceCreateInfo(c.Structure):
    _fields_ = (
        ("type", c.c_int),
        ("next", c.c_void_p),
        ("flags", c.c_uint32),
        ("application", c.c_void_p),
        ("layer_count", c.c_uint32),
        ("layers", c.c_void_p),
        ("extension_count", c.c_uint32),
        ("extensions", c.c_void_p),
    )


def gpus() -> list[str]:
    """Name and driver version of each, empty where there is no loader or no driver."""
    try:
        vulkan = c.CDLL(_LOADER)
    except OSError:
        return []
    instance = c.c_void_p()
    if vulkan.vkCreateInstance(c.byref(_InstanceCreateInfo(type=_CREATE_INSTANCE)), None, c.byref(instance)):
        return []
    try:
        count = c.c_uint32()
        vulkan.vkEnumeratePhysicalDevices(instance, c.byref(count), None)
        devices = (c.c_void_p * count.value)()
        if not count.value or vulkan.vkEnumeratePhysicalDevices(instance, c.byref(count), devices):
            return []
        return [_described(vulkan, device) for device in devices[: count.value]]
    finally:
        vulkan.vkDestroyInstance(instance, None)


def _described(vulkan: c.CDLL, device: int | None) -> str:
    properties = c.create_string_buffer(_PROPERTIES_SIZE)
    vulkan.vkGetPhysicalDeviceProperties(c.c_void_p(device), properties)
    name = properties.raw[_NAME].split(b"\0", 1)[0].decode(errors="replace")
    return f"{name}, driver {int.from_bytes(properties.raw[_DRIVER_VERSION], 'little'):#x}"
