"""Computers that lack something: what is said, how it ends, and that nothing stays."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.conftest import TOPOLOGIES, as_nobody, without

if TYPE_CHECKING:
    from tests.conftest import Sandbox

GUEST = """
nodes: {a: {kind: machine, memory: 256mb}, b: {kind: host}}
links: {wire: {subnet: 10.1.0.0/24, ends: {a: {}, b: {}}}}
"""


def test_a_full_disk_keeps_what_is_finished_and_says_so(sandbox: Sandbox) -> None:
    # Room for the first trial's record, not for the second's.
    runs = sandbox.data / "zdlab"
    runs.mkdir(mode=0o700)
    setup = f"mount -t tmpfs -o size=340k,mode=700 tmpfs {runs}"
    keep = sandbox.data / "kept"
    command = f'{setup}\n"$@" && status=0 || status=$?\ncp -r {runs}/runs {keep}\nexit $status'
    prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", command, "sh")

    done = sandbox.zdlab("run", TOPOLOGIES / "ns-tbf.yaml", "--blocks", "9", "--seed", "1", prefix=prefix)

    assert done.status == 3
    assert "No space left on device" in done.err or "disk is full" in done.err
    assert "--resume" in done.err
    sandbox.await_nothing_left()
    (run,) = keep.iterdir()
    results = sandbox.zdlab("results", run, "-o", "json")
    assert "[1/18] " in done.err
    finished = done.err.count(" done\n")
    assert sum(arm["trials"] for arm in results.json()["arms"].values()) == finished >= 1


def test_a_full_runtime_directory_is_told(sandbox: Sandbox) -> None:
    setup = f"mount -t tmpfs -o size=4k,nr_inodes=2,mode=700 tmpfs {sandbox.runtime}"

    done = sandbox.zdlab("up", TOPOLOGIES / "ns-tbf.yaml", prefix=without(setup))

    assert done.status == 3
    assert "No space left on device" in done.err
    sandbox.await_nothing_left()


def test_a_computer_without_tap_devices_is_told_what_to_do(sandbox: Sandbox) -> None:
    done = sandbox.zdlab("up", sandbox.file(GUEST), prefix=without("mount -t tmpfs tmpfs /dev/net"))

    assert done.status == 3
    assert "/dev/net/tun" in done.err
    assert "hint: " in done.err
    assert "modprobe tun" in done.err or "module tun" in done.err
    sandbox.await_nothing_left()


def test_tap_devices_are_missed_before_a_kernel_is_looked_for(sandbox: Sandbox) -> None:
    # Finding a kernel may mean to build it, for ten minutes.
    topology = sandbox.file(GUEST.replace("memory: 256mb", "memory: 256mb, kernel: ./missing/bzImage"))

    done = sandbox.zdlab("up", topology, prefix=without("mount -t tmpfs tmpfs /dev/net"))

    assert done.status == 3
    assert "there is no /dev/net/tun" in done.err


def test_a_computer_without_qemu_is_told_what_to_install(sandbox: Sandbox) -> None:
    program = shutil.which("qemu-system-x86_64")

    done = sandbox.zdlab("up", sandbox.file(GUEST), prefix=without(f"mount --bind /dev/null {program}"))

    assert done.status == 3
    assert "qemu-system-x86" in done.err
    sandbox.await_nothing_left()


def test_kvm_that_is_forced_and_not_there_is_an_error(sandbox: Sandbox) -> None:
    done = sandbox.zdlab("up", sandbox.file(GUEST), "--accel", "kvm", prefix=without("mount --bind /dev/null /dev/kvm"))

    assert done.status == 3
    assert "KVM does not work here" in done.err
    assert "leave out --accel kvm" in done.err
    sandbox.await_nothing_left()


def test_no_root_and_no_user_namespaces_is_told_what_to_change(stranger: Sandbox) -> None:
    topology = stranger.file((TOPOLOGIES / "ns-tbf.yaml").read_text())
    # In a user namespace that may have none below it: what a computer looks like that forbids them.
    setup = "unshare --user true"
    prefix = (
        *as_nobody(stranger, setup),
        *("unshare", "--user", "--map-root-user", "sh", "-ec", "echo 0 > /proc/sys/user/max_user_namespaces"),
    )
    forbidding = (*prefix[:-1], f'{prefix[-1]}\nexec setpriv --reuid=0 --bounding-set=-all "$@"', "sh")

    up = stranger.zdlab("up", topology, prefix=forbidding)

    assert up.status == 3, up.err
    assert "cannot make the lab's namespaces" in up.err


def test_guests_without_root_need_a_tap_device_they_may_open(sandbox: Sandbox, stranger: Sandbox) -> None:
    # The device stands for one that only root may open.
    prefix = as_nobody(stranger, "mount -t tmpfs tmpfs /dev/net; mknod -m 0600 /dev/net/tun c 10 200")
    built = sandbox.zdlab("kernels", "inspect", "stock", "-o", "json").json()["path"]
    shutil.copy(built, stranger.data / "bzImage")
    topology = stranger.file(GUEST.replace("memory: 256mb", "memory: 256mb, kernel: ./bzImage"))

    up = stranger.zdlab("up", topology, prefix=prefix)

    assert up.status == 3, up.err
    assert "/dev/net/tun" in up.err
    assert "chmod 0666 /dev/net/tun" in up.err
