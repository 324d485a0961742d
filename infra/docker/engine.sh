#!/usr/bin/env bash
# A Docker engine out of Debian's packages, without installing it: for CI and for machines that have none. Needs root.
#   infra/docker/engine.sh start FOLDER   downloads, unpacks, starts; prints DOCKER_HOST=unix://...
#   infra/docker/engine.sh stop FOLDER
#   infra/docker/engine.sh compose FOLDER  downloads and unpacks docker-compose 1.29; prints the command
# It touches no firewall rule of the host, so containers of a bridge reach each other and nothing beyond; jobs have no network
# or the host's. iptables serves names only, inside containers (a compose stack's services find each other by name).
set -euo pipefail
command=${1:?start, stop or compose} folder=$(realpath -m "${2:?folder}")
socket=$folder/docker.sock pidfile=$folder/docker.pid
root=${HAND3D_ENGINE_PACKAGES:-$folder/packages}
libraries=$root/usr/lib/$(uname -m)-linux-gnu
packages=(docker.io tini containerd runc mmdebstrap iptables libxtables12 libip4tc2 libip6tc2 libnfnetlink0
    libnetfilter-conntrack3 libnftnl11 libmnl0)
export PATH=$root/usr/sbin:$root/usr/bin:$PATH

unpack() {
    [ -x "$root/usr/sbin/dockerd" ] && [ -x "$root/usr/bin/mmdebstrap" ] && [ -x "$root/usr/sbin/iptables" ] && return
    mkdir -p "$root/.debs"
    chmod 777 "$root/.debs"  # apt downloads as a user of its own
    (cd "$root/.debs" && apt-get download -qq "${packages[@]}" >&2)
    for package in "$root"/.debs/*.deb; do dpkg -x "$package" "$root"; done
    rm -r "$root/.debs"
    ln -sf iptables-nft "$root/usr/sbin/iptables"
}

start() {
    mkdir -p "$folder"
    unpack
    files=$(ulimit -Hn)
    LD_LIBRARY_PATH=$libraries XTABLES_LIBDIR=$libraries/xtables setsid dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver overlay2 \
        --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$pidfile" \
        --default-ulimit "nofile=$files:$files" --host "unix://$socket" >"$folder/log" 2>&1 </dev/null &
    for _ in $(seq 60); do
        [ -S "$socket" ] && docker --host "unix://$socket" version >/dev/null 2>&1 && { echo "DOCKER_HOST=unix://$socket"; exit 0; }
        kill -0 $! 2>/dev/null || break
        sleep 0.5
    done
    tail -n 5 "$folder/log" >&2
    echo "no engine started: see $folder/log" >&2
    exit 1
}

compose() {
    if [ ! -x "$folder/docker-compose" ]; then
        mkdir -p "$folder/.debs"
        chmod 777 "$folder/.debs"
        (cd "$folder/.debs" && apt-get download -qq docker-compose python3-{attr,cached-property,certifi,chardet,distro,docker} \
            python3-{dockerpty,docopt,dotenv,idna,jsonschema,paramiko,pkg-resources,pyrsistent,requests,six,texttable} \
            python3-{urllib3,websocket,yaml} >&2)
        for package in "$folder"/.debs/*.deb; do dpkg -x "$package" "$folder/packages"; done
        rm -r "$folder/.debs"
        printf '#!/bin/sh\nPYTHONPATH=%s exec /usr/bin/python3 %s "$@"\n' "$folder/packages/usr/lib/python3/dist-packages" \
            "$folder/packages/usr/bin/docker-compose" >"$folder/docker-compose"
        chmod +x "$folder/docker-compose"
    fi
    echo "$folder/docker-compose"
}

stop() {
    [ -f "$pidfile" ] || exit 0
    pid=$(cat "$pidfile")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 60); do kill -0 "$pid" 2>/dev/null || break; sleep 0.5; done
    kill -9 "$pid" 2>/dev/null || true
    awk -v below="$folder/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
}

"$command"
