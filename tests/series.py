"""Show that zD's series can be bisected: build the kernel after each patch, boot it, and send through a full queue.

Run as root, on demand: ``.venv/bin/python -m tests.series [FROM]``, from the patch of that number. A build is
incremental, a minute or two.
"""

from __future__ import annotations

import os
import sys
import tempfile

from tests.integration.zd_guest import Guest, zd_guest
from zdlab.guest.kernels import build_kernel
from zdlab.guest.kernels.registry import recipe

TBF = "tc qdisc replace dev eth0 root tbf rate 40mbit burst 32kb limit 60kb"


def main() -> None:
    """Go through the series."""
    patches = recipe("zd").patches
    for number in range(int(sys.argv[1]) if sys.argv[1:] else 1, len(patches) + 1):
        kernel = build_kernel("stock", patches=patches[:number])
        os.environ["ZDLAB_ZD_KERNEL"] = str(kernel.path)
        # It fails by itself where the kernel complains.
        with tempfile.TemporaryDirectory() as runtime, zd_guest(runtime, Guest) as guest:
            guest.run(f"{TBF}; if [ -e /proc/sys/net/core/zd ]; then echo 1 > /proc/sys/net/core/zd; fi")
            counted = guest.send(100, 2)
            drops, delivered = counted.delta.values["qdisc_drops"], counted.traffic.throughput_bps
            assert delivered is not None
            assert delivered > 20e6, counted
        sys.stdout.write(f"{number:>2} {patches[number - 1].stem}: {delivered / 1e6:.1f} Mbit/s, {drops} drops\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
