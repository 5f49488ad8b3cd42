#!/usr/bin/env bash
# Everything that must hold: formats, lints, documentation, unit, property, simulation and
# integration tests. Sets up what the tests need on a fresh Debian machine with Rust.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n== %s\n' "$*"; }

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
missing=()
# The integration tests deploy over a real etcd, each starting its own on a free port.
if ! command -v etcd >/dev/null && [ ! -x /usr/bin/etcd ]; then missing+=(etcd-server); fi
# The conversation with systemd is tested over a bus of the test's own.
if ! command -v dbus-daemon >/dev/null; then missing+=(dbus-daemon); fi
if [ "${#missing[@]}" -gt 0 ]; then
    say "installing the Debian packages ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"
fi
for component in rustfmt clippy; do
    if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
        say "$component is missing: installing it with rustup"
        rustup component add "$component"
    fi
done

say "format"
cargo fmt --all --check

say "clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

say "documentation examples"
cargo test --workspace --doc --locked --quiet

say "simulated runs of an optimised build are those of the snapshot"
simnet/digests

say "tests"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --locked --no-fail-fast
else
    echo "cargo-nextest is not installed; using cargo test, which is slower"
    cargo test --workspace --lib --bins --examples --tests --locked --no-fail-fast
fi

# Each once, without a clock: criterion does so unless it is run by cargo bench.
say "micro benches work"
cargo test -p benches --bench hot-paths --locked --quiet
