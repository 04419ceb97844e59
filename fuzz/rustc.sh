#!/bin/sh
# rustc with libFuzzer's counters and all checks, for the crates that are fuzzed: cargo starts it for the workspace's crates alone, so
# their dependencies are those of every other build. What runs while these are built has none of it.
case "${CARGO_PKG_NAME-} ${CARGO_CRATE_NAME-}" in
*\ build_script_build) exec "$@" ;;
tracker-*)
    exec "$@" --cfg fuzzing -Cdebug-assertions=on -Coverflow-checks=on -Cdebuginfo=line-tables-only -Cpasses=sancov-module \
        -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
