"""A burst by one call into Intel's Multi-Buffer Crypto library (Debian: libipsec-mb1), on the buffers themselves.

The library's queue has a job for each datagram: the addresses of its source, target, nonce, header and tag. All that
stays the same is written once; for a burst the columns of addresses are. Layouts are those of intel-ipsec-mb.h 1.3:
another version is not used. The library is checked against OpenSSL on load. It computes tags and compares none;
they are compared here, in constant time.
"""

from __future__ import annotations

import ctypes
import hmac
import platform
import weakref
from array import array
from ctypes import CFUNCTYPE, PYFUNCTYPE, c_char_p, c_int, c_uint32, c_uint64, c_void_p
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.aead.cipher import Opener, Sealer, Symbols
from protocol.buffers import BlockBuffer, address_of
from protocol.errors import ProtocolMisuse
from protocol.limits import DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, HEADER_BYTES, RECEIVE_BURST_BYTES_MAX, TAG_BYTES
from protocol.wire import LITTLE_ENDIAN, BurstView, symbol_bytes

NAME: Final = "libIPSec_MB.so.1"
PACKAGE: Final = "libipsec-mb1"
VERSIONS: Final = {0x010300: "1.3.0"}  # whose layouts these are
JOBS_MAX: Final = 128  # IMB_MAX_BURST_SIZE

# struct IMB_MGR: offsets of the instructions in use, of function pointers, of the queue's next place and its jobs
_ARCH, _PRE, _SUBMIT, _NEXT, _JOBS = 56, 464, 960, 1_020, 1_024
_SSE: Final = 2  # of enum IMB_ARCH; what is below emulates AES, in a time that depends on the key
# struct IMB_JOB, in 8-byte words
_JOB_WORDS: Final = 25
_ENC_KEYS, _DEC_KEYS, _KEY_BYTES, _SOURCE, _TARGET, _CIPHER_AT, _CIPHER_BYTES = range(7)
_HASH_AT, _HASH_BYTES, _NONCE, _NONCE_BYTES, _TAG, _TAG_BYTES, _HEADER, _HEADER_BYTES = range(7, 15)
_MODE, _DIRECTION, _HASH, _ORDER = 33, 34, 35, 36  # in 4-byte words
_GCM, _GMAC, _SEAL, _OPEN, _CIPHER_HASH = 5, 9, 1, 2, 1
_KEY_BYTES_256: Final = 32
_KEY_DATA_BYTES: Final = 1_008  # struct gcm_key_data
_ALIGNMENT: Final = 64

assert RECEIVE_BURST_BYTES_MAX // DATAGRAM_BYTES_MIN <= JOBS_MAX

_Pre = CFUNCTYPE(None, c_char_p, c_void_p)
_Submit = PYFUNCTYPE(c_uint32, c_void_p, c_uint32, c_void_p)  # keeps the interpreter: a burst takes microseconds


class Library:
    """The library as this system has it; where it must not be used, ``works`` is False and ``why_not`` the reason."""

    def __init__(self, name: str = NAME) -> None:
        self.works = False
        self.missing = False  # and made for this processor
        self.version = ""
        self.why_not = ""
        try:
            self._library = ctypes.CDLL(name)
            version = int(self._library.imb_get_version())
        except (OSError, AttributeError):
            self.why_not = f"this system has no {name}"
            self.missing = platform.machine() in ("x86_64", "AMD64")
            return
        if version not in VERSIONS or not LITTLE_ENDIAN:
            self.why_not = f"{name} is of version {version >> 16}.{version >> 8 & 255}.{version & 255}"
            return
        self.version = VERSIONS[version]
        self._library.alloc_mb_mgr.argtypes, self._library.alloc_mb_mgr.restype = [c_uint64], c_void_p
        self._library.free_mb_mgr.argtypes, self._library.free_mb_mgr.restype = [c_void_p], None
        self._library.init_mb_mgr_auto.argtypes = [c_void_p, c_void_p]
        self._library.init_mb_mgr_auto.restype = None
        manager = self.manager()
        self.works = c_int.from_address(manager + _ARCH).value >= _SSE
        self._library.free_mb_mgr(manager)
        if not self.works:
            self.why_not = "this processor has no AES instructions"

    def manager(self) -> int:
        """Return the address of a new queue, for :meth:`free`."""
        manager = self._library.alloc_mb_mgr(0)
        if manager is None:
            raise MemoryError(NAME)
        self._library.init_mb_mgr_auto(manager, None)
        c_int.from_address(manager + _NEXT).value = 0  # its self-test has left it elsewhere; the queue is empty
        return int(manager)

    def free(self, manager: int, key_data: ctypes.Array[Any]) -> None:
        """Free a queue, and forget the key."""
        ctypes.memset(key_data, 0, len(key_data))
        self._library.free_mb_mgr(manager)


