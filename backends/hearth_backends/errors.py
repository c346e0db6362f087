"""What goes wrong in a backend.

BackendError
├── ModelFileError    the file is missing, truncated, corrupt or not a model
├── Unsupported       a sound request that this backend does not do; the message says what and why
├── OutOfMemory       an allocation failed at load
├── StepError         one step failed; after a rollback it may be repeated
│   └── ForeignState  it was to begin from a state that is damaged, or another stage's
└── CapacityError     a step found no room in key-value memory; nothing changed
"""

from __future__ import annotations


class BackendError(Exception):
    """A stage or a backend failed; the stage is beyond use unless a subclass says otherwise."""

    code = "backend_error"


class ModelFileError(BackendError):
    """The model's file cannot be used; the message names file and reason."""

    code = "model_file_error"


class Unsupported(BackendError):
    """The backend does not do this; the message says what would."""

    code = "unsupported"


class OutOfMemory(BackendError):
    """Memory that the lease promised could not be had."""

    code = "out_of_memory"


class StepError(BackendError):
    """One step failed; the stage is sound after a rollback."""

    code = "step_failed"


class ForeignState(StepError):
    """An exported state is damaged, or of another model, layer range, version or layout."""

    code = "foreign_state"


class CapacityError(BackendError):
    """No room in key-value memory for a step; nothing was changed."""

    code = "kv_capacity"
