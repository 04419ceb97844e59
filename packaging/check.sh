#!/bin/bash
# Installs the package, uses it, upgrades and removes it. `cargo xtask package --check` runs this on a machine that has Debian's
# minimum, systemd and rpm, and nothing that tracker was built with. Packets are real, and what is expected is said by others:
# ss, ip, systemd.
set -eu
cd /root
package=$1

# What another system's package needs is there under other names: rpm is not asked about it.
case $package in
*.deb)
    install() { dpkg --install "$package"; }
    upgrade() { install; }
    remove() { dpkg --purge tracker; }
    ;;
*.rpm)
    install() { rpm --install --nodeps "$package"; }
    upgrade() { rpm --upgrade --replacepkgs --nodeps "$package"; }
    remove() {
        rpm --erase --nodeps tracker
        # Settings and records are their owner's to remove.
        [ -f /etc/tracker/tracker.toml.rpmsave ] || fail "the settings are gone"
        rm -r /etc/tracker
        rm -rf /var/lib/tracker
    }
    ;;
esac

step() { echo "- $*"; }
fail() {
    echo "FAILED: $*" >&2
    journalctl --unit tracker --no-pager --lines 30 >&2
    exit 1
}
# Waits until a command succeeds.
wait_for() {
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "after 30 s not yet: $*"
}
property() { systemctl show tracker --property "$1" --value; }
main_process() { property MainPID; }
# Sends a byte over the connection, and gets it back.
echo_byte() {
    printf x >&3
    read -r -t 10 -N 1 byte <&3 || fail "the connection is broken"
}
# The connection is ESTABLISHED for both ends, and so it is for ss.
is_tracked() {
    ss -Hnt state established dport 4242 | grep -q ":$port " || fail "ss does not have it"
    tracker flows state established dport 4242 2>/dev/null | grep "sport=$port " | grep -q "violations=0 "
}

step "installed, it is not started: which interfaces comes first"
install >/dev/null
! systemctl --quiet is-active tracker || fail "it runs"
! systemctl start tracker 2>/dev/null || fail "it starts without settings"
[ "$(property ExecMainStatus)" = 2 ] || fail "its exit status is $(property ExecMainStatus)"
[ "$(property NRestarts)" = 0 ] || fail "wrong settings were tried again"
journalctl --unit tracker --no-pager | grep -q -- "--interface" || fail "it does not say what is missing"

step "a network, and a server at its other end"
ip netns add peer
ip link add v0 type veth peer name v1 netns peer
ip addr add 192.0.2.1/24 dev v0
ip link set v0 up
ip -n peer addr add 192.0.2.2/24 dev v1
ip -n peer link set v1 up
ip netns exec peer perl -MIO::Socket::INET -e '
    my $server = IO::Socket::INET->new(LocalPort => 4242, Listen => 8, ReuseAddr => 1) or die;
    while (my $client = $server->accept) {
        next if fork;
        while (sysread $client, my $byte, 1) { syswrite $client, $byte }
        exit;
    }' &
wait_for ip netns exec peer ss -Hntl sport = :4242

step "enabled, it is ready once it is attached"
sed -i 's/^#interface = .*/interface = ["v0"]/; s/^#metrics =/metrics =/' /etc/tracker/tracker.toml
tracker config check
systemctl --quiet enable --now tracker
tracker stats | grep -q "^interface=v0 .*ingress=" || fail "nothing sees what arrives"

step "it has three capabilities, a filter of system calls, and gains nothing"
status=$(cat "/proc/$(main_process)/status")
for line in "CapEff:	000000c000001000" "CapPrm:	000000c000001000" "CapBnd:	000000c000001000" "NoNewPrivs:	1" "Seccomp:	2"; do
    grep -q "^$line" <<<"$status" || fail "not $line"
done

step "it writes to its own directories only, and what it writes there cannot be run"
within() { nsenter --target "$(main_process)" --mount --root --wd=/ sh -c "$1" 2>/dev/null; }
for at in /run /usr /etc; do
    ! within "touch $at/x" || fail "$at can be written"
done
# Opened to be written, and not written.
! within ': >>/proc/sys/kernel/core_pattern' || fail "kernel settings can be written"
within 'cp /usr/bin/true /run/tracker/x' || fail "/run/tracker cannot be written"
! within '/run/tracker/x' || fail "what is in /run/tracker can be run"
rm /run/tracker/x

step "a connection is listed as ss has it"
exec 3<>/dev/tcp/192.0.2.2/4242
port=$(ss -Hnt state established dport 4242 | sed -n 's/.*192\.0\.2\.1:\([0-9]*\) .*/\1/p')
[ -n "$port" ] || fail "ss has no connection"
echo_byte
is_tracked || fail "not tracked: $(tracker flows)"

step "members of its group may look, and nobody else; only root deletes"
useradd --groups tracker watcher
useradd stranger
as() { setpriv --reuid "$1" --regid "$1" --init-groups tracker "${@:2}"; }
as watcher flows dport 4242 2>/dev/null | grep -q "sport=$port " || fail "a member sees nothing"
as watcher stats | grep -q '^flows' || fail "a member has no counters"
! as watcher delete dport 4242 2>/dev/null || fail "a member deletes"
! as stranger flows 2>/dev/null || fail "a stranger sees flows"

step "reloaded, it goes by new settings"
sed -i 's/^#timeout-established = .*/timeout-established = 5000/' /etc/tracker/tracker.toml
systemctl reload tracker
left() { tracker flows dport 4242 2>/dev/null | awk '$2 > 0 && $2 <= 5000 { found = 1 } END { exit !found }'; }
wait_for left

step "stuck, it is started anew by the watchdog, and the connection goes on"
mkdir -p /run/systemd/system/tracker.service.d
printf '[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n' >/run/systemd/system/tracker.service.d/impatient.conf
systemctl daemon-reload
systemctl restart tracker
is_tracked || fail "lost by a restart"
stuck=$(main_process)
kill -STOP "$stuck"
echo_byte
restarted() { [ "$(property NRestarts)" -ge 1 ] && systemctl is-active tracker && [ "$(main_process)" != "$stuck" ]; }
wait_for restarted
echo_byte
is_tracked || fail "lost by the watchdog: $(tracker flows)"

step "upgraded, it is another process with the same flows"
before=$(main_process)
upgrade >/dev/null
[ "$(main_process)" != "$before" ] || fail "the old one runs"
systemctl --quiet is-active tracker || fail "it does not run"
echo_byte
is_tracked || fail "lost by an upgrade: $(tracker flows)"

step "its metrics"
scrape() {
    exec 4<>/dev/tcp/127.0.0.1/9469
    printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&4
    # From the first sweep on.
    grep -q '^tracker_flows{state="ESTABLISHED",family="ipv4"} 1$' <&4
}
wait_for scrape

step "removed, nothing of it is left, and the connection goes on"
remove >/dev/null
echo_byte
! ip -details link show v0 | grep -q xdp || fail "an XDP program is attached"
! tc filter show dev v0 ingress | grep -q tracker || fail "a filter is attached"
[ -z "$(find /sys/fs/bpf -mindepth 1 ! -name '*.debug')" ] || fail "pinned: $(find /sys/fs/bpf)"
left=$(find / -xdev -path /proc -prune -o -name '*tracker*' ! -name "$(basename "$package")" -print; find /run -name '*tracker*')
left=$(grep -v '/run/systemd/system/tracker.service.d' <<<"$left" || true)
[ -z "$left" ] || fail "left: $left"
