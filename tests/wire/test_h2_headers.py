"""HPACK as we use it: what we write any decoder reads, what we read is bounded, and the memo never tells an old story."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.wire.h2.headers import NO_TABLE, BlockError, HeaderDecoder, encode, request_fault

FIELDS = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=300)), max_size=8)
LITERAL = b"\x40\x01a\x01b"
NEVER_INDEXED = b"\x10\x01a\x01b"


@settings(deadline=None)
@given(st.lists(FIELDS, min_size=1, max_size=4))
def test_any_decoder_reads_what_we_write(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    """Also one that allows no table at all, which must be told so by the first block."""
    reader, strict = Decoder(), Decoder()
    strict.max_allowed_table_size = 0
    prefix = NO_TABLE
    for fields in blocks:
        block = prefix + encode(fields)
        prefix = b""
        assert [tuple(field) for field in reader.decode(block, raw=True)] == fields
        assert [tuple(field) for field in strict.decode(block, raw=True)] == fields
    assert not reader.header_table.dynamic_entries


@settings(deadline=None)
@given(st.lists(FIELDS, max_size=4), st.booleans(), st.sampled_from([0, 100, 4096]))
def test_we_read_what_any_encoder_writes(blocks: list[list[tuple[bytes, bytes]]], huffman: bool, table: int) -> None:
    writer, reader = Encoder(), HeaderDecoder(64 << 10)
    writer.header_table_size = table
    for fields in blocks + blocks:
        assert reader.decode(writer.encode(fields, huffman=huffman)) == tuple(fields)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_is_a_block_error_and_nothing_else(blocks: list[bytes]) -> None:
    reader = HeaderDecoder(1000)
    for block in blocks:
        try:
            fields = reader.decode(block)
        except BlockError:
            return
        assert sum(len(name) + len(value) + 32 for name, value in fields) <= 1000
        request_fault(fields)


def test_the_peer_is_not_told_where_our_memory_is() -> None:
    with pytest.raises(BlockError) as caught:
        HeaderDecoder(1000).decode(b"\xff")
    assert str(caught.value) == "HPACK: HPACKDecodingError"


def test_the_memo_is_used_only_where_a_block_means_itself() -> None:
    """The same literal adds an entry once the table has room: a remembered answer would lose the entry, and all that follows."""
    reader = HeaderDecoder(1000)
    first = reader.decode(NO_TABLE + LITERAL)
    assert reader.decode(LITERAL) == reader.decode(LITERAL) == first == ((b"a", b"b"),)
    assert reader.decode(LITERAL) is reader.decode(LITERAL)
    with pytest.raises(BlockError):
        reader.decode(b"\xbe")
    reader.decode(b"\x3f\xe1\x1f")
    reader.decode(LITERAL)
    assert reader.decode(b"\xbe") == ((b"a", b"b"),)


def test_the_memo_is_bounded() -> None:
    reader = HeaderDecoder(1 << 20)
    reader.decode(NO_TABLE)
    for number in range(1000):
        reader.decode(b"\x00\x01a\x04%04d" % number)
    assert len(reader._memo) <= 16
    many = b"\x82" * 400
    assert reader.decode(many) == reader.decode(many)
    assert many not in reader._memo


def test_never_indexed_fields_are_taken() -> None:
    assert HeaderDecoder(1000).decode(NEVER_INDEXED) == ((b"a", b"b"),)


def test_a_smaller_table_is_enforced_once_it_was_acknowledged() -> None:
    reader = HeaderDecoder(1000)
    reader.decode(LITERAL)
    reader.allow_table(0)
    with pytest.raises(BlockError):
        reader.decode(b"\xbe")
