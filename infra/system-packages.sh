#!/usr/bin/env bash
# The few things pip cannot bring: an off-screen OpenGL (EGL through Mesa) for the renderer and the simulator,
# and Chromium for the browser tests (only where CI or the user asks for them).
set -euo pipefail

missing=()
have_library() { python3 -c "import ctypes; ctypes.CDLL('$1')" 2>/dev/null; }
have_library libEGL.so.1 || missing+=(libegl1 libegl-mesa0)
have_library libGL.so.1 || missing+=(libgl1 libgl1-mesa-dri)
have_library libglib-2.0.so.0 || missing+=(libglib2.0-0)
if [ -n "${HAND3D_BROWSER_TESTS:-}" ] && ! command -v chromium >/dev/null; then missing+=(chromium); fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "missing system packages: ${missing[*]}" >&2
    echo "install them, on Debian or Ubuntu with: sudo apt-get install ${missing[*]}" >&2
    exit 1
fi
