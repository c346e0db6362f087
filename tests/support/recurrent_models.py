"""Tiny random models that carry a state: Mamba, and hybrids of it or of short convolutions with attention."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tiny_vocabulary import N_VOCAB, write_vocabulary

Array = NDArray[np.float32]

HEAD_DIM = 16
D_STATE, D_CONV, DT_RANK, N_GROUPS = 16, 4, 8, 2
CONTEXT = 2048

ARCHITECTURES = ("mamba", "mamba2", "jamba", "falcon-h1", "granitehybrid", "lfm2", "rwkv7")


def write_recurrent(path: Path, architecture: str, *, n_layers: int = 4, d_model: int = 64) -> None:
    """A random model of one of `ARCHITECTURES`, with the vocabulary of bytes."""
    writer = gguf.GGUFWriter(path, architecture)
    _Writer(writer, architecture, n_layers, d_model).write()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class _Writer:
    """Metadata and tensors of one model."""

    def __init__(
        self, out: gguf.GGUFWriter, architecture: str, n_layers: int, d_model: int
    ) -> None:
        self._out = out
        self._architecture = architecture
        self._n_layers = n_layers
        self._d = d_model
        self._d_inner = 2 * d_model
        self._d_ff = 3 * d_model // 2
        self._n_heads = d_model // HEAD_DIM
        self._n_kv_heads = self._n_heads // 2
        self._random = np.random.default_rng(0)

    def write(self) -> None:
        self._metadata()
        write_vocabulary(self._out)
        self._add("token_embd.weight", self._matrix(N_VOCAB, self._d) * 4)
        self._add("output.weight", self._matrix(N_VOCAB, self._d) * 2)
        norm = "token_embd_norm" if self._architecture == "lfm2" else "output_norm"
        self._add(f"{norm}.weight", self._norm(self._d))
        if self._architecture == "rwkv7":
            self._add("output_norm.bias", self._norm(self._d) - 1)
            self._add("token_embd_norm.weight", self._norm(self._d))
            self._add("token_embd_norm.bias", self._norm(self._d) - 1)
        for layer in range(self._n_layers):
            for name, values in self._layer(layer).items():
                self._add(f"blk.{layer}.{name}", values)

    def attends(self, layer: int) -> bool:
        """Whether a layer keeps keys and values."""
        if self._architecture in ("mamba", "mamba2", "rwkv7"):
            return False
        return self._architecture == "falcon-h1" or layer % 2 == 1

    def _metadata(self) -> None:
        out, is_rwkv = self._out, self._architecture == "rwkv7"
        is_pure = not self.attends(1)
        out.add_name("tiny")
        out.add_context_length(CONTEXT)
        out.add_embedding_length(self._d)
        out.add_block_count(self._n_layers)
        out.add_feed_forward_length(0 if is_pure and not is_rwkv else self._d_ff)
        out.add_head_count(0 if is_pure else self._n_heads)
        if self._architecture == "falcon-h1":
            out.add_head_count_kv(self._n_kv_heads)
        elif not is_pure:
            out.add_head_count_kv(
                [self._n_kv_heads * self.attends(i) for i in range(self._n_layers)]
            )
        if not is_pure:
            out.add_key_length(HEAD_DIM)
            out.add_value_length(HEAD_DIM)
            out.add_rope_dimension_count(HEAD_DIM)
        out.add_layer_norm_rms_eps(1e-5)
        if is_rwkv:
            out.add_layer_norm_eps(1e-5)
            out.add_wkv_head_size(64)  # of all models there are; kernels count on it
            out.add_token_shift_count(2)
            out.add_decay_lora_rank(8)
            out.add_iclr_lora_rank(8)
            out.add_value_residual_mix_lora_rank(8)
            out.add_gate_lora_rank(8)
        elif self._architecture == "lfm2":
            out.add_shortconv_l_cache(3)
        else:
            out.add_ssm_conv_kernel(D_CONV)
            out.add_ssm_inner_size(self._d_inner)
            out.add_ssm_state_size(D_STATE)
            out.add_ssm_time_step_rank(DT_RANK)
            if self._architecture in ("mamba2", "falcon-h1", "granitehybrid"):
                out.add_ssm_group_count(N_GROUPS)

    def _layer(self, layer: int) -> dict[str, Array]:
        tensors = {"attn_norm.weight": self._norm(self._d)}
        kind = self._architecture
        if kind == "rwkv7":
            return tensors | self._rwkv7()
        if self.attends(layer):
            tensors |= self._attention()
        if not self.attends(layer) or kind == "falcon-h1":
            if kind == "lfm2":
                tensors |= self._convolution()
            elif kind in ("mamba", "jamba"):
                tensors |= self._mamba()
            else:
                tensors |= self._mamba2()
        if kind not in ("mamba", "mamba2"):
            tensors |= self._feed_forward()
        return tensors

    def _attention(self) -> dict[str, Array]:
        q, kv = self._n_heads * HEAD_DIM, self._n_kv_heads * HEAD_DIM
        tensors = {
            "attn_q.weight": self._matrix(q, self._d),
            "attn_k.weight": self._matrix(kv, self._d),
            "attn_v.weight": self._matrix(kv, self._d),
            "attn_output.weight": self._matrix(self._d, q),
        }
        if self._architecture == "lfm2":
            tensors["attn_q_norm.weight"] = self._norm(HEAD_DIM)
            tensors["attn_k_norm.weight"] = self._norm(HEAD_DIM)
        return tensors

    def _feed_forward(self) -> dict[str, Array]:
        norm = "ffn_norm" if self._architecture == "falcon-h1" else "ffn_norm.weight"
        return {
            norm: self._norm(self._d),
            "ffn_gate.weight": self._matrix(self._d_ff, self._d),
            "ffn_up.weight": self._matrix(self._d_ff, self._d),
            "ffn_down.weight": self._matrix(self._d, self._d_ff),
        }

    def _convolution(self) -> dict[str, Array]:
        return {
            "shortconv.conv.weight": self._matrix(self._d, 3),
            "shortconv.in_proj.weight": self._matrix(3 * self._d, self._d),
            "shortconv.out_proj.weight": self._matrix(self._d, self._d),
        }

    def _mamba(self) -> dict[str, Array]:
        tensors = {
            "ssm_in.weight": self._matrix(2 * self._d_inner, self._d),
            "ssm_conv1d.weight": self._matrix(self._d_inner, D_CONV),
            "ssm_conv1d.bias": self._norm(self._d_inner) - 1,
            "ssm_x.weight": self._matrix(DT_RANK + 2 * D_STATE, self._d_inner),
            "ssm_dt.weight": self._matrix(self._d_inner, DT_RANK),
            "ssm_dt.bias": self._norm(self._d_inner) - 1,
            "ssm_a": -self._norm(self._d_inner * D_STATE).reshape(self._d_inner, D_STATE),
            "ssm_d": self._norm(self._d_inner),
            "ssm_out.weight": self._matrix(self._d, self._d_inner),
        }
        if self._architecture == "jamba":
            tensors["ssm_dt_norm.weight"] = self._norm(DT_RANK)
            tensors["ssm_b_norm.weight"] = self._norm(D_STATE)
            tensors["ssm_c_norm.weight"] = self._norm(D_STATE)
        return tensors

    def _mamba2(self) -> dict[str, Array]:
        d_conv = self._d_inner + 2 * N_GROUPS * D_STATE
        return {
            "ssm_in.weight": self._matrix(self._d_inner + d_conv + DT_RANK, self._d),
            "ssm_conv1d.weight": self._matrix(d_conv, D_CONV),
            "ssm_conv1d.bias": self._norm(d_conv) - 1,
            "ssm_dt.bias": self._norm(DT_RANK) - 1,
            "ssm_a": -self._norm(DT_RANK).reshape(DT_RANK, 1),
            "ssm_d": self._norm(DT_RANK).reshape(DT_RANK, 1),
            "ssm_norm.weight": self._norm(self._d_inner).reshape(
                N_GROUPS, self._d_inner // N_GROUPS
            ),
            "ssm_out.weight": self._matrix(self._d, self._d_inner),
        }

    def _rwkv7(self) -> dict[str, Array]:
        d, rank = self._d, 8
        tensors = {
            "attn_norm.bias": self._norm(d) - 1,
            "attn_norm_2.weight": self._norm(d),
            "attn_norm_2.bias": self._norm(d) - 1,
            "time_mix_lerp_fused.weight": self._random.uniform(0, 1, (6, 1, 1, d)).astype("f4"),
            "time_mix_k_k.weight": self._norm(d),
            "time_mix_k_a.weight": self._norm(d),
            "time_mix_r_k.weight": self._norm(d) - 1,
            "time_mix_ln.weight": self._norm(d),
            "time_mix_ln.bias": self._norm(d) - 1,
            "channel_mix_lerp_k.weight": self._random.uniform(0, 1, (1, 1, d)).astype("f4"),
            "channel_mix_key.weight": self._matrix(self._d_ff, d),
            "channel_mix_value.weight": self._matrix(d, self._d_ff),
        }
        for part in ("w", "a", "v"):
            tensors[f"time_mix_{part}0.weight"] = self._norm(d) - 1
        for part in ("w", "a", "v", "g"):
            tensors[f"time_mix_{part}1.weight"] = self._matrix(rank, d)
            tensors[f"time_mix_{part}2.weight"] = self._matrix(d, rank)
        for part in ("key", "value", "receptance", "output"):
            tensors[f"time_mix_{part}.weight"] = self._matrix(d, d)
        return tensors

    def _add(self, name: str, values: Array) -> None:
        self._out.add_tensor(name, np.ascontiguousarray(values, np.float32))

    def _matrix(self, n_out: int, n_in: int) -> Array:
        scale = np.float32(1.5 / np.sqrt(n_in))
        return np.multiply(self._random.standard_normal((n_out, n_in), np.float32), scale)

    def _norm(self, n: int) -> Array:
        return self._random.uniform(0.7, 1.3, n).astype(np.float32)
