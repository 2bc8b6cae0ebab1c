"""Mounts a file system that never responds, until a line is read.

    hung_mount.py DIRECTORY
"""

import ctypes
import os
import sys

MNT_DETACH = 2

libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def main():
    directory = os.fsencode(sys.argv[1])
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    checked(libc.mount(b"hung", directory, b"fuse", 0, options))
    try:
        print("ready", flush=True)
        sys.stdin.readline()
    finally:
        # Whoever waits gets an error.
        os.close(device)
        checked(libc.umount2(directory, MNT_DETACH))
    print("gone", flush=True)


main()
