"""All errors of the agent in one tree, split by what to do next, each with a stable code.

The codes are part of the interface: they stand in refusals, in a command's status, in log events and in metrics.
``CODES`` is the whole list with the sentence the README shows.
"""

from __future__ import annotations

from typing import Final

CODES: Final[dict[str, str]] = {
    # A window: the sender must change it.
    "E_SIZE": "The payload is neither a raw window of the release's size nor a CBOR map, or is too large.",
    "E_SHAPE": "The window has another number of channels or samples than the release expects.",
    "E_DTYPE": "The samples are not float32, little-endian, row-major.",
    "E_CBOR": "The payload is not one well-formed CBOR map with the documented keys and types.",
    "E_NOT_FINITE": "A sample is NaN or infinite.",
    "E_RANGE": "A sample is larger than `serving.max_abs`.",
    "E_RATE": "The window was sampled at another rate than the release expects.",
    "E_ASSET": "The asset's name is not 1 to 64 of A-Z a-z 0-9 . _ -",
    "E_TOPIC": "Nothing is expected on this topic.",
    "E_RETAINED": "The message was retained; windows, labels and commands must not be.",
    # A label.
    "E_LABEL": "The label is not JSON with `seq` and `class`.",
    "E_NOT_CACHED": "No window with that asset and sequence number is at hand.",
    # A command: the operator must change it.
    "E_JSON": "The command is not JSON of the documented shape.",
    "E_TOO_LONG": "The command is longer than 16 KiB.",
    "E_CLASS": "The live release does not know this class.",
    "E_ALREADY_FORGOTTEN": "The class is forgotten already.",
    "E_LAST_CLASS": "At least two classes must stay after forgetting.",
    "E_TOO_FEW_WINDOWS": "Fewer windows of the class are cached than `forget.min_windows`.",
    "E_DREAMS": "The release has no dreams, from which harm to other classes and the ranges of int8 are told.",
    "E_EXPIRED": "The command's `expires_at` has passed.",
    "E_AUDIENCE": "The command is for another gateway.",
    "E_SAME_ID": "Another command with this id has been accepted before.",
    "E_QUEUE_FULL": "As many commands wait or run as `forget.queue` allows.",
    "E_BUSY": "The class is in a command that is not finished.",
    "E_ERASED": "The release knew a class that has been erased since; it cannot come back.",
    # A forget job that ended without a new model: the old one still serves.
    "E_GATE": "The gate refused the edited model; its reasons stand in the status.",
    "E_SHADOW": "On live windows the edited model agrees too seldom with the old one, or too few came.",
    "E_NOT_FORGOTTEN": "The step budget ended before the class was forgotten.",
    "E_PARITY": "ONNX Runtime and torch disagree on the edited model.",
    "E_CHILD": "The forget job's process ended without a result.",
    "E_TIMEOUT": "The forget job took longer than `forget.timeout_s`.",
    "E_INTERRUPTED": "The agent was stopped too often during this command; send it again.",
    "E_ROLLED_BACK": "The parent release was adopted again during its probation, by an operator or for bad health.",
    # A release: use another one.
    "E_NO_RELEASE": "There is no release to serve.",
    "E_IN_USE": "The release is live, wanted, kept for a probation or part of a command, and cannot be removed.",
    "E_CARD": "The release's card is missing or malformed.",
    "E_HASH": "A file of the release is missing or is not the one that its card names.",
    "E_ARCHITECTURE": "No installed package provides the release's architecture.",
    "E_MODEL": "ONNX Runtime cannot run the release's model, or it fails its self-test.",
    "E_WEIGHTS": "The release's weights do not fit its architecture.",
    "E_PRECISION": "An int8 model of the release would lose too many answers; it serves in float32.",
    # A document: do not believe it.
    "E_SIGNATURE": "A signature is missing or does not hold: it was changed, or signed with another key.",
    "E_CHAIN": "A row of the audit log is missing, was changed or stands in another place.",
    "E_WITHDRAWN": "The audit log takes the certificate back: the class came back during its probation.",
    # The surroundings: mend them.
    "E_CONFIG": "The configuration is missing or wrong.",
    "E_STATE": "The state directory cannot be used, or another agent uses it.",
    "E_SOURCE": "Where a release is to come from cannot be reached, or has it not.",
    "E_BROKER": "The broker cannot be reached or refuses the connection.",
    "E_KEY": "The master key or another key is missing or damaged; what it sealed cannot be read.",
    "E_STORAGE": "A file could not be written or read (disk full, read-only, I/O error).",
    "E_DATA": "A data set is missing or malformed.",
}


class EdgeAgentError(Exception):
    """Base of all errors: a stable code and a sentence with the value and the limit."""

    def __init__(self, code: str, reason: str) -> None:
        assert code in CODES, code
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Refused(EdgeAgentError):
    """A message is refused: acknowledge it, count it, show it; the sender must change it."""


class JobFailed(EdgeAgentError):
    """A forget job ended without a new model: the old one goes on serving, the mask is lifted."""


class BrokenRelease(EdgeAgentError):
    """A release cannot be used: keep or choose another one."""


class Misconfigured(EdgeAgentError):
    """The configuration, the data or the machine must be changed by a person before it can go on."""


class KeyLost(EdgeAgentError):
    """What a key sealed cannot be read, now or ever: go on without it."""


class Untrusted(EdgeAgentError):
    """A signature or a chain of hashes does not hold: believe nothing of what it vouched for."""


class Unreachable(EdgeAgentError):
    """The broker or the agent does not answer: try again later."""


class StorageFailed(EdgeAgentError):
    """The disk failed: go on without it if it was a convenience, else promise and destroy nothing, and try again."""
