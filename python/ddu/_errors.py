"""What can go wrong, each with one line that says what was expected, what was found and what to do."""


class Error(Exception):
    """Whatever ddu refuses or fails at."""


class InvalidError(Error, ValueError):
    """A value or a file that is not what it should be."""


class FileError(Error, OSError):
    """A file that the system does not let be read or written."""


class OutOfMemoryError(Error, MemoryError):
    """A run that would not fit the memory of its device."""


class DeviceError(Error, RuntimeError):
    """A device, or a process without its threads, that cannot compute."""


class SkippedWarning(UserWarning):
    """Part of a dataset that could not be used; the rest was."""


class DensityWarning(UserWarning):
    """A density that leans on an assumption: few samples of a class, or none."""
