"""An engine whose model encodes: a queue and an encoder in the place of scheduler and pipeline."""
