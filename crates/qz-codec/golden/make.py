#!/usr/bin/env python3
"""Writes the golden encodings of llama.cpp's own library.

    make.py path/to/libggml-base.so [TYPE...] > encodings.txt

The library must be an x86-64 release build: its searches are plain C that a
compiler may contract to fused multiply-adds on other machines. With types given,
only their lines are written. One line for each case:

    type input importance seed rows columns bytes digest

`input` and `importance` name kinds of inputs.rs, which this script makes again;
importance is made with seed + 1, and is "none" where there is none. `bytes` is
what ggml_quantize_chunk wrote, in hex. `digest` is the 64-bit FNV-1a hash of
what the library's dequantizer makes of them, as little-endian f32. A case on
which the library ended the process has the word "aborts" for its bytes.

In a release build ggml_quantize_chunk ends the process only for calls that make
no sense: a start that is no multiple of the block or the row (GGML_ASSERT), an
importance matrix missing where a type requires one, zero columns (division by
zero). Of these types only those with codebooks do so for finite weights and
importance: where products of them overflow, no point of a codebook has an error
below the largest float, or a scale is not a number. A debug build also asserts in
nearest_int that the rounded number is below 2^22, which overflowed sums violate,
and that rows fill whole blocks.
"""

import ctypes
import os
import struct
import sys

MASK = (1 << 64) - 1

# Type: (ggml_type, block elements, block bytes, dequantizer).
TYPES = {
    "F32": (0, 1, 4, None),
    "F16": (1, 1, 2, "ggml_fp16_to_fp32_row"),
    "BF16": (30, 1, 2, "ggml_bf16_to_fp32_row"),
    "Q8_0": (8, 32, 34, "dequantize_row_q8_0"),
    "Q2_K": (10, 256, 84, "dequantize_row_q2_K"),
    "Q3_K": (11, 256, 110, "dequantize_row_q3_K"),
    "Q4_K": (12, 256, 144, "dequantize_row_q4_K"),
    "Q5_K": (13, 256, 176, "dequantize_row_q5_K"),
    "Q6_K": (14, 256, 210, "dequantize_row_q6_K"),
    "Q4_0": (2, 32, 18, "dequantize_row_q4_0"),
    "Q4_1": (3, 32, 20, "dequantize_row_q4_1"),
    "Q5_0": (6, 32, 22, "dequantize_row_q5_0"),
    "Q5_1": (7, 32, 24, "dequantize_row_q5_1"),
    "IQ4_NL": (20, 32, 18, "dequantize_row_iq4_nl"),
    "IQ4_XS": (23, 256, 136, "dequantize_row_iq4_xs"),
    "TQ1_0": (34, 256, 54, "dequantize_row_tq1_0"),
    "TQ2_0": (35, 256, 66, "dequantize_row_tq2_0"),
    "MXFP4": (39, 32, 17, "dequantize_row_mxfp4"),
    "NVFP4": (40, 64, 36, "dequantize_row_nvfp4"),
    "Q8_K": (15, 256, 292, "dequantize_row_q8_K"),
    "IQ3_XXS": (18, 256, 98, "dequantize_row_iq3_xxs"),
    "IQ2_XXS": (16, 256, 66, "dequantize_row_iq2_xxs"),
    "IQ2_XS": (17, 256, 74, "dequantize_row_iq2_xs"),
    "IQ2_S": (22, 256, 82, "dequantize_row_iq2_s"),
    "IQ3_S": (21, 256, 110, "dequantize_row_iq3_s"),
    "Q8_1": (9, 32, 36, "dequantize_row_q8_0"),
    "Q1_0": (41, 128, 18, "dequantize_row_q1_0"),
    "Q2_0": (42, 64, 18, "dequantize_row_q2_0"),
    "IQ1_S": (19, 256, 50, "dequantize_row_iq1_s"),
    "IQ1_M": (29, 256, 56, "dequantize_row_iq1_m"),
}

# Types whose encoders do not look at importance.
IGNORE_IMPORTANCE = "F32 F16 BF16 Q8_0 TQ1_0 TQ2_0 MXFP4 NVFP4 Q8_K Q8_1 Q1_0 Q2_0".split()

# Types that have no encoding without importance.
REQUIRE_IMPORTANCE = "IQ2_XXS IQ2_XS IQ1_S".split()

# Types of activations, that no chunk can have.
ACTIVATIONS = {"Q8_K": "quantize_row_q8_K_ref", "Q8_1": "quantize_row_q8_1_ref"}


def without_sums(encoded):
    """Blocks of Q8_1, which has no dequantizer, as blocks of Q8_0."""
    data = bytes(encoded)
    return b"".join(data[at : at + 2] + data[at + 4 : at + 36] for at in range(0, len(data), 36))


class Random:
    def __init__(self, seed):
        self.state = seed
        self.kept = 0

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        return z ^ z >> 31

    def even(self):
        return ((self.next() >> 40) - 2**23) * 2.0**-23

    def positive(self):
        return ((self.next() >> 40) + 1) * 2.0**-24

    def heavy(self):
        bits = self.next()
        zeros = (bits & -bits).bit_length() - 1 if bits else 64
        return 2.0 ** min(zeros, 20)


