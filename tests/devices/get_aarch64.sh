#!/usr/bin/env bash
# An ARM64 Python with LiteRT that runs on this machine by emulation: get_aarch64.sh FOLDER leaves FOLDER/python.
#
# Python is Debian 12's, unpacked and not installed; the wheels come from pip. 300 MB, a minute or two. Needs
#   apt-get install qemu-user-static debootstrap
# and pip (of PYTHON, default python3). Then: PACELINE_AARCH64_PYTHON=FOLDER/python pytest tests/devices
# It computes what an ARM processor computes, ten to a thousand times slower: its times mean nothing.
# Exit code 3: it can't be had here, and the message says why.
set -euo pipefail
[[ $# -eq 1 ]] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$(realpath -m "$1")
[[ ! -x $folder/python ]] || exit 0
refuse() { printf 'no ARM64 Python: %s\n' "$1" >&2; exit 3; }
missing=()
command -v qemu-aarch64-static >/dev/null || missing+=(qemu-user-static)
command -v debootstrap >/dev/null || missing+=(debootstrap)
((${#missing[@]} == 0)) || refuse "apt-get install ${missing[*]}"

work=$folder/unfinished
rm -rf "$work" "$folder/rootfs" "$folder/site"
mkdir -p "$work" "$folder/rootfs"
debootstrap --arch=arm64 --variant=minbase --include=python3.11 --download-only bookworm "$work/debs"
for package in "$work"/debs/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$folder/rootfs"; done
# the emulated program would see these, which are empty, instead of the machine's
for name in dev home media mnt opt root run srv sys tmp var/tmp; do rm -rf "$folder/rootfs/$name"; done

"${PYTHON:-python3}" -m pip install --quiet --target "$folder/site" --only-binary=:all: --implementation cp --python-version 3.11 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    'ai-edge-litert==2.3.*' 'numpy<3'

# LiteRT chooses its kernels by this file, which qemu would take from the machine; it must describe what -cpu emulates
mkdir -p "$folder/rootfs/proc"
for cpu in 0 1 2 3; do
    printf 'processor\t: %s\nBogoMIPS\t: 100.00\n' "$cpu"
    printf 'Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n'
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
done >"$folder/rootfs/proc/cpuinfo"

cat >"$work/python" <<END
#!/bin/sh
# PYTHONPATH is this Python's own: the caller's packages are of another processor
exec qemu-aarch64-static -cpu cortex-a76 -L '$folder/rootfs' -E PYTHONPATH='$folder/site' -U PYTHONHOME \\
    '$folder/rootfs/usr/bin/python3.11' "\$@"
END
chmod +x "$work/python"
"$work/python" -c 'import platform, ai_edge_litert.interpreter; assert platform.machine() == "aarch64"' # compiles it all, too
mv "$work/python" "$folder/python" # last: it says that the folder is complete
rm -rf "$work"
printf '%s\n' "$folder/python"