library: Final = Library()


class _Queue:
    """Jobs of one key and direction. For one thread."""

    def __init__(self, key: bytes, direction: int) -> None:
        if len(key) != _KEY_BYTES_256:
            raise ProtocolMisuse(f"a key of {len(key)} bytes")
        self._manager = manager = library.manager()
        key_data = ctypes.create_string_buffer(_KEY_DATA_BYTES + _ALIGNMENT)
        weakref.finalize(self, library.free, manager, key_data)
        expanded = ctypes.addressof(key_data) + -ctypes.addressof(key_data) % _ALIGNMENT
        _Pre(c_uint64.from_address(manager + _PRE).value)(key, expanded)
        self._submit = _Submit(c_uint64.from_address(manager + _SUBMIT).value)
        first = manager + _JOBS
        self._pointers = array("Q", range(first, first + JOBS_MAX * _JOB_WORDS * 8, _JOB_WORDS * 8))
        self._pointers_at = self._pointers.buffer_info()[0]
        jobs = memoryview((ctypes.c_ubyte * (JOBS_MAX * _JOB_WORDS * 8)).from_address(first)).cast("B")
        self._words, halves = jobs.cast("Q"), jobs.cast("I")
        for word, value in (
            (_ENC_KEYS, expanded), (_DEC_KEYS, expanded), (_KEY_BYTES, len(key)), (_CIPHER_AT, 0), (_HASH_AT, 0),
            (_NONCE_BYTES, 12), (_TAG_BYTES, TAG_BYTES), (_HEADER_BYTES, HEADER_BYTES),
        ):  # fmt: skip
            self.write(word, array("Q", [value]) * JOBS_MAX)
        for half, value in ((_MODE, _GCM), (_DIRECTION, direction), (_HASH, _GMAC), (_ORDER, _CIPHER_HASH)):
            halves[half :: 2 * _JOB_WORDS] = memoryview(array("I", [value]) * JOBS_MAX)
        self._symbol_bytes = 0

    def write(self, word: int, values: array[int] | memoryview) -> None:
        """Write *values* into a column, from the first job on."""
        self._words[word : len(values) * _JOB_WORDS : _JOB_WORDS] = memoryview(values)

    def place(self, word: int, symbols: Symbols, at: int, view: BurstView, count: int) -> None:
        """Write where *count* of *symbols* from *at* on are into a column.

        What OpenSSL would notice by the lengths of views is checked: addresses have none.
        """
        found = symbols.addresses[at : at + count]
        if len(found) != count:
            raise ProtocolMisuse(f"{len(found)} symbols from {at} on are not {count}")
        if symbols.symbol_bytes != symbol_bytes(view.datagram_bytes):
            raise ProtocolMisuse(f"symbols of {symbols.symbol_bytes} bytes in datagrams of {view.datagram_bytes}")
        self.write(word, found)

    def describe(self, view: BurstView, first: int, count: int) -> None:
        """Let the first *count* jobs be about the nonces, headers and size of the datagrams from *first* on."""
        size = symbol_bytes(view.datagram_bytes)
        if first + count > view.count:
            raise ProtocolMisuse(f"datagrams {first} to {first + count} of {view.count}")
        if size != self._symbol_bytes:
            self._symbol_bytes = size
            for word in (_CIPHER_BYTES, _HASH_BYTES):
                self.write(word, array("Q", [size]) * JOBS_MAX)
        self.write(_NONCE, view.nonces_at[first : first + count])
        self.write(_HEADER, view.headers_at[first : first + count])

    def run(self, count: int) -> bool:
        """Do the first *count* jobs; whether the library has done them all, as it always should."""
        return bool(self._submit(self._manager, count, self._pointers_at) == count)


