"""Zeroes the GPU code of all architectures except one in a shared library, so that it compresses well.

    python3 prune_fatbin.py LIBRARY OUT ARCHITECTURE

Sizes and offsets are unchanged, so the library still loads, but only GPUs of that architecture can run the remaining code. The
layout of a fat binary: the sections `.nv_fatbin` and `__nv_relfatbin` hold containers (magic 0xBA55ED50, version u16, header size
u16, payload size u64), each with entries (kind u16, version u16, header size u32, payload size u64, ..., architecture
u32 at offset 28).
"""

import collections
import struct
import subprocess
import sys

MAGIC = 0xBA55ED50


def sections(path):
    """Returns offset and size of the sections with GPU code."""
    listing = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        if ".nv_fatbin" in line or "__nv_relfatbin" in line:
            fields = line.split("]")[1].split()
            yield int(fields[3], 16), int(fields[4], 16)


def prune(library, ranges, keep):
    """Zeroes the entries of other architectures in place. Returns the number of bytes per architecture."""
    sizes = collections.Counter()
    for start, size in ranges:
        at = start
        while at + 16 <= start + size:
            if struct.unpack_from("<I", library, at)[0] != MAGIC:
                at += 8
                continue
            _, header, payload = struct.unpack_from("<HHQ", library, at + 4)
            entry, end = at + header, at + header + payload
            while entry < end:
                _, _, head, length = struct.unpack_from("<HHIQ", library, entry)
                architecture = struct.unpack_from("<I", library, entry + 28)[0]
                sizes[architecture] += length
                if architecture != keep:
                    library[entry + head : entry + head + length] = bytes(length)
                entry += head + length
            at = (end + 7) // 8 * 8
    return sizes


def main():
    source, out, keep = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(source, "rb") as file:
        library = bytearray(file.read())
    sizes = prune(library, list(sections(source)), keep)
    if keep not in sizes:
        sys.exit(f"{source} has no code for sm_{keep}: it has {sorted(sizes)}")
    with open(out, "wb") as file:
        file.write(library)
    print("MB by architecture:", {arch: round(size / 1e6, 1) for arch, size in sorted(sizes.items())})


if __name__ == "__main__":
    main()
