"""Three small changes to Java classes of Beam and Flink, for which they have no option.

**Loopback.** `ServerFactory` of Beam 2.70 takes an address and then binds its port on *all*
interfaces (`NettyServerBuilder.forPort(address.getPort())`): for the job service, and for
every server that TaskManagers open towards their Python workers. Whoever reaches the job
service can run code here. The changed class calls `forAddress(address)`.

**No staging.** The job server sends every jar on its class path to Flink with every job:
160 jars, 14 s, and a class loader per job that is never freed. Our Flink has these jars on
its own class path, so the changed class lists the modules on the path, of which there are
none, instead of the files.

**Letting go.** Flink's `ListDelimitedSerializer` keeps the bytes of the list that it read last,
and every state has one of its own. A shard's log lies in 24 states, so all of it stayed in
the TaskManager's heap once it was read. The changed method gives the deserializer an empty
buffer before it returns.

The changed classes lie in a jar of their own that comes first on the class path.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from streamgauge.infra.errors import DownloadError

#: Sorts before all other jars, and `jars.classpath` sorts.
JAR_NAME = "00-streamgauge.jar"

_SERVERS = "org/apache/beam/sdk/fn/server/ServerFactory$InetSocketAddressServerFactory.class"
_STAGING = (
    "org/apache/beam/sdk/util/construction/resources/ClasspathScanningResourcesDetector.class"
)
_LISTS = "org/apache/flink/runtime/state/ListDelimitedSerializer.class"
#: The classes of Beam 2.70.0 and Flink 1.19 that the changes below were written for.
_SHA256 = {
    _SERVERS: "93b5a86013416deb22c25aef442c20d57cc5aec9ae73d000ddb667601ef45f2c",
    _STAGING: "3fa3bb450c81f33c19a7432fd2e4469ad79c6fe018c284e8f0ace37025debb1b",
    _LISTS: "10ee794b84106de5015d2ce7c590217a950179adb73a8fd72732d716321285a2",
}
_BUILDER = b"Lorg/apache/beam/vendor/grpc/v1p69p0/io/grpc/netty/NettyServerBuilder;"
# aload_1, invokevirtual getPort, invokestatic forPort; the second becomes three nops.
_CALL = bytes.fromhex("2b b600a0 b800a6")
_CALL_BY_ADDRESS = bytes.fromhex("2b 000000 b800a6")
# The beginning of `deserializeList`; then the end of its loop, and: aload_3, areturn.
_LIST_CODE, _LIST_CODE_BYTES = bytes.fromhex("2b c70005 01 b0 2a b40004 2b b60008"), 50
_LOOP_END, _RETURN = bytes.fromhex("a7ffe9"), bytes.fromhex("2d b0")
# nop, aload_0, getfield dataInputView, iconst_0, newarray byte, invokevirtual setBuffer. Without
# the nop the table of local variables would end amid an instruction, which Java refuses.
_LET_GO = bytes.fromhex("00 2a b40004 03 bc08 b60008")
#: Bytes of a constant by its tag, the tag included.
_SIZES = {3: 5, 4: 5, 5: 9, 6: 9, 7: 3, 8: 3, 9: 5, 10: 5, 11: 5, 12: 5, 15: 4, 16: 3, 17: 5, 18: 5}


def add_patch_jar(beam: Path) -> None:
    """Write the jar with the changed classes beside Beam's jars.

    Raises:
        DownloadError: a class of Beam is not the one that the change was written for.
    """
    (core,) = beam.glob("beam-sdks-java-core-*.jar")
    (flink,) = beam.glob("flink-runtime-1.*.jar")
    originals: dict[str, bytes] = {}
    for path, names in ((core, (_SERVERS, _STAGING)), (flink, (_LISTS,))):
        with zipfile.ZipFile(path) as jar:
            originals |= {name: jar.read(name) for name in names}
    for name, original in originals.items():
        digest = hashlib.sha256(original).hexdigest()
        if digest != _SHA256[name]:
            raise DownloadError(
                f"{beam.name}: {name} has SHA-256 {digest}, expected {_SHA256[name]}: another"
                " version of Beam needs infra/patches/java_classes.py checked against it"
            )
    with zipfile.ZipFile(beam / JAR_NAME, "w") as jar:
        jar.writestr(_SERVERS, bind_by_address(originals[_SERVERS]))
        jar.writestr(_STAGING, stage_nothing(originals[_STAGING]))
        jar.writestr(_LISTS, let_go(originals[_LISTS]))


def stage_nothing(original: bytes) -> bytes:
    """Let `ScanResult.getModules` take the place of `getClasspathFiles`, of the same type."""
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


def let_go(original: bytes) -> bytes:
    """Insert instructions before the method's last two.

    No jump crosses them and the frames before them stay where they are, so only two lengths
    change: that of the code and that of its attribute. Source: JVM specification, 4.7.3.
    """
    assert original.count(_LIST_CODE) == 1
    start = original.index(_LIST_CODE)
    end = start + _LIST_CODE_BYTES
    head, code = bytearray(original[:start]), original[start:end]
    # attribute_length u4, max_stack u2, max_locals u2, code_length u4
    for at in (start - 12, start - 4):
        longer = int.from_bytes(head[at : at + 4], "big") + len(_LET_GO)
        head[at : at + 4] = longer.to_bytes(4, "big")
    changed = _replace_once(code, _LOOP_END + _RETURN, _LOOP_END + _LET_GO + _RETURN)
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
