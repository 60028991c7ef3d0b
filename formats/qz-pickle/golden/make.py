"""Writes the golden files with `torch.save`.

    pip install torch==2.15.0 numpy
    python make.py

`types.bin`: a tensor of every element type. `views.bin`: views of one storage, in every kind of stride. `old.bin`: the
same in the layout before PyTorch 1.6. `protocol4.bin`: the same in a newer pickle. All elements of `types.bin` are their
own position modulo 2, all of the views their position in the storage. `views.json`: shape, strides, and elements in order,
as torch sees them.
"""

import json
from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent
TYPES = """float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex64
float8_e4m3fn float8_e5m2 float8_e8m0fnu""".split()


def views():
    """Views of one storage of 240 elements."""
    base = torch.arange(240, dtype=torch.int32)
    matrix = base.view(12, 20)
    cube = base.view(4, 5, 12)
    return OrderedDict(
        whole=base,
        matrix=matrix,
        transposed=matrix.t(),
        rows=matrix[3:7],
        columns=matrix[:, 4:9],
        transposed_columns=matrix[:, 4:9].t(),
        every_second=base[::2],
        every_second_column=matrix[:, ::2],
        every_third_transposed=matrix[::3, ::2].t(),
        scalar=base[17],
        one_row=matrix[5:6],
        one_column=matrix[:, 5:6],
        empty=base[3:3],
        empty_rows=matrix[:0].t(),
        cube=cube,
        cube_120=cube.permute(1, 2, 0),
        cube_201=cube.permute(2, 0, 1),
        cube_021=cube.permute(0, 2, 1),
        cube_102=cube.permute(1, 0, 2),
        cube_210=cube.permute(2, 1, 0),
        cube_part=cube[1:3, ::2, 3:11].permute(0, 2, 1),
        five=base.view(2, 3, 4, 5, 2).permute(4, 0, 3, 1, 2),
        parameter=torch.nn.Parameter(matrix.float()),
    )


def main():
    """Writes all files."""
    every_type = OrderedDict((name, (torch.arange(6) % 2).to(getattr(torch, name))) for name in TYPES)
    every_type._metadata = OrderedDict({"": {"version": 1}})
    torch.save(every_type, HERE / "types.bin")
    tensors = views()
    torch.save(tensors, HERE / "views.bin")
    torch.save(tensors, HERE / "old.bin", _use_new_zipfile_serialization=False)
    torch.save(tensors, HERE / "protocol4.bin", pickle_protocol=4)
    described = {
        name: {"shape": list(tensor.shape), "elements": [int(element) for element in tensor.detach().flatten()]}
        for name, tensor in tensors.items()
    }
    (HERE / "views.json").write_text(json.dumps(described) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
