#!/bin/bash
# Runs the image as packaging/Containerfile says, with podman: an agent, commands in containers beside it, its successor, and its end.
# `cargo xtask package --image --check` runs this in namespaces of its own. Packets are real, and what is expected is said by ss.
set -eu
archive=$1
filter=$2

state=$(mktemp -d)
cleanup() {
    containers rm --all --force >/dev/null 2>&1 || true
    umount "$state/bpf" || true
    rm -rf "$state"
}
step() { echo "- $*"; }
fail() {
    echo "FAILED: $*" >&2
    containers logs agent >&2 || true
    exit 1
}
wait_for() {
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "after 30 s not yet: $*"
}
# Images and containers apart from those of this machine.
containers() { podman --root "$state/storage" --runroot "$state/run" --storage-driver vfs --cgroup-manager cgroupfs "$@"; }
options=(--network host --user 0 --cap-drop all --cap-add "NET_ADMIN,BPF,PERFMON" --read-only
    --security-opt no-new-privileges --security-opt "seccomp=$filter"
    -v "$state/bpf:/sys/fs/bpf" -v "$state/socket:/run/tracker")
tracker() { containers run --rm "${options[@]}" tracker "$@"; }
agent() { containers run --detach --name agent "${options[@]}" tracker run --interface v0 --keep-attached >/dev/null; }

mkdir "$state/bpf" "$state/socket"
mount -t bpf bpf "$state/bpf"
trap cleanup EXIT

step "a network, and a server at its other end"
ip link set lo up
ip link add v0 type veth peer name v1
unshare --net sleep infinity &
peer=$!
trap 'kill $peer; cleanup' EXIT
is_apart() { [ "$(readlink "/proc/$peer/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
wait_for is_apart
at_peer() { nsenter --target "$peer" --net "$@"; }
ip link set v1 netns "$peer"
ip addr add 192.0.2.1/24 dev v0
ip link set v0 up
at_peer ip addr add 192.0.2.2/24 dev v1
at_peer ip link set v1 up
at_peer perl -MIO::Socket::INET -e '
    my $server = IO::Socket::INET->new(LocalPort => 4242, Listen => 8, ReuseAddr => 1) or die;
    while (my $client = $server->accept) {
        next if fork;
        while (sysread $client, my $byte, 1) { syswrite $client, $byte }
        exit;
    }' &
server=$!
trap 'kill $server $peer; cleanup' EXIT
wait_for at_peer sh -c 'ss -Hntl sport = :4242 | grep -q .'

step "loaded, it says its version, and what is missing"
containers load --quiet --input "$archive" >/dev/null
tracker --version | grep -q "^tracker " || fail "no version"
! tracker run 2>"$state/said" || fail "it runs without an interface"
grep -q -- "--interface" "$state/said" || fail "it says: $(cat "$state/said")"

step "what check calls ok, starts"
tracker check --interface v0 >"$state/said" 2>&1 || fail "$(cat "$state/said")"
agent
wait_for tracker stats

step "a connection is listed as ss has it"
echo_byte() {
    printf x >&3
    read -r -t 10 -N 1 byte <&3 || fail "the connection is broken"
}
exec 3<>/dev/tcp/192.0.2.2/4242
port=$(ss -Hnt state established dport 4242 | sed -n 's/.*192\.0\.2\.1:\([0-9]*\) .*/\1/p')
[ -n "$port" ] || fail "ss has no connection"
echo_byte
is_tracked() { tracker flows state established dport 4242 2>/dev/null | grep "sport=$port " | grep -q "violations=0 "; }
is_tracked || fail "not tracked: $(tracker flows)"

step "it has three capabilities, a filter of system calls, and gains nothing"
status=$(cat "/proc/$(containers inspect --format '{{.State.Pid}}' agent)/status")
for line in "CapEff:	000000c000001000" "CapBnd:	000000c000001000" "NoNewPrivs:	1" "Seccomp:	2"; do
    grep -q "^$line" <<<"$status" || fail "not $line"
done

step "its successor has the same flows"
containers stop --time 10 agent >/dev/null
[ "$(containers inspect --format '{{.State.ExitCode}}' agent)" = 0 ] || fail "it failed"
containers rm agent >/dev/null
echo_byte
agent
wait_for tracker stats
is_tracked || fail "lost: $(tracker flows)"

step "detached, nothing of it is left, and the connection goes on"
containers stop --time 10 agent >/dev/null
containers rm agent >/dev/null
tracker detach >/dev/null
echo_byte
! ip -details link show v0 | grep -q xdp || fail "an XDP program is attached"
# Directories may stay.
[ -z "$(find "$state/bpf" -type f ! -name '*.debug')" ] || fail "pinned: $(find "$state/bpf")"
