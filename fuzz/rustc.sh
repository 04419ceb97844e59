#!/bin/sh
# rustc with libFuzzer's counters for the crates of this repository, but not for their build scripts and dependencies: these cost more
# time to compile than all else, and lead the fuzzer astray. `cargo xtask fuzz` builds with it; cargo-fuzz has its own way, and counts
# everything.
case "${CARGO_PKG_NAME-} ${CARGO_CRATE_NAME-}" in
*\ build_script_build) exec "$@" ;;
tracker-*)
    exec "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
