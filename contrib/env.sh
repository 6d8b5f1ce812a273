# Sourced by the scripts in this folder: where builds live. One cache, outside the clone, may be deleted at any time.
command -v cargo >/dev/null || { [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; } || true
keyless_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export KEYLESS_CACHE=${KEYLESS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keyless}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$KEYLESS_CACHE/target}
mkdir -p "$KEYLESS_CACHE" "$CARGO_TARGET_DIR"
# The kernel and RocksDB are large C++ builds: ccache makes every later one cheap.
if command -v ccache >/dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi
# KEYLESS_BIN names a folder with ready binaries, to use without building.
bin_dir=${KEYLESS_BIN:-$CARGO_TARGET_DIR/debug}
