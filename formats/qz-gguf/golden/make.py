"""Writes the golden files with the reference writer, the Python package `gguf`.

    pip install gguf==0.19.0 numpy
    python make.py

`kinds.gguf`: every kind of metadata value and array, default alignment.
`types.gguf`: alignment 64 and a tensor of every element type that the writer
knows (but Q8_1, which it takes for 40 bytes where ggml has 36; no model file
holds it), with sizes that need padding, plus a scalar row, an empty tensor and four
dimensions.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES

HERE = Path(__file__).parent
KIND = GGUFValueType
VALUES = {
    KIND.UINT8: [0, 7, 255],
    KIND.INT8: [-128, 0, 127],
    KIND.UINT16: [0, 300, 65535],
    KIND.INT16: [-32768, 0, 32767],
    KIND.UINT32: [0, 70000, 2**32 - 1],
    KIND.INT32: [-(2**31), 0, 2**31 - 1],
    KIND.FLOAT32: [0.0, -1.5, 3.0e38],
    KIND.BOOL: [True, False, True],
    KIND.STRING: ["", "plain", "\u00e9\u4e2d\U0001f600\n\0end"],
    KIND.UINT64: [0, 2**40, 2**64 - 1],
    KIND.INT64: [-(2**63), 0, 2**63 - 1],
    KIND.FLOAT64: [0.0, -1.5, 1.0e300],
}


def write(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def kinds() -> None:
    writer = GGUFWriter(HERE / "kinds.gguf", "llama")
    writer.add_string("golden.writer", f"gguf {version('gguf')}")
    for kind, values in VALUES.items():
        writer.add_key_value(f"value.{kind.name.lower()}", values[-1], kind)
    for kind, values in VALUES.items():
        writer.add_key_value(f"array.{kind.name.lower()}", values, KIND.ARRAY, sub_type=kind)
    writer.add_key_value("unknown.to-everyone", [1, 2, 3], KIND.ARRAY, sub_type=KIND.INT32)
    writer.add_tensor("first", np.arange(5, dtype=np.float32))
    writer.add_tensor("second", np.arange(6, dtype=np.float16).reshape(2, 3))
    write(writer)


def types() -> None:
    writer = GGUFWriter(HERE / "types.gguf", "llama")
    writer.add_custom_alignment(64)
    random = np.random.Generator(np.random.PCG64(7))
    for kind, (elements, size) in GGML_QUANT_SIZES.items():
        if kind == GGMLQuantizationType.Q8_1:
            continue
        if elements == 1:
            data = random.integers(0, 256, (3, size), dtype=np.uint8)
        else:
            data = random.integers(0, 256, (2, 2 * size), dtype=np.uint8)
        writer.add_tensor(f"blk.0.{kind.name.lower()}.weight", data, raw_dtype=kind)
    f32 = GGMLQuantizationType.F32
    writer.add_tensor("one", np.ones((1,), np.float32), raw_dtype=f32)
    writer.add_tensor("empty", np.zeros((0, 4), np.float32), raw_dtype=f32)
    writer.add_tensor("column", np.ones((3, 1), np.float32), raw_dtype=f32)
    writer.add_tensor("deep", np.arange(16, dtype=np.float32).reshape(2, 1, 4, 2), raw_dtype=f32)
    write(writer)


if __name__ == "__main__":
    kinds()
    types()