class IpsecMbSealer(Sealer):
    """Seals by the library."""

    def __init__(self, key: bytes) -> None:
        self._queue = _Queue(key, _SEAL)

    def seal(self, view: BurstView, count: int, symbols: Symbols, at: int) -> None:
        """As the base class."""
        queue = self._queue
        queue.place(_SOURCE, symbols, at, view, count)
        queue.describe(view, 0, count)
        queue.write(_TARGET, view.sealed_at[:count])
        queue.write(_TAG, view.tags_at[:count])
        if not queue.run(count):
            raise RuntimeError(f"{NAME} has not sealed {count} datagrams")


class IpsecMbOpener(Opener):
    """Opens by the library."""

    def __init__(self, key: bytes) -> None:
        self._queue = _Queue(key, _OPEN)
        self._waste = memoryview(bytearray(DATAGRAM_BYTES_MAX))
        self._wasted = array("Q", [address_of(self._waste)]) * JOBS_MAX
        self._tags = memoryview(bytearray(TAG_BYTES * JOBS_MAX)).cast("Q")
        first = address_of(self._tags)
        self._queue.write(_TAG, array("Q", range(first, first + TAG_BYTES * JOBS_MAX, TAG_BYTES)))

    def open(self, view: BurstView, first: int, count: int, symbols: Symbols | None = None, at: int = 0) -> bool:
        """As the base class."""
        queue = self._queue
        if symbols is None:
            queue.write(_TARGET, self._wasted[:count])
        else:
            queue.place(_TARGET, symbols, at, view, count)
        queue.describe(view, first, count)
        queue.write(_SOURCE, view.sealed_at[first : first + count])
        if not queue.run(count):
            return False  # then the caller opens them one by one, by OpenSSL
        ours = self._tags[0 : 2 * count : 2].tobytes() + self._tags[1 : 2 * count : 2].tobytes()
        return hmac.compare_digest(ours, view.tags(count, first))


def check(sealing: type[Sealer] = IpsecMbSealer, opening: type[Opener] = IpsecMbOpener) -> bool:
    """Whether the library is here and, asked now, agrees with OpenSSL; ``library.why_not`` has the reason if not."""
    for datagram_bytes, count in ((1_472, 3), (560, JOBS_MAX - 11), (8_960, 7), (1_472, 1)):
        if library.works and not _agrees(sealing, opening, datagram_bytes, count):
            library.works, library.why_not = False, f"{NAME} {library.version} does not agree with OpenSSL"
    return library.works


def _agrees(sealing: type[Sealer], opening: type[Opener], datagram_bytes: int, count: int) -> bool:
    """Whether a burst is sealed as OpenSSL does, opened again, and not opened once a bit has changed."""
    key, size = bytes(range(32)), symbol_bytes(datagram_bytes)
    view = BurstView(memoryview(bytearray(datagram_bytes * count)), datagram_bytes, count)
    buffer, back = BlockBuffer(count, size), BlockBuffer(count, size)
    buffer.memory[:] = (bytes(range(251)) * (len(buffer.memory) // 251 + 1))[: len(buffer.memory)]
    view.write_headers(1, 2, 3, 4, array("I", range(count)))
    sealing(key).seal(view, count, buffer, 0)
    aead = AESGCM(key)
    for nonce, header, sealed, symbol in zip(view.nonces, view.headers, view.sealed, buffer.symbols, strict=True):
        if sealed != aead.encrypt(nonce, symbol, header):
            return False
    opener = opening(key)
    if not opener.open(view, 0, count, back) or back.memory != buffer.memory:
        return False
    view.datagrams[-1][-1] ^= 1
    return not opener.open(view, 0, count)
