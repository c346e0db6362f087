"""DecoderNames: what the inputs and outputs of a decoder's ONNX graph are called; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecoderNames:
    """As Optimum calls them, unless a folder says otherwise; `%d` stands for the layer."""

    input_ids: str = "input_ids"
    attention_mask: str = "attention_mask"
    position_ids: str = "position_ids"
    use_cache_branch: str = (
        "use_cache_branch"  # of merged graphs: whether there are keys and values
    )
    last_position: str = "past_sequence_length"  # of each sequence, tokens after the step less one
    total_length: str = "total_sequence_length"  # tokens after the step, of the longest sequence
    current_length: str = "current_sequence_length"  # the same, by another name
    past_keys: str = "past_key_values.%d.key"
    past_values: str = "past_key_values.%d.value"
    logits: str = "logits"
    present_keys: str = "present.%d.key"
    present_values: str = "present.%d.value"

    @property
    def fed(self) -> tuple[str, ...]:
        """What a graph may ask for beside keys and values."""
        return (
            self.input_ids,
            self.attention_mask,
            self.position_ids,
            self.use_cache_branch,
            self.last_position,
            self.total_length,
            self.current_length,
        )

    def layers(self, inputs: Iterable[str]) -> list[int]:
        """Numbers of the layers whose keys or values are among the inputs, in order."""
        matches = [
            re.fullmatch(re.escape(template).replace("%d", r"(\d{1,5})"), name)
            for name in inputs
            for template in (self.past_keys, self.past_values)
        ]
        return sorted({int(match[1]) for match in matches if match})


def numbered(template: str, layer: int) -> str:
    """The name of one layer's."""
    return template.replace("%d", str(layer))
