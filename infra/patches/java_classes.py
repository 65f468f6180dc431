"""Three small changes to Java classes of Beam and Flink, for which they have no option.

`ServerFactory` binds the address it is given, not its port on all interfaces.
`ClasspathScanningResourcesDetector` finds no jars to send to Flink with every job.
`ListDelimitedSerializer` releases the bytes of the list that it has read.

The README beside this module says why, and `*.java` show each change as source. The patched
classes go into a jar that must come first on the class path. Both the original and the patched
class are pinned by their SHA-256.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from streamgauge.infra.errors import PatchError

#: Sorts before all other jars; `jars.classpath` sorts by name.
JAR_NAME = "00-streamgauge.jar"

_SERVERS = "org/apache/beam/sdk/fn/server/ServerFactory$InetSocketAddressServerFactory.class"
_STAGING = (
    "org/apache/beam/sdk/util/construction/resources/ClasspathScanningResourcesDetector.class"
)
_LISTS = "org/apache/flink/runtime/state/ListDelimitedSerializer.class"
#: SHA-256 of each class in Beam 2.70.0 and Flink 1.19, and after the patch.
_SHA256 = {
    _SERVERS: (
        "93b5a86013416deb22c25aef442c20d57cc5aec9ae73d000ddb667601ef45f2c",
        "a1320131cac24f619ac9c5db09d8e9f9f6419cf7852b4effffcaaac39766cfa1",
    ),
    _STAGING: (
        "3fa3bb450c81f33c19a7432fd2e4469ad79c6fe018c284e8f0ace37025debb1b",
        "8cd6220325764e04cbfdf713fc37ddeac9b0f06f60d69fe8eb28439e2b26d37e",
    ),
    _LISTS: (
        "10ee794b84106de5015d2ce7c590217a950179adb73a8fd72732d716321285a2",
        "eb26f89c46ba0c312d23a34359c0966da276a2b3695817d2447b2d1b5f49c440",
    ),
}
_BUILDER = b"Lorg/apache/beam/vendor/grpc/v1p69p0/io/grpc/netty/NettyServerBuilder;"
# aload_1, invokevirtual getPort, invokestatic forPort; the second becomes three nops.
_CALL = bytes.fromhex("2b b600a0 b800a6")
_CALL_BY_ADDRESS = bytes.fromhex("2b 000000 b800a6")
# The first instructions of `deserializeList` and its size; the end of its loop; aload_3, areturn.
_LIST_CODE, _LIST_CODE_SIZE = bytes.fromhex("2b c70005 01 b0 2a b40004 2b b60008"), 50
_LOOP_END, _RETURN = bytes.fromhex("a7ffe9"), bytes.fromhex("2d b0")
# nop, aload_0, getfield dataInputView, iconst_0, newarray byte, invokevirtual setBuffer. Without
# the nop the local variable table would end within an instruction, which the JVM refuses.
_RELEASE = bytes.fromhex("00 2a b40004 03 bc08 b60008")
#: Bytes of a constant by its tag, the tag included.
_SIZES = {3: 5, 4: 5, 5: 9, 6: 9, 7: 3, 8: 3, 9: 5, 10: 5, 11: 5, 12: 5, 15: 4, 16: 3, 17: 5, 18: 5}


def write_patch_jar(jars: Path, out: Path) -> None:
    """Write a jar with the patched classes.

    Args:
        jars: folder with the jars of Beam and Flink that hold the original classes.
        out: the jar to write; the same originals give the same bytes.

    Raises:
        PatchError: an original class is not the one that the patch was written for.
    """
    patched = {name: _patch(name, original) for name, original in _originals(jars).items()}
    with zipfile.ZipFile(out, "w") as jar:
        for name, content in patched.items():
            # A `ZipInfo` has a fixed date; a bare name would get the current time.
            jar.writestr(zipfile.ZipInfo(name), content)


def fingerprint() -> str:
    """Return a text that changes when the content of the patch jar does."""
    return "".join(f"{name} {after}\n" for name, (_, after) in sorted(_SHA256.items()))


def _originals(jars: Path) -> dict[str, bytes]:
    (core,) = jars.glob("beam-sdks-java-core-*.jar")
    (flink,) = jars.glob("flink-runtime-1.*.jar")
    originals: dict[str, bytes] = {}
    for path, names in ((core, (_SERVERS, _STAGING)), (flink, (_LISTS,))):
        with zipfile.ZipFile(path) as jar:
            originals |= {name: jar.read(name) for name in names}
    return originals


def _patch(name: str, original: bytes) -> bytes:
    before, after = _SHA256[name]
    if (digest := hashlib.sha256(original).hexdigest()) != before:
        raise PatchError(
            f"{name} must have SHA-256 {before}; got {digest}: infra/patches/README.md says how to"
            " adapt the patch to another release of Beam or Flink"
        )
    patched = _PATCHES[name](original)
    assert hashlib.sha256(patched).hexdigest() == after, name
    return patched


def stage_nothing(original: bytes) -> bytes:
    """Call `ScanResult.getModules`, which is empty here, instead of `getClasspathFiles`.

    Both return a `List`, so only the name in the constant pool changes.
    """
    return _replace_once(original, _utf8(b"getClasspathFiles"), _utf8(b"getModules"))


def bind_by_address(original: bytes) -> bytes:
    """Change the one call; its new descriptor is appended to the constant pool.

    The old descriptor stays, because another method has the same one. Source: JVM
    specification, chapter 4.4.
    """
    offsets, end = _constants(original)
    name = next(i for i, at in offsets.items() if original.startswith(_utf8(b"forPort"), at))
    user = next(at for at in offsets.values() if original[at : at + 3] == _name_and_type(name))
    added = int.from_bytes(original[8:10], "big")  # the count is one more than the last index
    pool = bytearray(original[:end])
    pool[8:10] = (added + 1).to_bytes(2, "big")
    pool[user + 3 : user + 5] = added.to_bytes(2, "big")
    renamed = _replace_once(bytes(pool), _utf8(b"forPort"), _utf8(b"forAddress"))
    descriptor = _utf8(b"(Ljava/net/SocketAddress;)" + _BUILDER)
    return renamed + descriptor + _replace_once(original[end:], _CALL, _CALL_BY_ADDRESS)


def release_buffer(original: bytes) -> bytes:
    """Insert instructions before the last two of `deserializeList`.

    No jump crosses the insertion and no stack map frame follows it, so only two lengths change:
    that of the code and that of its attribute. Source: JVM specification, 4.7.3.
    """
    assert original.count(_LIST_CODE) == 1
    start = original.index(_LIST_CODE)
    end = start + _LIST_CODE_SIZE
    head, code = bytearray(original[:start]), original[start:end]
    # attribute_length u4, max_stack u2, max_locals u2, code_length u4
    for at in (start - 12, start - 4):
        longer = int.from_bytes(head[at : at + 4], "big") + len(_RELEASE)
        head[at : at + 4] = longer.to_bytes(4, "big")
    changed = _replace_once(code, _LOOP_END + _RETURN, _LOOP_END + _RELEASE + _RETURN)
    return bytes(head) + changed + original[end:]


def _constants(original: bytes) -> tuple[dict[int, int], int]:
    """Return where each constant starts, by index, and where the last one ends."""
    at, index, offsets = 10, 1, {}
    while index < int.from_bytes(original[8:10], "big"):
        offsets[index] = at
        tag = original[at]
        at += 3 + int.from_bytes(original[at + 1 : at + 3], "big") if tag == 1 else _SIZES[tag]
        index += 2 if tag in (5, 6) else 1  # long and double count twice
    return offsets, at


def _replace_once(original: bytes, old: bytes, new: bytes) -> bytes:
    assert original.count(old) == 1
    return original.replace(old, new)


def _name_and_type(name: int) -> bytes:
    """Encode the start of a `CONSTANT_NameAndType_info`: all but its descriptor."""
    return b"\x0c" + name.to_bytes(2, "big")


def _utf8(text: bytes) -> bytes:
    """Encode a `CONSTANT_Utf8_info`."""
    return b"\x01" + len(text).to_bytes(2, "big") + text


_PATCHES = {_SERVERS: bind_by_address, _STAGING: stage_nothing, _LISTS: release_buffer}
