#!/usr/bin/env bash
# Builds AOSP's adbd, the daemon of Android devices, for this machine: build_adbd.sh FOLDER leaves FOLDER/adbd.
#
# The source is that of Debian 12's package android-platform-tools (29.0.6). Needs
#   apt-get install clang dpkg-dev android-libbase-dev android-libboringssl-dev android-libcutils-dev android-liblog-dev libcap-dev
# and takes half a minute on two cores. The result listens on the loopback interface only, at the port in ADBD_PORT.
# Exit code 3: it can't be built here, and the message says why.
set -euo pipefail
[[ $# -eq 1 ]] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
refuse() { printf 'adbd is not built: %s\n' "$1" >&2; exit 3; }

command -v dpkg-query >/dev/null || refuse "this is no Debian system"
needed=(clang dpkg-dev android-libbase-dev android-libboringssl-dev android-libcutils-dev android-liblog-dev libcap-dev)
missing=()
for name in "${needed[@]}"; do
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null || true) == installed ]] || missing+=("$name")
done
((${#missing[@]} == 0)) || refuse "apt-get install ${missing[*]}"

folder=$(realpath -m "$1")
mkdir -p "$folder/apt/lists/partial" "$folder/apt/parts" "$folder/objects"
cd "$folder"

if ! compgen -G 'android-platform-tools-*/system/core/adb' >/dev/null; then
    # the system's own sources, asked for source packages; their lists stay in this folder
    shopt -s nullglob
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [[ -f $list ]] && sed -n 's/^deb /deb-src /p' "$list" >"apt/parts/$(basename "$list" .list).list"
    done
    for list in /etc/apt/sources.list.d/*.sources; do
        sed 's/^Types:.*/Types: deb-src/' "$list" >"apt/parts/$(basename "$list")"
    done
    options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$folder/apt/parts" -o "Dir::State::Lists=$folder/apt/lists")
    apt-get "${options[@]}" update -qq
    version=$(apt-cache "${options[@]}" showsrc android-platform-tools | sed -n 's/^Version: //p' | sort | tail -n 1)
    [[ $version == 29.0.6-* ]] || refuse "the sources have android-platform-tools ${version:-not at all}, and only 29.0.6 is known"
    apt-get "${options[@]}" source -qq "android-platform-tools=$version"
fi
cd android-platform-tools-*/

# loopback only, whatever the network
sed -i 's/network_inaddr_any_server(port, SOCK_STREAM, error)/network_loopback_server(port, SOCK_STREAM, error, true)/' \
    system/core/adb/socket_spec.cpp

adb=system/core/adb
flags=(
    -O1 -g0 -w -fPIC -std=gnu++2a -fno-exceptions -fno-strict-aliasing
    -include optional -include atomic -include cstdint # newer standard libraries no longer include them by chance
    -D_GNU_SOURCE -DNDEBUG -DADB_HOST=0 -DALLOW_ADBD_ROOT=1 -DALLOW_ADBD_NO_AUTH -DALLOW_ADBD_DISABLE_VERITY
    -DANDROID_BASE_UNIQUE_FD_DISABLE_IMPLICIT_CONVERSION=1
    '-DPLATFORM_TOOLS_VERSION="29.0.6"' '-DADB_VERSION="29.0.6"'
    -I/usr/include/android -Iframeworks/native/libs/adbd_auth/include
    -I$adb -I$adb/daemon/include -I$adb/adbconnection/include
)
for library in base diagnose_usb libcrypto_utils libcutils libasyncio liblog; do flags+=("-Isystem/core/$library/include"); done
flags+=(-Isystem/core/include)
sources=(
    $adb/{adb,adb_io,adb_listeners,adb_trace,adb_unique_fd,adb_utils,services,sockets,socket_spec,sysdeps_unix}.cpp
    $adb/{transport,transport_fd,transport_local,transport_usb,types,shell_service_protocol}.cpp
    $adb/fdevent/{fdevent,fdevent_poll,fdevent_epoll}.cpp $adb/sysdeps/{errno,posix/network}.cpp
    $adb/daemon/{auth,jdwp_service,usb_dummy,file_sync_service,services,shell_service,main}.cpp
    $adb/adbconnection/adbconnection_server.cpp
    system/core/diagnose_usb/diagnose_usb.cpp frameworks/native/libs/adbd_auth/adbd_auth.cpp
)
compile() { # SOURCE FLAGS...
    local object=$folder/objects/${1//\//_}.o
    [[ -f $object ]] || { clang++ -c "${@:2}" "$1" -o "$object.part" && mv "$object.part" "$object"; }
}
export -f compile
export folder
printf '%s\0' "${sources[@]}" | xargs -0 -P "$(nproc)" -I{} bash -c 'compile "$@"' compile {} "${flags[@]}"
clang -c -O1 -w -fPIC -I/usr/include/android -Isystem/core/libcrypto_utils/include \
    system/core/libcrypto_utils/android_pubkey.c -o "$folder/objects/android_pubkey.o"
libraries=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)/android
clang++ -o "$folder/adbd" "$folder"/objects/*.o "-L$libraries" "-Wl,-rpath=$libraries" \
    -lbase -lcrypto -lcutils -llog -lpthread -lresolv -lutil -lcap
printf '%s\n' "$folder/adbd"
