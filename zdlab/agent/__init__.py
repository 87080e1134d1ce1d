"""What runs in every node of a lab: programs, files, netlink, counters, samples, over one channel.

In a guest the channel is a virtio-serial port, in a namespace a socketpair. Only the standard library is used, and
little of it, because a guest under emulation pays for every import.
"""