def from_bits(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def subnormal(r, _):
    bits = r.next()
    return from_bits((bits >> 63) << 31 | bits >> 32 & 1023)


def sixteens(r, i):
    if i % 16 == 0:
        r.kept = r.next() >> 59
    return r.even() * 2.0**-r.kept


def any_bits(r, _):
    bits = r.next() >> 32
    return from_bits(bits ^ 1 << 30 if bits >> 23 & 255 == 255 else bits)


# Products are exact: a few bits times a power of two.
WEIGHTS = {
    "even": lambda r, i: r.even(),
    "bell": lambda r, i: (sum(r.next() >> 42 for _ in range(4)) - 2**23) * 2.0**-23,
    "heavy": lambda r, i: r.even() * r.heavy(),
    "constant": lambda r, i: 0.75,
    "constant-negative": lambda r, i: -0.75,
    "positive": lambda r, i: r.positive(),
    "negative": lambda r, i: -r.positive(),
    "offset": lambda r, i: to_f32(1.0 + r.even() * 2.0**-8),
    "one-step": lambda r, i: 0.75 + 2.0**-24 if i % 32 == 31 else 0.75,
    "zero": lambda r, i: 0.0,
    "subnormal": subnormal,
    "least-normal": lambda r, i: r.even() * 2.0**-120,
    "tiny": lambda r, i: r.even() * 2.0**-66,
    "at-zero-limit": lambda r, i: r.even() * 2.0**-49,
    "half-subnormal": lambda r, i: r.even() * 2.0**-20,
    "half-overflow": lambda r, i: r.even() * 2.0**22,
    "huge": lambda r, i: r.even() * 2.0**100,
    "enormous": lambda r, i: r.even() * 2.0**127,
    "outlier": lambda r, i: 8.0 if i % 256 == 77 else r.even() * 2.0**-10,
    "alternating": lambda r, i: 0.5 if i % 2 == 0 else -0.5,
    "sparse": lambda r, i: r.even() if r.next() >> 61 == 0 else 0.0,
    "ramp": lambda r, i: i % 256 - 128.0,
    "quarters": lambda r, i: ((r.next() >> 61) - 4) * 0.25,
    "sixteens": sixteens,
    "any-bits": any_bits,
}

IMPORTANCE = {
    "positive": lambda r, i: r.positive(),
    "heavy": lambda r, i: r.positive() * r.heavy(),
    "some-zero": lambda r, i: 0.0 if r.next() % 3 == 0 else r.positive(),
    "ones": lambda r, i: 1.0,
    "zero": lambda r, i: 0.0,
    "tiny": lambda r, i: r.positive() * 2.0**-100,
    "huge": lambda r, i: r.positive() * 2.0**100,
}


def to_f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def values(kind, seed, count):
    random = Random(seed)
    return (ctypes.c_float * count)(*(kind(random, i) for i in range(count)))


def digest(data):
    result = 0xCBF29CE484222325
    for byte in bytes(data):
        result = ((result ^ byte) * 0x100000001B3) & MASK
    return result


def cases():
    """(type, input, importance, seed, rows, columns)"""
    seed = 0
    for name, (_, block, _, _) in TYPES.items():
        for position, kind in enumerate(WEIGHTS):
            chosen = [] if name in REQUIRE_IMPORTANCE else ["none"]
            if name not in IGNORE_IMPORTANCE:
                kinds = list(IMPORTANCE)
                turns = range(7) if kind == "bell" else (0, 2, 5)
                chosen += [kinds[(position + turn) % 7] for turn in turns]
            for importance in chosen:
                seed += 2
                rows, columns = 1, max(block, 32)
                if importance == "positive" and kind in ("even", "bell", "heavy"):
                    rows, columns = 2, 2 * block
                yield name, kind, importance, seed, rows, columns


def load(path):
    library = ctypes.CDLL(path)
    library.ggml_version.restype = ctypes.c_char_p
    library.ggml_commit.restype = ctypes.c_char_p
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    )
    # Codebooks are made once, here, not in every case's process.
    for ggml_type, *_ in TYPES.values():
        library.ggml_quantize_init(ggml_type)
    return library


def run(library, name, kind, importance, seed, rows, columns):
    """What the library makes of one case, as a line says it."""
    ggml_type, block, block_bytes, dequantizer = TYPES[name]
    count = rows * columns
    weights = values(WEIGHTS[kind], seed, count)
    matrix = None if importance == "none" else values(IMPORTANCE[importance], seed + 1, columns)
    encoded = (ctypes.c_uint8 * (count // block * block_bytes))()
    if name in ACTIVATIONS:
        function = getattr(library, ACTIVATIONS[name])
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        function(weights, encoded, count)
    else:
        library.ggml_quantize_chunk(ggml_type, weights, encoded, 0, rows, columns, matrix)
    decoded = (ctypes.c_float * count)()
    if dequantizer is None:
        ctypes.memmove(decoded, encoded, 4 * count)
    else:
        function = getattr(library, dequantizer)
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        function(without_sums(encoded) if name == "Q8_1" else encoded, decoded, count)
    return f"{bytes(encoded).hex()} {digest(decoded):016x}"


def run_apart(library, case):
    """The same in a process of its own, which the library may end. A fork, because
    preparing some types' codebooks takes many seconds."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        # What the library says as it ends the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        with os.fdopen(sink, "w") as line:
            line.write(run(library, *case))
        os._exit(0)
    os.close(sink)
    with os.fdopen(source) as line:
        text = line.read()
    _, status = os.waitpid(child, 0)
    return text if status == 0 else "aborts -"


def main():
    path, wanted = sys.argv[1], sys.argv[2:]
    library = load(path)
    version, commit = library.ggml_version().decode(), library.ggml_commit().decode()
    # A build from an unpacked archive calls its commit dirty.
    print(f"# ggml {version}, llama.cpp commit {commit.removesuffix('-dirty')}; made by make.py")
    for case in cases():
        name = case[0]
        if wanted and name not in wanted:
            continue
        library.ggml_quantize_init(TYPES[name][0])
        print(*case, run_apart(library, case), flush=True)


main()
