"""Kernels by themselves: whether they compute what plain torch does on this device, and how fast they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hearth_backends.base import SamplingParams
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.kernels.contract import Attention, Draws, Kernels, LayerMemory, StepRows
from hearth_backends.cuda.kernels.packing import int4_of
from hearth_backends.cuda.kernels.reference import ReferenceKernels
from hearth_backends.cuda.sampler import noise_keys
from hearth_backends.kv.contract import BLOCK_TOKENS
from hearth_backends.sampling import sample
from hearth_bench.gpu_clock import Work, seconds_of
from hearth_bench.gpu_figures import Figure
from hearth_bench.gpu_steps import sampling
from hearth_bench.shapes import Shape

PLAIN = ReferenceKernels()
TOLERANCE = 0.03
"""Of the largest number; bfloat16 has eight bits."""


class Contexts:
    """Random keys and values of some sequences, in blocks that lie anywhere, and random queries."""

    def __init__(
        self, shape: Shape, lengths: list[int], dtype: torch.dtype, kv: torch.dtype, where: Accelerator
    ) -> None:  # fmt: skip
        n_seq, columns = len(lengths), -(-max(lengths) // BLOCK_TOKENS)
        blocks = (n_seq * columns + 1, BLOCK_TOKENS, shape.n_kv_heads, shape.head_dim)
        device = where.torch
        self._lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
        self._memory = LayerMemory(
            *(torch.randn(blocks, device=device, dtype=dtype).to(kv) for _ in range(2))
        )
        order = torch.randperm(blocks[0] - 1, device=device) + 1
        self._tables = order.to(torch.int32)[: n_seq * columns].view(n_seq, columns)
        self.n_bytes = sum(lengths) * 2 * shape.n_kv_heads * shape.head_dim * kv.itemsize
        self._shape, self._dtype, self._device = shape, dtype, device

    def attention(self, n_rows: list[int]) -> Callable[[Kernels], Tensor]:
        """What kernels make of so many rows of each sequence, the same queries each time."""
        shape, device = self._shape, self._device
        starts = torch.tensor([0, *n_rows], device=device).cumsum(0).to(torch.int32)
        heads = (sum(n_rows), shape.n_heads, shape.head_dim)
        q, out = torch.randn((2, *heads), device=device).to(self._dtype).unbind(0)
        nothing = torch.zeros(sum(n_rows), dtype=torch.int32, device=device)
        rows = StepRows(nothing, nothing, nothing, self._tables, starts, self._lengths)
        how = Attention(shape.head_dim**-0.5)

        def attend(kernels: Kernels) -> Tensor:
            kernels.attend(q, self._memory, rows, how, out)
            return out

        return attend


def errors(
    kernels: Kernels,
    shape: Shape,
    dtype: torch.dtype,
    kinds: list[torch.dtype],
    where: Accelerator,
    most: int,
) -> Iterator[Figure]:
    """The largest error of each kernel over the largest number, against plain torch: SDPA in float32."""
    for kv in kinds:
        contexts = Contexts(shape, [most, 1, most // 3 + 1], dtype, kv, where)
        for name, n_rows in (("decode", [1, 1, 1]), ("ragged", [most // 2, 1, most // 3 + 1])):
            attend = contexts.attention(n_rows)
            ours = attend(kernels).clone()
            yield _error(f"{name}, keys in {_name(kv)}", ours, attend(PLAIN))
    yield from _product_errors(kernels, shape, dtype, where)
    yield _differing_draws(kernels, shape.n_vocab, where)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _error(name: str, ours: Tensor, wanted: Tensor) -> Figure:
    largest = float(wanted.float().abs().max())
    error = float((ours.float() - wanted.float()).abs().max())
    if not error <= TOLERANCE * largest:
        raise SystemExit(f"{name}: an error of {error} beside numbers up to {largest}")
    return Figure(f"error of {name}", 100 * error / largest, "%")


def _product_errors(
    kernels: Kernels, shape: Shape, dtype: torch.dtype, where: Accelerator
) -> Iterator[Figure]:
    d, device = shape.d_model, where.torch
    packed = torch.randint(0, 256, (2 * d, d // 2), dtype=torch.uint8, device=device)
    scales = torch.rand(2 * d, -(-d // 128), device=device).half() / d**0.5
    matrix = int4_of(packed, scales, None)
    weight = torch.randn(2 * d, d, device=device).to(torch.float8_e4m3fn)
    of_outputs = torch.rand(2 * d, device=device)
    for n in (1, 33, 200):
        x = torch.randn(n, d, device=device).to(dtype)
        ours = kernels.int4_linear(x, matrix)
        yield _error(f"4 bits, {n} rows", ours, PLAIN.int4_linear(x.float(), matrix))
        ours = kernels.eight_bit_linear(x, weight, of_outputs)
        yield _error(
            f"8 bits, {n} rows", ours, PLAIN.eight_bit_linear(x.float(), weight, of_outputs)
        )


def _differing_draws(kernels: Kernels, n_vocab: int, where: Accelerator) -> Figure:
    """How many of 16 tokens are not those of the written definition, computed on the host."""
    params = SamplingParams(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01, seed=5)
    logits = torch.randn(16, n_vocab, device=where.torch) * 3
    batch = sampling(16, params, 3)
    keys = torch.from_numpy(noise_keys([params.seed] * 16, batch.positions)).to(where.torch)
    floats = torch.tensor([params.temperature, params.top_p, params.min_p], device=where.torch)
    temperature, top_p, min_p = floats[:, None].expand(3, 16).contiguous().unbind(0)
    top_k = torch.full((16,), params.top_k, dtype=torch.int32, device=where.torch)
    ours = kernels.draw(logits, Draws(temperature, top_k, top_p, min_p, keys)).cpu().numpy()
    wanted = sample(logits.cpu().numpy(), batch).tokens
    return Figure("tokens drawn otherwise", float(np.count_nonzero(ours != wanted)), "of 16")


def attention_sweep(
    kernels: Kernels, shape: Shape, dtype: torch.dtype, kv: torch.dtype, where: Accelerator,
    sizes: list[tuple[int, int]], bandwidth: float,
) -> Iterator[Figure]:  # fmt: skip
    """Paged decode alone: the share of the measured bandwidth at which keys and values are read."""
    for n_seq, n_tokens in sizes:
        contexts = Contexts(shape, [n_tokens] * n_seq, dtype, kv, where)
        attend = contexts.attention([1] * n_seq)
        seconds = _graph_seconds(partial(attend, kernels), where)
        rate = contexts.n_bytes / seconds
        is_asked = n_tokens >= 8192 and n_seq >= 8 and kv == dtype
        yield Figure(
            f"paged decode alone, {n_seq} of {n_tokens}, {_name(kv)}", 100 * rate / bandwidth, "%",
            80 if is_asked else None, 93 if is_asked else None, {"GB/s": rate / 1e9, "µs": seconds * 1e6},
        )  # fmt: skip


def _graph_seconds(work: Work, where: Accelerator) -> float:
    """Of kernels without the time it takes to launch them, where they can be recorded."""
    if not where.has_graphs:
        return seconds_of(work, where, repeats=3, rounds=3)
    work()
    where.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(20):
            work()
    return seconds_of(graph.replay, where, repeats=3) / 20


def product_sweep(
    kernels: Kernels,
    shape: Shape,
    dtype: torch.dtype,
    where: Accelerator,
    n_rows: list[int],
    bandwidth: float,
) -> Iterator[Figure]:
    """Products of few rows by the largest matrix of a layer."""
    n_out, n_in, device = 2 * shape.d_ff, shape.d_model, where.torch
    weight = torch.randn(n_out, n_in, device=device).to(dtype)
    octets = weight.to(torch.float8_e4m3fn)
    of_outputs = torch.ones(n_out, device=device)
    packed = torch.randint(0, 256, (n_out, n_in // 2), dtype=torch.uint8, device=device)
    matrix = int4_of(packed, torch.ones(n_out, -(-n_in // 128), device=device).half(), None)
    for n in n_rows:
        x = torch.randn(n, n_in, device=device).to(dtype)
        plain = partial(torch.nn.functional.linear, x, weight)
        for name, n_bytes, work in (
            (_name(dtype), weight.nbytes, plain),
            ("fp8", octets.nbytes, partial(kernels.eight_bit_linear, x, octets, of_outputs)),
            ("int4", matrix.n_bytes, partial(kernels.int4_linear, x, matrix)),
        ):
            seconds = _graph_seconds(work, where)
            rate = n_bytes / seconds
            yield Figure(
                f"product of {n} rows, {name}", 100 * rate / bandwidth, "%", None, None,
                {"GB/s": rate / 1e9, "µs": seconds * 1e6},
            )  # fmt: skip
