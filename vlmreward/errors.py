"""The errors a caller can cause; each message says what, what was got and what to do, in one line."""


class VlmRewardError(Exception):
    """Raised when a caller's input is at fault; the commands print it as one line and exit with 2."""

    def __str__(self) -> str:
        """Return the message as given (KeyError would show its repr)."""
        return " ".join(str(arg) for arg in self.args)


class ConfigError(VlmRewardError, ValueError):
    """Raised when a setting is unknown, out of range or does not fit another one."""


class UnknownNameError(VlmRewardError, KeyError):
    """Raised when a name is not in a registry; the message suggests the nearest ones."""


class FramesError(VlmRewardError, ValueError):
    """Raised when frames are not uint8 (N, H, W, 3), are empty, or show nothing (one constant colour)."""


class PromptError(VlmRewardError, ValueError):
    """Raised when a prompt is empty, too long for the encoder, or leaves no direction to reward."""


class DependencyNotInstalled(VlmRewardError, ImportError):
    """Raised when an optional package is missing; the message names the extra that brings it."""


class WeightsError(VlmRewardError, OSError):
    """Raised when the weights of a model can't be read or had."""


class ExportError(ConfigError):
    """Raised when a model can't be taken into another engine, or computes something else there."""


class RenderingError(VlmRewardError, RuntimeError):
    """Raised when no picture can be made: no GL back end, or an environment without pixels."""


class ConstantFrameError(RenderingError):
    """Raised when a picture shows one colour only; a run counts such a frame as invalid and goes on."""


class CheckpointError(VlmRewardError, RuntimeError):
    """Raised when a checkpoint or run folder is missing, damaged or of another shape."""


class StorageError(VlmRewardError, OSError):
    """Raised when a disk or shared memory has no room or can't be written."""


class NonFiniteError(VlmRewardError, FloatingPointError):
    """Raised when a value that must be finite is not."""


class DatasetError(VlmRewardError, ValueError):
    """Raised when a dataset of episodes is missing, damaged, of another format, or can't be written."""


class UnknownColumnError(DatasetError):
    """Raised when a dataset that can be read has no column of that name."""


class WorkerError(VlmRewardError, RuntimeError):
    """Raised when a worker process dies again and again at the same piece of work."""
