"""Lets nobody open a file until a line is read, as a disk that hangs: prints a line for each attempt.

    hung_disk.py FILE
"""

import ctypes
import os
import struct
import sys
import threading

FAN_CLASS_CONTENT, FAN_CLOEXEC = 0x4, 0x1
FAN_MARK_ADD = 0x1
FAN_OPEN_PERM = 0x10000
FAN_ALLOW = 0x1
AT_FDCWD = -100
# Length, version, reserved, length of the metadata, mask, descriptor, process.
EVENT = struct.Struct("=IBBHQii")

libc = ctypes.CDLL(None, use_errno=True)
libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]


def checked(result):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def main():
    group = checked(libc.fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, os.O_RDONLY | os.O_CLOEXEC))
    checked(libc.fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, os.fsencode(sys.argv[1])))
    print("ready", flush=True)
    lock, waiting, released = threading.Lock(), [], False

    def allow(descriptor):
        os.write(group, struct.pack("=iI", descriptor, FAN_ALLOW))
        os.close(descriptor)

    def release():
        nonlocal released
        sys.stdin.readline()
        with lock:
            released = True
            for descriptor in waiting:
                allow(descriptor)

    threading.Thread(target=release, daemon=True).start()
    while events := os.read(group, 4096):
        for at in range(0, len(events), EVENT.size):
            *_, descriptor, _ = EVENT.unpack_from(events, at)
            with lock:
                if released:
                    allow(descriptor)
                else:
                    waiting.append(descriptor)
            print("hangs", flush=True)


main()
