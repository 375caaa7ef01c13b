#!/usr/bin/env bash
# Unpacks SwiftShader, a Vulkan driver in software, with its loader, from Debian's chromium-common (31 MB) into FOLDER. Installs nothing.
# Needs apt-get (with an up-to-date list of packages) and dpkg-deb. Then: PACELINE_SWIFTSHADER=FOLDER pytest tests/devices
set -euo pipefail
folder=$(realpath -m "${1:?usage: get_swiftshader.sh FOLDER}")
[[ ! -f $folder/vk_swiftshader_icd.json ]] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get -q -o APT::Sandbox::User=root download chromium-common
dpkg-deb -x chromium-common_*.deb .
mkdir -p "$folder"
cp usr/lib/chromium/{libvulkan.so.1,libvk_swiftshader.so} "$folder"
cp usr/lib/chromium/vk_swiftshader_icd.json "$folder" # last: it says that the folder is complete
