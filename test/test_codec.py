import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from sglang_lsm import codec, format
from sglang_lsm.errors import CorruptionError
from support.page_maker import cut, joined

WIDTHS = st.sampled_from([1, 2, 4])


def bfloat16(num_bytes, seed=0):
    """What KV looks like to a codec: normal values, rounded to two bytes; odd lengths too."""
    normal = np.random.default_rng(seed).standard_normal(num_bytes // 2 + 1, np.float32)
    return (normal.view(np.uint32) >> 16).astype("<u2").tobytes()[:num_bytes]


def contents():
    """Bytes of every kind: noise, zeros, numbers of one, two and four bytes."""
    sizes = st.integers(0, 40_000) | st.sampled_from([131_071, 131_072, 131_073, 262_147, 524_291])
    kinds = {
        "noise": lambda size, seed: np.random.default_rng(seed).bytes(size),
        "zeros": lambda size, _: bytes(size),
        "bytes": lambda size, seed: bytes(
            np.random.default_rng(seed).normal(100, 3, size).astype(np.uint8)
        ),
        "bfloat16": bfloat16,
        "float32": lambda size, seed: (
            np.random.default_rng(seed).standard_normal(size // 4 + 1, np.float32).tobytes()[:size]
        ),
    }
    return st.builds(
        lambda kind, size, seed: kinds[kind](size, seed),
        st.sampled_from(sorted(kinds)), sizes, st.integers(0, 9),
    )  # fmt: skip


def decoded(encoded, pieces):
    """Decode into pieces that lie between bytes that must stay as they are."""
    memory = memoryview(bytearray(b"\xa5" * (sum(pieces) + 16)))
    out = cut(memory[8:-8], pieces)
    try:
        fits = codec.decode(memoryview(encoded), out)
    finally:
        assert bytes(memory[:8]) == bytes(memory[-8:]) == b"\xa5" * 8
    return joined(out) if fits else None


@given(page=contents(), width=WIDTHS, at=st.floats(0, 1), more=st.integers(0, 4096))
def test_what_is_encoded_is_decoded_and_saves_blocks(page, width, at, more):
    encoded = codec.encode(memoryview(page), width)
    if encoded is None:
        return
    assert format.padded(len(encoded)) < format.padded(len(page))
    assert codec.page_bytes(memoryview(encoded)) == len(page)
    first = int(at * len(page))
    padded = encoded + bytes(more)
    assert decoded(padded, [first, len(page) - first]) == page


@pytest.mark.parametrize(
    ("page", "width", "most"),
    [(bfloat16(1 << 20), 2, 0.79), (bytes(1 << 20), 4, 0.01), (bfloat16(24_576), 2, 0.84)],
)
def test_what_repeats_its_high_bytes_shrinks(page, width, most):
    assert len(codec.encode(memoryview(page), width)) < most * len(page)


@given(size=st.integers(0, 300_000), width=WIDTHS)
def test_noise_stays_as_it_is(size, width):
    assert codec.encode(memoryview(np.random.default_rng(size).bytes(size)), width) is None


def test_a_page_that_saves_less_than_a_sixteenth_stays_as_it_is():
    noise = np.random.default_rng(1).bytes(1 << 20)
    page = bytearray(noise)
    page[: 1 << 15] = bytes(1 << 15)
    assert codec.encode(memoryview(page), 1) is None
    page[: 1 << 17] = bytes(1 << 17)
    assert codec.encode(memoryview(page), 1) is not None


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_537])
def test_a_page_of_another_size_is_told_apart(size):
    encoded = codec.encode(memoryview(bfloat16(65_536)), 2)
    assert decoded(encoded, [size]) is None


PAGE = bfloat16(300_001, seed=3)
ENCODED = codec.encode(memoryview(PAGE), 2)


@given(at=st.integers(0, len(ENCODED) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_gives_other_bytes_of_the_same_size(at, bit):
    """What passes here is caught by the checksum: the codec only has to stay in bounds."""
    damaged = bytearray(ENCODED)
    damaged[at] ^= 1 << bit
    try:
        page = decoded(damaged, [len(PAGE)])
    except CorruptionError:
        return
    assert page is not None and len(page) == len(PAGE)


@given(num_bytes=st.integers(0, len(ENCODED) - 1))
def test_a_page_that_ends_early_is_noticed(num_bytes):
    with pytest.raises(CorruptionError):
        decoded(ENCODED[:num_bytes], [len(PAGE)])


@given(garbage=st.binary(max_size=200))
def test_garbage_behind_a_good_header_is_noticed(garbage):
    """A header that claims sizes at will, correctly sealed, leads to nothing but an error."""
    header = format.encode_page_header(
        2, 8192, [len(garbage) // 2, len(garbage) - len(garbage) // 2]
    )
    with pytest.raises(CorruptionError):
        decoded(header + garbage, [8192])


def test_a_frame_that_claims_much_more_than_a_plane_gets_no_memory():
    import zstandard

    frame = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    header = format.encode_page_header(1, 8192, [len(frame)])
    with pytest.raises(CorruptionError):
        decoded(header + frame, [8192])


@pytest.mark.parametrize(
    ("kv_dtype", "width"),
    [("float32", 4), ("bfloat16", 2), ("float16", 2), ("float8_e4m3fn", 1), ("uint8", 1), ("", 1)],
)
def test_element_bytes(kv_dtype, width):
    assert codec.element_bytes(kv_dtype) == width
