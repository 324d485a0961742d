#!/usr/bin/env bash
# A Docker engine out of Debian's packages, without installing it: for CI and for machines that have none. Needs root.
#   infra/docker/engine.sh start FOLDER   downloads, unpacks, starts; prints DOCKER_HOST=unix://...
#   infra/docker/engine.sh stop FOLDER
# It has no bridge and touches no firewall rule: containers have the host's network or none, which is all jobs need.
set -euo pipefail
command=${1:?start or stop} folder=$(realpath -m "${2:?folder}")
socket=$folder/docker.sock pidfile=$folder/docker.pid
root=${HAND3D_ENGINE_PACKAGES:-$folder/packages}
export PATH=$root/usr/sbin:$root/usr/bin:$PATH

unpack() {
    [ -x "$root/usr/sbin/dockerd" ] && [ -x "$root/usr/bin/mmdebstrap" ] && return
    mkdir -p "$root/.debs"
    chmod 777 "$root/.debs"  # apt downloads as a user of its own
    (cd "$root/.debs" && apt-get download -qq docker.io containerd runc mmdebstrap >&2)
    for package in "$root"/.debs/*.deb; do dpkg -x "$package" "$root"; done
    rm -r "$root/.debs"
}

start() {
    mkdir -p "$folder"
    unpack
    files=$(ulimit -Hn)
    setsid dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver overlay2 \
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

stop() {
    [ -f "$pidfile" ] || exit 0
    pid=$(cat "$pidfile")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 60); do kill -0 "$pid" 2>/dev/null || break; sleep 0.5; done
    kill -9 "$pid" 2>/dev/null || true
    awk -v below="$folder/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
}

"$command"
