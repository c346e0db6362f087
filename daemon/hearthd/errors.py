"""Everything that Hearth says no with; only `api.middleware` turns one into an answer.

HearthError                      status  code
├── ConfigError                  -       config_error       (exit code 2, before anything listens)
│   └── UnknownDevice            -       config_error       (exit code 2 of `hearth plan`)
├── AlreadyRunning               -       already_running    (exit code 1, before anything listens)
├── QuantizeFailed               -       quantize_failed    (exit code 1 of `hearth quantize`)
├── InvalidRequest               400     invalid_value, or the code it is given
│   └── ContextLengthExceeded    400     context_length_exceeded
├── Unauthorized                 401     invalid_api_key, or the code it is given
├── Forbidden                    403     forbidden, or the code it is given
├── NotFound                     404     not_found
│   └── ModelNotFound            404     model_not_found
├── MethodNotAllowed             405     method_not_allowed
├── Conflict                     409     conflict, or the code it is given
├── BodyTooLarge                 413     body_too_large
├── HeadersTooLarge              431     headers_too_large
├── Overloaded                   429     queue_full         (Retry-After)
├── ConcurrencyLimited           429     concurrency_limit  (Retry-After)
├── RateLimited                  429     rate_limit_exceeded (Retry-After)
├── TooManyWrongKeys             429     too_many_wrong_keys (Retry-After)
├── EngineFailed                 500     engine_failed
├── CancelledByOperator          503     cancelled_by_operator
├── InsufficientMemory           503     insufficient_memory
├── DeviceUnavailable            503     device_unavailable (Retry-After)
├── ModelLoading                 503     model_loading      (Retry-After)
├── ModelFailed                  503     model_failed
├── ModelDrained                 503     model_drained
├── ModelUnloaded                503     model_unloaded
├── ShuttingDown                 503     shutting_down      (Retry-After)
├── DeadlineExceeded             504     deadline_exceeded
├── NotCached                    504     not_cached
└── InsufficientStorage          507     insufficient_storage
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class HearthError(Exception):
    """An error with a status, a code, and a message that a user can act on."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        if code is not None:
            self.code = code


class ConfigError(HearthError):
    """The configuration cannot be used; the message names file, key and nearest match."""

    code = "config_error"


class UnknownDevice(ConfigError):
    """A policy of the planner names what is not there; the message lists what is."""


class AlreadyRunning(HearthError):
    """Another daemon has what this one wants."""

    code = "already_running"


class QuantizeFailed(HearthError):
    """The engine process that writes or compares a quantized model said no, or ended."""

    code = "quantize_failed"


class InvalidRequest(HearthError):
    """The request is wrong; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer do not fit the model's context; the message has both numbers."""

    code = "context_length_exceeded"


class Unauthorized(HearthError):
    """The caller has shown no key where one is needed, or one that nobody was given."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(HearthError):
    """The caller may not do this."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(HearthError):
    """There is nothing at this address."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No model has this name; the message lists those there are."""

    code = "model_not_found"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(f"The model {name!r} does not exist; there are: {listed}", param="model")


class MethodNotAllowed(HearthError):
    """The address is right, the method is not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class Conflict(HearthError):
    """What is asked for does not go with how things are."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class BodyTooLarge(HearthError):
    """The body is over the configured limit."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class HeadersTooLarge(HearthError):
    """The request line or a header is longer than any that makes sense."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class Overloaded(HearthError):
    """The queue is full; come back after `retry_after_seconds`."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class ConcurrencyLimited(HearthError):
    """The key has as many requests under way as it may; come back after `retry_after_seconds`."""

    status = 429
    type = "rate_limit_error"
    code = "concurrency_limit"


class RateLimited(HearthError):
    """The key has used up its tokens of the minute; come back after `retry_after_seconds`."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class TooManyWrongKeys(HearthError):
    """Many wrong keys came from this address; the next is looked at in `retry_after_seconds`."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_wrong_keys"


class EngineFailed(HearthError):
    """The engine process died or failed while it worked on this request."""

    code = "engine_failed"


class CancelledByOperator(HearthError):
    """An operator has ended the request."""

    status = 503
    code = "cancelled_by_operator"


class InsufficientMemory(HearthError):
    """The ledger cannot grant what a load asks for; the message has the arithmetic."""

    status = 503
    code = "insufficient_memory"


class DeviceUnavailable(HearthError):
    """What a model must run on is known, and cannot be used now."""

    status = 503
    code = "device_unavailable"


class ModelLoading(HearthError):
    """The model is not ready yet."""

    status = 503
    code = "model_loading"


class ModelFailed(HearthError):
    """The model could not be loaded; the message has the reason."""

    status = 503
    code = "model_failed"


class ModelDrained(HearthError):
    """An operator lets the model finish what it has; it takes nothing new."""

    status = 503
    code = "model_drained"


class ModelUnloaded(HearthError):
    """An operator has taken the model out of memory."""

    status = 503
    code = "model_unloaded"


class ShuttingDown(HearthError):
    """The daemon is draining."""

    status = 503
    code = "shutting_down"


class DeadlineExceeded(HearthError):
    """The answer could not be produced in the time that was asked for."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class NotCached(HearthError):
    """The client wants an answer from the cache or none, and there is none."""

    status = 504
    code = "not_cached"


class InsufficientStorage(HearthError):
    """There is no room on the disk for what was sent."""

    status = 507
    code = "insufficient_storage"
