"""Writes what the packages make of one small matrix: `packed.safetensors`.

    pip install gptqmodel==7.7.0 compressed-tensors==0.19.0 safetensors
    python make.py

`weight` (f32) and `weight.bf16` are the matrix; `SCHEME/PART` is a part of it in the
scheme that a target is called by. Scales, zero points and codes come from the packages'
own code, too: GPTQModel's `Quantizer` and AWQ processor, compressed-tensors'
`calculate_qparams` and compressors.
"""

from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams
from gptqmodel.looper.awq_processor import AWQProcessor
from gptqmodel.nn_modules.qlinear.gemm_awq import AwqGEMMLinear
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.quantization.quantizer import Quantizer
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
from safetensors.torch import save_file

HERE = Path(__file__).parent
ROWS, COLUMNS = 32, 256


def matrix() -> torch.Tensor:
    """A bell, with a group that is all zero, one of one sign, and outliers."""
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(6)) * 0.05
    weight[1, :128] = 0
    weight[2, 128:] = weight[2, 128:].abs() + 0.01
    weight[3, 5] = 1.5
    weight[4, 200] = -2.5
    # Exact in bfloat16, so that both types are the same matrix.
    return weight.bfloat16().float()


def gptq(weight: torch.Tensor, bits: int, group: int, sym: bool, v2: bool) -> dict:
    config = SimpleNamespace(bits=bits, sym=sym, mse=0.0, format="gptq", method="gptq")
    size = COLUMNS if group == -1 else group
    scales, zeros, rounded = [], [], []
    for columns in weight.split(size, dim=1):
        quantizer = Quantizer(config)
        quantizer.configure(perchannel=True)
        quantizer.find_params(columns, weight=True)
        scales.append(quantizer.scale)
        zero = quantizer.zero
        # Zero cannot be stored in v1; the least that can be.
        zero = zero if sym or v2 else zero.clamp(min=1)
        zeros.append(zero)
        code = torch.clamp(torch.round(columns / quantizer.scale) + zero, 0, 2**bits - 1)
        rounded.append((code - zero) * quantizer.scale)
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = torch.cat(rounded, dim=1)
    module = TorchLinear(bits=bits, group_size=group, sym=sym, desc_act=False,
                         in_features=COLUMNS, out_features=ROWS)
    index = torch.arange(COLUMNS, dtype=torch.int32) // size
    module.pack_original(linear, torch.cat(scales, dim=1), torch.cat(zeros, dim=1), index)
    if not v2:
        convert_gptq_v2_to_v1_format_module(
            module, SimpleNamespace(bits=bits, pack_dtype=torch.int32))
    return {name: getattr(module, name) for name in ("qweight", "qzeros", "scales", "g_idx")}


def awq(weight: torch.Tensor, group: int) -> dict:
    processor = SimpleNamespace(qcfg=SimpleNamespace(group_size=group, sym=False, bits=4))
    rounded, scales, zeros = AWQProcessor.pseudo_quantize_tensor(processor, weight.clone())
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = rounded
    # Its constructor wants a GPU; packing does not.
    module = AwqGEMMLinear.__new__(AwqGEMMLinear)
    torch.nn.Module.__init__(module)
    module.bits, module.group_size = 4, group
    module.in_features, module.out_features = COLUMNS, ROWS
    module.pack(linear, scales, zeros)
    return {name: getattr(module, name) for name in ("qweight", "qzeros", "scales")}


def parameters(weight: torch.Tensor, args: QuantizationArgs):
    size = args.group_size or COLUMNS
    groups = weight.reshape(ROWS, -1, size)
    return calculate_qparams(groups.amin(-1), groups.amax(-1), args)


def pack_quantized(weight: torch.Tensor, bits: int, group: int | None, sym: bool) -> dict:
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=sym,
                            strategy="channel" if group is None else "group", group_size=group)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    scale, zero = parameters(weight, args)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    parts = PackedQuantizationCompressor.compress(state, scheme)
    decoded = PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
    parts = {name: part for name, part in parts.items() if name in (
        "weight_packed", "weight_scale", "weight_shape", "weight_zero_point")}
    return parts | {"decoded": decoded.float()}


def int_quantized(weight: torch.Tensor) -> dict:
    args = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    scale, zero = parameters(weight, args)
    codes = quantize(x=weight, scale=scale, zero_point=zero, args=args, dtype=torch.int8)
    decoded = dequantize(x_q=codes, scale=scale, zero_point=zero, args=args)
    return {"weight": codes, "weight_scale": scale, "decoded": decoded.float()}


def main() -> None:
    weight = matrix()
    schemes = {}
    for bits in (2, 3, 4, 8):
        schemes[f"gptq:w{bits}g128"] = gptq(weight, bits, 128, True, False)
        schemes[f"gptq:w{bits}g64+v2+asym"] = gptq(weight, bits, 64, False, True)
    schemes["gptq:w4"] = gptq(weight, 4, -1, True, False)
    schemes["gptq:w4g128+asym"] = gptq(weight, 4, 128, False, False)
    for group in (128, 32):
        schemes[f"awq:w4g{group}"] = awq(weight, group)
    for bits in range(2, 9):
        schemes[f"ct:w{bits}a16"] = pack_quantized(weight, bits, 128, True)
        schemes[f"ct:w{bits}a16+g32+asym"] = pack_quantized(weight, bits, 32, False)
    schemes["ct:w4a16+channel"] = pack_quantized(weight, 4, None, True)
    schemes["ct:w4a16+channel+asym"] = pack_quantized(weight, 4, None, False)
    schemes["ct:w8a8"] = int_quantized(weight)
    half = weight.bfloat16()
    schemes["bf16/ct:w4a16"] = pack_quantized(half, 4, 128, True)
    schemes["bf16/ct:w4a16+g32+asym"] = pack_quantized(half, 4, 32, False)
    schemes["bf16/ct:w8a8"] = int_quantized(half)
    tensors = {"weight": half}
    for scheme, parts in schemes.items():
        keep = scheme in ("ct:w3a16", "ct:w4a16+g32+asym", "ct:w8a8")
        for name, part in parts.items():
            if name != "decoded" or keep:
                tensors[f"{scheme}/{name}"] = part.contiguous().clone()
    packages = ("gptqmodel", "compressed-tensors", "torch")
    metadata = {name: version(name) for name in packages}
    save_file(tensors, HERE / "packed.safetensors", metadata=metadata)


if __name__ == "__main__":
    main()
